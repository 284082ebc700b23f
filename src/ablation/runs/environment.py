"""What a number was measured on: hardware, versions, commit. A number never travels without them."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from ablation.config.schema import ROOT
from ablation.training.devices import device_name

PACKAGES = ("torch", "torchvision", "hydra-core", "omegaconf", "wandb", "pandas", "numpy")


def environment(device: torch.device, precision: str, compiled: bool, deterministic: bool) -> dict[str, Any]:
    """The `environment` of a record; a package that is not installed is null."""
    commit, dirty = git_state()
    return {
        "device": device.type,
        "device_name": device_name(device),
        "precision": precision,
        "compiled": compiled,
        "deterministic": deterministic,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        **{name.replace("-", "_"): installed(name) for name in PACKAGES},
        "git_commit": commit,
        "git_dirty": dirty,
    }


def installed(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_state() -> tuple[str | None, bool | None]:
    """The checkout's commit and whether tracked files differ from it; None, None outside of git."""
    try:
        commit = git("rev-parse", "HEAD")
        return commit, bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def git(*arguments: str) -> str:
    """What git prints in the checkout."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
