"""Files that are written whole or not at all, and read without trusting them."""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import yaml

from ablation.errors import UserError, printable


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
        replace(temporary, path)
        if durable and hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder, and NTFS journals its entries
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


def replace(source: Path, target: Path) -> None:
    """Rename; Windows allows it only when no other process has `target` open, so there it is tried for a second."""
    for pause in (0.1, 0.3, 0.6) if sys.platform == "win32" else ():
        with suppress(PermissionError):
            return os.replace(source, target)
        time.sleep(pause)
    return os.replace(source, target)


def remove_temporary(folder: Path) -> None:
    """Delete the half-written files of killed processes. Only for the process that holds the run's lock."""
    for path in folder.glob("*.tmp"):
        with suppress(OSError):
            path.unlink()


def cannot_write(path: Path, error: OSError) -> UserError:
    allowed = f"cannot be written: {error.strerror or error}; what was there is left as it was"
    if isinstance(error, PermissionError) and sys.platform != "win32":
        place = next(place for place in (path, *path.absolute().parents) if os.path.exists(place))
        with suppress(OSError, KeyError):  # a user without a name
            allowed += f"; {place} belongs to {place.owner()}: name a folder of your own with results=FOLDER"
    return UserError("results", path, allowed)


def write_json(path: Path, value: Any, durable: bool = True) -> None:
    """Write `value` as indented JSON, atomically. Raises ValueError for NaN and infinity, which JSON does not have."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()), durable)


def read_json(path: Path, parse: Callable[[str], Any] = json.loads) -> Any:
    """The value in the file as a `printable_tree`, or None if there is no such file or it is damaged."""
    try:
        return printable_tree(parse(read_text(path)))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None


def read_text(path: Path, errors: str = "strict") -> str:
    """What is in the file. Raises OSError if there is no such file, ValueError if it holds no UTF-8."""
    if not path.is_file():  # reading a FIFO would wait for ever
        raise OSError(0, "not a file")
    return path.read_text("utf-8", errors)


def printable_tree(value: Any) -> Any:
    """`value` with texts that can be shown anywhere: whatever is read of a run's files, somebody may have written."""
    if isinstance(value, dict):
        return {printable(key): printable_tree(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [printable_tree(inner) for inner in value]
    return printable(value) if isinstance(value, str) else value
