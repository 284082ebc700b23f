"""Data sets as tensors in memory: CIFAR-10 and -100, the embedded digits, any folder of small pictures.

Notable: a data set is one uint8 tensor that moves to the training device once, as in cifar10-airbench, so there are no
worker processes. Training, validation and test pictures are never mixed: the test set is the data set's own, and the
validation set is drawn from the training set alone (the paper's 45k/5k split, He et al. 2015, Sec. 4.2). Splits come
from numpy's `RandomState`, whose stream is frozen (NEP 19): a split seed means the same pictures with every version.
"""

import fcntl
import hashlib
import os
import socket
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from tarfile import TarError
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ablation.errors import UserError

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10


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


# ------------------------------------------------------------------------------------------------- normalisation

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


# ----------------------------------------------------------------------------------------------- CIFAR-10 and -100

DOWNLOAD_STALL = 30  # seconds without a byte after which a download counts as failed


def _cifar10(root: Path) -> tuple[Images, Images, tuple[str, ...]]:
    from torchvision.datasets import CIFAR10

    return _cifar(CIFAR10, root)


def _cifar100(root: Path) -> tuple[Images, Images, tuple[str, ...]]:
    from torchvision.datasets import CIFAR100

    return _cifar(CIFAR100, root)


def _cifar(dataset: "type[CIFAR10]", root: Path) -> tuple[Images, Images, tuple[str, ...]]:
    """Both parts of a CIFAR data set as torchvision reads them: its files are checked against their MD5 sums."""
    try:
        if _damaged(dataset, root):
            _download(dataset, root)
        parts = [dataset(str(root), train=train) for train in (True, False)]
    except OSError as error:
        raise UserError("data.root", root, f"{dataset.base_folder} cannot be read: {error}") from error
    train, test = (
        Images(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
        for part in parts
    )
    return train, test, tuple(parts[0].classes)


def _damaged(dataset: "type[CIFAR10]", root: Path) -> str | None:
    """The first file of the data set under `root` that is missing or damaged, in words; None when all are well."""
    from torchvision.datasets.utils import check_integrity

    for name, md5 in (*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])):
        path = root / dataset.base_folder / name
        if not check_integrity(str(path), md5):
            return f"{dataset.base_folder}/{name} is {'damaged' if path.exists() else 'missing'}"
    return None


def _download(dataset: "type[CIFAR10]", root: Path) -> None:
    """Let torchvision fetch and unpack the archive, one process at a time, or say how to bring it by hand."""
    created = [folder for folder in (root, *root.parents) if not folder.exists()]
    archive, timeout = root / dataset.filename, socket.getdefaulttimeout()
    reason = "the archive is incomplete"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root):
            socket.setdefaulttimeout(DOWNLOAD_STALL)
            dataset(str(root), download=True)  # which downloads nothing if another process has brought it
    except (OSError, RuntimeError, EOFError, HTTPException, TarError, zlib.error) as error:
        reason = str(error) or type(error).__name__
    finally:
        socket.setdefaulttimeout(timeout)
    if damaged := _damaged(dataset, root):
        with suppress(OSError):  # a folder with something in it stays
            for folder in created:
                folder.rmdir()
        delete = f", delete the damaged {archive.name}" if archive.exists() else ""
        advice = f"download {dataset.url} (MD5 {dataset.tgz_md5}) by hand{delete} and put it or unpack it there"
        raise UserError("data.root", root, f"{damaged} and the download failed ({reason}); {advice}")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder that ends with the process; others wait for it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


# -------------------------------------------------------------------------------------------------------- digits

TEST_SHARE = 0.2  # of a data set without a test set of its own, the usual share for one of this size


def _digits(root: Path) -> tuple[Images, Images, tuple[str, ...]]:
    """The 1,797 digits inside scikit-learn, enlarged bilinearly from 8x8 to 16x16, grey in all three channels.

    16x16 because the network halves its input twice. Values go from 0..16 to 0..255. 1,438 pictures are for training
    and 359 for testing (`_split_off_test`). `root` is unused.
    """
    sklearn = find_spec("sklearn")  # its file is read as it lies there: importing the package takes seconds
    assert sklearn is not None, "a dependency"
    assert sklearn.submodule_search_locations is not None, "a package"
    table = np.loadtxt(Path(sklearn.submodule_search_locations[0], "datasets", "data", "digits.csv.gz"), delimiter=",")
    grey = torch.from_numpy(table[:, :64]).to(torch.float32).view(-1, 1, 8, 8)  # (1797, 1, 8, 8)
    # Bilinear weights are sixteenths here, so every value is exact and the checksum the same on every machine.
    grey = torch.nn.functional.interpolate(grey, scale_factor=2, mode="bilinear", align_corners=False)
    pictures = (grey * 255 / 16).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    train, test = _split_off_test(Images(pictures, torch.from_numpy(table[:, 64]).to(torch.int64)))
    return train, test, tuple("0123456789")


def _split_off_test(images: Images) -> tuple[Images, Images]:
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


# -------------------------------------------------------------------------------------------------- image folder

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}  # PIL's with 8 bits or less
MAX_BYTES = 8 * 2**30  # all pictures are held in memory, on the training device: 650,000 of 64x64, 40,000 of 256x256
LAYOUT = "the folder must hold one folder of pictures for each class, or such folders under train/ and test/"


def _image_folder(root: Path) -> tuple[Images, Images, tuple[str, ...]]:
    """Pictures in ROOT/<class>/, or in ROOT/train/<class>/ and ROOT/test/<class>/, converted to RGB.

    All must have one size, any. Without train and test folders, the test set is split off as for the digits.
    Hidden files, files that are not pictures by name, and folders inside a class are passed over.
    """
    if not root.is_dir():
        raise UserError("data.root", root, f"no such folder; {LAYOUT}")
    if (root / "train").is_dir() != (root / "test").is_dir():
        present, absent = ("train", "test") if (root / "train").is_dir() else ("test", "train")
        raise UserError("data.root", root, f"there is a folder {present} but no folder {absent}; {LAYOUT}")
    if not (root / "train").is_dir():
        classes = _classes(root)
        files = [_pictures(root / name) for name in classes]
        for name, members in zip(classes, files, strict=True):
            if len(members) < 2:
                raise UserError("data.root", root, f"class {name} has one picture; 2 or more are needed, one to test")
        return *_split_off_test(_read(root, files)), classes
    classes = _classes(root / "train")
    if different := set(classes) ^ set(_classes(root / "test")):
        raise UserError("data.root", root, f"train and test need the same classes; {min(different)} is only in one")
    files = [_pictures(root / part / name) for part in ("train", "test") for name in classes]
    everything = _read(root, files)  # one call, so that training and test pictures have one size
    everything.labels.remainder_(len(classes))
    count = sum(len(members) for members in files[: len(classes)])
    index = torch.arange(len(everything))
    return everything[index[:count]], everything[index[count:]], classes


def _classes(folder: Path) -> tuple[str, ...]:
    """The names of the folders in `folder`, sorted, at least two."""
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if not names:
        raise UserError("data.root", folder, f"no folders in it; {LAYOUT}")
    if len(names) == 1:
        raise UserError("data.root", folder, f"only one class, {names[0]}; at least two are needed ({LAYOUT})")
    return names


def _pictures(folder: Path) -> list[Path]:
    """The picture files in `folder`, sorted, at least one."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    if not files:
        raise UserError("data.root", folder, f"no pictures in it; known are {', '.join(sorted(SUFFIXES))}")
    return files


def _read(root: Path, files: Sequence[Sequence[Path]]) -> Images:
    """Read the pictures; the label of one is the index of its list."""
    paths = [path for members in files for path in members]
    first = _picture(root, paths[0])
    needed = len(paths) * first.size
    if needed > MAX_BYTES:
        height, width, _ = first.shape
        allowed = f"{len(paths)} pictures of {width}x{height} need {needed / 2**30:.0f} GiB of memory, allowed are "
        raise UserError("data.root", root, f"{allowed}{MAX_BYTES / 2**30:.0f}: make them smaller")
    pictures = np.empty((len(paths), *first.shape), dtype=np.uint8)  # (N, H, W, 3)
    for i, path in enumerate(paths):
        picture = _picture(root, path)
        if picture.shape != first.shape:
            (height, width, _), (expected_height, expected_width, _) = picture.shape, first.shape
            allowed = f"{path.relative_to(root)} has {width}x{height} pixels but {paths[0].relative_to(root)} has "
            raise UserError("data.root", root, f"{allowed}{expected_width}x{expected_height}; all must have one size")
        pictures[i] = picture
    labels = torch.repeat_interleave(torch.arange(len(files)), torch.tensor([len(members) for members in files]))
    return Images(torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(), labels)


def _picture(root: Path, path: Path) -> "np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]":
    """One picture as RGB, (H, W, 3)."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            if picture.mode not in MODES:
                depth = f"{path.relative_to(root)} has pixels of mode {picture.mode}; only 8 bits a channel are read"
                raise UserError("data.root", root, depth)
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).replace(str(path), path.name).split())
        raise UserError("data.root", root, f"{path.relative_to(root)} cannot be read as a picture: {reason}") from error


LOADERS = {"cifar10": _cifar10, "cifar100": _cifar100, "digits": _digits, "image_folder": _image_folder}
