"""A run's folder: status, history, record, lock. The files are the truth; everything shown elsewhere is made from them.

results/runs/<name>-<identity>/
    config.yaml      the composed configuration          status.json      how far it is, or how it ended
    history.jsonl    a row per evaluation                record.json      written once, when the run is finished
    checkpoint*.pt   while it is not finished            weights.pt       the result's state dict
    traceback.txt    if it failed                        lock             held while a process trains it
"""

import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from ablation.config import SCHEMA, Config
from ablation.errors import UserError
from ablation.files import cannot_write, read_json, write_atomically, write_json


class Busy(Exception):
    """Another process trains this run; the message says which."""


class RunFolder:
    """The folder of one run and the files in it."""

    def __init__(self, results: Path, name: str, identity: str) -> None:
        self.identity = identity
        self.path = results / "runs" / f"{name}-{identity[:8]}"
        self.replaced = results / "replaced"

    @property
    def name(self) -> str:
        return self.path.name

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and hold its lock. Raises Busy if another process does; a killed process holds nothing."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / "lock", "a+")  # noqa: SIM115 - it stays open as long as it is held
        except OSError as error:
            raise cannot_write(self.path, error) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise Busy(f"{lock.read().strip() or 'another process'} is training this run") from None
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            lock.flush()
            yield

    def check_version(self) -> None:
        """Raise UserError if another version of the schema made this folder."""
        status = read_json(self.path / "status.json")
        if isinstance(status, dict) and status.get("schema") != SCHEMA:
            allowed = f"was made with schema {status.get('schema')}, this version writes {SCHEMA}; move it elsewhere"
            raise UserError("results", self.path, allowed)

    def record(self) -> dict[str, Any] | None:
        """The record of the finished run, or None."""
        record = read_json(self.path / "record.json")
        return record if isinstance(record, dict) and record.get("id") == self.identity else None

    def set_aside(self) -> Path | None:
        """Move what is there to results/replaced/, for `overwrite=true`; the lock file stays. Returns where it went."""
        found = [path for path in self.path.iterdir() if path.name != "lock"]
        if not found:
            return None
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        aside = self.replaced / f"{self.name}.{stamp}"
        aside.mkdir(parents=True)
        for path in found:
            shutil.move(path, aside / path.name)
        return aside

    def begin(self, config: Config) -> None:
        """Write down what is run."""
        text = yaml.safe_dump(config.to_dict(), sort_keys=False)
        write_atomically(self.path / "config.yaml", lambda file: file.write(text.encode()))
        (self.path / "traceback.txt").unlink(missing_ok=True)

    def status(self, status: str, step: int, steps: int, message: str = "") -> None:
        """Say how far the run is, or how it ended."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        own = {"schema": SCHEMA, "id": self.identity, "pid": os.getpid(), "host": socket.gethostname(), "updated": now}
        write_json(
            self.path / "status.json", {"status": status, "step": step, "steps": steps, "message": message} | own
        )

    def last_step(self) -> int:
        """The step that the status file knows of."""
        status = read_json(self.path / "status.json")
        return int(status.get("step", 0)) if isinstance(status, dict) else 0


class History:
    """`history.jsonl`: a row per evaluation, each on the disk when `append` returns (line-buffered)."""

    def __init__(self, path: Path, up_to_step: int) -> None:
        """Open the file and cut it back to the rows up to a step: those behind it are of steps that will come again."""
        self.rows = [row for row in read_rows(path) if row["step"] <= up_to_step]
        text = "".join(json.dumps(row) + "\n" for row in self.rows)
        write_atomically(path, lambda file: file.write(text.encode()))
        self.path = path
        self.file = open(path, "a", buffering=1)  # noqa: SIM115 - open as long as the run

    def append(self, row: dict[str, Any]) -> None:
        """Add a row. Raises UserError if the disk is full or the folder read-only."""
        try:
            self.file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self.rows.append(row)

    def close(self) -> None:
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


class Clock:
    """Seconds of a run over all the processes that worked on it: `earlier` is what the checkpoint brought along."""

    def __init__(self, earlier: float = 0.0) -> None:
        self.earlier, self.start = earlier, time.perf_counter()

    def seconds(self) -> float:
        return self.earlier + time.perf_counter() - self.start
