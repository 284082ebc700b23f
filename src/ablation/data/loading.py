"""Data sets as tensors in memory: CIFAR-10 and -100, the embedded digits, any folder of small pictures.

Notable: a data set is one uint8 tensor that moves to the training device once, as in cifar10-airbench, so there are no
worker processes. Training, validation and test pictures are never mixed: the test set is the data set's own, and the
validation set is drawn from the training set alone (the paper's 45k/5k split, He et al. 2015, Sec. 4.2). Splits come
from numpy's `RandomState`, whose stream is frozen (NEP 19): a split seed means the same pictures with every version.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch

from ablation.data.cifar import cifar10, cifar100
from ablation.data.digits import digits
from ablation.data.image_folder import image_folder
from ablation.data.images import Images, Splits
from ablation.errors import UserError


def load(name: str, root: Path, validation: int, split_seed: int) -> Splits:
    """Load the data set `name`, a key of `LOADERS`, and hold out `validation` of its training pictures.

    `root` is the folder of the data (digits need none); `split_seed` chooses the validation pictures and nothing else.
    Raises UserError, in one line that says what to do, for data that is absent, damaged or unfit for training.
    """
    if name not in LOADERS:
        raise UserError("data.name", name, f"allowed are {', '.join(LOADERS)}")
    try:
        train, test, classes = LOADERS[name](root)
    except OSError as error:  # a folder that may not be listed, or that goes away
        raise UserError("data.root", root, f"cannot be read: {error.strerror or error}") from error
    if not 0 <= validation < len(train):
        allowed = f"a number from 0 to {len(train) - 1}, fewer than the {len(train)} training pictures of {name}"
        raise UserError("data.validation", validation, allowed)
    val = None
    if validation:
        order = np.random.RandomState(split_seed).permutation(len(train))
        held_out, rest = (torch.from_numpy(np.sort(part)) for part in (order[:validation], order[validation:]))
        train, val = train[rest], train[held_out]
    return Splits(train, val, test, classes, _checksum(train, val, test, classes))


def _checksum(train: Images, val: Images | None, test: Images, classes: tuple[str, ...]) -> str:
    digest = hashlib.sha256(repr(classes).encode())
    for images in (train, val, test):
        digest.update(repr(None if images is None else tuple(images.images.shape)).encode())
        if images is not None:
            digest.update(images.images.numpy().data)
            digest.update(images.labels.numpy().astype("<i8").data)
    return digest.hexdigest()[:16]


LOADERS = {"cifar10": cifar10, "cifar100": cifar100, "digits": digits, "image_folder": image_folder}
