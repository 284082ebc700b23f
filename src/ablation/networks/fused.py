"""Batch norm, the sum with a shortcut and ReLU as one operation: in C++ on a CPU, in Triton on a GPU.

Eager, they are three operations, each of which reads and writes all of its input, forward and backward: 28 % of a step
of ResNet-20 on a CPU with AVX512-BF16 (torch's profiler, one thread). torch.compile was tried up to commit e103d4e and
was no help: of the modules themselves it made Welford's recurrence, slower than eager, and what it made of plain sums
took half a minute to three minutes to build, was slower than `cpu_kernels.cpp`, and more kernels than `gpu_kernels.py`.
Convolutions stay the library's.

Bounds, tested where mean and standard deviation are of one size: in float32 it agrees with torch's batch norm to 1e-5,
in bfloat16 to the rounding of its output.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ablation.networks import cpu_kernels
from ablation.networks.resnet import Block, Network, norm_relu


def fusible(asked: bool | None, device: torch.device) -> bool:
    """Whether to fuse batch norm and ReLU: what `trainer.fused` says; null: where there are kernels for it.

    False, and one line that says why, where they do not work: no C++ compiler, or no Triton for the GPU.
    """
    if not (device.type in ("cuda", "cpu") if asked is None else asked):
        return False
    if fault := kernel_fault(device):
        print(f"no fused batch norm, going on without it: {fault}", flush=True)
        return False
    return True


def kernel_fault(device: torch.device) -> str | None:
    """Why the fused operation cannot be used on `device`, in a line, found by trying; None if it can."""
    try:
        try_kernels(device)
    except Exception as error:  # the C++ compiler, the loader and Triton raise whatever they like
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
    return None


CHECKED: tuple[tuple[tuple[int, int, int], bool, torch.dtype, float], ...] = (
    ((8, 24, 12), True, torch.float32, 1e-3),
    ((9, 16, 31), False, torch.float32, 1e-3),
    ((9, 16, 31), False, torch.bfloat16, 1e-2),
)
"""Pictures, channels and side, with a shortcut or not, number format, greatest relative difference: each way through
the kernels, with several threads and parts of groups."""


def try_kernels(device: torch.device) -> None:
    """Compare the fused operation on `device` with torch's own, whatever a compiler has made of it here.

    Raises RuntimeError where they differ, and whatever the compiler raises.
    """
    for (count, channels, side), has_skip, dtype, bound in CHECKED:
        generator = torch.Generator().manual_seed(0)
        pictures = torch.randn(3, count, channels, side, side, generator=generator).to(device, dtype)
        x, skip, dy = (one.contiguous(memory_format=torch.channels_last) for one in pictures)
        results = []
        for operation in (norm_relu, fused_norm_relu):
            norm = nn.BatchNorm2d(channels, device=device)
            inputs = [one.clone().requires_grad_() for one in ((x, skip) if has_skip else (x,))]
            y = operation(norm, *inputs)
            y.backward(dy)
            results.append([y.detach(), *(one.grad for one in (*inputs, *norm.parameters())), *norm.buffers()])
        for exact, ours in zip(*results, strict=True):
            difference = float((exact.double() - ours.double()).norm())
            if not difference <= bound * float(exact.double().norm()):  # nor if it is not a number
                raise RuntimeError("its results here differ from those of torch's batch norm")


def fuse(network: nn.Module) -> None:
    """Let the network train with the fused operation, in place; evaluation, and its state dict, stay as they are."""
    for module in network.modules():
        if isinstance(module, Block | Network):
            module.norm_relu = fused_norm_relu


def plain_copy(network: nn.Module) -> nn.Module:
    """A copy that is made of torch's own operations only: measuring on it needs no kernels."""
    twin = copy.deepcopy(network)
    for module in twin.modules():
        vars(module).pop("norm_relu", None)
    return twin


def fused_norm_relu(norm: nn.BatchNorm2d, x: Tensor, skip: Tensor | None = None) -> Tensor:
    """`ablation.networks.resnet.norm_relu` as one operation; where the kernels do not do it, it is that function."""
    whole = norm.affine and norm.track_running_stats and norm.momentum is not None
    if not (norm.training and whole and x.dtype in (torch.float32, torch.bfloat16)):
        return norm_relu(norm, x, skip)
    return BatchNormReLU.apply(x, skip, norm.weight, norm.bias, norm)


class BatchNormReLU(torch.autograd.Function):
    """relu(batch_norm(x) + skip) over (N, C, H, W); its backward needs x and the output, not the sum between them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, skip: Tensor | None, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        running = (norm.running_mean, norm.running_var, norm.num_batches_tracked)
        forward, _ = passes(x.device)
        y, mean, inverse = forward(x, skip, weight, bias, *running, norm.momentum, norm.eps)
        ctx.save_for_backward(x, y, weight, mean, inverse)
        ctx.has_skip = skip is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, mean, inverse = ctx.saved_tensors
        _, backward = passes(x.device)
        return *backward(gradients[0], x, y, weight, mean, inverse, ctx.has_skip), None


Pass = Callable[..., tuple[Any, ...]]


def passes(device: torch.device) -> tuple[Pass, Pass]:
    """Forward and backward for tensors on `device`. Raises RuntimeError where there are none."""
    if device.type == "cuda":
        from ablation.networks import gpu_kernels  # Triton is only where there may be a GPU

        return gpu_kernels.forward_pass, gpu_kernels.backward_pass
    if device.type == "cpu":
        return cpu_kernels.forward_pass, cpu_kernels.backward_pass
    raise RuntimeError(f"there are no kernels for {device.type}")
