"""Files that are written whole or not at all, and read without trusting them."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ablation.errors import UserError


def write_atomically(path: Path, write: Callable[[IO[bytes]], object], durable: bool = True) -> None:
    """Let `write` fill a new file, then rename it to `path`: a reader sees the old file or the new one, whole.

    `durable=False` does not wait for the disk, so a power cut may lose the file.
    Raises UserError if the folder cannot be written or the disk is full; the old file stays.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable and os.name != "nt":  # Windows cannot open a folder, and NTFS journals its entries
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # without which a power cut can undo the rename
            finally:
                os.close(folder)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_temporary(folder: Path) -> None:
    """Delete the half-written files of killed processes. Only for the process that holds the run's lock."""
    for path in folder.glob("*.tmp"):
        with suppress(OSError):
            path.unlink()


def cannot_write(path: Path, error: OSError) -> UserError:
    return UserError("results", path, f"cannot be written: {error.strerror or error}; what was there is left as it was")


def write_json(path: Path, value: Any, durable: bool = True) -> None:
    """Write `value` as indented JSON, atomically. Raises ValueError for NaN and infinity, which JSON does not have."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()), durable)


def read_json(path: Path) -> Any:
    """The value in the file, or None if there is no such file or it is damaged."""
    try:
        return json.loads(path.read_bytes()) if path.is_file() else None  # reading a FIFO would wait for ever
    except (OSError, ValueError, RecursionError):
        return None
