"""Checkpoints: written atomically, checked by SHA-256, two generations; only tensors and plain values are read.

`checkpoint.pt` is the newest, `checkpoint.previous.pt` the one before, in case the newest is damaged.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from ablation.config.identity import SCHEMA
from ablation.errors import UserError
from ablation.runs.record.files import sealed, unsealed, write_atomically

NEWEST, PREVIOUS = NAMES = ("checkpoint.pt", "checkpoint.previous.pt")

START_ANEW = "overwrite=true starts anew and keeps this folder aside"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Make `state` the folder's newest checkpoint and keep the one before. Raises UserError as write_atomically does.

    A process killed at any point leaves a whole `checkpoint.pt`.
    """
    buffer = io.BytesIO()
    torch.save({"schema": SCHEMA} | state, buffer)
    data = sealed(buffer.getvalue())

    def write(file: IO[bytes]) -> None:
        file.write(data)
        file.flush()  # meets a full disk before the older generation is given up
        if (folder / NEWEST).exists():
            keep_previous(folder)

    write_atomically(folder / NEWEST, write)


def keep_previous(folder: Path) -> None:
    """Give the newest checkpoint its second name, too."""
    try:
        (folder / PREVIOUS).unlink(missing_ok=True)
        os.link(folder / NEWEST, folder / PREVIOUS)
    except OSError:  # a file system without hard links: for a moment there is only the previous one
        os.replace(folder / NEWEST, folder / PREVIOUS)


def load(folder: Path, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, or None if there is no checkpoint.

    A damaged one is reported to `warn` and skipped. Raises UserError if all are damaged, or if one was written with
    another version of the schema.
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
    return [name for name in NAMES if (folder / name).exists()]


def read(path: Path) -> dict[str, Any]:
    """The contents of one checkpoint, on the CPU. Raises ValueError if it is damaged. No code in it is run."""
    try:
        state = torch.load(unsealed(path.read_bytes()), map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise
    except Exception as error:  # torch raises many kinds for a file of another format
        raise ValueError(f"{type(error).__name__}: {' '.join(str(error).split())[:80]}") from None
    if not isinstance(state, dict):
        raise ValueError("it is not a checkpoint")
    return state


def remove(folder: Path) -> None:
    """Delete the checkpoints of a finished run, the newest last."""
    for name in reversed(NAMES):
        (folder / name).unlink(missing_ok=True)
