"""Data sets as tensors in memory: CIFAR-10 and -100, the embedded digits, any folder of small images.

A data set is one uint8 tensor that moves to the training device once, as in cifar10-airbench, so there are no worker
processes. Validation images are drawn from the training set (the paper's 45k/5k split, He et al. 2015, Sec. 4.2) by
numpy's `RandomState`, whose stream is frozen (NEP 19): a split seed means the same images with every version.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ablation.data.cifar import cifar
from ablation.data.image_folder import image_folder
from ablation.data.images import Images, Source, Splits, split_off_test
from ablation.errors import UserError


def digits(root: Path) -> Source:
    """scikit-learn's handwritten digits, 1,438 to train and 359 to test, grey in all three channels; `root` is unused.

    Enlarged bilinearly from 8x8 to 16x16, because the network halves its input twice, and from 0..16 to 0..255.
    """
    path = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")  # its import takes seconds
    table = np.loadtxt(str(path), delimiter=",")
    grey = torch.from_numpy(table[:, :64]).to(torch.float32).view(-1, 1, 8, 8)  # (1797, 1, 8, 8)
    # Bilinear weights are sixteenths here, so every value is exact and the checksum the same on every machine.
    grey = F.interpolate(grey, scale_factor=2, mode="bilinear", align_corners=False)
    images = (grey * 255 / 16).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    return *split_off_test(Images(images, torch.from_numpy(table[:, 64]).to(torch.int64))), tuple("0123456789")


LOADERS: dict[str, Callable[[Path], Source]] = {
    "cifar10": partial(cifar, "CIFAR10"),
    "cifar100": partial(cifar, "CIFAR100"),
    "digits": digits,
    "image_folder": image_folder,
}


def load(name: str, root: Path, validation: int, split_seed: int) -> Splits:
    """Load the data set `name`, a key of `LOADERS`, and hold out `validation` of its training images.

    `root` is the folder of the data (digits need none); `split_seed` chooses the validation images and nothing else.
    Raises UserError for data that is absent, damaged or unfit for training.
    """
    try:
        train, test, classes = LOADERS[name](root)
    except OSError as error:  # a folder that may not be listed, or that disappears
        raise UserError("data.root", root, f"cannot be read: {error.strerror or error}") from error
    if not 0 <= validation < len(train):
        allowed = f"a number from 0 to {len(train) - 1}, fewer than the {len(train)} training images of {name}"
        raise UserError("data.validation", validation, allowed)
    val = None
    if validation:
        order = torch.from_numpy(np.random.RandomState(split_seed).permutation(len(train)))
        train, val = train[order[validation:].sort().values], train[order[:validation].sort().values]
    digest = hashlib.sha256(repr(classes).encode())
    for images in (train, val, test):
        digest.update(repr(None if images is None else tuple(images.images.shape)).encode())
        if images is not None:
            digest.update(images.images.numpy().data)
            digest.update(images.labels.numpy().astype("<i8").data)
    return Splits(train, val, test, classes, checksum=digest.hexdigest()[:16])
