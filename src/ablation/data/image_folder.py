"""Any folder of small images, one folder a class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ablation.data.images import Images, split_off_test
from ablation.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}  # PIL's with 8 bits or less
MAX_BYTES = 8 * 2**30  # all pictures are held in memory, on the training device: 650,000 of 64x64, 40,000 of 256x256
LAYOUT = "the folder must hold one folder of pictures for each class, or such folders under train/ and test/"


def image_folder(root: Path) -> tuple[Images, Images, tuple[str, ...]]:
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
        return *split_off_test(_read(root, files)), classes
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
