"""Checkpoints: written atomically, checked by SHA-256, two generations; only tensors and plain values are read."""

import hashlib
import io
import math
import os
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from ablation.config.identity import SCHEMA
from ablation.config.schema import Config
from ablation.errors import UserError
from ablation.networks.resnet import Network, layers_3x3
from ablation.runs.record.files import write_atomically
from ablation.runs.record.history import is_row
from ablation.runs.record.record import fits

NEWEST, PREVIOUS = NAMES = ("checkpoint.pt", "checkpoint.previous.pt")  # newest first
START_ANEW = "overwrite=true starts anew and keeps this folder aside"
SEAL = "ablation-checkpoint sha256"
State = dict[str, Any]

TIMES = ("seconds", "window_seconds", "train_seconds")
KINDS: dict[str, Any] = {"id": str, "data": str, "training": dict, "gradients_at_start": dict, "best": dict}
KINDS |= {"history": list, "best.error": Any, "best.weights": dict | None} | dict.fromkeys(TIMES, float)
KINDS |= dict.fromkeys(("training.step", "training.steps_summed", "best.step", "best.evaluations_since"), int)
CENTURY = 3e9  # seconds


def save(folder: Path, state: State) -> None:
    """Make `state` the folder's newest checkpoint and keep the one before. Raises UserError as write_atomically does.

    A process killed at any point leaves a whole checkpoint.
    """
    data = sealed(serialized({"schema": SCHEMA} | state))

    def write(file: IO[bytes]) -> None:
        file.write(data)
        file.flush()  # meets a full disk before the older generation is given up
        if not (folder / NEWEST).exists():
            return
        try:
            (folder / PREVIOUS).unlink(missing_ok=True)
            os.link(folder / NEWEST, folder / PREVIOUS)
        except OSError:  # no hard links here: until the new one is in place there is only the previous one
            os.replace(folder / NEWEST, folder / PREVIOUS)

    write_atomically(folder / NEWEST, write)


def serialized(state: State) -> bytes:
    """What torch.save writes, in memory: on a full disk it raises a RuntimeError in place of an OSError."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def sealed(payload: bytes) -> bytes:
    """`payload` after a line with its SHA-256, which `read` checks."""
    return f"{SEAL} {hashlib.sha256(payload).hexdigest()}\n".encode() + payload


def load(folder: Path, warn: Callable[[str], None]) -> State | None:
    """The newest whole checkpoint, or None if there is none at all. Raises UserError if all are damaged.

    A damaged one is reported to `warn` and skipped.
    """
    faults = []
    for name in present(folder):
        try:
            return read(folder / name)
        except ValueError as error:
            faults.append(f"{name}: {error}")
            warn(f"{folder / name} is damaged ({error})")
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
    for key, kind in KINDS.items():
        *groups, last = key.split(".")
        place = state[groups[0]] if groups else state
        if not fits(value := place.get(last), kind) or (kind is int and value > config.schedule.steps):
            raise ValueError(f"{key} is {reprlib.repr(value)}")
    best, times = state["best"], [state[key] for key in TIMES]
    if not 0 <= min(times) <= max(times) <= CENTURY:
        raise ValueError(f"its times are {times} seconds")
    if not isinstance(best["error"], float) or not (0 <= best["error"] <= 100 or best["error"] == math.inf):
        raise ValueError(f"best.error is {reprlib.repr(best['error'])}")
    selected, own = config.selection == "best_test" and best["error"] < math.inf, network.state_dict()
    shapes, expected = ({name: value.shape for name, value in w.items()} for w in (best["weights"] or {}, own))
    if shapes != (expected if selected else {}):
        raise ValueError("best.weights are not the network's")
    norms = state["gradients_at_start"]
    names = [name for name, _, _ in layers_3x3(network)]
    if [*norms] != names or not all(isinstance(norm, float) for norm in norms.values()):
        raise ValueError("gradients_at_start are not of the network's layers")
    steps = [row["step"] for row in state["history"] if is_row(row)]
    at_end = state["training"]["step"] == config.schedule.steps
    if len(steps) < len(state["history"]) or (at_end and steps[-1:] != [config.schedule.steps]):
        raise ValueError(f"its history has rows of steps {reprlib.repr(steps)}")


def remove(folder: Path) -> None:
    """Delete the checkpoints of a finished run, the newest last."""
    for name in reversed(NAMES):
        (folder / name).unlink(missing_ok=True)
