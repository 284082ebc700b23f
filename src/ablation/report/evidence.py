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
from typing import Any

import pandas as pd
import yaml

from ablation.config.identity import defining
from ablation.errors import printable
from ablation.runs.record import analysis, history, record, status
from ablation.runs.record.files import read_json
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
    failed: Sequence[dict[str, Any]]
    """Rows of the runs that failed or diverged: without numbers, and without `MACHINE`, which only a record tells."""


def read(paths: Sequence[Path]) -> Evidence:
    """Everything below `paths`; one that does not exist holds nothing."""
    rows, unfinished, unreadable, failed = [], [], [], []
    closed: list[OSError] = []
    for folder in run_folders(paths, closed.append):
        file = folder / "record.json"
        if not file.exists():
            state = status.read(folder)
            unfinished.append(unfinished_row(folder, state or dict.fromkeys(status.KINDS)))
            failed += failed_run(folder) if state and state["status"] == "failed" else []
            continue
        try:
            row = run_row(record.read(file), folder)
            rows.append(row)
            file = folder / analysis.FILE
            row["analyses"] = analysis.read(folder)
        except ValueError as error:
            unreadable.append({"file": short(file), "reason": str(error)})
    unreadable += [{"file": short(Path(e.filename)), "reason": f"cannot be read: {e.strerror}"} for e in closed]
    runs, doubles = without_doubles(pd.DataFrame(rows, dtype=object))
    left = pd.DataFrame(unfinished, columns=["folder", "status", "progress", "last sign of life", "message"])
    return Evidence(runs, left, pd.DataFrame(unreadable, columns=["file", "reason"]), doubles, failed)


def run_folders(paths: Sequence[Path], onerror: Callable[[OSError], None] | None = None) -> list[Path]:
    """The run folders at or below `paths`, each once, in the order of their names; not replaced ones."""
    found: set[Path] = set()
    for path in (path for path in paths if os.path.exists(path)):
        start = path.resolve() if path.is_dir() else path.resolve().parent
        for folder, children, files in os.walk(start, onerror=onerror):
            if any(marker in files or marker in children for marker in MARKERS):
                found.add(Path(folder))
                children.clear()
            children[:] = [name for name in children if name != "replaced"]
    return sorted(found)


def run_row(made: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A record as a flat row, with its place, its network's name (`plain20`) and what defines its cell.

    The runs of a cell share all that defines a result but the seed, with hardware, precision and data.
    """
    row = dict(leaves(made))
    keys = cell_keys(made["config"]) | {key: row[key] for key in MACHINE if not missing(row.get(key))}
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


def failed_run(folder: Path) -> list[dict[str, Any]]:
    """The row of the failed run in the folder; [] if its configuration cannot be used."""
    config = read_json(folder / "config.yaml", yaml.safe_load)
    try:
        return [run_row({"config": config}, folder) | {"config.seed": int(config["seed"])}]
    except (LookupError, TypeError, ValueError, AttributeError):
        return []


def missing(value: Any) -> bool:
    return value is None or value != value


def unfinished_row(folder: Path, found: dict[str, Any]) -> dict[str, str]:
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
    if runs.empty:
        return runs, pd.DataFrame(columns=["id", "counted", "left out", "numbers"])
    same = ["study", "cell", "config.seed"]
    ordered = runs.sort_values(["timing.finished", "folder"], key=lambda column: column.map(str), kind="stable")
    again = ordered.duplicated(same)
    pairs = ordered[again].merge(ordered[~again], on=same, suffixes=("", " counted"))
    metrics = [column for column in runs.columns if column.startswith("metrics.")]
    equal = pd.concat([pairs[one].map(str) == pairs[f"{one} counted"].map(str) for one in metrics], axis=1).all(axis=1)
    doubles = {"id": pairs["id"], "counted": pairs["folder counted"].map(short), "left out": pairs["folder"].map(short)}
    doubles["numbers"] = equal.map({True: "identical", False: "different"})
    return runs.drop(index=ordered.index[again]).reset_index(drop=True), pd.DataFrame(doubles)


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
