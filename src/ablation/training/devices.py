"""Where and in which number format a run is executed: picked by themselves, or as asked, or a clear error."""

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from ablation.errors import UserError

# CUDA's libraries read these once, when they are first used: then it is too late.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses to be deterministic
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # streams beyond it, 8 otherwise, wait for each other


def pick_device(name: str, key: str = "trainer.device") -> torch.device:
    """The device called `name`; "auto": a GPU, else the CPU. Raises UserError, about `key`, if it is not there."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
    present = ["auto", "cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *(["mps"] if mps else [])]
    whole = f"cuda:{torch.cuda.current_device()}" if name == "cuda" and cuda else name
    if whole not in present:  # before torch sees it, which has errors of its own for what is no device's name
        raise UserError(key, name, f"no such device here; allowed: {', '.join(present)}")
    return torch.device(whole)


def pick_precision(name: str, device: torch.device) -> str:
    """Return "bfloat16" or "float32"; "auto" is bfloat16 where the device multiplies it in hardware."""
    if name != "auto":
        return name
    return "bfloat16" if has_bfloat16(device) else "float32"


def has_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 pays: compute capability 8.0 on CUDA, AVX512-BF16 or AMX on a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def device_name(device: torch.device) -> str:
    """What the maker calls it, for the record."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return "CPU"


def set_deterministic(wanted: bool) -> None:
    """Bit-identical kernels for `trainer=reference`: no TF32, no choice of algorithm by timing; otherwise both.

    All of it is the process's own state, so every run sets it for itself, and a gang trains only runs of one kind.
    """
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.deterministic = wanted
    torch.backends.cudnn.benchmark = not wanted
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = not wanted


def own_stream(device: torch.device) -> AbstractContextManager[object]:
    """A new CUDA stream as the current one, as often as it is entered; elsewhere nothing.

    A run does all its work on the device inside of it: so its work overlaps with that of other runs, and a CUDA graph
    can be captured, which the default stream does not allow.
    """
    if device.type != "cuda":
        return nullcontext()
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    return torch.cuda.stream(stream)


def idle(device: torch.device) -> bool:
    """Whether the current stream has done all its work, so that reading a result does not wait."""
    return device.type != "cuda" or torch.cuda.current_stream(device).query()
