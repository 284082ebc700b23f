"""Where a step's time goes: the share of each operation and, on a GPU, the share of the floor that memory sets."""

import pandas as pd
import torch
from torch import Tensor, nn
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.nn.modules.module import register_module_forward_hook
from torch.profiler import ProfilerActivity, profile

from ablation.benchmark.contenders import Project, take

PASSES = 16
"""How often a step must read or write the output of a convolution, once each unless said otherwise.

forward: convolution in, out; batch norm's moments in; normalization in, out. backward: batch norm's sums in (3: input,
output, gradient), its gradient in (3), out; the convolution's gradient in the input in, out, in the weights in (2).
"""


def operations(project: Project, device: torch.device, steps: int = 3) -> pd.DataFrame:
    """Percent of the time and calls a step of each operation: on a GPU of each kernel, on a CPU without callees."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiled:
        take([project], steps)
        with project.stream:
            project.training.read_sums()  # waits for the device
    events = profiled.key_averages()
    if on_gpu:  # kernels, not what launched them
        events = [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    spent = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = [(event.key[:70], getattr(event, spent), event.count / steps) for event in events]
    shares = pd.DataFrame(rows, columns=["operation", "percent", "calls_per_step"]).groupby("operation").sum()
    shares["percent"] *= 100 / shares["percent"].sum()
    return shares.sort_values("percent", ascending=False)


def memory_floor(project: Project, images: Tensor, seconds: float, device: torch.device) -> dict[str, float]:
    """The share of a step of `seconds` that moving its bytes alone takes; `images`: a batch, uint8."""
    from torch.utils.benchmark import Timer  # here, and not above: without a GPU it warns

    normalized = project.training.normalization(images.to(device))
    moved = bytes_per_step(project.training.network, normalized, 2 if project.training.precision == "bfloat16" else 4)
    source = torch.empty(1 << 32, dtype=torch.uint8, device=device)
    copy = Timer("target.copy_(source)", globals={"source": source, "target": torch.empty_like(source)})
    bandwidth = 2 * len(source) / copy.timeit(10).mean
    share = 100 * moved / bandwidth / seconds
    return {"bytes_per_step": moved, "copy_bytes_per_second": bandwidth, "floor_share_percent": share}


def bytes_per_step(network: nn.Module, images: Tensor, itemsize: int) -> int:
    """The bytes that a step must move if nothing stays in a cache; images count for little and are left out."""
    sizes: dict[nn.Module, int] = {}
    with torch.no_grad(), register_module_forward_hook(lambda module, _, y: sizes.update({module: y.numel()})):
        network.eval()(images)
    network.train()
    outputs = sum(size for module, size in sizes.items() if isinstance(module, nn.BatchNorm2d))
    weights = sum(p.numel() for p in network.parameters())
    return PASSES * outputs * itemsize + 6 * 4 * weights  # weight, momentum and gradient, in and out
