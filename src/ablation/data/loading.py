"""Data sets as tensors in memory: CIFAR-10 and -100, the embedded digits, any folder of small images.

A data set is one uint8 tensor that moves to the training device once, as in cifar10-airbench, so there are no worker
processes. Training, validation and test images are never mixed: the test set is the data set's own, the validation set
is drawn from the training set (the paper's 45k/5k split, He et al. 2015, Sec. 4.2). Splits come from numpy's
`RandomState`, whose stream is frozen (NEP 19): a split seed means the same images with every version.
"""

import hashlib
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch

from ablation.data.cifar import cifar
from ablation.data.digits import digits
from ablation.data.image_folder import image_folder
from ablation.data.images import SPLIT_OFF, Source, Splits, split_off_test
from ablation.errors import UserError

LOADERS: dict[str, Callable[[Path], Source]] = {
    "cifar10": partial(cifar, "CIFAR10"),
    "cifar100": partial(cifar, "CIFAR100"),
    "digits": digits,
    "image_folder": image_folder,
}


def load(name: str, root: Path, validation: int, split_seed: int) -> Splits:
    """Load the data set `name`, a key of `LOADERS`, and hold out `validation` of its training images.

    `root` is the folder of the data (digits need none); `split_seed` chooses the validation images and nothing else.
    CIFAR is read once a process, for all the runs of a sweep. Raises UserError for data that is absent, damaged or
    unfit for training.
    """
    return (load_once if name.startswith("cifar") else read)(name, root, validation, split_seed)


def read(name: str, root: Path, validation: int, split_seed: int) -> Splits:
    """`load`, anew at every call."""
    try:
        train, own, classes = LOADERS[name](root)
    except OSError as error:  # a folder that may not be listed, or that disappears
        raise UserError("data.root", root, f"cannot be read: {error.strerror or error}") from error
    train, test = (train, own) if own else split_off_test(train)
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
    return Splits(train, val, test, classes, digest.hexdigest()[:16], Splits.split if own else SPLIT_OFF)


load_once = lru_cache(maxsize=2)(read)  # with and without a validation set
