"""CIFAR-10 and CIFAR-100 as torchvision reads them, downloaded once and checked against their MD5 sums."""

import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from ablation.data.images import Images, Source
from ablation.errors import UserError

DOWNLOAD_STALL = 30  # seconds without a byte after which a download counts as failed


def cifar(name: str, root: Path) -> Source:
    """Read torchvision's data set `name` from `root`, and download it first if a file is missing or damaged."""
    import torchvision  # not above: importing it takes a second

    dataset = getattr(torchvision.datasets, name)
    if fault_in(dataset, root):
        download(dataset, root)
    parts = [dataset(str(root), train=train) for train in (True, False)]
    images = [torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in parts]
    train, test = map(Images, images, [torch.tensor(part.targets) for part in parts])
    return train, test, tuple(parts[0].classes)


def fault_in(dataset: Any, root: Path) -> str | None:
    """Name the first file of the data set under `root` that is missing or damaged; None if there is none."""
    from torchvision.datasets.utils import check_integrity

    for name, md5 in (*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])):
        path = root / dataset.base_folder / name
        if not check_integrity(str(path), md5):
            return f"{dataset.base_folder}/{name} is {'damaged' if path.exists() else 'missing'}"
    return None


def download(dataset: Any, root: Path) -> None:
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
    except Exception as error:  # urllib, tarfile, zlib and torchvision raise errors of many kinds
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
