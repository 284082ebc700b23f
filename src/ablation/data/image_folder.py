"""Any folder of small images, one folder a class."""

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ablation.data.images import Images, Source
from ablation.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "TIFF")  # and no other, whatever a file's name: EPS runs code
MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}  # 8 bits a channel or less
BOMB = Image.DecompressionBombWarning
LEAST_SIZE = 4  # pixels a side: the network halves it twice
MAX_BYTES = 8 * 2**30  # of all images, on the training device: 650,000 of 64x64, 40,000 of 256x256
LAYOUT = "the folder must hold one folder of images for each class, or such folders under train/ and test/"


def image_folder(root: Path) -> Source:
    """Read ROOT/<class>/*, or ROOT/train/<class>/* and ROOT/test/<class>/*, converted to RGB; all must have one size.

    Without train and test folders, the test set is None: to be split off. Hidden files and files without the suffix of
    an image are ignored.
    """
    if not root.is_dir():
        raise UserError("data.root", root, f"no such folder; {LAYOUT}")
    parts = [part for part in ("train", "test") if (root / part).is_dir()]
    if len(parts) == 1:
        (absent,) = {"train", "test"} - set(parts)
        raise UserError("data.root", root, f"there is a folder {parts[0]} but no folder {absent}; {LAYOUT}")
    folders = [root / part for part in parts] or [root]
    classes = class_names(folders[0])
    if different := set(classes) ^ set(class_names(folders[-1])):
        raise UserError("data.root", root, f"train and test need the same classes; {min(different)} is only in one")
    files = [[image_files(folder / name) for name in classes] for folder in folders]
    paths = [path for part in files for members in part for path in members]
    images = Images(read(root, paths), torch.tensor([classes.index(path.parent.name) for path in paths]))
    if parts:
        count = sum(map(len, files[0]))
        return images[:count], images[count:], classes
    if single := [name for name, members in zip(classes, files[0], strict=True) if len(members) == 1]:
        raise UserError("data.root", root, f"class {single[0]} has one image; 2 or more are needed, one to test")
    return images, None, classes


def class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if not names:
        raise UserError("data.root", folder, f"no folders in it; {LAYOUT}")
    if len(names) == 1:
        raise UserError("data.root", folder, f"only one class, {names[0]}; at least two are needed ({LAYOUT})")
    return names


def image_files(folder: Path) -> list[Path]:
    names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    if not names:
        raise UserError("data.root", folder, f"no images in it; a file must end in {', '.join(sorted(SUFFIXES))}")
    return [folder / name for name in names]


def read(root: Path, paths: list[Path]) -> Tensor:
    """Read the images to uint8 (N, 3, H, W). Raises UserError if they differ in size, or are too small or too big."""
    first = decode(root, paths[0])
    height, width, _ = first.shape
    if min(height, width) < LEAST_SIZE:
        raise UserError("data.root", root, f"images of {width}x{height}, but {LEAST_SIZE}x{LEAST_SIZE} is the least")
    if (needed := len(paths) * first.size) > MAX_BYTES:
        size = f"{len(paths)} images of {width}x{height} need {needed / 2**30:.0f} GiB of memory"
        raise UserError("data.root", root, f"{size}, allowed are {MAX_BYTES / 2**30:.0f}: make them smaller")
    images = torch.empty((len(paths), 3, height, width), dtype=torch.uint8)
    for i, path in enumerate(paths):
        image = decode(root, path)
        if image.shape != first.shape:
            found = f"{path.relative_to(root)} has {image.shape[1]}x{image.shape[0]} pixels"
            rule = f"{paths[0].relative_to(root)} has {width}x{height}; all must have one size"
            raise UserError("data.root", root, f"{found} but {rule}")
        images[i] = torch.from_numpy(image).permute(2, 0, 1)
    return images


def decode(root: Path, path: Path) -> np.ndarray:
    """One image as RGB, (H, W, 3)."""
    try:
        if not path.is_file():  # reading a FIFO would wait for ever
            raise ValueError("it is not a file")
        with warnings.catch_warnings(action="error", category=BOMB), Image.open(path, formats=FORMATS) as image:
            if image.mode not in MODES:
                raise ValueError(f"its pixels have mode {image.mode}, and more than 8 bits a channel are not supported")
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, BOMB, Image.DecompressionBombError) as error:
        reason = str(error).replace(str(path), path.name)
        raise UserError("data.root", root, f"{path.relative_to(root)} cannot be read as an image: {reason}") from error
