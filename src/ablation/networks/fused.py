"""Batch norm, the sum with a shortcut and ReLU as one operation, on a GPU: `gpu_kernels`, in Triton.

Eager, they are three operations, and each reads and writes all of its input, forward and backward. Convolutions stay
cuDNN's. In float32 the fused operation agrees with torch's batch norm to 1e-5 where mean and standard deviation are of
one size, in bfloat16 to the rounding of its output.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ablation.networks.resnet import Block, Network, norm_relu


def fusible(asked: bool | None, device: torch.device) -> bool:
    """Whether to fuse: `asked` is `trainer.fused`, and None means on CUDA. Where it cannot be, one line says why."""
    if not (device.type == "cuda" if asked is None else asked):
        return False
    fault = None if device.type == "cuda" else f"its kernels are for a CUDA GPU, not for the device {device.type}"
    try:
        if fault is None:
            check_kernels(device)
    except Exception as error:  # Triton and the compilers that it starts raise errors of many kinds
        fault = f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
    if fault:
        print(f"no fused batch norm, going on without it: {fault}", flush=True)
    return fault is None


def check_kernels(device: torch.device) -> None:
    """Compare output, gradients and running statistics on `device` with those of torch's own operations.

    Raises RuntimeError where they differ, and whatever Triton raises.
    """
    for shape, has_skip, dtype, bound in (  # with and without a shortcut, whole blocks of channels and parts of them
        ((8, 24, 12, 12), True, torch.float32, 1e-3),
        ((9, 16, 31, 31), False, torch.float32, 1e-3),
        ((9, 16, 31, 31), False, torch.bfloat16, 1e-2),
    ):
        values = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)
        x, skip, dy = (value.contiguous(memory_format=torch.channels_last) for value in values)
        results = []
        for operation in (norm_relu, fused_norm_relu):
            norm = nn.BatchNorm2d(shape[1], device=device)
            inputs = [value.clone().requires_grad_() for value in ((x, skip) if has_skip else (x,))]
            y = operation(norm, *inputs)
            y.backward(dy)
            results.append([y.detach(), *(value.grad for value in (*inputs, *norm.parameters())), *norm.buffers()])
        for expected, found in zip(*results, strict=True):
            difference = float((expected.double() - found.double()).norm())
            if not difference <= bound * float(expected.double().norm()):  # so written, it catches NaN too
                raise RuntimeError("its results here differ from those of torch's batch norm")


def fuse(network: nn.Module) -> None:
    """Make the network train with the fused operation, in place. Its evaluation and state dict stay as they are."""
    for module in network.modules():
        if isinstance(module, Block | Network):
            module.norm_relu = fused_norm_relu


def plain_copy(network: nn.Module) -> nn.Module:
    """A copy of the network that is not fused."""
    twin = copy.deepcopy(network)
    for module in twin.modules():
        vars(module).pop("norm_relu", None)
    return twin


def fused_norm_relu(norm: nn.BatchNorm2d, x: Tensor, skip: Tensor | None = None) -> Tensor:
    """`ablation.networks.resnet.norm_relu` in one operation; for what the kernels lack it is that function."""
    whole = norm.affine and norm.track_running_stats and norm.momentum is not None
    if norm.training and whole and x.dtype in (torch.float32, torch.bfloat16):
        return BatchNormReLU.apply(x, skip, norm.weight, norm.bias, norm)
    return norm_relu(norm, x, skip)


class BatchNormReLU(torch.autograd.Function):
    """relu(batch_norm(x) + skip) over (N, C, H, W); its backward needs x and the output, not the sum between them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, skip: Tensor | None, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        from ablation.networks import gpu_kernels  # not above: Triton may be missing where there is no GPU

        rest: Any = (norm.running_mean, norm.running_var, norm.num_batches_tracked, norm.momentum, norm.eps)
        y, mean, inverse = gpu_kernels.forward_pass(x, skip, weight, bias, *rest)
        ctx.save_for_backward(x, y, weight, mean, inverse)
        ctx.has_skip = skip is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from ablation.networks import gpu_kernels

        x, y, weight, mean, inverse = ctx.saved_tensors
        return *gpu_kernels.backward_pass(gradients[0], x, y, weight, mean, inverse, ctx.has_skip), None
