"""Reads what runs left on disk into one pandas frame, and says what could not be read, finished or counted.

Notable: nothing is dropped silently. A folder without a record is listed with its status, an unreadable record with the
reason, and a run found twice (folders merged from two machines) is counted once and said. torch is never imported.
"""

import json
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ablation.errors import UserError

SCHEMA = 1
"""The version of record.json that this reader knows."""

MARKERS = ("record.json", "status.json", "history.jsonl", "config.yaml")
"""A folder that holds one of these is a run's folder; nothing is looked for below it."""

REQUIRED: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "config.seed": int,
    "config.model.depth": int,
    "config.model.residual": bool,
    "config.data.name": str,
    "config.optimizer.name": str,
    "config.schedule.name": str,
    "config.schedule.steps": int,
    "config.augmentation.name": str,
    "metrics.train_error": (int, float, type(None)),
    "metrics.test_error": (int, float, type(None)),
}


@dataclass(frozen=True)
class Evidence:
    """Everything found below the given paths."""

    runs: pd.DataFrame
    """A row a finished run: the record's keys joined by dots (`config.model.depth`), with `folder` and `study`."""
    unfinished: pd.DataFrame
    """Columns folder, status, progress, last sign of life, message."""
    unreadable: pd.DataFrame
    """Columns file, reason."""
    doubles: pd.DataFrame
    """Columns id, counted, left out, numbers."""


def read(paths: Sequence[Path]) -> Evidence:
    """Everything below `paths`. Raises UserError for a path that does not exist."""
    rows: list[dict[str, Any]] = []
    unreadable: list[dict[str, str]] = []
    unfinished: list[dict[str, str]] = []
    for folder in run_folders(paths):
        try:
            if (folder / "record.json").exists():
                rows.append(read_record(folder / "record.json"))
            else:
                unfinished.append(read_status(folder))
        except (OSError, ValueError, RecursionError) as error:
            name = "record.json" if (folder / "record.json").exists() else "status.json"
            unreadable.append({"file": short(folder / name), "reason": " ".join(str(error).split()) or "unreadable"})
    runs, doubles = without_doubles(pd.DataFrame(rows, dtype=object))
    return Evidence(
        runs,
        pd.DataFrame(unfinished, columns=["folder", "status", "progress", "last sign of life", "message"]),
        pd.DataFrame(unreadable, columns=["file", "reason"]),
        doubles,
    )


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """The run folders at or below `paths`, each once, in the order of their names."""
    found: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise UserError("path", path, "no such file or folder")
        start = path.resolve() if path.is_dir() else path.resolve().parent
        for folder, children, files in os.walk(start):
            if any(marker in files or marker in children for marker in MARKERS):
                found.add(Path(folder))
                children.clear()
    return sorted(found)


def read_record(path: Path) -> dict[str, Any]:
    """One record as a flat row. Raises ValueError that says what is wrong with the file."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise ValueError("not text: damaged or not a record") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not complete JSON (cut off or damaged): {error}") from None
    if not isinstance(record, dict) or "schema" not in record:
        raise ValueError("not a record of this project: no key schema")
    if record["schema"] != SCHEMA:
        raise ValueError(f"schema {record['schema']} is not this version's ({SCHEMA}): update, or read it with its own")
    row = flatten(record)
    for key, kind in REQUIRED.items():
        if key not in row:
            raise ValueError(f"not a complete record: no key {key}")
        if not isinstance(row[key], kind) or (kind is int and isinstance(row[key], bool)):
            raise ValueError(f"not a valid record: {key} is {row[key]!r}")
    for key, value in row.items():
        numeric = key.startswith(("metrics.", "timing.wall", "timing.images")) or key in ("step", "parameters")
        if numeric and not (value is None or isinstance(value, int | float)):
            raise ValueError(f"not a valid record: {key} is {value!r}")
    row["layers"] = valid_layers(row.get("layers"))
    prefix = "resnet" if row["config.model.residual"] else "plain"
    return row | {
        "folder": path.parent,
        "study": study_of(path.parent),
        "network": f"{prefix}{row['config.model.depth']}",
    }


def valid_layers(layers: Any) -> list[dict[str, Any]]:
    """The layers' measurements, or none of them if they are not as the schema says."""
    keys = ("response_std", "gradient_norm_start", "gradient_norm_end")
    number = (int, float, type(None))
    if isinstance(layers, list) and all(
        isinstance(layer, dict) and all(isinstance(layer.get(key), number) for key in keys) for layer in layers
    ):
        return layers
    return []


def study_of(folder: Path) -> str:
    """The name of the committed study that a run's folder lies in: results/reference/<study>/<run>; else empty."""
    parts = folder.parts
    for place in range(len(parts) - 3, 0, -1):
        if parts[place] == "reference" and parts[place - 1] == "results":
            return parts[place + 1]
    return ""


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def read_status(folder: Path) -> dict[str, str]:
    """What a run without a record says of itself. Raises ValueError for a status.json that cannot be read."""
    path = folder / "status.json"
    if not path.exists():
        return dict.fromkeys(("progress", "last sign of life", "message"), "") | {
            "folder": short(folder),
            "status": "unknown: no status.json",
        }
    status = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(status, dict):
        raise ValueError("not a status of this project")
    state = str(status.get("status", "unknown"))
    if state == "running" and process_is_gone(status):
        state = "cut off (its process is gone)"
    elif state == "done":
        state = "done, but record.json is missing"
    step, steps = status.get("step"), status.get("steps")
    return {
        "folder": short(folder),
        "status": state,
        "progress": "" if step is None else f"{step} of {steps} steps",
        "last sign of life": str(status.get("updated") or "")[:19].replace("T", " "),
        "message": " ".join(str(status.get("message") or "").split())[:200],
    }


def process_is_gone(status: dict[str, Any]) -> bool:
    """Whether a run that says it is running was killed on this very machine; of another machine we cannot tell."""
    pid = status.get("pid")
    if status.get("host") != socket.gethostname() or not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def without_doubles(runs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs with every identity counted once per study, hardware and precision; and a frame of what was left out.

    The first to finish counts. A study may repeat another's runs (a shared baseline): studies are never mixed.
    """
    columns = ["id", "counted", "left out", "numbers"]
    if runs.empty:
        return runs, pd.DataFrame(columns=columns)
    for column in ("timing.finished", "environment.device_name", "environment.precision", "environment.git_commit"):
        if column not in runs:
            runs[column] = None
    ordered = runs.sort_values(["timing.finished", "folder"], key=lambda column: column.map(str), kind="stable")
    same = ["study", "id", "environment.device_name", "environment.precision"]
    metrics = [column for column in map(str, runs.columns) if column.startswith("metrics.")]
    rows: list[list[str]] = []
    dropped: list[Any] = []
    for _, group in ordered.groupby(same, dropna=False, sort=False):
        kept = group.iloc[0]
        for index, other in group.iloc[1:].iterrows():
            equal = all(str(kept[column]) == str(other[column]) for column in metrics)
            rows.append(
                [kept["id"], short(kept["folder"]), short(other["folder"]), "identical" if equal else "different"]
            )
            dropped.append(index)
    return runs.drop(index=dropped).reset_index(drop=True), pd.DataFrame(rows, columns=columns)


def read_history(folder: Path) -> tuple[pd.DataFrame, int]:
    """A run's history, and how many of its rows could not be read (a last line cut in two is one)."""
    rows, bad = [], 0
    try:
        lines = (folder / "history.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return pd.DataFrame(), 0
    for line in filter(str.strip, lines):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
        else:
            bad += 1
    columns = ["step", "running_train_error", "test_error"]
    history = pd.DataFrame(rows, columns=columns).apply(pd.to_numeric, errors="coerce")
    # A run that was cut off and went on may have written a step twice: the last time counts.
    return history.drop_duplicates("step", keep="last").sort_values("step"), bad


def short(path: Path) -> str:
    """`path` below the working directory where it lies there, else whole."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def changes(paths: Sequence[Path]) -> Iterator[tuple[str, int, int]]:
    """Name, time and size of every file that the report reads: equal lists mean that nothing new has come."""
    for folder in run_folders(paths):
        for name in MARKERS:
            if (folder / name).is_file():
                stat = (folder / name).stat()
                yield str(folder / name), stat.st_mtime_ns, stat.st_size


def now() -> str:
    """The time of a report."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
