"""Augmentation as tensor operations on a whole batch, in place of per-image transforms in worker processes.

All random numbers of an epoch are drawn at once, on the CPU (`draw`), so a seed means the same images on every device.
`__call__` has static shapes, no synchronisation and no random numbers, so a CUDA graph can capture it. Padding and
holes are zeros in normalised space: the mean image. The policy works on 8-bit images, so it comes before normalization,
once an epoch (`policy_epoch`), with all images of one operation and strength together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import atan, degrees
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """What is done to the training images, in the order policy, crop and flip, shift, cutout; by default nothing."""

    padding: int = 0  # zeros on each side, then a random crop of the old size (He et al. 2015, Sec. 4.2; 4)
    shift: float = 0.0  # largest shift in pixels, bilinear, edges repeated (Keras' ImageDataGenerator, fill "nearest")
    flip: bool = False  # half of the images, left to right (He et al. 2015)
    cutout: int = 0  # side of a square hole with its centre anywhere (DeVries & Taylor 2017, arXiv 1708.04552; 16)
    policy: str | None = None  # "trivial_augment": torchvision's TrivialAugmentWide (Müller & Hutter, arXiv 2103.10158)

    def policy_epoch(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Apply the policy, if there is one, to all images of an epoch: uint8 (N, 3, H, W) to the same.

        Operation, strength and sign are uniform and independent, drawn from `generator`, which is on the CPU.
        """
        if self.policy is None:
            return images
        assert self.policy == "trivial_augment", self.policy
        table = operations().values()
        operation, strength = (torch.randint(n, (len(images),), generator=generator) for n in (len(table), BINS))
        sign = 1 - 2 * torch.randint(2, (len(images),), generator=generator)
        signed = torch.tensor([entry.signed for entry in table])
        magnitudes = torch.tensor([entry.magnitudes for entry in table], dtype=torch.float64)
        return apply_operations(images, operation, magnitudes[operation, strength] * sign.where(signed[operation], 1))

    def draw(self, count: int, size: tuple[int, int], generator: torch.Generator) -> dict[str, Tensor]:
        """Draw what `count` images of `size` (height, width) need of these random numbers: CPU tensors (count,).

        `crop_row`, `crop_column`: top left corner of the crop in the padded image, 0 to 2 * padding. `flip`: bool.
        `shift_row`, `shift_column`: pixels. `hole_row`, `hole_column`: centre of the hole, a pixel of the image.
        """
        draws: dict[str, Tensor] = {}
        if self.padding or self.flip:
            for name in ("crop_row", "crop_column"):
                draws[name] = torch.randint(2 * self.padding + 1, (count,), generator=generator)
            draws["flip"] = torch.rand(count, generator=generator) < 0.5 * self.flip
        if self.shift:
            for name in ("shift_row", "shift_column"):
                draws[name] = (2 * torch.rand(count, generator=generator) - 1) * self.shift
        if self.cutout:
            for name, extent in zip(("hole_row", "hole_column"), size, strict=True):
                draws[name] = torch.randint(extent, (count,), generator=generator)
        return draws

    def __call__(self, images: Tensor, draws: dict[str, Tensor]) -> Tensor:
        """Augment a normalised float batch (N, 3, H, W) with its slice of the draws, on the same device as the batch.

        The result has the shape and dtype of `images`; a crop or a flip leaves it channels_last.
        """
        if self.padding or self.flip:
            images = crop_and_flip(images, draws["crop_row"], draws["crop_column"], draws["flip"], self.padding)
        if self.shift:
            images = shift(images, draws["shift_row"], draws["shift_column"])
        if self.cutout:
            images = cut_out(images, draws["hole_row"], draws["hole_column"], self.cutout)
        return images


def crop_and_flip(images: Tensor, row: Tensor, column: Tensor, flip: Tensor, padding: int) -> Tensor:
    """Pad (N, C, H, W) with zeros, crop H x W at (row, column) of the padded image, mirror where `flip`."""
    count, channels, height, width = images.shape
    device = images.device
    # One gather of whole pixels: with the channels last in memory, it moves C numbers an index, and its result is
    # channels_last at no cost (2 CPU cores, 128 images of 32x32: 0.5 ms; indexing with three tensors: 1.4 ms).
    padded = F.pad(images.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
    _, padded_height, padded_width, _ = padded.shape
    rows = torch.arange(height, device=device) + row[:, None]  # (N, H)
    columns = torch.arange(width, device=device)
    columns = torch.where(flip[:, None], width - 1 - columns, columns) + column[:, None]  # (N, W)
    image = torch.arange(count, device=device)[:, None, None]
    pixel = (image * padded_height + rows[:, :, None]) * padded_width + columns[:, None, :]  # (N, H, W)
    pixels = padded.reshape(-1, channels).index_select(0, pixel.reshape(-1))
    return pixels.view(count, height, width, channels).permute(0, 3, 1, 2)


def shift(images: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Sample (N, C, H, W) bilinearly at (y + row, x + column), repeating the edges."""
    _, _, height, width = images.shape
    # The edges repeat because the coordinates are clamped: not every device has grid_sample's own border mode.
    rows = (torch.arange(height, device=images.device) + row[:, None]).clamp(0, height - 1)  # (N, H)
    columns = (torch.arange(width, device=images.device) + column[:, None]).clamp(0, width - 1)  # (N, W)
    y, x = (2 * rows + 1) / height - 1, (2 * columns + 1) / width - 1  # grid_sample's coordinates, pixels as areas
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)  # (N, H, W, 2)
    return F.grid_sample(images, grid.to(images.dtype), mode="bilinear", padding_mode="zeros", align_corners=False)


def cut_out(images: Tensor, row: Tensor, column: Tensor, length: int) -> Tensor:
    """Set a square of `length` x `length` pixels around the pixel (row, column) to zero, clipped at the border."""
    _, _, height, width = images.shape
    # As in the authors' code, an even square reaches one pixel further up and left than down and right.
    y = torch.arange(height, device=images.device) - row[:, None] + length // 2  # (N, H): 0 is the hole's first row
    x = torch.arange(width, device=images.device) - column[:, None] + length // 2
    hole = ((y >= 0) & (y < length))[:, :, None, None] & ((x >= 0) & (x < length))[:, None, :, None]  # (N, H, W, 1)
    return images * ~hole.permute(0, 3, 1, 2)  # masked_fill would lose channels_last


BINS = 31  # strengths of an operation, as in torchvision
CHUNK = 1024  # most images given to one operation: bounds the float copies that it makes


class Operation(NamedTuple):
    """One operation of the policy on uint8 (N, 3, H, W) images, and the magnitudes to choose from."""

    apply: Callable[[Tensor, float], Tensor]
    magnitudes: tuple[float, ...] = (0.0,) * BINS
    signed: bool = False


def apply_operations(images: Tensor, operation: Tensor, magnitude: Tensor) -> Tensor:
    """Apply operation `operation[i]` with `magnitude[i]` to image i, equal ones together; both (N,), on the CPU."""
    table = list(operations().values())
    pairs = torch.stack((operation.double(), magnitude), dim=1)
    pairs, group, sizes = pairs.unique(dim=0, return_inverse=True, return_counts=True)
    order = group.argsort(stable=True)
    parts = zip(pairs.tolist(), images[order.to(images.device)].split(sizes.tolist()), strict=True)
    done = [table[int(i)].apply(chunk, value) for (i, value), part in parts for chunk in part.split(CHUNK)]
    return torch.cat(done)[order.argsort().to(images.device)]


@cache
def operations() -> dict[str, Operation]:
    """The operations by name, in torchvision's order and with its "wide" magnitudes."""
    from torchvision.transforms.v2 import functional as tv  # not above: importing it takes a second

    def even(start: float, end: float) -> tuple[float, ...]:
        return tuple(torch.linspace(start, end, BINS).tolist())

    def move(images: Tensor, translate: tuple[int, int] = (0, 0), slope: tuple[float, float] = (0.0, 0.0)) -> Tensor:
        shear, center = [degrees(atan(s)) for s in slope], None if any(translate) else [0.0, 0.0]
        return tv.affine(images, angle=0.0, translate=list(translate), scale=1.0, shear=shear, center=center)

    factors, pixels = even(0.0, 0.99), even(0.0, 32.0)
    bits = tuple(8.0 - round(6 * i / (BINS - 1)) for i in range(BINS))
    return {
        "Identity": Operation(lambda x, m: x),
        "ShearX": Operation(lambda x, m: move(x, slope=(m, 0.0)), factors, signed=True),
        "ShearY": Operation(lambda x, m: move(x, slope=(0.0, m)), factors, signed=True),
        "TranslateX": Operation(lambda x, m: move(x, translate=(int(m), 0)), pixels, signed=True),
        "TranslateY": Operation(lambda x, m: move(x, translate=(0, int(m))), pixels, signed=True),
        "Rotate": Operation(tv.rotate, even(0.0, 135.0), signed=True),
        "Brightness": Operation(lambda x, m: tv.adjust_brightness(x, 1 + m), factors, signed=True),
        "Color": Operation(lambda x, m: tv.adjust_saturation(x, 1 + m), factors, signed=True),
        "Contrast": Operation(lambda x, m: tv.adjust_contrast(x, 1 + m), factors, signed=True),
        "Sharpness": Operation(lambda x, m: tv.adjust_sharpness(x, 1 + m), factors, signed=True),
        "Posterize": Operation(lambda x, m: tv.posterize(x, int(m)), bits),
        "Solarize": Operation(tv.solarize, even(255.0, 0.0)),
        "AutoContrast": Operation(lambda x, m: tv.autocontrast(x)),
        "Equalize": Operation(lambda x, m: tv.equalize(x)),
    }
