"""CIFAR-10 and CIFAR-100 as torchvision reads them, downloaded once and checked against their MD5 sums."""

import socket
import zlib
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from tarfile import TarError
from typing import TYPE_CHECKING

import torch
from filelock import FileLock

from ablation.data.images import Images, Source
from ablation.errors import UserError

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

DOWNLOAD_STALL = 30
"""Seconds without a byte after which a download counts as failed."""


def cifar(name: str, root: Path) -> Source:
    """Read torchvision's data set `name` from `root`, and download it first if a file is missing or damaged."""
    import torchvision  # not above: importing it takes a second

    dataset: type[CIFAR10] = getattr(torchvision.datasets, name)
    try:
        if fault_in(dataset, root):
            download(dataset, root)
        parts = [dataset(str(root), train=train) for train in (True, False)]
    except OSError as error:
        raise UserError("data.root", root, f"{dataset.base_folder} cannot be read: {error}") from error
    train, test = (
        Images(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
        for part in parts
    )
    return train, test, tuple(parts[0].classes)


def fault_in(dataset: "type[CIFAR10]", root: Path) -> str | None:
    """Name the first file of the data set under `root` that is missing or damaged; None if there is none."""
    from torchvision.datasets.utils import check_integrity

    for name, md5 in (*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])):
        path = root / dataset.base_folder / name
        if not check_integrity(str(path), md5):
            return f"{dataset.base_folder}/{name} is {'damaged' if path.exists() else 'missing'}"
    return None


def download(dataset: "type[CIFAR10]", root: Path) -> None:
    """Let torchvision download and unpack the archive, one process at a time. Raises UserError, with advice."""
    created = [folder for folder in (root, *root.parents) if not folder.exists()]
    archive, lock = root / dataset.filename, root / f".{dataset.filename}.lock"
    timeout = socket.getdefaulttimeout()
    reason = "the archive is incomplete"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            socket.setdefaulttimeout(DOWNLOAD_STALL)
            dataset(str(root), download=True)  # downloads nothing if another process has done so meanwhile
    except (OSError, RuntimeError, EOFError, HTTPException, TarError, zlib.error) as error:
        reason = str(error) or type(error).__name__
    finally:
        socket.setdefaulttimeout(timeout)
    if fault := fault_in(dataset, root):
        with suppress(OSError):  # a folder that is not empty stays
            lock.unlink(missing_ok=True)
            for folder in created:
                folder.rmdir()
        delete = f", delete the damaged {archive.name}" if archive.exists() else ""
        advice = f"download {dataset.url} (MD5 {dataset.tgz_md5}) by hand{delete} and put it or unpack it there"
        raise UserError("data.root", root, f"{fault} and the download failed ({reason}); {advice}")
