"""`status.json`: how far a run is, or how it ended. It is for people and other processes: no run goes on from it."""

import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ablation.config.identity import SCHEMA
from ablation.errors import UserError
from ablation.runs.record.files import read_json, write_json


def write(folder: Path, identity: str, status: str, step: int, steps: int, message: str = "") -> None:
    """Write the status of run `identity`: `step` of `steps`, and why it ended. A full disk is no reason to fail."""
    state = {"status": status, "step": step, "steps": steps, "message": message}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    own = {"schema": SCHEMA, "id": identity, "pid": os.getpid(), "host": socket.gethostname(), "updated": now}
    with suppress(UserError):
        write_json(folder / "status.json", state | own, durable=False)


def read(folder: Path) -> dict[str, Any] | None:
    """The run's status, or None if there is no status.json or it is damaged."""
    status = read_json(folder / "status.json")
    return status if isinstance(status, dict) else None


def process_is_gone(status: dict[str, Any]) -> bool:
    """Whether the process that wrote this status has ended; False if it ran on another machine: nobody knows."""
    pid = status.get("pid")
    if os.name == "nt" or status.get("host") != socket.gethostname() or not isinstance(pid, int) or pid <= 0:
        return False  # os.kill(pid, 0) would end the process on Windows
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False
