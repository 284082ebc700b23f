"""Where and in which number format a run is executed: picked by themselves, or as asked, or a clear error."""

import os

import torch

from ablation.errors import UserError


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto": a GPU, else the CPU. Raises UserError if it is not there."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
    present = ["auto", "cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *(["mps"] if mps else [])]
    device = torch.device("cuda", torch.cuda.current_device()) if name == "cuda" and cuda else torch.device(name)
    if str(device) not in present:
        raise UserError("trainer.device", name, f"no such device here; allowed: {', '.join(present)}")
    return device


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


def make_deterministic() -> None:
    """Bit-identical kernels on every device, for `trainer=reference`: no TF32, no choice of algorithm by timing."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses, saying so
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
