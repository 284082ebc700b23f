"""How a run ended: what a job returns to its sweep, and the exit status of the program."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

State = Literal["done", "resumed", "skipped", "interrupted", "busy", "failed"]

EXIT_STATUS: dict[State, int] = {"done": 0, "resumed": 0, "skipped": 0, "failed": 1, "busy": 74, "interrupted": 75}
"""By state; 75 is EX_TEMPFAIL of sysexits.h: not an error, start again to go on."""


@dataclass(frozen=True)
class Outcome:
    """`state`: "resumed" is a run that was finished by going on from a checkpoint, "skipped" was done before."""

    name: str
    folder: Path | None
    state: State
    message: str = ""
    metrics: dict[str, float | None] = field(default_factory=dict)

    @property
    def exit_status(self) -> int:
        return EXIT_STATUS[self.state]
