"""Batch norm, the sum with a shortcut and ReLU as one operation: by torch.compile on a CPU, in Triton on a GPU.

What torch.compile makes of the modules themselves is no gain on a CPU: it computes batch norm's moments by Welford's
recurrence, whose forward pass took 5 to 15 times as long as eager's on an AVX-512 machine. Here forward and backward
are written out, with the moments as plain sums in float32 (mean, and E[x^2] - mean^2), and only these two functions
are compiled: nine shapes serve every depth. On a GPU they are the kernels of `ablation.kernels`. Convolutions stay the
library's. Ioffe & Szegedy 2015 (arXiv 1502.03167, Sec. 3) give the formulas.

Bounds, tested: in float32 it agrees with torch's batch norm to 1e-5, in bfloat16 to the rounding of its output.
"""

import copy
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ablation.networks import Block, Network, norm_relu

WORTH_STEPS_TIMES_DEPTH = 200_000
"""On a CPU: 10,000 steps of ResNet-20. A step is 8 % shorter (processor time, one thread, AVX512-BF16), which by then
earns back half a minute to three minutes of compiling (quiet or busy cores); what is saved grows with the depth."""

COMPILED_VARIANTS = 256
"""Shapes, number formats and shortcuts that one process may compile; past dynamo's own limit, 8, the run would fail."""


def worth_compiling(asked: bool | None, device: torch.device, steps: int, depth: int) -> bool:
    """Whether to fuse batch norm and ReLU: what `trainer.compile` says; null: where it pays and the run earns it back.

    False, and one line that says why, where that does not work: no C++ compiler, or no Triton for the GPU.
    """
    pays = device.type == "cuda" or (device.type == "cpu" and steps * depth >= WORTH_STEPS_TIMES_DEPTH)
    if not (pays if asked is None else asked):
        return False
    if fault := compiler_fault(device):
        print(f"no fused batch norm, going on without it: {fault}", flush=True)
        return False
    return True


def compiler_fault(device: torch.device) -> str | None:
    """Why the fused operation cannot be used on `device`, in a line, found by trying; None if it can."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it warns of a missing GPU
    try:
        if device.type == "cuda":
            try_kernels(device)
        else:
            torch.compile(lambda x: x * 2 + 1)(torch.zeros(32, device=device))
    except Exception as error:  # dynamo, inductor, the C++ compiler and Triton raise whatever they like
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
    return None


def try_kernels(device: torch.device) -> None:
    """Compare the fused operation on `device` with torch's own: whatever a GPU's compiler makes of it, it is right.

    Raises RuntimeError where they differ, and whatever Triton raises.
    """
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(3, 8, 24, 12, 12, generator=generator)
    x, skip, dy = (one.to(device, memory_format=torch.channels_last) for one in pictures)
    results = []
    for operation in (norm_relu, fused_norm_relu):
        norm = nn.BatchNorm2d(24, device=device)
        inputs = [x.clone().requires_grad_(), skip.clone().requires_grad_()]
        y = operation(norm, *inputs)
        y.backward(dy)
        results.append([y, *(one.grad for one in (*inputs, *norm.parameters())), *norm.buffers()])
    for exact, ours in zip(*results, strict=True):
        exact, ours = exact.detach(), ours.detach()
        if float((exact.double() - ours.double()).norm()) > 1e-3 * float(exact.double().norm()):
            raise RuntimeError("its results on this GPU differ from those of torch's batch norm")


def fuse(network: nn.Module) -> None:
    """Let the network train with the fused operation, in place; evaluation, and its state dict, stay as they are."""
    limit = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
    setattr(torch._dynamo.config, limit, COMPILED_VARIANTS)
    for module in network.modules():
        if isinstance(module, Block | Network):
            module.norm_relu = fused_norm_relu


def plain_copy(network: nn.Module) -> nn.Module:
    """A copy that is made of torch's own operations only, to measure on without compiling for it."""
    twin = copy.deepcopy(network)
    for module in twin.modules():
        vars(module).pop("norm_relu", None)
    return twin


def fused_norm_relu(norm: nn.BatchNorm2d, x: Tensor, skip: Tensor | None = None) -> Tensor:
    """`ablation.networks.norm_relu` in one pass; in evaluation mode it is that function."""
    if not norm.training:
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
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, mean, inverse = ctx.saved_tensors
        _, backward = passes(x.device)
        return *backward(gradients[0], x, y, weight, mean, inverse, ctx.has_skip), None


def forward_pass(
    x: Tensor,
    skip: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    batches: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and the batch's mean and inverse standard deviation (C,); the running statistics are updated."""
    values, count = x.float(), x.numel() // x.shape[1]
    mean = values.mean((0, 2, 3))
    var = ((values * values).mean((0, 2, 3)) - mean * mean).clamp(min=0)  # one pass for both moments
    running_mean.lerp_(mean, momentum)
    running_var.lerp_(var * (count / (count - 1)), momentum)
    batches.add_(1)
    inverse = (var + eps).rsqrt()
    scale = weight * inverse
    y = values * scale[:, None, None] + (bias - mean * scale)[:, None, None]
    if skip is not None:
        y = y + skip.float()
    return y.clamp(min=0).to(x.dtype), mean, inverse


def backward_pass(
    dy: Tensor, x: Tensor, y: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor, has_skip: bool
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """The gradients in x, in the shortcut's output if there is one, in weight and in bias."""
    count = x.numel() // x.shape[1]
    dskip = torch.where(y > 0, dy, 0)
    gradient = dskip.float()
    centred = (x.float() - mean[:, None, None]) * inverse[:, None, None]
    dbias, dweight = gradient.sum((0, 2, 3)), (gradient * centred).sum((0, 2, 3))
    within = gradient - (dbias / count)[:, None, None] - centred * (dweight / count)[:, None, None]
    return (within * (weight * inverse)[:, None, None]).to(x.dtype), dskip if has_skip else None, dweight, dbias


Pass = Callable[..., tuple[Any, ...]]

COMPILED: dict[str, Pass] = {
    "forward": torch.compile(forward_pass, dynamic=False, fullgraph=True),
    "backward": torch.compile(backward_pass, dynamic=False, fullgraph=True),
}


def passes(device: torch.device) -> tuple[Pass, Pass]:
    """Forward and backward for tensors on `device`."""
    if device.type != "cuda":
        return COMPILED["forward"], COMPILED["backward"]
    from ablation import kernels  # Triton is only where there may be a GPU

    return kernels.forward_pass, kernels.backward_pass
