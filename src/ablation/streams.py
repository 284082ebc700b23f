"""Standard output and error that nobody needs to listen to: a run does not depend on who reads its lines.

`train.py | tee log` loses its reader with Ctrl-C, a log's disk fills up, a shell starts a program with its streams
closed. What cannot be written is then thrown away, and the work goes on.
"""

import io
import os
import sys
from contextlib import suppress


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
