"""Files that survive whatever dies: written whole or not at all, and read with doubt."""

import hashlib
import io
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ablation.errors import UserError


def write_atomically(path: Path, write: Callable[[IO[bytes]], object], durable: bool = True) -> None:
    """Let `write` fill a new file and put it in `path`'s place once it is whole; a reader sees the old or the new.

    `durable=False` leaves to the system when it reaches the disk: for what a power cut may take along.
    Raises UserError where the folder cannot be written or the disk is full; what was there stays as it was.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
        if durable:
            sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise


def sync_folder(folder: Path) -> None:
    """Bring the folder's entries to the disk: a rename is not there before."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporary(folder: Path) -> None:
    """Delete what killed processes left half written. For the holder of the folder's lock only."""
    for path in folder.glob("*.tmp"):
        with suppress(OSError):
            path.unlink()


def cannot_write(path: Path, error: OSError) -> UserError:
    """The one line for a full disk or a read-only folder."""
    return UserError("results", path, f"cannot be written: {error.strerror or error}; what was there is left as it was")


def write_json(path: Path, value: Any, durable: bool = True) -> None:
    """Write `value` as indented JSON, atomically. NaN and infinity are refused: they are not JSON."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()), durable)


def read_json(path: Path) -> Any:
    """The value in the file, or None if it is missing or broken."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def sealed(payload: bytes) -> bytes:
    """`payload` behind a line with its SHA-256, for `unsealed` to check."""
    return f"{SEAL} {hashlib.sha256(payload).hexdigest()}\n".encode() + payload


def unsealed(data: bytes) -> io.BytesIO:
    """The payload of `sealed` data. Raises ValueError if it was cut short or changed."""
    head, separator, payload = data.partition(b"\n")
    if not separator or head != f"{SEAL} {hashlib.sha256(payload).hexdigest()}".encode():
        raise ValueError("its checksum does not agree")
    return io.BytesIO(payload)


SEAL = "ablation-checkpoint sha256"
