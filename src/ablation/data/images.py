"""Labelled images in memory, and a data set in its parts."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """Images, (N, 3, H, W) uint8, and labels, (N,) int64, indices into the class names."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Images":
        return Images(self.images[index], self.labels[index])


Source = tuple[Images, Images | None, tuple[str, ...]]
"""Training images, test images (None: those are to be split off from the former) and class names."""
SPLIT_OFF = "split off: 20 % of each class, at least one image, by a fixed seed"


@dataclass(frozen=True)
class Splits:
    """A data set on the CPU, ready for training."""

    train: Images
    val: Images | None
    test: Images
    classes: tuple[str, ...]
    checksum: str
    """First 16 hex digits of the SHA-256 over class names, split sizes, images and labels."""
    split: str = "the data set's own"
    """Where the test images come from, in words."""


def split_off_test(images: Images) -> tuple[Images, Images]:
    """Training and test images of a set that has no test images, as SPLIT_OFF says; the order of `images` counts."""
    order = np.random.RandomState(0).permutation(len(images))
    labels = images.labels.numpy()[order]
    test = torch.zeros(len(images), dtype=torch.bool)
    for label in np.unique(labels):
        members = order[labels == label]
        test[members[: max(1, round(0.2 * len(members)))]] = True
    return images[~test], images[test]
