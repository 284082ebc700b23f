"""What a run adds to its steps: record, history, checkpoints, progress, tracker; part by part, and as a whole."""

import io
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch

from ablation.benchmark.contenders import Ours, synchronize
from ablation.config.schema import Config
from ablation.data import Splits
from ablation.interrupts import Interrupts
from ablation.runs.progress import show
from ablation.runs.record.folder import RunFolder
from ablation.runs.run import Work, guarded
from ablation.tracking import tracker
from ablation.training import devices
from ablation.training.step import Training


def costs_of_a_run(config: Config, splits: Splits, device: torch.device, step_seconds: float) -> dict[str, float]:
    """What record, checkpoints, progress and tracker add to the steps of the run, in percent of the steps' time.

    Each is done as the run does it, in a folder of its own that is then removed, and counted as often as in the run.
    """
    steps = config.schedule.steps
    epochs = steps * config.data.batch_size / len(splits.train)
    with tempfile.TemporaryDirectory() as results, ExitStack() as stack:
        stack.enter_context(devices.own_stream(device))
        config = replace(config, results=results, overwrite=False)
        precision = devices.pick_precision(config.trainer.precision, device)
        folder = RunFolder(config.results_dir, config.name(), config.identity(precision))
        work = Work(config, folder, device, precision, splits)
        stack.enter_context(folder.held())
        folder.begin(config)
        begun = seconds(work.resume)
        stack.enter_context(redirect_stdout(io.StringIO()))
        shown = show(folder.name, 0, steps, None, alone=True)
        stack.callback(shown.close)
        work.training.advance()
        interrupts = Interrupts()
        many = 1000

        def look() -> None:
            for _ in range(many):
                assert interrupts.reason is None
                shown.step(1)

        looks = seconds(look) / many
        row = dict.fromkeys(ROW_KEYS, 1.0) | {"step": 1, "val_loss": None, "val_error": None}
        rows = statistics.median(seconds(lambda: write_row(work, row, shown.row, steps)) for _ in range(5))
        saves = statistics.median(seconds(work.save_checkpoint) for _ in range(3))
        ends = seconds(work.layers)
    parts = {
        "progress and signals, every step": looks * steps,
        "history and status, every epoch": rows * epochs,
        "checkpoint, every 2000 steps or as set": saves * (steps // config.trainer.checkpoint_every),
        "gradients at the start, layers for the record": begun + ends,
    }
    return {name: 100 * spent / (steps * step_seconds) for name, spent in parts.items()}


class Terminal(io.StringIO):
    """Where a progress bar draws itself as on a terminal, unseen."""

    def isatty(self) -> bool:
        """It says so."""
        return True


@dataclass(frozen=True)
class Phases:
    """Seconds up to the first step, from there to the last one, and behind it."""

    start: float
    training: float
    end: float


PICTURES = 1000
"""Of the test set, and ten times as many of the training set: evaluations are no part of what is measured."""


def whole_runs(
    config: Config, splits: Splits, device: torch.device, rounds: int, steps: int
) -> tuple[list[Phases], list[Phases]]:
    """Runs of `steps` with all that a run writes, shows and tells, and their steps and evaluations alone.

    In turn, after a round that does not count. With: record, history, status, checkpoints, progress bar, tracker
    process, signals, gradients and layers; building is in neither. Half-way and at the end are a history row and a
    checkpoint, so many more than in a run of the usual length. On a CPU the seconds are the training process's of the
    processor, which neighbours disturb less: without the tracker's process, and without waiting for a disk.
    """
    trainer = replace(config.trainer, evaluate_every=max(steps // 2, 1), checkpoint_every=max(steps // 2, 1))
    config = replace(config, trainer=replace(trainer, progress=True), schedule=replace(config.schedule, steps=steps))
    splits = replace(splits, train=splits.train[: 10 * PICTURES], test=splits.test[:PICTURES])
    both = [(whole_run(config, splits, device), bare_run(config, splits, device)) for _ in range(rounds + 1)]
    return [whole for whole, _ in both[1:]], [bare for _, bare in both[1:]]


def whole_run(config: Config, splits: Splits, device: torch.device) -> Phases:
    """A run up to its record, in a folder of its own that is then removed."""
    with tempfile.TemporaryDirectory() as results, ExitStack() as stack:
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(Terminal()))
        stack.enter_context(devices.own_stream(device))
        config = replace(config, results=results, overwrite=False)
        precision = devices.pick_precision(config.trainer.precision, device)
        folder = RunFolder(config.results_dir, config.name(), config.identity(precision))
        work = Work(config, folder, device, precision, splits)
        with folder.held():
            phases = phases_of(guarded(work, Interrupts(), alone=True), work.training, config.schedule.steps)
        stack.callback(tracker.finish)  # the tracker's process is done before its folder goes
        assert folder.record() is not None, "a run that is measured comes to its end"
        return phases


def bare_run(config: Config, splits: Splits, device: torch.device) -> Phases:
    """The same steps and evaluations, with nothing written or shown."""
    ours = Ours(config, splits, device)
    training = ours.training
    every = config.trainer.evaluate_every or config.schedule.steps

    def steps() -> Iterator[None]:
        while training.step < config.schedule.steps:
            training.advance()
            yield
            if training.step % every == 0:
                training.read_sums()
                training.evaluate(splits.test)
        training.evaluate(splits.test)
        training.evaluate(splits.train)

    with ours.stream:
        return phases_of(steps(), training, config.schedule.steps)


def phases_of(steps: Iterator[None], training: Training, last: int) -> Phases:
    """Exhaust `steps`, which advance `training` up to the step `last`, 2 or more."""
    device = training.device
    clock = time.process_time if device.type == "cpu" else time.perf_counter

    def now() -> float:
        synchronize(device)
        return clock()

    times = [now()]
    for until in (1, last, math.inf):
        for _ in steps:
            if training.step == until:
                break
        times.append(now())
    return Phases(*(after - before for before, after in pairwise(times)))


ROW_KEYS = (
    "epoch",
    "lr",
    "running_train_loss",
    "running_train_error",
    "objective",
    "test_loss",
    "test_error",
    "images_per_second",
    "wall_seconds",
)


def write_row(work: Work, row: dict[str, Any], shown: Callable[[dict[str, Any], int], None], steps: int) -> None:
    """What follows an evaluation."""
    work.history.append(row)
    work.folder.status("running", 1, steps)
    shown(row, steps)


def seconds(function: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
