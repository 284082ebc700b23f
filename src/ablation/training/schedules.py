"""Learning-rate schedules, in optimisation steps, computed where the network is trained.

A schedule is a table of one rate per step; `WarmUp` and `Plateau` depend on how training goes as well. Table, step
counter and rate are on the device, so that a step asks nothing of the host and can be part of a CUDA graph.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

WARMUP_WINDOW = 100  # batches over which the training error of the warm-up rule is averaged


class Schedule(nn.Module):
    """A table of learning rates. `rate` is a 0-dim tensor that the optimizer reads; `begin` sets it for a step.

    It is a module so that its buffers make its state dict: what changes during training.
    """

    table: Tensor
    step: Tensor
    rate: Tensor

    def __init__(self, table: Sequence[float], device: torch.device) -> None:
        super().__init__()
        self.register_buffer("table", torch.tensor(table, dtype=torch.float32, device=device), persistent=False)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64, device=device))
        self.register_buffer("rate", self.table[0].clone())

    def begin(self) -> None:
        self.rate.copy_(self.rate_at(self.step))

    def rate_at(self, step: Tensor | int) -> Tensor:
        """The rate of the coming step, or of one of the last steps, on the device."""
        return self.table.take(torch.as_tensor(step, device=self.table.device))  # table[step] would ask the host

    def end(self, error: Tensor) -> None:
        """Count the step; `error` is its batch's error, a fraction, on the device."""
        self.step += 1

    def end_epoch(self, objective: float) -> None:
        """Take note of the epoch's training loss, its L2 term included."""


class WarmUp(Schedule):
    """`warmup_lr` until the training error of the last 100 batches is below `warmup_error` percent, then the table.

    He et al. 2015, Sec. 4.2: "we use 0.01 to warm up the training until the training error is below 80% (about 400
    iterations), and then go back to 0.1". The table is not shifted: its milestones keep their steps.
    """

    recent: Tensor
    warm: Tensor

    def __init__(self, table: Sequence[float], device: torch.device, warmup_lr: float, warmup_error: float) -> None:
        super().__init__(table, device)
        self.warmup_lr, self.warmup_error = torch.full((), warmup_lr, device=device), warmup_error / 100
        self.register_buffer("recent", torch.ones(WARMUP_WINDOW, device=device))  # batches not seen yet count as wrong
        self.register_buffer("warm", torch.zeros((), dtype=torch.bool, device=device))

    def rate_at(self, step: Tensor | int) -> Tensor:
        return torch.where(self.warm, super().rate_at(step), self.warmup_lr)

    def end(self, error: Tensor) -> None:
        self.recent.index_copy_(0, (self.step % WARMUP_WINDOW).view(1), error.view(1).to(self.recent))
        self.warm |= self.recent.mean() < self.warmup_error
        super().end(error)


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

    def get_extra_state(self) -> tuple[float, float, int]:
        return self.lr, self.best, self.wait

    def set_extra_state(self, state: tuple[float, float, int]) -> None:
        self.lr, self.best, self.wait = state
        self.table.fill_(self.lr)


def build_schedule(kind: str, lr: float, steps: int, device: torch.device, **plan: Any) -> Schedule:
    """The schedule of `steps` steps with the highest rate `lr`; of `plan`, conf/schedule's other keys, its kind's.

    multistep: times `factor` at each of the `milestones`, fractions of `steps`; `WarmUp` if `warmup_lr` is given
    cosine:    half a cosine from `lr` at the first step towards zero behind the last (Loshchilov & Hutter 2016, eq. 5)
    onecycle:  linear from near zero to `lr` at the fraction `peak`, then towards zero (Smith & Topin 2017)
    plateau:   `Plateau`
    """
    if kind == "plateau":
        return Plateau(lr, steps, device, **{key: plan[key] for key in ("factor", "patience", "min_delta", "min_lr")})
    if kind == "cosine":
        return Schedule([lr * (1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps)], device)
    if kind == "onecycle":
        top = min(max(round(plan["peak"] * steps), 1), steps)
        down = [lr * (steps - step) / (steps - top + 1) for step in range(top, steps)]
        return Schedule([*(lr * (step + 1) / top for step in range(top)), *down], device)
    assert kind == "multistep", kind
    drops, warmup_lr = [round(milestone * steps) for milestone in plan["milestones"]], plan["warmup_lr"]
    table = [lr * plan["factor"] ** sum(step >= drop for drop in drops) for step in range(steps)]
    return Schedule(table, device) if warmup_lr is None else WarmUp(table, device, warmup_lr, plan["warmup_error"])
