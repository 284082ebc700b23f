"""What a run shows while it trains: a bar on a terminal, one plain line per evaluation elsewhere, or nothing."""

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

REFRESH_STEPS = 10
"""Steps between two looks at the bar: it must cost nothing."""


class Lines:
    """One plain line per evaluation."""

    def __init__(self, name: str) -> None:
        self.name = name

    def step(self, step: int) -> None:
        """Hear that a step was taken."""

    def row(self, row: dict[str, Any], steps: int) -> None:
        """Show a history row."""
        print(f"{self.name}  step {row['step']}/{steps}  {describe(row)}", flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""


class Silence(Lines):
    """Nothing at all."""

    def row(self, row: dict[str, Any], steps: int) -> None:
        pass


class Bar(Lines):
    """A progress bar with the newest row beside it."""

    def __init__(self, name: str, step: int, steps: int) -> None:
        super().__init__(name)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[latest]}"),
        )
        self.progress = Progress(*columns, console=Console(file=sys.stderr), refresh_per_second=4)
        self.task = self.progress.add_task(name, total=steps, completed=step, latest="")
        self.progress.start()

    def step(self, step: int) -> None:
        if step % REFRESH_STEPS == 0:
            self.progress.update(self.task, completed=step)

    def row(self, row: dict[str, Any], steps: int) -> None:
        self.progress.update(self.task, completed=row["step"], latest=describe(row))

    def close(self) -> None:
        self.progress.stop()


def describe(row: dict[str, Any]) -> str:
    """A history row in a few words; errors in percent."""
    parts = [
        f"loss {row['running_train_loss']:.4f}",
        f"train {row['running_train_error']:.2f}%",
        f"val {row['val_error']:.2f}%" if row["val_error"] is not None else "",
        f"test {row['test_error']:.2f}%",
        f"lr {row['lr']:.4g}",
        f"{row['images_per_second']:,.0f} img/s",
    ]
    return "  ".join(filter(None, parts))


def show(name: str, step: int, steps: int, progress: bool | None, alone: bool) -> Lines:
    """What `trainer.progress` asks for: null is a bar on a terminal and lines elsewhere, true a bar, false nothing.

    A terminal has room for the bar of one run: where it is not `alone`, lines are shown in its place.
    """
    if progress is False:
        return Silence(name)
    return Bar(name, step, steps) if alone and (progress or sys.stderr.isatty()) else Lines(name)
