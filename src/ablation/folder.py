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
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from ablation import checkpoints
from ablation.config import SCHEMA, Config
from ablation.errors import UserError
from ablation.files import cannot_write, read_json, remove_temporary, write_atomically, write_json

MOVING = "moving_to"
"""Names the folder in results/replaced/ to which a run's files are being moved: until then it is not a finished run."""


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

    @property
    def moving(self) -> bool:
        """Whether a process was killed while it set the folder's files aside."""
        return (self.path / MOVING).exists()

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
                lock.truncate(0)
                lock.write(f"process {os.getpid()} on {socket.gethostname()}")
                lock.flush()
            except BlockingIOError:
                lock.seek(0)
                raise Busy(f"{lock.read().strip() or 'another process'} is training this run") from None
            except OSError as error:
                raise cannot_write(self.path / "lock", error) from error
            yield

    def check_owner(self) -> None:
        """Raise UserError if another version of the schema, or another run, made this folder."""
        for name in ("status.json", "record.json"):
            made = read_json(self.path / name)
            if not isinstance(made, dict):
                continue
            if made.get("schema") != SCHEMA:
                allowed = f"was made with schema {made.get('schema')}, this version writes {SCHEMA}; move it elsewhere"
                raise UserError("results", self.path, allowed)
            if made.get("id") != self.identity:
                allowed = f"holds run {made.get('id')}, but this one is {self.identity}; move it elsewhere"
                raise UserError("results", self.path, allowed)

    def record(self) -> dict[str, Any] | None:
        """The record of the finished run, or None; a damaged one counts as none."""
        record = read_json(self.path / "record.json")
        if self.moving or not is_record(record) or record["id"] != self.identity:
            return None
        return dict(record)

    def tidy(self) -> None:
        """Finish what a process killed behind its record left undone: status, checkpoints, temporary files."""
        status = read_json(self.path / "status.json")
        left = [*checkpoints.present(self.path), *self.path.glob("*.tmp")]
        if not left and isinstance(status, dict) and status.get("status") == "done":
            return
        with suppress(Busy, UserError), self.held():  # somebody else's business, or a published folder
            record = self.record()
            assert record is not None
            self.status("done", record["step"], record["config"]["schedule"]["steps"])
            checkpoints.remove(self.path)
            remove_temporary(self.path)

    def unfit_to_go_on(self, config: Config) -> list[Path]:
        """What must be set aside before training: all files if it is to start anew, a damaged record, or nothing.

        `overwrite` starts a run anew once: cut off and started again, such a run goes on like any other.
        """
        found = [path for path in self.path.iterdir() if path.name not in ("lock", MOVING)]
        if self.moving:
            return found
        broken = self.path / "record.json"
        begun_anew = read_yaml(self.path / "config.yaml").get("overwrite") is True
        unreadable = checkpoints.present(self.path) and not checkpoints.any_whole(self.path)
        if config.overwrite and (broken.exists() or unreadable or not begun_anew):
            return found
        if not broken.exists():
            return []
        return [broken] if checkpoints.present(self.path) else found

    def set_aside(self, paths: list[Path]) -> Path:
        """Move files to results/replaced/ and return where they are; cut off in between, the next call goes on."""
        marker = self.path / MOVING
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        name = Path(marker.read_text()).name if marker.exists() else f"{self.name}.{stamp}"
        aside = self.replaced / name
        write_atomically(marker, lambda file: file.write(name.encode()))
        try:
            aside.mkdir(parents=True, exist_ok=True)
            for path in paths:
                shutil.move(path, aside / path.name)
            marker.unlink()
        except OSError as error:
            raise cannot_write(aside, error) from error
        return aside

    def begin(self, config: Config) -> None:
        """Write down what is run, and clear away what a killed process left half written."""
        remove_temporary(self.path)
        text = yaml.safe_dump(config.to_dict(), sort_keys=False)
        write_atomically(self.path / "config.yaml", lambda file: file.write(text.encode()))
        (self.path / "traceback.txt").unlink(missing_ok=True)

    def status(self, status: str, step: int, steps: int, message: str = "") -> None:
        """Say how far the run is, or how it ended."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        own = {"schema": SCHEMA, "id": self.identity, "pid": os.getpid(), "host": socket.gethostname(), "updated": now}
        state = {"status": status, "step": step, "steps": steps, "message": message}
        write_json(self.path / "status.json", state | own, durable=False)  # for people: no run goes on from it


def is_record(value: Any) -> bool:
    """Whether it has what is read from the record of a finished run: a hand may have been at it."""
    try:
        metrics = value["metrics"]
        errors = [metrics[name] for name in ("train_error", "test_error", "selected_test_error")]
        steps = [value["step"], metrics["selected_step"], value["config"]["schedule"]["steps"]]
        texts = [value["id"], value["data"]["checksum"], metrics["selected_on"] or ""]
    except (KeyError, TypeError, IndexError):
        return False
    kinds = ((errors, int | float), (steps, int), (texts, str))
    return all(isinstance(one, kind) for those, kind in kinds for one in those)


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


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; empty if it is missing or broken."""
    try:
        value = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}


class Clock:
    """Seconds of a run over all the processes that worked on it: `earlier` is what the checkpoint brought along."""

    def __init__(self, earlier: float = 0.0) -> None:
        self.earlier, self.start = earlier, time.perf_counter()

    def seconds(self) -> float:
        return self.earlier + time.perf_counter() - self.start
