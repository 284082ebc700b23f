"""Learning-rate schedules, in optimisation steps, computed where the network is trained.

A schedule is a table of one rate per step, made before training, and the little that depends on how training goes: the
110-layer warm-up (He et al. 2015, Sec. 4.2) and the notebook's ReduceLROnPlateau (Keras). Table, step counter and rate
are tensors on the device, so that a step asks nothing of the host and can be part of a CUDA graph.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

WARMUP_WINDOW = 100
"""Batches over which the training error of the warm-up rule is averaged."""


def multistep(lr: float, steps: int, milestones: Sequence[float], factor: float) -> list[float]:
    """`lr`, multiplied by `factor` at each of the `milestones`, which are fractions of `steps`."""
    drops = [round(milestone * steps) for milestone in milestones]
    return [lr * factor ** sum(step >= drop for drop in drops) for step in range(steps)]


def cosine(lr: float, steps: int) -> list[float]:
    """Half a cosine from `lr` at the first step towards zero behind the last (Loshchilov & Hutter 2016, eq. 5)."""
    return [lr * (1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps)]


def onecycle(lr: float, steps: int, peak: float) -> list[float]:
    """Linearly from near zero to `lr` at the fraction `peak`, then linearly towards zero (Smith & Topin 2017)."""
    top = min(max(round(peak * steps), 1), steps)
    return [lr * (step + 1) / top if step < top else lr * (steps - step) / (steps - top + 1) for step in range(steps)]


class Schedule:
    """A table of learning rates. `rate` is a 0-dim tensor that the optimizer reads; `begin` sets it for a step."""

    def __init__(self, table: Sequence[float], device: torch.device) -> None:
        self.table = torch.tensor(table, dtype=torch.float32, device=device)
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        self.rate = self.table[0].clone()

    def begin(self) -> None:
        """Set `rate` for the step that comes now."""
        self.rate.copy_(self.table.take(self.step))  # table[step] would ask the host

    def rate_at(self, step: int) -> float:
        """The rate that a step of late was taken with, for a message; waits for the device."""
        return float(self.table[step])

    def end(self, error: Tensor) -> None:
        """Count the step; `error` is its batch's error, a fraction, on the device."""
        self.step += 1

    def end_epoch(self, objective: float) -> None:
        """Hear the epoch's training loss, its L2 term included."""

    def state_dict(self) -> dict[str, Any]:
        """All that changes during training."""
        return {"step": self.step.clone(), "rate": self.rate.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.step.copy_(state["step"])
        self.rate.copy_(state["rate"])


class WarmUp(Schedule):
    """`warmup_lr` until the training error of the last 100 batches is below `warmup_error` percent, then the table.

    He et al. 2015, Sec. 4.2: "we use 0.01 to warm up the training until the training error is below 80% (about 400
    iterations), and then go back to 0.1". The table is not shifted: its milestones keep their steps.
    """

    def __init__(self, table: Sequence[float], device: torch.device, warmup_lr: float, warmup_error: float) -> None:
        super().__init__(table, device)
        self.warmup_lr = torch.full((), warmup_lr, device=device)
        self.warmup_error = warmup_error / 100
        self.recent = torch.ones(WARMUP_WINDOW, device=device)  # as if all were wrong before the first batch
        self.warm = torch.zeros((), dtype=torch.bool, device=device)

    def begin(self) -> None:
        self.rate.copy_(torch.where(self.warm, self.table.take(self.step), self.warmup_lr))

    def rate_at(self, step: int) -> float:
        return super().rate_at(step) if self.warm else float(self.warmup_lr)

    def end(self, error: Tensor) -> None:
        self.recent.index_copy_(0, (self.step % WARMUP_WINDOW).view(1), error.view(1).to(self.recent))
        self.warm |= self.recent.mean() < self.warmup_error
        super().end(error)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"recent": self.recent.clone(), "warm": self.warm.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.recent.copy_(state["recent"])
        self.warm.copy_(state["warm"])


class Plateau(Schedule):
    """Keras' ReduceLROnPlateau on the epoch's training loss (mode "min", no cooldown): times `factor` after `patience`
    epochs that were not better than the best by more than `min_delta`, never below `min_lr`.
    """

    def __init__(
        self, lr: float, steps: int, device: torch.device, factor: float, patience: int, min_delta: float, min_lr: float
    ) -> None:
        super().__init__([lr] * steps, device)
        self.factor, self.patience, self.min_delta, self.min_lr = factor, patience, min_delta, min_lr
        self.lr, self.best, self.wait = lr, math.inf, 0

    def end_epoch(self, objective: float) -> None:
        if objective < self.best - self.min_delta:
            self.best, self.wait = objective, 0
            return
        self.wait += 1
        if self.wait >= self.patience:
            self.lr, self.wait = min(self.lr, max(self.lr * self.factor, self.min_lr)), 0
            self.table.fill_(self.lr)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"lr": self.lr, "best": self.best, "wait": self.wait}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.lr, self.best, self.wait = state["lr"], state["best"], state["wait"]
        self.table.fill_(self.lr)


def build_schedule(
    kind: str,
    lr: float,
    steps: int,
    device: torch.device,
    *,
    milestones: Sequence[float] = (),
    factor: float = 0.1,
    warmup_lr: float | None = None,
    warmup_error: float = 80.0,
    peak: float = 0.3,
    patience: int = 5,
    min_delta: float = 0.01,
    min_lr: float = 1e-6,
) -> Schedule:
    """The schedule named by `kind`: "multistep" (with the warm-up if `warmup_lr` is given), "cosine", "onecycle" or
    "plateau". `lr` is its highest rate, `steps` its length. Raises ValueError for another kind.
    """
    if kind == "plateau":
        return Plateau(lr, steps, device, factor, patience, min_delta, min_lr)
    if kind == "multistep":
        table = multistep(lr, steps, milestones, factor)
        return Schedule(table, device) if warmup_lr is None else WarmUp(table, device, warmup_lr, warmup_error)
    if kind == "cosine":
        return Schedule(cosine(lr, steps), device)
    if kind == "onecycle":
        return Schedule(onecycle(lr, steps, peak), device)
    raise ValueError(f"unknown schedule {kind!r}")
