"""How far a run is, which process trains it, and how it ended: its status.json, its lock and its outcome."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from ablation.config.identity import SCHEMA
from ablation.errors import UserError
from ablation.runs.record.files import cannot_write, read_json, write_json
from ablation.runs.record.record import Text, fits

State = Literal["done", "resumed", "skipped", "not started", "failed", "busy", "interrupted"]

EXIT_STATUS: dict[State, int] = {"done": 0, "resumed": 0, "skipped": 0, "not started": 0}
EXIT_STATUS |= {"failed": 1, "busy": 74, "interrupted": 75}
"""By state; 75 is EX_TEMPFAIL of sysexits.h: not an error, start again to go on."""

KINDS: dict[str, Any] = dict.fromkeys(("id", "status", "message", "host", "updated"), Text)
KINDS |= dict.fromkeys(("step", "steps", "pid"), int | None)
"""Key -> type of what is read of a status.json; a key that it lacks is read as null."""


@dataclass(frozen=True)
class Outcome:
    """`state`: "resumed" was finished by going on from a checkpoint, "skipped" was done before, "not started" is what
    is left of a sweep after too many failures. As a number it is the validation error in percent, if there is one.
    """

    name: str
    folder: Path | None
    state: State
    message: str = ""
    metrics: dict[str, float | None] = field(default_factory=dict)
    diverged: bool = False

    @property
    def exit_status(self) -> int:
        return EXIT_STATUS[self.state]

    def __float__(self) -> float:
        return 100.0 if self.diverged else float(self.metrics.get("val_error"))  # type: ignore[arg-type]  # TypeError


def write(folder: Path, identity: str, status: str, step: int, steps: int, message: str = "") -> None:
    """Write status.json, for people and other processes: no run goes on from it. A full disk is no reason to fail."""
    state = {"status": status, "step": step, "steps": steps, "message": message}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    own = {"schema": SCHEMA, "id": identity, "pid": os.getpid(), "host": socket.gethostname(), "updated": now}
    with suppress(UserError):
        write_json(folder / "status.json", state | own, durable=False)


def read(folder: Path) -> dict[str, Any] | None:
    """The run's status with all `KINDS`, or None if there is no status.json or it is damaged."""
    found = read_json(folder / "status.json")
    fitting = isinstance(found, dict) and all(fits(found.get(key), kind) for key, kind in KINDS.items())
    return dict.fromkeys(KINDS) | found if fitting else None


def process_is_gone(status: dict[str, Any]) -> bool:
    """Whether the process that wrote this status has ended; False if it ran on another machine: nobody knows."""
    pid = status.get("pid")
    if os.name == "nt" or status.get("host") != socket.gethostname() or not isinstance(pid, int) or pid <= 0:
        return False  # os.kill(pid, 0) would end the process on Windows
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError) as error:
        return isinstance(error, ProcessLookupError)
    return False


class Busy(Exception):
    """Another process trains this run; the message says which."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock of the run in `folder`; the system releases it when the process ends, however it ends.

    It is results/locks/<name>.lock, outside the run's folder, so that one rename can move the folder.
    Raises Busy if another process holds it, UserError if it cannot be made.
    """
    path = folder.parent.parent / "locks" / f"{folder.name}.lock"
    lock = FileLock(path, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        now = read(folder) or {}
        one = f"process {now.get('pid')} on {now.get('host')}" if now.get("status") == "running" else "another process"
        raise Busy(f"{one} is training this run") from None
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield
    finally:
        lock.release()
