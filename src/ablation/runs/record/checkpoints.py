"""Checkpoints: written atomically, checked by SHA-256, two generations; only tensors and plain values are read."""

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

from ablation.config.identity import SCHEMA
from ablation.errors import UserError
from ablation.runs.record.files import write_atomically

NEWEST, PREVIOUS = NAMES = ("checkpoint.pt", "checkpoint.previous.pt")  # newest first
START_ANEW = "overwrite=true starts anew and keeps this folder aside"
SEAL = "ablation-checkpoint sha256"
State = dict[str, Any]


def save(folder: Path, state: State) -> None:
    """Make `state` the folder's newest checkpoint and keep the one before. Raises UserError as write_atomically does.

    A process killed at any point leaves a whole checkpoint.
    """
    data, new = sealed(serialized({"schema": SCHEMA} | state)), folder / "checkpoint.new.tmp"
    write_atomically(new, lambda file: file.write(data))  # meets a full disk before the older generation is given up
    if (folder / NEWEST).exists():
        os.replace(folder / NEWEST, folder / PREVIOUS)
    os.replace(new, folder / NEWEST)


def serialized(state: State) -> bytes:
    """What torch.save writes, in memory: on a full disk it raises a RuntimeError in place of an OSError."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def sealed(payload: bytes) -> bytes:
    """`payload` after a line with its SHA-256, which `read` checks."""
    return f"{SEAL} {hashlib.sha256(payload).hexdigest()}\n".encode() + payload


def load(folder: Path) -> State | None:
    """The newest whole checkpoint, or None if there is none at all. Raises UserError if all are damaged.

    A line is printed about a damaged one.
    """
    faults = []
    for name in present(folder):
        try:
            return read(folder / name)
        except ValueError as error:
            faults.append(f"{name}: {error}")
            print(f"{folder / name} is damaged ({error})", flush=True)
    if faults:
        raise UserError("checkpoint", folder, f"no checkpoint is whole ({'; '.join(faults)}); {START_ANEW}")
    return None


def present(folder: Path) -> list[str]:
    return [name for name in NAMES if (folder / name).exists()]


def read(path: Path) -> State:
    """The contents of one checkpoint, on the CPU. Raises ValueError if it is damaged. No code in it is run."""
    try:
        data = path.read_bytes()
        payload = data.partition(b"\n")[2]
        if data != sealed(payload):
            raise ValueError("its checksum does not agree")
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file of another format
        raise ValueError(" ".join(str(error).split())[:80]) from None
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        raise ValueError(f"it is not a checkpoint of schema {SCHEMA}")
    return state


def remove(folder: Path) -> None:
    """Delete the checkpoints of a finished run, the newest last."""
    for name in reversed(NAMES):
        (folder / name).unlink(missing_ok=True)
