"""What a run shows while it trains: a bar on a terminal, one line in a notebook, lines elsewhere, or nothing."""

import importlib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

LINES = 50
"""Most lines about the evaluations of a run: a small training set has an epoch every few steps."""


class Bar(Progress):
    """A run in three lines, since one of 80 columns has no room for its name, a bar and the errors."""

    def get_renderables(self) -> Iterable[RenderableType]:
        for task in self.tasks:
            yield Text(task.description, no_wrap=True, overflow="ellipsis")
            yield self.make_tasks_table([task])
            yield Text(task.fields["latest"], no_wrap=True, overflow="ellipsis")


class Display:
    """A bar or lines about one run, as `trainer.progress` asks: null is a bar on a terminal, false nothing at all."""

    def __init__(self, name: str, step: int, steps: int, progress: bool | None, alone: bool) -> None:
        """`alone`: no other run writes to the terminal; a terminal has room for the bar of one run."""
        self.name, self.steps, self.lines = name, steps, progress is not False
        self.told = -1
        self.bar = self.cell = None
        console = Console(stderr=True)
        if self.lines and console.is_jupyter:
            display = importlib.import_module("IPython.display").display
            self.cell = display({"text/plain": f"{name}  0/{steps}"}, raw=True, display_id=True)
        elif self.lines and alone and (progress or sys.stderr.isatty()):
            speed = TextColumn("{task.fields[speed]}")
            columns = (BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn(), speed)
            self.bar = Bar(*columns, console=console, refresh_per_second=4, expand=True)
            self.task = self.bar.add_task(name, total=steps, completed=step, latest="", speed="")
            self.bar.start()

    def step(self, step: int) -> None:
        if self.bar and step % 10 == 0:  # the bar must cost nothing
            self.bar.update(self.task, completed=step)

    def row(self, row: dict[str, Any]) -> None:
        shown = errors(row, "running_train_error", "val_error", "test_error")
        latest = "  ".join([*shown, f"loss {row['running_train_loss']:.4f}", f"lr {row['lr']:.4g}"])
        speed = f"{row['images_per_second']:,.0f} images/s"
        line = f"{self.name}  step {row['step']}/{self.steps}  {latest}  {speed}"
        share = row["step"] * LINES // self.steps
        if self.bar:
            self.bar.update(self.task, completed=row["step"], latest=latest, speed=speed)
        elif self.cell:
            self.cell.update({"text/plain": line}, raw=True)
        elif self.lines and share > self.told:
            self.told = share
            print(line, flush=True)

    def close(self) -> None:
        if self.bar:
            self.bar.stop()


def errors(row: dict[str, Any], *keys: str) -> list[str]:
    """Those errors of a row or of a record's metrics that were measured, under their names."""
    return [f"{key.replace('_', ' ')} {row[key]:.2f} %" for key in keys if row[key] is not None]


@contextmanager
def announced(name: str, phase: str, progress: bool | None) -> Iterator[None]:
    """Say what a run is doing if it takes over a second, so that a terminal is not silent; a notebook shows it."""
    timer = Timer(1.0, print, [f"{name}  {phase}"], {"flush": True})
    timer.daemon = True
    if progress is not False and not Console(stderr=True).is_jupyter:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
