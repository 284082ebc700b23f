"""What every command does around its work: its streams, its arguments, where it writes, how it tells a mistake.

A run does not depend on who reads its lines: `train.py | tee log` loses its reader with Ctrl-C, a log's disk fills up,
a shell starts a program with its streams closed. What cannot be written is thrown away, and the work goes on.
"""

import argparse
import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import NoReturn

from ablation.errors import UserError

USER_MISTAKE = 2
"""Exit status of a run that was never begun because the input was wrong."""


def fail(error: UserError) -> NoReturn:
    """Print the one line and leave."""
    print(error, file=sys.stderr)
    sys.exit(USER_MISTAKE)


class Unbreakable(io.FileIO):
    """A descriptor to write to, which becomes /dev/null when it cannot be written any more."""

    def write(self, text: object) -> int:
        """Write, or pretend to; as many bytes as were taken."""
        try:
            return super().write(text)  # type: ignore[arg-type]
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return memoryview(text).nbytes  # type: ignore[arg-type]


def make_unbreakable() -> None:
    """Let sys.stdout and sys.stderr survive whatever they are connected to; to be called at a program's start.

    A letter that their encoding lacks is shown as a question mark, for the same reason.
    """
    with suppress(OSError):
        while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass  # a closed stream's number would be given to the next file, and the file get its lines
        os.close(null)
    for name, number in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        if old is not getattr(sys, f"__{name}__"):
            continue  # somebody who caught it on purpose
        encoding = old.encoding if old is not None else "utf-8"
        raw = Unbreakable(number, "w", closefd=False)
        setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(raw), encoding, "replace", line_buffering=True))


def spin_briefly() -> None:
    """Let OpenMP's threads sleep soon where they wait for each other; torch reads it when it is imported.

    By default they spin for milliseconds. On cores that other processes use too, each such wait takes the others' time
    and is answered in kind: a step took two to five times as long (2 threads on 2 cores, load 7 to 11).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


class Parser(argparse.ArgumentParser):
    """argparse with the house's one-line errors."""

    def error(self, message: str) -> NoReturn:
        """Instead of the usage and a message."""
        raise UserError("arguments", " ".join(sys.argv[1:]), f"{message}; --help shows what is allowed")


def check_writable(key: str, path: Path) -> None:
    """Raise UserError, about `key`, unless `path` could be made, with its folders, or be written in if it is one.

    It leaves nothing behind. A file is really made in the nearest folder: permissions say nothing to root, or in /proc.
    """
    try:
        place = path.absolute()
        while not exists(place):
            place = place.parent
        with TemporaryFile(dir=place if place.is_dir() else place.parent):
            pass
    except OSError as error:
        raise cannot_write(key, path, error) from None


def exists(path: Path) -> bool:
    """Whether it is there. Raises OSError for an impossible place, where Path.exists says no to some."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


def cannot_write(key: str, path: Path, error: OSError) -> UserError:
    """The one line for a place that cannot be written."""
    return UserError(key, path, f"cannot be written: {error.strerror or error}")
