"""What defines a result, and the hash that names it: identity, report, tracker and sweep all read it here.

A run's identity holds everything that can change the number it ends with, and nothing of how the run is executed:
device, tracker, paths, progress and time limits are left out, and so is the shortcut of a plain net.
"""

import functools
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablation.errors import UserError

SCHEMA = 1
"""Version of the configuration and of the files of a run; a folder of another version is left alone."""

OLD_TARGETS = {"ablation.networks.shortcuts.": "ablation.shortcuts."}
"""Where a module of this project is now -> where it was when schema 1 began. An identity keeps the old name, so that
moving a module orphans no run, and records from before the move belong to the same cell as those from after it."""


def defining(config: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """The part of a configuration (nested, as `Config.to_dict` or a record has it) that defines the run's result.

    `precision` takes the place of `trainer.precision`, which may be "auto". How often a run evaluates counts only where
    it decides which iterates can be selected.
    """
    parts = {key: value for key, value in config.items() if key not in ("tracker", "overwrite", "results")}
    parts["trainer"] = {"precision": precision}
    every = config["trainer"].get("evaluate_every")
    if every is not None and config.get("selection") == "best_test":
        parts["trainer"]["evaluate_every"] = every
    parts["optimizer"] = {key: 0.0 + v if is_number(v) else v for key, v in config["optimizer"].items()}
    parts["data"] = {key: value for key, value in config["data"].items() if key != "root"}
    if config["model"]["residual"]:
        parts["shortcut"] = config["shortcut"] | {"_target_": renamed(config["shortcut"].get("_target_"), OLD_TARGETS)}
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
    """A `_target_` of a record under the name that it has today."""
    return renamed(target, {then: now for now, then in OLD_TARGETS.items()})


def renamed(target: Any, modules: Mapping[str, str]) -> Any:
    """`target` with the beginning that is a key of `modules`, if one is, replaced by that key's value."""
    for old, new in modules.items():
        if isinstance(target, str) and target.startswith(old):
            return new + target.removeprefix(old)
    return target


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number and not a truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf


def folder_digest(root: Path) -> str:
    """A digest of the names and contents of all files below `root` but hidden ones. Raises UserError."""
    try:
        files = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
        shown = sorted(path for path in files if not any(part.startswith(".") for part in path.parts))
        return contents_digest(root, tuple((str(path), (root / path).stat().st_mtime_ns) for path in shown))
    except OSError as error:
        raise UserError("data.root", root, f"cannot be read: {error.strerror}: {error.filename}") from None


@functools.cache
def contents_digest(root: Path, files: tuple[tuple[str, int], ...]) -> str:
    """The digest of files given as (path below `root`, time of change); the time is there for the cache alone."""
    digest = hashlib.sha256()
    for name, _ in files:
        with open(root / name, "rb") as file:
            digest.update(os.fsencode(name) + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
