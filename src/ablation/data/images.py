"""Labelled images in memory, and a data set in its parts."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """Labelled images."""

    images: Tensor
    """(N, 3, H, W) uint8."""
    labels: Tensor
    """(N,) int64, indices into `Splits.classes`."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Images":
        return Images(self.images[index], self.labels[index])


Source = tuple[Images, Images, tuple[str, ...]]
"""What is read from a source: training images, test images and class names."""


@dataclass(frozen=True)
class Splits:
    """A data set on the CPU, ready for training."""

    train: Images
    val: Images | None
    test: Images
    classes: tuple[str, ...]
    checksum: str
    """First 16 hex digits of the SHA-256 over class names, split sizes, images and labels."""


def split_off_test(images: Images) -> tuple[Images, Images]:
    """Split a data set that has no test set into training and test images: of each class, 20 % and at least one test.

    The seed is fixed, so that the test set never depends on a run.
    """
    order = np.random.RandomState(0).permutation(len(images))
    labels = images.labels.numpy()[order]
    test = torch.zeros(len(images), dtype=torch.bool)
    for label in np.unique(labels):
        members = order[labels == label]
        test[members[: max(1, round(0.2 * len(members)))]] = True
    return images[~test], images[test]
