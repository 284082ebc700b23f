"""A run's folder: status, history, record, lock. The files are the truth; everything shown elsewhere is made from them.

results/runs/<name>-<identity>/
    config.yaml      the composed configuration          status.json      how far it is, or how it ended
    history.jsonl    a row per evaluation                record.json      written once, when the run is finished
    checkpoint*.pt   while it is not finished            weights.pt       the result's state dict
    traceback.txt    if it failed                        lock             held while a process trains it
"""

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from ablation.config.identity import SCHEMA
from ablation.config.schema import Config
from ablation.errors import UserError
from ablation.runs.record import checkpoints
from ablation.runs.record.files import cannot_write, read_json, remove_temporary, write_atomically, write_json
from ablation.runs.record.record import is_record

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


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; empty if it is missing or broken."""
    try:
        value = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}
