"""`history.jsonl`: a row per evaluation, written line by line and read back."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from ablation.runs.record.files import cannot_write, write_atomically


class History:
    """`history.jsonl`: a row per evaluation, each on the disk when `append` returns (line-buffered)."""

    def __init__(self, path: Path, rows: list[dict[str, Any]]) -> None:
        """Open the file with just the rows that the checkpoint knows: those behind it are of steps that come again."""
        self.path, self.rows = path, list(rows)
        self.write()
        self.file = open(path, "a", buffering=1)  # noqa: SIM115 - open as long as the run

    def write(self) -> None:
        """Put a file with just the rows so far in its place. Raises UserError where that cannot be."""
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        write_atomically(self.path, lambda file: file.write(text.encode()))

    def append(self, row: dict[str, Any]) -> None:
        """Add a row. Raises UserError if the disk is full or the folder read-only."""
        try:
            self.file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self.rows.append(row)

    def close(self) -> None:
        with suppress(OSError):  # what could not be written was reported by `append`
            self.file.close()


def read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The rows of a history in the order of their steps, and how many lines are no rows (one cut off, for instance).

    A step that was taken twice, because the run was cut off in between, counts as it was the last time.
    """
    rows: dict[int, dict[str, Any]] = {}
    unreadable = 0
    try:
        text = path.read_text(errors="replace") if path.is_file() else ""
    except OSError:
        text = ""
    for line in filter(str.strip, text.splitlines()):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if is_row(row):
            rows[row["step"]] = row
        else:
            unreadable += 1
    return [rows[step] for step in sorted(rows)], unreadable


def is_row(value: Any) -> bool:
    """Whether it has a step, and numbers or null for the rest."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("step"), int)
        and all(cell is None or isinstance(cell, int | float) for cell in value.values())
    )
