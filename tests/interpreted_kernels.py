"""Runs the GPU's kernels in Triton's interpreter, on the CPU, beside the CPU's; prints the worst difference.

TRITON_INTERPRET=1 PYTHONPATH=src python tests/interpreted_kernels.py
"""

import torch
from torch import Tensor

from ablation.networks import cpu_kernels, gpu_kernels

SHAPES = [(4, 6, 5), (3, 16, 16), (5, 64, 8), (2, 100, 3)]
"""Pictures, channels, side: whole tiles and parts, one program and several, channels that fill a block or not."""


def statistics(channels: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.full((channels,), 0.5), torch.full((channels,), 2.0), torch.tensor(7)


def worst(dtype: torch.dtype, has_skip: bool, shape: tuple[int, int, int]) -> float:
    """Over output, statistics and gradients: the norm of the difference over the norm."""
    count, channels, side = shape
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(3, count, channels, side, side, generator=generator) * 3 + 1
    x, skip, dy = (one.to(dtype).to(memory_format=torch.channels_last) for one in pictures)
    weight, bias = torch.rand(2, channels, generator=generator) + 0.5
    given = skip if has_skip else None
    ours, exact = statistics(channels), statistics(channels)
    forward = gpu_kernels.forward_pass(x, given, weight, bias, *ours, 0.3, 1e-5)
    expected = cpu_kernels.forward_pass(x, given, weight, bias, *exact, 0.3, 1e-5)
    backward = gpu_kernels.backward_pass(dy, x, expected[0], weight, *expected[1:], has_skip)
    gradients = cpu_kernels.backward_pass(dy, x, expected[0], weight, *expected[1:], has_skip)
    differences = []
    for a, b in zip((*forward, *ours, *backward), (*expected, *exact, *gradients), strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            differences.append(float((a.double() - b.double()).norm() / b.double().norm()))
    return max(differences)


def hides_a_fault() -> bool:
    """Whether what is not a number comes out as a number."""
    x = torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last)
    x[1, 2, 0, 0] = torch.nan
    y, *_ = gpu_kernels.forward_pass(x, None, torch.ones(4), torch.zeros(4), *statistics(4), 0.1, 1e-5)
    return not bool(y[:, 2].isnan().all())


if __name__ == "__main__":
    torch.set_num_threads(1)
    assert not hides_a_fault()
    for dtype in (torch.float32, torch.bfloat16):
        differences = [worst(dtype, has_skip, shape) for shape in SHAPES for has_skip in (False, True)]
        print(str(dtype).removeprefix("torch."), max(differences))
