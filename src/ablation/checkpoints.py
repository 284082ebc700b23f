"""Checkpoints: atomic, checksummed, two generations, and never code.

`checkpoint.pt` is the newest, `checkpoint.previous.pt` the one before; a line with the SHA-256 of the rest comes first.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ablation.config import SCHEMA
from ablation.errors import UserError
from ablation.files import cannot_write, sealed, unsealed, write_atomically

NEWEST, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Make `state` the folder's newest checkpoint and keep the one before."""
    buffer = io.BytesIO()
    torch.save({"schema": SCHEMA} | state, buffer)
    data = sealed(buffer.getvalue())
    fresh = folder / "checkpoint.new.pt"
    write_atomically(fresh, lambda file: file.write(data))
    try:
        if (folder / NEWEST).exists():
            os.replace(folder / NEWEST, folder / PREVIOUS)
        os.replace(fresh, folder / NEWEST)
    except OSError as error:
        raise cannot_write(folder / NEWEST, error) from error


def load(folder: Path, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, or None if there never was one.

    A damaged one is reported to `warn` and passed over. Raises UserError if there are only damaged ones, or one that
    another version of the schema wrote.
    """
    names = [name for name in ("checkpoint.new.pt", NEWEST, PREVIOUS) if (folder / name).exists()]
    faults = []
    for name in names:
        try:
            state = read(folder / name)
        except ValueError as error:
            faults.append(f"{name}: {error}")
            if name != "checkpoint.new.pt":  # that one is missing its rename at the most; it is no loss
                warn(f"{folder / name} is damaged ({error}); trying the one before")
            continue
        if state.get("schema") != SCHEMA:
            raise UserError(
                "checkpoint", folder / name, f"has schema {state.get('schema')}, this version reads {SCHEMA}"
            )
        return state
    if faults:
        allowed = (
            f"no checkpoint is whole ({'; '.join(faults)}); overwrite=true starts anew and keeps this folder aside"
        )
        raise UserError("checkpoint", folder, allowed)
    return None


def read(path: Path) -> dict[str, Any]:
    """The contents of one checkpoint, on the CPU. Raises ValueError if it is not whole. Nothing in it is executed."""
    try:
        state = torch.load(unsealed(path.read_bytes()), map_location="cpu", weights_only=True)
    except ValueError:
        raise
    except Exception as error:  # torch raises a dozen kinds for a foreign file
        raise ValueError(f"{type(error).__name__}: {str(error).splitlines()[0]}") from None
    if not isinstance(state, dict):
        raise ValueError("it is not a checkpoint")
    return state


def remove(folder: Path) -> None:
    """Delete what a finished run does not need any more."""
    for name in ("checkpoint.new.pt", NEWEST, PREVIOUS):
        (folder / name).unlink(missing_ok=True)
