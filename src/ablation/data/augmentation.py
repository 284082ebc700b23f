"""Augmentation as tensor operations on a whole batch, in place of per-image transforms in worker processes.

Implements, each as a plain number that turns it off at 0:

- `padding` and `flip`: zero padding, a random crop, a random horizontal flip (He et al. 2015, Sec. 4.2; 4 pixels).
- `shift`: a continuous uniform shift in both axes, bilinear, edges repeated, as Keras' `ImageDataGenerator` with
  `fill_mode="nearest"` does it (the notebook's recipe; 4 pixels).
- `cutout`: a square hole with its centre anywhere, clipped at the border (DeVries & Taylor 2017, arXiv 1708.04552;
  16 pixels for CIFAR-10, 8 for CIFAR-100).
- `policy`: "trivial_augment", one random operation of random strength per image (Müller & Hutter 2021,
  arXiv 2103.10158), with the operations and strengths of `torchvision.transforms.TrivialAugmentWide`.

Notable: everything random in an epoch is drawn at once, on the CPU (`Augmentation.draw`), so a seed means the same
pictures on every device, and a step needs nothing from the host: `Augmentation.__call__` has static shapes, no
synchronisation and no random numbers, so it can be captured in a CUDA graph. Padding and holes are zeros
in normalised space, which is the mean image. The policy works on 8-bit pictures and changes from image to image, so it
is applied once an epoch (`Augmentation.policy_epoch`), to all images with the same operation and strength together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import atan, degrees
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ablation.errors import UserError


@dataclass(frozen=True)
class Augmentation:
    """What is done to the training images; the default is nothing."""

    padding: int = 0
    """Zeros on each side before a random crop of the original size, in pixels."""
    shift: float = 0.0
    """Greatest shift in each axis, in pixels; shifts are uniform in [-shift, shift)."""
    flip: bool = False
    """Mirror half of the images left to right."""
    cutout: int = 0
    """Side of the square hole, in pixels."""
    policy: str | None = None
    """A key of `POLICIES`, applied before all else."""

    def __post_init__(self) -> None:
        """Raise UserError for an unknown policy; the ranges of the numbers are the schema's to check."""
        if self.policy is not None and self.policy not in POLICIES:
            raise UserError("augmentation.policy", self.policy, f"allowed are null, {', '.join(POLICIES)}")

    def policy_epoch(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Apply the policy to all images of an epoch: uint8 (N, 3, H, W) to the same, on the images' device.

        `generator` is a CPU generator. Without a policy the images are returned as they are and nothing is drawn.
        """
        return images if self.policy is None else POLICIES[self.policy](images, generator)

    def draw(self, count: int, size: int | Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
        """Draw everything random for `count` images of `size` (height and width, or one number for both).

        Returns CPU tensors of shape (count,), to be sliced by batch and handed to `__call__`; only what is used is
        drawn. `crop_row`, `crop_column`: top left corner of the crop in the padded image, 0 to 2 * padding. `flip`:
        bool. `shift_row`, `shift_column`: pixels. `hole_row`, `hole_column`: centre of the hole, a pixel of the image.
        """
        height, width = (size, size) if isinstance(size, int) else size
        draws: dict[str, Tensor] = {}
        if self.padding or self.flip:
            for name in ("crop_row", "crop_column"):
                draws[name] = torch.randint(2 * self.padding + 1, (count,), generator=generator)
            draws["flip"] = torch.rand(count, generator=generator) < 0.5 * self.flip
        if self.shift:
            for name in ("shift_row", "shift_column"):
                draws[name] = (2 * torch.rand(count, generator=generator) - 1) * self.shift
        if self.cutout:
            for name, extent in (("hole_row", height), ("hole_column", width)):
                draws[name] = torch.randint(extent, (count,), generator=generator)
        return draws

    def __call__(self, images: Tensor, draws: dict[str, Tensor]) -> Tensor:
        """Augment a normalised float batch (N, 3, H, W) with its slice of the draws, on the same device as the batch.

        The result has the shape and type of `images`; a crop or a flip leaves it channels_last.
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
    y, x = (2 * rows + 1) / height - 1, (2 * columns + 1) / width - 1  # as grid_sample counts, pixels being areas
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)  # (N, H, W, 2)
    return F.grid_sample(images, grid.to(images.dtype), mode="bilinear", padding_mode="zeros", align_corners=False)


def cut_out(images: Tensor, row: Tensor, column: Tensor, length: int) -> Tensor:
    """Set a square of `length` x `length` pixels around the pixel (row, column) to zero, clipped at the border.

    An even square reaches one pixel further up and left than down and right, as in the authors' code.
    """
    _, _, height, width = images.shape
    y = torch.arange(height, device=images.device) - row[:, None] + length // 2  # (N, H): 0 is the hole's first row
    x = torch.arange(width, device=images.device) - column[:, None] + length // 2
    hole = ((y >= 0) & (y < length))[:, :, None, None] & ((x >= 0) & (x < length))[:, None, :, None]  # (N, H, W, 1)
    return images * ~hole.permute(0, 3, 1, 2)  # masked_fill would lose channels_last


# ---------------------------------------------------------------------------------------------- trivial augment

BINS = 31  # strengths of an operation, as in torchvision
CHUNK = 1024  # most images handed to one operation: bounds the float copies that it makes


class Operation(NamedTuple):
    """One entry of the policy: what it does to uint8 (N, 3, H, W) images, and the strengths to choose from."""

    apply: Callable[[Tensor, float], Tensor]
    magnitudes: tuple[float, ...] = (0.0,) * BINS
    signed: bool = False


def trivial_augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Apply to each image one operation of `operations()` with one of its magnitudes: uint8 (N, 3, H, W) to the same.

    Operation, magnitude and sign are uniform and independent, as in `torchvision.transforms.TrivialAugmentWide`.
    """
    table = operations().values()
    operation, strength = (torch.randint(n, (len(images),), generator=generator) for n in (len(table), BINS))
    sign = 1 - 2 * torch.randint(2, (len(images),), generator=generator)
    signed = torch.tensor([entry.signed for entry in table])
    magnitudes = torch.tensor([entry.magnitudes for entry in table], dtype=torch.float64)
    magnitude = magnitudes[operation, strength] * torch.where(signed[operation], sign, 1)
    return apply_operations(images, operation, magnitude)


def apply_operations(images: Tensor, operation: Tensor, magnitude: Tensor) -> Tensor:
    """Apply to image i operation number `operation[i]` with `magnitude[i]`, equal ones together.

    Both are CPU tensors of shape (N,), so the grouping never waits for the device of the images.
    """
    table = list(operations().values())
    pairs, group, sizes = torch.stack((operation.double(), magnitude), dim=1).unique(
        dim=0, return_inverse=True, return_counts=True
    )
    order = group.argsort(stable=True)
    arranged = images[order.to(images.device)]
    done: list[Tensor] = []
    for (number, value), together in zip(pairs.tolist(), arranged.split(sizes.tolist()), strict=True):
        done.extend(table[int(number)].apply(chunk, value) for chunk in together.split(CHUNK))
    return torch.cat(done)[order.argsort().to(images.device)]


@cache
def operations() -> dict[str, Operation]:
    """The operations by name, in torchvision's order and with its "wide" magnitudes; torchvision is imported here."""
    from torchvision.transforms.v2 import functional as tv

    def even(start: float, end: float) -> tuple[float, ...]:
        return tuple(torch.linspace(start, end, BINS).tolist())

    def affine(images: Tensor, translate: list[int], shear: list[float], center: list[float] | None) -> Tensor:
        return tv.affine(images, angle=0.0, translate=translate, scale=1.0, shear=shear, center=center)

    def slope(magnitude: float) -> float:
        return degrees(atan(magnitude))

    shears, translations, factors = even(0.0, 0.99), even(0.0, 32.0), even(0.0, 0.99)
    return {
        "Identity": Operation(lambda x, m: x),
        "ShearX": Operation(lambda x, m: affine(x, [0, 0], [slope(m), 0.0], [0, 0]), shears, True),
        "ShearY": Operation(lambda x, m: affine(x, [0, 0], [0.0, slope(m)], [0, 0]), shears, True),
        "TranslateX": Operation(lambda x, m: affine(x, [int(m), 0], [0.0, 0.0], None), translations, True),
        "TranslateY": Operation(lambda x, m: affine(x, [0, int(m)], [0.0, 0.0], None), translations, True),
        "Rotate": Operation(tv.rotate, even(0.0, 135.0), True),
        "Brightness": Operation(lambda x, m: tv.adjust_brightness(x, 1 + m), factors, True),
        "Color": Operation(lambda x, m: tv.adjust_saturation(x, 1 + m), factors, True),
        "Contrast": Operation(lambda x, m: tv.adjust_contrast(x, 1 + m), factors, True),
        "Sharpness": Operation(lambda x, m: tv.adjust_sharpness(x, 1 + m), factors, True),
        "Posterize": Operation(
            lambda x, m: tv.posterize(x, int(m)), tuple(8 - round(6 * i / (BINS - 1)) for i in range(BINS))
        ),
        "Solarize": Operation(tv.solarize, even(255.0, 0.0)),
        "AutoContrast": Operation(lambda x, m: tv.autocontrast(x)),
        "Equalize": Operation(lambda x, m: tv.equalize(x)),
    }


POLICIES: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {"trivial_augment": trivial_augment}
