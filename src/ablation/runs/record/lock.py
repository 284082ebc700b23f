"""The lock on a run: results/locks/<name>.lock, outside the run's folder, so that one rename can move the folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ablation.runs.record import status
from ablation.runs.record.files import cannot_write


class Busy(Exception):
    """Another process trains this run; the message says which."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock of the run in `folder`; the system releases it when the process ends, however it ends.

    Raises Busy if another process holds it, UserError if it cannot be made.
    """
    path = folder.parent.parent / "locks" / f"{folder.name}.lock"
    lock = FileLock(path, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        now = status.read(folder) or {}
        holder = (
            f"process {now.get('pid')} on {now.get('host')}" if now.get("status") == "running" else "another process"
        )
        raise Busy(f"{holder} is training this run") from None
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield
    finally:
        lock.release()
