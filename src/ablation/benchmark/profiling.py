"""Where a step's time goes: the share of each operation and, on a GPU, the share of the floor that memory sets."""

import pandas as pd
import torch
from torch import Tensor, nn
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from ablation.benchmark.contenders import Project

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
        project.take(steps)
        project.training.read_sums()  # waits for the device
    events = profiled.key_averages()
    if on_gpu:  # kernels, not what launched them
        events = [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    spent = [e.self_device_time_total if on_gpu else e.self_cpu_time_total for e in events]
    calls = [e.count / steps for e in events]
    shares = (
        pd.DataFrame({"percent": spent, "calls_per_step": calls}, [e.key[:70] for e in events]).groupby(level=0).sum()
    )
    shares["percent"] *= 100 / shares["percent"].sum()
    return shares.sort_values("percent", ascending=False)


def memory_floor(project: Project, images: Tensor, seconds: float, device: torch.device) -> dict[str, float]:
    """The share of a step of `seconds` that moving its bytes alone takes; `images`: a batch, uint8."""
    from torch.utils.benchmark import Timer  # here, and not above: without a GPU it warns

    normalized = project.training.normalization(images.to(device))
    moved = bytes_per_step(project.training.network, normalized, 2 if project.precision == "bfloat16" else 4)
    source = torch.empty(1 << 32, dtype=torch.uint8, device=device)
    copy = Timer("target.copy_(source)", globals={"source": source, "target": torch.empty_like(source)})
    bandwidth = 2 * len(source) / copy.timeit(10).mean
    share = 100 * moved / bandwidth / seconds
    return {"bytes_per_step": moved, "copy_bytes_per_second": bandwidth, "floor_share_percent": share}


def bytes_per_step(network: nn.Module, images: Tensor, itemsize: int) -> int:
    """The bytes that a step must move if nothing stays in a cache; images count for little and are left out."""
    sizes: list[int] = []
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_hook(lambda _module, _inputs, y: sizes.append(y.numel())) for norm in norms]
    with torch.no_grad():
        network.eval()(images)
    network.train()
    for hook in hooks:
        hook.remove()
    weights = sum(p.numel() for p in network.parameters())
    return PASSES * sum(sizes) * itemsize + 6 * 4 * weights  # weight, momentum and gradient, in and out
