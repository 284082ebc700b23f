"""The lock on a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class Busy(Exception):
    """Another process trains this run."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock of the run in `folder`. Raises Busy if another process holds it."""
    try:
        with FileLock(folder / "lock", timeout=0):
            yield
    except Timeout:
        raise Busy("another process is training this run") from None
