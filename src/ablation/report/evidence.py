"""Reads the folders of runs into one pandas frame, and lists what cannot be read, is not finished or is there twice.

Notable: nothing is left out silently. torch is never imported.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ablation.config.identity import defining
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


def read(paths: Sequence[Path]) -> Evidence:
    """Everything below `paths`; one that does not exist holds nothing."""
    rows, unfinished, unreadable = [], [], []
    for folder in run_folders(paths):
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
    runs, doubles = without_doubles(pd.DataFrame(rows, dtype=object))
    left = pd.DataFrame(unfinished, columns=["folder", "status", "progress", "last sign of life", "message"])
    return Evidence(runs, left, pd.DataFrame(unreadable, columns=["file", "reason"]), doubles)


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """The run folders at or below `paths`, each once, in the order of their names."""
    found: set[Path] = set()
    for path in paths:
        start = path.resolve() if path.is_dir() else path.resolve().parent
        for folder, children, files in os.walk(start):
            if any(marker in files or marker in children for marker in MARKERS):
                found.add(Path(folder))
                children.clear()
    return sorted(found)


def run_row(made: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A record as a flat row, with its place, its network's name (`plain20`) and what defines its cell.

    The runs of a cell share all that defines a result but the seed, with hardware, precision and data.
    """
    row = dict(leaves(made))
    keys = dict(leaves(defining(made["config"], row["environment.precision"]))) | {key: row[key] for key in MACHINE}
    keys = {k: v for k, v in keys.items() if k not in ("seed", "trainer.precision") and not missing(v)}
    study = re.match(".*/results/reference/([^/]+)/", folder.as_posix())
    return row | {
        "folder": folder,
        "study": study[1] if study else "",  # a committed one: results/reference/<study>/<run>
        "network": f"{'resnet' if keys['model.residual'] else 'plain'}{keys['model.depth']}",
        "cell_keys": keys,
        "cell": json.dumps(keys, sort_keys=True),
        "analyses": {},  # those of analysis.json, by name
    }


def missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)


def unfinished_row(folder: Path) -> dict[str, str]:
    found = status.read(folder) or {}
    state = str(found.get("status", "unknown: no readable status.json"))
    if state == "running" and status.process_is_gone(found):
        state = "cut off (its process is gone)"
    elif state == "done":
        state = "done, but record.json is missing"
    return {
        "folder": short(folder),
        "status": state,
        "progress": f"{found['step']} of {found.get('steps')} steps" if "step" in found else "",
        "last sign of life": str(found.get("updated") or "")[:19].replace("T", " "),
        "message": " ".join(str(found.get("message") or "").split())[:200],
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
    """`path` from the working directory if it lies below it, else whole."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def changes(paths: Sequence[Path]) -> Iterator[tuple[str, int, int]]:
    """Path, time and size of every file that the report reads; two equal lists mean that nothing has changed."""
    for path in (folder / name for folder in run_folders(paths) for name in MARKERS):
        if path.is_file():
            yield str(path), path.stat().st_mtime_ns, path.stat().st_size


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
