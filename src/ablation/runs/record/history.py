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


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a history; a last line that was cut in two is passed over."""
    rows: list[dict[str, Any]] = []
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return rows
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The rows of a history in the order of their steps, and how many lines are no rows."""
    rows = {row["step"]: row for row in read_rows(path)}
    return [rows[step] for step in sorted(rows)], 0
