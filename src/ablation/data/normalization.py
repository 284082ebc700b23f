"""Normalization by the statistics of the training images alone."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ablation.data.images import Images
from ablation.errors import UserError

GREY_LEVEL = 1 / 255  # the step between two values of an 8-bit pixel, on the scale of 0 to 1


@dataclass(frozen=True)
class Normalization:
    """(x / 255 - mean) / std for uint8 pictures x."""

    mean: Tensor
    """float32, (3, H, W) per pixel or (3, 1, 1) per channel, on the scale of 0 to 1."""
    std: Tensor
    """As `mean`; ones where pictures are only centred."""

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) to normalised float32 of the same shape and memory format, on the same device."""
        return images.to(torch.float32).div_(255).sub_(self.mean).div_(self.std)

    def to(self, device: torch.device | str) -> "Normalization":
        """The same normalisation with its tensors on `device`."""
        return Normalization(self.mean.to(device), self.std.to(device))


def fit_normalization(kind: str, train: Images) -> Normalization:
    """Compute the statistics of a normalisation from the training pictures alone.

    kind: pixel_mean          the mean of each pixel and channel is subtracted (He et al. 2015, Sec. 4.2)
          pixel_standardize   and the result divided by the pixel's standard deviation (the notebook)
          channel_standardize mean and standard deviation of each channel (what most reimplementations do)

    The paper does not say whether pixels run to 1 or to 255. To the result it is all the same: batch normalisation
    follows the first convolution and takes the scale out of its output, and out of the gradient of its weights.
    Public reimplementations in Keras and PyTorch scale to [0, 1], and so does this one.

    A pixel that varies by less than one grey level (the borders of digits) is centred but not scaled: dividing by its
    standard deviation would give infinities, or blow up what the training set has hardly ever shown.
    """
    if kind not in NORMALIZATIONS:
        raise UserError("data.normalization", kind, f"allowed are {', '.join(NORMALIZATIONS)}")
    axes = (0, 2, 3) if kind == "channel_standardize" else (0,)
    mean, std = _mean_and_std(train.images, axes)
    std = torch.ones(3, 1, 1) if kind == "pixel_mean" else torch.where(std < GREY_LEVEL, 1.0, std)
    return Normalization(mean.to(torch.float32), std.to(torch.float32))


NORMALIZATIONS = ("pixel_mean", "pixel_standardize", "channel_standardize")


def _mean_and_std(images: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation over `axes` as float64 (3, H or 1, W or 1), on the scale of 0 to 1.

    Chunk by chunk, without a float copy of the data set, and exact in any order: the sums are integers below 2**53.
    """
    total = squares = torch.zeros((), dtype=torch.float64)
    for chunk in images.split(500):
        values = chunk.double()
        total = total + values.sum(axes, keepdim=True)
        squares = squares + values.square_().sum(axes, keepdim=True)
    count = images.numel() // total.numel()
    mean = total[0] / count
    variance = squares[0] / count - mean.square()
    return mean / 255, variance.clamp(min=0).sqrt() / 255
