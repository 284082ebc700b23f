"""Labelled images in memory, and a data set in its parts."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """Labelled pictures on the CPU."""

    images: Tensor
    """(N, 3, H, W) uint8."""
    labels: Tensor
    """(N,) int64, indices into `Splits.classes`."""

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> "Images":
        """The pictures at `index`, an int64 tensor or a slice."""
        return Images(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Splits:
    """A data set, ready for training."""

    train: Images
    val: Images | None
    test: Images
    classes: tuple[str, ...]
    checksum: str
    """First 16 hex digits of the SHA-256 over class names, split sizes, pictures and labels."""


TEST_SHARE = 0.2  # of a data set without a test set of its own, the usual share for one of this size


def split_off_test(images: Images) -> tuple[Images, Images]:
    """Split into training and test pictures, always the same way: `TEST_SHARE` of each class, at least one picture.

    Stratified, so that small classes are in both parts; the seed is fixed, so that the test set never depends on a run.
    """
    labels = images.labels.numpy()
    order = np.random.RandomState(0).permutation(len(labels))
    by_class = [order[labels[order] == label] for label in np.unique(labels)]
    sizes = [max(1, round(TEST_SHARE * len(members))) for members in by_class]
    test = np.sort(np.concatenate([members[:size] for members, size in zip(by_class, sizes, strict=True)]))
    train = np.sort(np.concatenate([members[size:] for members, size in zip(by_class, sizes, strict=True)]))
    return images[torch.from_numpy(train)], images[torch.from_numpy(test)]
