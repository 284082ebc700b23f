"""Checkpoints: atomic, checksummed, two generations, and never code.

`checkpoint.pt` is the newest, `checkpoint.previous.pt` the one before; a line with the SHA-256 of the rest comes first.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ablation.config.identity import SCHEMA
from ablation.errors import UserError
from ablation.runs.record.files import cannot_write, sealed, sync_folder, unsealed, write_atomically

NEWEST, PREVIOUS, FRESH = "checkpoint.pt", "checkpoint.previous.pt", "checkpoint.new.pt"
NEWEST_FIRST = (FRESH, NEWEST, PREVIOUS)
"""FRESH is there only between its writing and its renaming: found after a kill, it is the newest, and whole."""

START_ANEW = "overwrite=true starts anew and keeps this folder aside"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Make `state` the folder's newest checkpoint and keep the one before."""
    buffer = io.BytesIO()
    torch.save({"schema": SCHEMA} | state, buffer)
    data = sealed(buffer.getvalue())
    fresh = folder / FRESH
    write_atomically(fresh, lambda file: file.write(data))
    try:
        if (folder / NEWEST).exists():
            os.replace(folder / NEWEST, folder / PREVIOUS)
        os.replace(fresh, folder / NEWEST)
        sync_folder(folder)
    except OSError as error:
        raise cannot_write(folder / NEWEST, error) from error


def load(folder: Path, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, or None if there never was one.

    A damaged one is reported to `warn` and passed over. Raises UserError if there are only damaged ones, or one that
    another version of the schema wrote.
    """
    faults = []
    for name in present(folder):
        try:
            state = read(folder / name)
        except ValueError as error:
            faults.append(f"{name}: {error}")
            warn(f"{folder / name} is damaged ({error})")
            continue
        if state.get("schema") != SCHEMA:
            allowed = f"has schema {state.get('schema')}, this version reads {SCHEMA}; move the folder elsewhere"
            raise UserError("checkpoint", folder / name, allowed)
        return state
    if faults:
        raise UserError("checkpoint", folder, f"no checkpoint is whole ({'; '.join(faults)}); {START_ANEW}")
    return None


def present(folder: Path) -> list[str]:
    """The names of the checkpoints in the folder, newest first."""
    return [name for name in NEWEST_FIRST if (folder / name).exists()]


def any_whole(folder: Path) -> bool:
    """Whether `load` would find something to go on from."""
    for name in present(folder):
        try:
            read(folder / name)
        except ValueError:
            continue
        return True
    return False


def read(path: Path) -> dict[str, Any]:
    """The contents of one checkpoint, on the CPU. Raises ValueError if it is not whole. Nothing in it is executed."""
    try:
        state = torch.load(unsealed(path.read_bytes()), map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise
    except Exception as error:  # torch raises a dozen kinds for a foreign file
        raise ValueError(f"{type(error).__name__}: {' '.join(str(error).split())[:80]}") from None
    if not isinstance(state, dict):
        raise ValueError("it is not a checkpoint")
    return state


def remove(folder: Path) -> None:
    """Delete what a finished run does not need any more."""
    for name in reversed(NEWEST_FIRST):  # killed in between, it leaves the newest
        (folder / name).unlink(missing_ok=True)
