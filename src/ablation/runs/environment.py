"""What a number was measured on: hardware, versions, commit. A number never travels without them."""

import os
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from ablation.config.identity import files_digest
from ablation.config.schema import INSTALLED, PACKAGE, ROOT
from ablation.training.devices import device_name

PACKAGES = ("torch", "torchvision", "hydra-core", "omegaconf", "wandb", "pandas", "numpy")


def code_digest() -> str:
    """A digest of the source files that decide what is trained; a record holds it also where there is no git."""
    trained_by = ("config", "data", "networks", "training")
    files = [path.relative_to(PACKAGE).as_posix() for folder in trained_by for path in (PACKAGE / folder).glob("*.py")]
    return files_digest(PACKAGE, sorted(files))


CODE = code_digest()  # now, as this process imports it: the files may be edited while it trains


def environment(device: torch.device, precision: str, fused: bool, deterministic: bool) -> dict[str, Any]:
    """The `environment` of a record; a package that is not installed is null."""
    commit, dirty = git_state()
    versions: dict[str, str | None] = dict.fromkeys(PACKAGES)
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "device": device.type,
        "device_name": device_name(device),
        "precision": precision,
        "fused": fused,
        "deterministic": deterministic,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        **{package.replace("-", "_"): found for package, found in versions.items()},
        "git_commit": commit,
        "git_dirty": dirty,
        "code": CODE,
    }


def git_state() -> tuple[str | None, bool | None]:
    """The checkout's commit, and whether tracked files differ from it or code or configuration is not in it.

    Without git the commit is that of the environment variable ABLATION_COMMIT (an image's build sets it), or None. So
    it is for an installed copy: a repository around that is another one.
    """
    if INSTALLED:
        return os.environ.get("ABLATION_COMMIT"), None
    commands = (
        "rev-parse HEAD",
        "status --porcelain --untracked-files=no",
        "ls-files --others --exclude-standard src conf sweeps",
    )
    options: Any = {"cwd": ROOT, "capture_output": True, "check": True, "timeout": 10}
    try:
        commit, *changes = (subprocess.run(["git", *line.split()], **options).stdout.strip() for line in commands)
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("ABLATION_COMMIT"), None
    return commit.decode(), any(changes)
