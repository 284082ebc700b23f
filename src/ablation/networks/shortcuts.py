"""Shortcut connections: what carries a block's input past its two convolutions.

Options A, B and C are those of He et al. 2015 (arXiv 1512.03385, Sec. 3.3 and 4.1); `avgpool` is the one of the Keras
notebook this project grew from, known as ResNet-D's (He et al. 2018, arXiv 1812.01187, Fig. 2c). `scaled` and `dropout`
are two that He et al. 2016 (arXiv 1603.05027, Sec. 3.1) found to hurt.

A shortcut is a function `(in_channels, out_channels, stride) -> nn.Module | None`; None is the identity.
`conf/shortcut` names each; a new one is one such function and one YAML file, which may hold further keyword arguments.
"""

from typing import Literal, Protocol

from torch import Tensor, nn
from torch.nn import functional as F


class Shortcut(Protocol):
    """What a block asks of a shortcut: (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ...)."""

    def __call__(self, in_channels: int, out_channels: int, stride: int) -> nn.Module | None: ...


class ZeroPadding(nn.Module):
    """Every `stride`-th pixel, with `before` and `after` channels of zeros around the input's C: no parameters."""

    def __init__(self, stride: int, before: int, after: int) -> None:
        super().__init__()
        self.stride, self.before, self.after = stride, before, after

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def zero_padding(
    in_channels: int, out_channels: int, stride: int, *, zeros: Literal["end", "split"] = "end"
) -> nn.Module | None:
    """Option A: the identity, padded with zero channels where the width grows.

    `zeros` says where the new channels go, which the paper leaves open: all behind the others ("end", as in
    facebook/fb.resnet.torch) or half on each side ("split", as in akamaster/pytorch_resnet_cifar10).
    """
    if stride == 1 and in_channels == out_channels:
        return None
    before = (out_channels - in_channels) // 2 if zeros == "split" else 0
    return ZeroPadding(stride, before, out_channels - in_channels - before)


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """Option B: a 1x1 convolution and batch norm where the shape changes, the identity elsewhere."""
    if stride == 1 and in_channels == out_channels:
        return None
    return projection_everywhere(in_channels, out_channels, stride)


def projection_everywhere(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Option C: a 1x1 convolution and batch norm in every block."""
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


def average_pool_projection(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """The notebook's: 2x2 average pooling, 1x1 convolution, batch norm where the shape changes; no pixel is skipped.

    An odd edge is pooled over the pixels that are there, so that the size agrees with a stride-2 convolution's.
    """
    if stride == 1 and in_channels == out_channels:
        return None
    pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(pool, nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))


class Scale(nn.Module):
    """The input times a fixed factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def scaled(in_channels: int, out_channels: int, stride: int, *, factor: float = 0.5) -> nn.Module:
    """Option A times `factor`, in every block: past L blocks it carries `factor` ** L of the input."""
    return nn.Sequential(zero_padding(in_channels, out_channels, stride) or nn.Identity(), Scale(factor))


def dropout(in_channels: int, out_channels: int, stride: int, *, rate: float = 0.5) -> nn.Module:
    """Option A with dropout, in every block: each value is lost with probability `rate`, the others are scaled up."""
    return nn.Sequential(zero_padding(in_channels, out_channels, stride) or nn.Identity(), nn.Dropout(rate))
