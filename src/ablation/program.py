"""What every command does around its work: its output streams, its arguments, where it writes, how it shows a mistake.

A run does not depend on who reads its output (`train.py | tee log` loses its reader with Ctrl-C, its disk fills up):
what cannot be written is thrown away, and the work goes on.
"""

import argparse
import errno
import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import ClassVar, NoReturn

from rich.console import Console

from ablation.errors import UserError

WIDE = 120
"""Columns where the output is not a terminal and COLUMNS is not set."""


def console() -> Console:
    """For stdout: as wide as the terminal or as COLUMNS says; a log must not lose half a table."""
    found = Console()
    return found if found.is_terminal or os.environ.get("COLUMNS", "").isdigit() else Console(width=WIDE)


def fail(error: UserError) -> NoReturn:
    """Print the one line and leave with status 2: the input was wrong, and nothing was begun."""
    print(error, file=sys.stderr)
    sys.exit(2)


class Unbreakable(io.FileIO):
    """A file descriptor to write to, which becomes /dev/null when it can no longer be written."""

    lost: ClassVar = ""  # why standard output could not be written; not that its reader has gone, as `head` does

    def write(self, text: object) -> int:
        try:
            return super().write(text)  # type: ignore[arg-type]
        except OSError as error:
            if self.fileno() == 1 and error.errno != errno.EPIPE:
                Unbreakable.lost = str(error.strerror)
            with open(os.devnull, "wb") as null:
                os.dup2(null.fileno(), self.fileno())
            return memoryview(text).nbytes  # type: ignore[arg-type]


def make_unbreakable() -> None:
    """Make sys.stdout and sys.stderr unbreakable, at the start of a program; `?` stands for what they cannot encode."""
    with suppress(OSError):
        while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass  # the number of a closed stream would go to the next file opened, and that file get its lines
        os.close(null)
    for name, number in (("stdout", 1), ("stderr", 2)):
        old = getattr(sys, name)
        console = sys.platform == "win32" and old is not None and old.isatty()  # which takes text, and not bytes
        if old is getattr(sys, f"__{name}__") and not console:  # not replaced on purpose, as a test does
            raw = io.BufferedWriter(Unbreakable(number, "w", closefd=False))
            encoding = old.encoding if old is not None else "utf-8"
            setattr(sys, name, io.TextIOWrapper(raw, encoding, "replace", line_buffering=True))


def check_output() -> None:
    """Raise UserError if a line was lost, at the end of a program whose result is what it prints."""
    sys.stdout.flush()
    if Unbreakable.lost:
        raise UserError("standard output", "", f"cannot be written: {Unbreakable.lost}")


def spin_briefly() -> None:
    """Let OpenMP's waiting threads sleep soon: torch reads this when it is imported.

    By default they spin for milliseconds; beside other processes on the same 2 cores, steps took 2 to 5 times as long.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError("arguments", " ".join(sys.argv[1:]), f"{message}; --help shows what is allowed")


def whole(least: int, most: int, text: str) -> int:
    """A whole number from `least` to `most`, for argparse."""
    if not text.isdecimal() or len(text) > 9 or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}")
    return int(text)


def check_writable(key: str, path: Path) -> None:
    """Raise UserError, about `key`, unless a file or folder could be made at `path` or the one there be written.

    It makes a temporary file in the nearest folder that exists: permissions mean nothing for root, or in /proc.
    """
    place = path.absolute()
    try:
        with suppress(FileNotFoundError):
            place.stat()  # raises OSError for a path that is impossible
        place = next(folder for folder in (place, *place.parents) if folder.exists())
        TemporaryFile(dir=place if place.is_dir() else place.parent).close()
    except OSError as error:
        raise UserError(key, path, f"cannot be written: {error.strerror or error}") from None
