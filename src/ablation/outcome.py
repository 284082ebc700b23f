"""How a run ended: what a job hands to its sweep, and the exit status of the program."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

State = Literal["done", "resumed", "skipped", "interrupted", "busy", "failed"]

EXIT_STATUS: dict[State, int] = {"done": 0, "resumed": 0, "skipped": 0, "failed": 1, "busy": 74, "interrupted": 75}
"""By state; 75 is EX_TEMPFAIL of sysexits.h: not an error, start again to go on."""


@dataclass(frozen=True)
class Outcome:
    """`state` is "resumed" for a run that was finished by going on from a checkpoint, "skipped" for one done before."""

    name: str
    folder: Path | None
    state: State
    message: str = ""
    metrics: dict[str, float | None] = field(default_factory=dict)

    @property
    def exit_status(self) -> int:
        return EXIT_STATUS[self.state]


def summary_table(outcomes: Sequence[Outcome]) -> None:
    """Print a row a job, and below it where to look for those that did not finish."""
    table = Table(title="Summary of the sweep", title_justify="left")
    table.add_column("run")
    table.add_column("state")
    for title in ("train error %", "test error %"):
        table.add_column(title, justify="right")
    console = Console(width=None if Console().is_terminal else 160)
    for outcome in outcomes:
        errors = [outcome.metrics.get(key) for key in ("train_error", "test_error")]
        shown = ["" if error is None else f"{error:.2f}" for error in errors]
        style = {"failed": "red", "interrupted": "yellow", "busy": "yellow"}.get(outcome.state, "")
        table.add_row(outcome.name, f"[{style}]{outcome.state}[/]" if style else outcome.state, *shown)
    console.print(table)
    counts = {state: sum(o.state == state for o in outcomes) for state in EXIT_STATUS}
    print(", ".join(f"{count} {state}" for state, count in counts.items() if count))
    for outcome in outcomes:
        if outcome.exit_status:
            where = f" ({outcome.folder})" if outcome.folder else ""
            print(f"{outcome.state}: {outcome.name}: {outcome.message}{where}")
