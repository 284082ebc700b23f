"""CIFAR-10 and CIFAR-100 as torchvision reads them, downloaded once and checked against their MD5 sums."""

import fcntl
import os
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from tarfile import TarError
from typing import TYPE_CHECKING

import torch

from ablation.data.images import Images
from ablation.errors import UserError

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

DOWNLOAD_STALL = 30  # seconds without a byte after which a download counts as failed


def cifar10(root: Path) -> tuple[Images, Images, tuple[str, ...]]:
    from torchvision.datasets import CIFAR10

    return _cifar(CIFAR10, root)


def cifar100(root: Path) -> tuple[Images, Images, tuple[str, ...]]:
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
