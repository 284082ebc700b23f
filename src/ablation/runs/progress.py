"""What a run shows while it trains: a bar on a terminal, one line per evaluation elsewhere, or nothing."""

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn


class Display:
    """A bar or lines about one run, as `trainer.progress` asks: null is a bar on a terminal, false nothing at all."""

    def __init__(self, name: str, step: int, steps: int, progress: bool | None, alone: bool) -> None:
        """`alone`: no other run writes to the terminal; a terminal has room for the bar of one run."""
        self.name, self.steps, self.lines = name, steps, progress is not False
        self.bar = None
        if self.lines and alone and (progress or sys.stderr.isatty()):
            columns = (BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn(), "{task.fields[latest]}")
            self.bar = Progress("{task.description}", *columns, console=Console(stderr=True), refresh_per_second=4)
            self.task = self.bar.add_task(name, total=steps, completed=step, latest="")
            self.bar.start()

    def step(self, step: int) -> None:
        if self.bar and step % 10 == 0:  # the bar must cost nothing
            self.bar.update(self.task, completed=step)

    def row(self, row: dict[str, Any]) -> None:
        val = f"  val {row['val_error']:.2f}%" if row["val_error"] is not None else ""
        errors = f"train {row['running_train_error']:.2f}%{val}  test {row['test_error']:.2f}%"
        speed = f"lr {row['lr']:.4g}  {row['images_per_second']:,.0f} img/s"
        latest = f"loss {row['running_train_loss']:.4f}  {errors}  {speed}"
        if self.bar:
            self.bar.update(self.task, completed=row["step"], latest=latest)
        elif self.lines:
            print(f"{self.name}  step {row['step']}/{self.steps}  {latest}", flush=True)

    def close(self) -> None:
        if self.bar:
            self.bar.stop()
