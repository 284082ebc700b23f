"""Reads the folders of runs into one pandas frame, and lists what cannot be read, is not finished or is there twice.

Notable: nothing is left out silently. torch is never imported.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from ablation.config.identity import defining
from ablation.errors import printable
from ablation.runs.record import analysis, history, record, status
from ablation.runs.record.record import leaves

MARKERS = ("record.json", "status.json", "history.jsonl", "config.yaml", analysis.FILE)
"""A folder that holds one of these is a run's folder; the folders inside it are not searched."""
MACHINE = ("environment.device_name", "environment.precision", "data.checksum")
"""Keys that keep runs apart and stand in no configuration."""


@dataclass(frozen=True)
class Evidence:
    """Everything found below the given paths; `read` names the columns."""

    runs: pd.DataFrame
    """A row a finished run: the record's keys joined by dots (`config.model.depth`), and those of `run_row`."""
    unfinished: pd.DataFrame
    unreadable: pd.DataFrame
    doubles: pd.DataFrame
    failed: tuple["Failed", ...] = ()


class Failed(NamedTuple):
    """A run that failed or diverged, and so has no record."""

    study: str
    seed: int
    keys: dict[str, Any]
    """What defines its cell, without `MACHINE`, which only a record tells."""


def read(paths: Sequence[Path]) -> Evidence:
    """Everything below `paths`; one that does not exist holds nothing."""
    rows, unfinished, unreadable = [], [], []
    closed: list[OSError] = []
    folders = run_folders(paths, closed.append)
    for folder in folders:
        path = folder / "record.json"
        try:
            if path.exists():
                rows.append(run_row(record.read(path), folder))
                path = folder / analysis.FILE
                rows[-1]["analyses"] = analysis.read(folder)
            else:
                unfinished.append(unfinished_row(folder))
        except ValueError as error:
            unreadable.append({"file": short(path), "reason": str(error)})
    unreadable += [{"file": short(Path(e.filename)), "reason": f"cannot be read: {e.strerror}"} for e in closed]
    runs, doubles = without_doubles(pd.DataFrame(rows, dtype=object))
    left = pd.DataFrame(unfinished, columns=["folder", "status", "progress", "last sign of life", "message"])
    failed = tuple(filter(None, map(failed_run, folders)))
    return Evidence(runs, left, pd.DataFrame(unreadable, columns=["file", "reason"]), doubles, failed)


def run_folders(paths: Sequence[Path], onerror: Callable[[OSError], None] | None = None) -> list[Path]:
    """The run folders at or below `paths`, each once, in the order of their names."""
    found: set[Path] = set()
    for path in (path for path in paths if os.path.exists(path)):
        start = path.resolve() if path.is_dir() else path.resolve().parent
        for folder, children, files in os.walk(start, onerror=onerror):
            if any(marker in files or marker in children for marker in MARKERS):
                found.add(Path(folder))
                children.clear()
    return sorted(found)


def run_row(made: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A record as a flat row, with its place, its network's name (`plain20`) and what defines its cell.

    The runs of a cell share all that defines a result but the seed, with hardware, precision and data.
    """
    row = dict(leaves(made))
    keys = cell_keys(made["config"]) | {key: row[key] for key in MACHINE if not missing(row[key])}
    return row | {
        "folder": folder,
        "study": study_of(folder),
        "network": f"{'resnet' if keys['model.residual'] else 'plain'}{keys['model.depth']}",
        "cell_keys": keys,
        "cell": json.dumps(keys, sort_keys=True),
        "analyses": {},  # those of analysis.json, by name
    }


def cell_keys(config: dict[str, Any]) -> dict[str, Any]:
    keys = dict(leaves(defining(config, "")))
    return {k: v for k, v in keys.items() if k not in ("seed", "trainer.precision") and not missing(v)}


def study_of(folder: Path) -> str:
    """The name of the committed study (results/reference/<study>/<run>), empty for other runs."""
    study = re.match(".*/results/reference/([^/]+)/", folder.as_posix())
    return printable(study[1]) if study else ""


def failed_run(folder: Path) -> Failed | None:
    """The run in the folder if it failed; None for any other, and if its configuration cannot be read."""
    path = folder / "config.yaml"
    if (folder / "record.json").exists() or (status.read(folder) or {}).get("status") != "failed" or not path.is_file():
        return None
    try:
        config = yaml.safe_load(path.read_text())
        return Failed(study_of(folder), int(config["seed"]), cell_keys(config))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
        return None


def missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def unfinished_row(folder: Path) -> dict[str, str]:
    found = status.read(folder) or dict.fromkeys(status.KINDS)
    state = found["status"] or "unknown: no readable status.json"
    if state == "running" and status.process_is_gone(found):
        state = "cut off (its process is gone)"
    elif state == "done":
        state = "done, but record.json is missing"
    return {
        "folder": short(folder),
        "status": state,
        "progress": f"{found['step']} of {found['steps']} steps" if found["step"] is not None else "",
        "last sign of life": (found["updated"] or "")[:19].replace("T", " "),
        "message": " ".join((found["message"] or "").split())[:200],
    }


def without_doubles(runs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs with each seed of a cell once per study, and a frame of those left out: the first to finish counts.

    A study may repeat another's runs (a shared baseline), since studies are never mixed.
    """
    columns = ["id", "counted", "left out", "numbers"]
    if runs.empty:
        return runs, pd.DataFrame(columns=columns)
    same = ["study", "cell", "config.seed"]
    ordered = runs.sort_values(["timing.finished", "folder"], key=lambda column: column.map(str), kind="stable")
    again = ordered.duplicated(same)
    counted = ordered[~again].set_index(same)
    metrics = [column for column in runs.columns if column.startswith("metrics.")]
    rows = []
    for _, other in ordered[again].iterrows():
        kept = counted.loc[tuple(other[same])]
        numbers = "identical" if all(str(kept[name]) == str(other[name]) for name in metrics) else "different"
        rows.append((other["id"], short(kept["folder"]), short(other["folder"]), numbers))
    return runs.drop(index=ordered.index[again]).reset_index(drop=True), pd.DataFrame(rows, columns=columns)


def read_history(folder: Path) -> tuple[pd.DataFrame, int]:
    """A run's errors by step, and how many lines of its history could not be read."""
    rows, unreadable = history.read(folder / "history.jsonl")
    return pd.DataFrame(rows, columns=["step", "running_train_error", "test_error"], dtype=float), unreadable


def short(path: Path) -> str:
    """`path` from the working directory if it lies below it, else whole; a name may hold anything, here it does not."""
    here = Path.cwd()
    return printable(path.relative_to(here) if path.is_relative_to(here) else path)


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
