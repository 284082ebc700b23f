"""Normalization by the statistics of the training images alone.

Pixels are scaled to [0, 1], as in public reimplementations. The paper names no scale, and the result does not depend on
it: the batch norm behind the first convolution takes it out of the output and of the gradient of the weights.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ablation.data.images import Images


@dataclass(frozen=True)
class Normalization:
    """(x / 255 - mean) / std for uint8 images x."""

    mean: Tensor
    """float32, (3, H, W) per pixel or (3, 1, 1) per channel, on the scale of 0 to 1; so is `std`."""
    std: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) to normalised float32 of the same shape and memory format, on the same device."""
        return images.to(torch.float32).div_(255).sub_(self.mean).div_(self.std)

    def to(self, device: torch.device | str) -> "Normalization":
        return Normalization(self.mean.to(device), self.std.to(device))


@lru_cache(maxsize=2)  # the runs of a sweep share their images
def fit_normalization(kind: str, train: Images) -> Normalization:
    """Compute the statistics of a normalization from the training images.

    kind: pixel_mean          the mean of each pixel and channel is subtracted (He et al. 2015, Sec. 4.2)
          pixel_standardize   and the result divided by the pixel's standard deviation (the notebook)
          channel_standardize mean and standard deviation of each channel (what most reimplementations do)

    A pixel that varies by less than one grey level (the borders of digits) is centred but not scaled: dividing by its
    standard deviation would give infinities, or blow up what the training set has hardly ever shown.
    """
    assert kind in ("pixel_mean", "pixel_standardize", "channel_standardize"), kind
    axes = (0, 2, 3) if kind == "channel_standardize" else (0,)
    # Sums of integers below 2**53 are exact in float64, in any order; chunks avoid a float copy of the data set.
    total = squares = torch.zeros((), dtype=torch.float64)
    for chunk in train.images.split(500):
        values = chunk.double()
        total = total + values.sum(axes, keepdim=True)
        squares = squares + values.square_().sum(axes, keepdim=True)
    count = train.images.numel() // total.numel()
    mean = total[0] / count  # (3, H, W) or (3, 1, 1)
    std = (squares[0] / count - mean.square()).clamp(min=0).sqrt() / 255
    std = torch.ones(3, 1, 1) if kind == "pixel_mean" else torch.where(std < 1 / 255, 1.0, std)
    return Normalization((mean / 255).to(torch.float32), std.to(torch.float32))
