"""What a number was measured on: hardware, versions, commit. A number never travels without them."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from ablation.config.schema import ROOT
from ablation.training.devices import device_name

PACKAGES = ("torch", "torchvision", "hydra-core", "omegaconf", "wandb", "pandas", "numpy")


def environment(device: torch.device, precision: str, fused: bool, deterministic: bool) -> dict[str, Any]:
    """The `environment` of a record; a package that is not installed is null."""
    commit, dirty = git_state()
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
        **{name.replace("-", "_"): installed(name) for name in PACKAGES},
        "git_commit": commit,
        "git_dirty": dirty,
    }


def installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_state() -> tuple[str | None, bool | None]:
    """The checkout's commit, and whether tracked files differ from it or code or configuration is not in it.

    Without git the commit is that of the environment variable ABLATION_COMMIT (an image's build sets it), or None.
    """
    try:
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
        untracked = git("ls-files", "--others", "--exclude-standard", "src", "conf", "sweeps")
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("ABLATION_COMMIT"), None
    return commit, bool(changed or untracked)


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True, timeout=10)
    return done.stdout.decode(errors="replace").strip()  # a name that is not UTF-8 is no error
