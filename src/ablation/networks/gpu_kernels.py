"""Batch norm, the sum with a shortcut and ReLU for a GPU, in Triton: two kernels forward, two backward.

The formulas are those of Ioffe & Szegedy 2015 (arXiv 1502.03167, Sec. 3), sums in float32. Images are channels_last:
(rows, channels) in memory, rows = N H W. There are few kernels because at CIFAR-10's size each has little work
(torch.compile makes 5 and 5). The first leaves one partial sum for each of its programs, so few that each program of
the second adds them all up again: no atomics, so the same bits in every run, and nothing to wait for.

With TRITON_INTERPRET=1 the kernels run on the CPU, which is how they are tested (tests/interpreted_kernels.py).
"""

import warnings
from typing import Any

import torch
import triton
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from triton import language as tl

warnings.filterwarnings("ignore", "TRITON_DEFAULT_FP_FUSION")  # whether a product and a sum are rounded once or twice

PARTIAL_VALUES = 4096  # programs times channels of a first kernel: 16 KiB a sum for each program of the second to read
TILE = 2048  # values that a program holds at once
PROGRAMS = 256  # of a second kernel at most: about two for each multiprocessor of an H100


@triton.jit
def added_up(partial, c, P: tl.constexpr, BLOCK_P: tl.constexpr, C: tl.constexpr):
    """(P, C) partial sums -> (BLOCK_C,), zeros behind C."""
    p = tl.arange(0, BLOCK_P)
    inside = (p < P)[:, None] & (c < C)[None, :]
    return tl.sum(tl.load(partial + p[:, None] * C + c[None, :], inside, 0.0), 0)


@triton.jit
def moments_kernel(x, partial, rows, rows_each, C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """Each program's sums of x and x^2 over its rows: partial (2, programs, C)."""
    program = tl.program_id(0)
    c = tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    squares = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    end = tl.minimum((program + 1) * rows_each, rows)
    for start in range(program * rows_each, end, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        inside = (r < end)[:, None] & (c < C)[None, :]
        values = tl.load(x + r[:, None] * C + c[None, :], inside, 0.0).to(tl.float32)
        total += values
        squares += values * values
    tl.store(partial + program * C + c, tl.sum(total, 0), c < C)
    tl.store(partial + (tl.num_programs(0) + program) * C + c, tl.sum(squares, 0), c < C)


@triton.jit
def normalise_kernel(
    x, skip, y, partial, weight, bias, running_mean, running_var, batches, mean, inverse,
    momentum, eps, rows, rows_each, HAS_SKIP: tl.constexpr,
    P: tl.constexpr, BLOCK_P: tl.constexpr, C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Y = relu(batch_norm(x) + skip); the first program also writes the statistics."""
    program = tl.program_id(0)
    c = tl.arange(0, BLOCK_C)
    count = rows.to(tl.float32)
    m = added_up(partial, c, P, BLOCK_P, C) / count
    var = added_up(partial + P * C, c, P, BLOCK_P, C) / count - m * m
    var = tl.where(var < 0.0, 0.0, var)
    inv = 1.0 / tl.sqrt(var + eps)
    scale = tl.load(weight + c, c < C, 0.0) * inv
    offset = tl.load(bias + c, c < C, 0.0) - m * scale
    if program == 0:
        tl.store(mean + c, m, c < C)
        tl.store(inverse + c, inv, c < C)
        old = tl.load(running_mean + c, c < C, 0.0)
        tl.store(running_mean + c, old + momentum * (m - old), c < C)
        old = tl.load(running_var + c, c < C, 0.0)
        tl.store(running_var + c, old + momentum * (var * (count / (count - 1.0)) - old), c < C)
        tl.store(batches, tl.load(batches) + 1)
    end = tl.minimum((program + 1) * rows_each, rows)
    for start in range(program * rows_each, end, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        inside = (r < end)[:, None] & (c < C)[None, :]
        there = r[:, None] * C + c[None, :]
        values = tl.load(x + there, inside, 0.0).to(tl.float32) * scale[None, :] + offset[None, :]
        if HAS_SKIP:
            values += tl.load(skip + there, inside, 0.0).to(tl.float32)
        values = tl.where(values < 0.0, 0.0, values)  # keeps NaN, which a maximum would not
        tl.store(y + there, values.to(y.dtype.element_ty), inside)


@triton.jit
def gradient_sums_kernel(
    dy, x, y, dskip, mean, inverse, partial, rows, rows_each, HAS_SKIP: tl.constexpr,
    C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The sums of g, the gradient behind ReLU, and of g times the normalised x, (2, programs, C); g is dskip."""
    program = tl.program_id(0)
    c = tl.arange(0, BLOCK_C)
    m = tl.load(mean + c, c < C, 0.0)
    inv = tl.load(inverse + c, c < C, 0.0)
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    products = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    end = tl.minimum((program + 1) * rows_each, rows)
    for start in range(program * rows_each, end, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        inside = (r < end)[:, None] & (c < C)[None, :]
        there = r[:, None] * C + c[None, :]
        g = tl.load(dy + there, inside, 0.0).to(tl.float32)
        g = tl.where(tl.load(y + there, inside, 0.0).to(tl.float32) > 0.0, g, 0.0)
        if HAS_SKIP:
            tl.store(dskip + there, g.to(dskip.dtype.element_ty), inside)
        total += g
        products += g * (tl.load(x + there, inside, 0.0).to(tl.float32) - m[None, :]) * inv[None, :]
    tl.store(partial + program * C + c, tl.sum(total, 0), c < C)
    tl.store(partial + (tl.num_programs(0) + program) * C + c, tl.sum(products, 0), c < C)


@triton.jit
def gradient_kernel(
    dy, x, y, dx, mean, inverse, weight, partial, dweight, dbias, rows, rows_each, MASKED: tl.constexpr,
    P: tl.constexpr, BLOCK_P: tl.constexpr, C: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The gradient in x; the first program also writes those in weight and bias. MASKED: dy is zero where y is."""
    program = tl.program_id(0)
    c = tl.arange(0, BLOCK_C)
    db = added_up(partial, c, P, BLOCK_P, C)
    dw = added_up(partial + P * C, c, P, BLOCK_P, C)
    if program == 0:
        tl.store(dbias + c, db, c < C)
        tl.store(dweight + c, dw, c < C)
    m = tl.load(mean + c, c < C, 0.0)
    inv = tl.load(inverse + c, c < C, 0.0)
    scale = tl.load(weight + c, c < C, 0.0) * inv
    count = rows.to(tl.float32)
    db = db / count
    dw = dw / count
    end = tl.minimum((program + 1) * rows_each, rows)
    for start in range(program * rows_each, end, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        inside = (r < end)[:, None] & (c < C)[None, :]
        there = r[:, None] * C + c[None, :]
        g = tl.load(dy + there, inside, 0.0).to(tl.float32)
        if not MASKED:
            g = tl.where(tl.load(y + there, inside, 0.0).to(tl.float32) > 0.0, g, 0.0)
        centred = (tl.load(x + there, inside, 0.0).to(tl.float32) - m[None, :]) * inv[None, :]
        within = (g - db[None, :] - centred * dw[None, :]) * scale[None, :]
        tl.store(dx + there, within.to(dx.dtype.element_ty), inside)


class Plan:
    """How the rows of (N, C, H, W) images are divided among the programs of the two kernels."""

    def __init__(self, x: Tensor) -> None:
        channels = x.shape[1]
        self.rows = x.numel() // channels
        block_c = triton.next_power_of_2(channels)
        block_r = max(TILE // block_c, 1)
        self.block = {"C": channels, "BLOCK_R": block_r, "BLOCK_C": block_c}
        tiles = triton.cdiv(self.rows, block_r)
        self.first_rows = block_r * triton.cdiv(tiles, max(PARTIAL_VALUES // block_c, 1))
        self.second_rows = block_r * triton.cdiv(tiles, PROGRAMS)
        self.first = triton.cdiv(self.rows, self.first_rows)
        self.second = triton.cdiv(self.rows, self.second_rows)
        self.partials = {"P": self.first, "BLOCK_P": triton.next_power_of_2(self.first)}
        self.partial = torch.empty(2, self.first, channels, device=x.device)


class BatchNormReLU(torch.autograd.Function):
    """relu(batch_norm(x) + skip) over (N, C, H, W), which also updates the running statistics of `norm` in place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, skip: Tensor | None, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        plan, y = Plan(x), torch.empty_like(x)
        mean, inverse = torch.empty_like(weight), torch.empty_like(weight)
        moments_kernel[(plan.first,)](x, plan.partial, plan.rows, plan.first_rows, **plan.block)
        summand = x if skip is None else skip.contiguous(memory_format=torch.channels_last)
        running = (norm.running_mean, norm.running_var, norm.num_batches_tracked)
        tensors = (x, summand, y, plan.partial, weight, bias, *running, mean, inverse)
        numbers = (norm.momentum, norm.eps, plan.rows, plan.second_rows, skip is not None)
        normalise_kernel[(plan.second,)](*tensors, *numbers, **plan.partials, **plan.block)
        ctx.save_for_backward(x, y, weight, mean, inverse)  # the sum before ReLU is not needed
        ctx.has_skip = skip is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients in x, in the shortcut's output if there is one, in weight and in bias."""
        x, y, weight, mean, inverse = ctx.saved_tensors
        dy = gradients[0].contiguous(memory_format=torch.channels_last)
        plan, dx = Plan(x), torch.empty_like(x)
        dskip = torch.empty_like(x) if ctx.has_skip else dx
        dweight, dbias = torch.empty_like(weight), torch.empty_like(weight)
        first, second = ((plan.rows, each, ctx.has_skip) for each in (plan.first_rows, plan.second_rows))
        gradient_sums_kernel[(plan.first,)](dy, x, y, dskip, mean, inverse, plan.partial, *first, **plan.block)
        tensors = (dskip if ctx.has_skip else dy, x, y, dx, mean, inverse, weight, plan.partial, dweight, dbias)
        gradient_kernel[(plan.second,)](*tensors, *second, **plan.partials, **plan.block)
        return dx, dskip if ctx.has_skip else None, dweight, dbias, None
