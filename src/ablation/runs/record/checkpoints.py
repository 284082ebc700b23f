"""Checkpoints: written atomically, checked by SHA-256, two generations; only tensors and plain values are read."""

import hashlib
import io
import reprlib
from pathlib import Path
from typing import Any

import torch

from ablation.config.identity import SCHEMA
from ablation.config.schema import Config
from ablation.errors import UserError
from ablation.networks.resnet import Network, layers_3x3
from ablation.runs.record.files import cannot_write, replace, write_atomically
from ablation.runs.record.history import is_row
from ablation.runs.record.record import fits

NEWEST, PREVIOUS = NAMES = ("checkpoint.pt", "checkpoint.previous.pt")  # newest first
START_ANEW = "overwrite=true starts anew and keeps this folder aside"
SEAL = "ablation-checkpoint sha256"
State = dict[str, Any]

KINDS: dict[str, Any] = {"id": str, "data": str, "training": dict, "gradients_at_start": dict, "best": dict}
KINDS |= {"history": list, "best.weights": dict | None}
KINDS |= dict.fromkeys(("seconds", "window_seconds", "train_seconds"), float)
KINDS |= dict.fromkeys(("training.step", "training.steps_summed", "best.step", "best.evaluations_since"), int)
CENTURY = 3e9  # seconds


def save(folder: Path, state: State) -> None:
    """Make `state` the folder's newest checkpoint and keep the one before. Raises UserError as write_atomically does.

    A process killed at any point leaves a whole checkpoint.
    """
    data, new = sealed(serialized({"schema": SCHEMA} | state)), folder / "checkpoint.new.tmp"
    write_atomically(new, lambda file: file.write(data))  # meets a full disk before the older generation is given up
    try:
        if (folder / NEWEST).exists():
            replace(folder / NEWEST, folder / PREVIOUS)
        replace(new, folder / NEWEST)
    except OSError as error:
        raise cannot_write(folder / NEWEST, error) from error


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


def check(state: State, config: Config, network: Network) -> None:
    """Raise ValueError if a whole checkpoint holds what a run of this kind cannot have written.

    Its checksum shows damage, not what somebody wrote into it. Loading its state dicts shows whether those fit.
    """
    steps, end = config.schedule.steps, {float: CENTURY, int: config.schedule.steps}
    for key, kind in KINDS.items():
        *groups, last = key.split(".")
        value: Any = (state[groups[0]] if groups else state).get(last)
        if not fits(value, kind) or (kind in end and not 0 <= value <= end[kind]):
            raise ValueError(f"{key} is {reprlib.repr(value)}")
    best, start, weights = state["best"], state["gradients_at_start"], network.state_dict()
    selected = config.selection == "best_test" and best["step"] > 0
    found = {name: getattr(value, "shape", None) for name, value in (best["weights"] or {}).items()}
    expected = {name: value.shape for name, value in weights.items()} if selected else {}
    if found != expected or not isinstance(best.get("error"), float):
        raise ValueError(f"best is {reprlib.repr(best)}")
    if [*start] != [name for name, _, _ in layers_3x3(network)] or {*map(type, start.values())} != {float}:
        raise ValueError(f"gradients_at_start is {reprlib.repr(start)}")
    rows = [row["step"] for row in state["history"] if is_row(row)]
    if len(rows) < len(state["history"]) or (state["training"]["step"] == steps and rows[-1:] != [steps]):
        raise ValueError(f"history has rows of the steps {reprlib.repr(rows)}")


def remove(folder: Path) -> None:
    """Delete the checkpoints of a finished run, the newest last."""
    for name in reversed(NAMES):
        (folder / name).unlink(missing_ok=True)
