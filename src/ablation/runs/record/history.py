"""`history.jsonl`: a row per evaluation, written line by line and read back."""

import json
from pathlib import Path
from typing import Any

from ablation.config.identity import is_number
from ablation.runs.record.files import cannot_write, printable_tree, read_text, write_atomically
from ablation.runs.record.record import fits

Row = dict[str, Any]


def write(folder: Path, rows: list[Row]) -> None:
    """Write the whole file anew. Raises UserError if it cannot be written."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomically(folder / "history.jsonl", lambda file: file.write(text.encode()))


def append(folder: Path, row: Row) -> None:
    """Add a row. Raises UserError if the disk is full or the folder read-only."""
    path = folder / "history.jsonl"
    try:
        with open(path, "a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise cannot_write(path, error) from error


def read(path: Path) -> tuple[list[Row], int]:
    """The rows of a history in the order of their steps, and how many lines are no rows (the last may be cut off).

    Of a step that was taken twice, because the run was cut off in between, the later row counts.
    """
    rows: dict[int, Row] = {}
    unreadable = 0
    try:
        text = read_text(path, errors="replace")
    except OSError:
        text = ""
    for line in filter(str.strip, text.splitlines()):
        try:
            row = printable_tree(json.loads(line))
        except (ValueError, RecursionError):
            row = None
        if is_row(row):
            rows[row["step"]] = row
        else:
            unreadable += 1
    return [rows[step] for step in sorted(rows)], unreadable


def is_row(row: Any) -> bool:
    numbers = isinstance(row, dict) and all(cell is None or is_number(cell) for cell in row.values())
    return numbers and fits(row.get("step"), int)
