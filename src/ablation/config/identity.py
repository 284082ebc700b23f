"""What defines a result, and the hash that names it: identity, report, tracker and sweep all read it here.

A run's identity holds all that can change its result, and nothing of how it is executed (device, tracker, paths, ...).
"""

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from glob import glob
from pathlib import Path, PurePosixPath
from typing import Any

from ablation.errors import UserError

LARGEST = 3.5e38  # no float32 number is larger
SCHEMA = 1  # version of the configuration and of the files of a run; a folder of another version is left alone
# Where the shortcuts are now and were when schema 1 began: an identity keeps the old name, so that no run is orphaned.
NOW, THEN = "ablation.networks.shortcuts.", "ablation.shortcuts."
# Keys that came after schema 1 began: left out at these values, so that the runs before them keep their identity.
LATER = {"model": {"padding": "both"}, "data": {"remainder": "drop"}}


def defining(config: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """The part of a configuration (nested, as `Config.to_dict` or a record has it) that defines the run's result.

    `precision` takes the place of `trainer.precision`, which may be "auto".
    """
    parts = {key: value for key, value in config.items() if key not in ("tracker", "overwrite", "results")}
    parts["trainer"] = {"precision": precision}
    every = config["trainer"].get("evaluate_every")
    if every is not None and config.get("selection") == "best_test":  # it decides which iterates can be selected
        parts["trainer"]["evaluate_every"] = every
    parts["optimizer"] = {key: 0.0 + v if is_number(v) else v for key, v in config["optimizer"].items()}
    parts["data"] = {key: value for key, value in config["data"].items() if key != "root"}
    for group, keys in LATER.items():
        parts[group] = {key: v for key, v in parts[group].items() if key not in keys or v != keys[key]}
    if config["model"]["residual"]:
        shortcut = config["shortcut"].items()
        parts["shortcut"] = {key: str(v).replace(NOW, THEN) if key == "_target_" else v for key, v in shortcut}
    else:
        parts.pop("shortcut", None)
    return parts


def identity(config: Mapping[str, Any], precision: str) -> str:
    """Twelve hexadecimal digits: the same ones mean the same network, data, recipe, precision and seed."""
    parts = defining(config, precision) | {"schema": SCHEMA}
    if config["data"]["name"] == "image_folder":  # the content of the folder counts, not its place
        parts["data"]["files"] = folder_digest(Path(config["data"]["root"]))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def current_target(target: Any) -> Any:
    return NOW + target.removeprefix(THEN) if str(target).startswith(THEN) else target


def is_number(value: Any) -> bool:
    """Whether it is a number that every computation can take: finite, no truth value, in the range of float32."""
    return type(value) in (int, float) and abs(value) <= LARGEST


def folder_digest(root: Path) -> str:
    """A digest of the names and contents of all files below `root` but hidden ones. Raises UserError."""
    try:
        found = [Path(name).as_posix() for name in glob("**", root_dir=root, recursive=True) if (root / name).is_file()]
        return files_digest(root, sorted(found, key=PurePosixPath))
    except OSError as error:
        raise UserError("data.root", root, f"cannot be read: {error.strerror}: {error.filename}") from None


def files_digest(root: Path, names: list[str]) -> str:
    """A digest of the names and contents of these files below `root`."""
    return contents_digest(root, tuple((name, (root / name).stat().st_mtime_ns) for name in names))


@functools.cache
def contents_digest(root: Path, files: tuple[tuple[str, int], ...]) -> str:
    """The digest of files given as (path below `root`, time of change); the time is there for the cache alone."""
    digest = hashlib.sha256()
    for name, _ in files:
        with open(root / name, "rb") as file:
            digest.update(os.fsencode(name) + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
