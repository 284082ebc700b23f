"""On which device and in which precision a run is executed, and the process-wide settings of torch that it needs."""

import functools
import os
import platform
import sys
import time
from contextlib import AbstractContextManager, nullcontext

import torch

from ablation.errors import UserError

# Set at import because CUDA reads both once, when it starts. What the user has set stays.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses to be deterministic
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # torch's 32 streams would share 8 queues, and runs wait


def pick_device(name: str, key: str = "trainer.device") -> torch.device:
    """The device called `name`; "auto" is a CUDA GPU, else the CPU. Raises UserError, about `key`, if it is not there.

    An Apple GPU (mps) must be asked for: nobody has tried it.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cuda else "cpu"
    if name == "cuda" and cuda:
        name = f"cuda:{torch.cuda.current_device()}"
    present = ["auto", "cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *(["mps"] if mps else [])]
    if name not in present:
        raise UserError(key, name, f"no such device here; allowed: {', '.join(present)}")
    if name == "cpu":
        leave_busy_cores()
    return torch.device(name)


@functools.cache
def leave_busy_cores() -> None:
    """Take no more threads than cores are idle now, for as long as the process lives; OMP_NUM_THREADS overrules it.

    Threads wait for each other in every operation: beside one busy process, two on two cores train ten times slower
    than one (docs/speed.md).
    """
    threads, began = torch.get_num_threads(), time.perf_counter()
    if threads == 1 or "OMP_NUM_THREADS" in os.environ or not os.path.exists("/proc/stat"):
        return
    before = idle_seconds()
    time.sleep(0.2)
    idle = round((idle_seconds() - before) / (time.perf_counter() - began))
    if idle < threads:
        torch.set_num_threads(max(idle, 1))
        print(f"other programs use the processor: {max(idle, 1)} of {threads} threads (else OMP_NUM_THREADS={threads})")


def take_threads(threads: int) -> None:
    """Go on with as many threads as before, for the same rounding, if this machine has so many cores."""
    if "OMP_NUM_THREADS" not in os.environ and threads <= (os.cpu_count() or 1):
        torch.set_num_threads(threads)


def idle_seconds() -> float:
    """How long each core that this process may use has idled so far, added up; 0 where Linux does not count it."""
    if sys.platform != "linux":
        return 0.0
    with open("/proc/stat", encoding="utf-8") as lines:
        idle = {fields[0]: int(fields[4]) + int(fields[5]) for fields in map(str.split, lines) if "cpu" in fields[0]}
    return sum(idle[f"cpu{core}"] for core in os.sched_getaffinity(0)) / os.sysconf("SC_CLK_TCK")


def pick_precision(name: str, device: torch.device) -> str:
    """Return "bfloat16" or "float32"; "auto" is bfloat16 where the device multiplies it in hardware."""
    if name != "auto":
        return name
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return "bfloat16" if fast else "float32"


def device_name(device: torch.device) -> str:
    """What the maker calls it, for the record."""
    if device.type != "cpu":
        return torch.cuda.get_device_name(device) if device.type == "cuda" else "Apple GPU"
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "CPU"  # Windows and macOS


def set_deterministic(wanted: bool) -> None:
    """Bit-identical kernels for `trainer=reference`: no TF32, no choice of algorithm by timing; otherwise both.

    These are settings of the process, so every run makes them for itself, and a gang trains only runs of one kind.
    """
    torch.use_deterministic_algorithms(wanted)
    # torch fills new memory by default then, a kernel for each tensor; every kernel here writes all of its output
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = wanted
    torch.backends.cudnn.benchmark = not wanted
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = not wanted


def own_stream(device: torch.device, place: int | None = None) -> AbstractContextManager[object]:
    """A CUDA stream, current whenever the context is entered: a new one, or a gang's at `place`; elsewhere nothing.

    A run does all its work on the device inside of it, so that it overlaps with that of other runs, and that a CUDA
    graph can be captured, which the default stream does not allow.
    """
    if device.type != "cuda":
        return nullcontext()
    stream = torch.cuda.Stream(device) if place is None else stream_at(device, place)
    stream.wait_stream(torch.cuda.current_stream(device))
    return torch.cuda.stream(stream)


@functools.cache
def stream_at(device: torch.device, place: int) -> torch.cuda.Stream:
    """Always the same: torch hands out 32 in turn, so that two runs of a long sweep would come to share one."""
    return torch.cuda.Stream(device)
