"""Batch norm, the sum with a shortcut and ReLU as one operation, on a GPU: `gpu_kernels`, in Triton.

Eager, they are three operations, and each reads and writes all of its input, forward and backward. In float32 the fused
operation agrees with torch's batch norm to 1e-5 where mean and standard deviation are of one size, in bfloat16 to the
rounding of its output.
"""

import copy

import torch
from torch import Tensor, nn

from ablation.networks.resnet import Block, Network, norm_relu


def fusible(asked: bool | None, device: torch.device, strict: bool = False) -> bool:
    """Whether to fuse: `asked` is `trainer.fused`, and None means on CUDA. Where it cannot be, one line says why.

    With `strict` an error of the kernels is raised.
    """
    if not (device.type == "cuda" if asked is None else asked):
        return False
    fault = None if device.type == "cuda" else f"its kernels are for a CUDA GPU, not for the device {device.type}"
    try:
        if fault is None:
            check_kernels(device)
    except Exception as error:  # Triton and the compilers that it starts raise errors of many kinds
        if strict:
            raise
        fault = f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0]}"
    if fault:
        print(f"no fused batch norm, going on without it: {fault}", flush=True)
    return fault is None


def check_kernels(device: torch.device) -> None:
    """Raise RuntimeError where output, gradients or running statistics on `device` differ from those of torch's own."""
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
    """Make the network train with the fused operation, in place; its evaluation and state dict stay as they are."""
    for module in network.modules():
        if isinstance(module, Block | Network):
            module.norm_relu = fused_norm_relu


def plain_copy(network: nn.Module) -> nn.Module:
    twin = copy.deepcopy(network)
    for module in twin.modules():
        vars(module).pop("norm_relu", None)
    return twin


def fused_norm_relu(norm: nn.BatchNorm2d, x: Tensor, skip: Tensor | None = None) -> Tensor:
    """`resnet.norm_relu` in one operation; in evaluation, and for dtypes that the kernels lack, it is that function."""
    if norm.training and x.dtype in (torch.float32, torch.bfloat16):
        from ablation.networks.gpu_kernels import BatchNormReLU  # not above: Triton may be missing without a GPU

        return BatchNormReLU.apply(x, skip, norm.weight, norm.bias, norm)
    return norm_relu(norm, x, skip)
