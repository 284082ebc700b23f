"""The process beside the training that talks to W&B: `python -m ablation.tracking.process TIMEOUT`.

Started by `ablation.tracking.tracker`, it reads `open FOLDER`, `row FOLDER`, `close FOLDER` and `sweep FILE` from its
standard input, and the runs' own files for all the rest. When its input ends, because the program did or was killed, it
finishes what is open and leaves. What the user should know goes to its standard output, a line each.
"""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ablation.interrupts import SIGNALS
from ablation.tracking.tracker import SYNC

OFFLINE_SECONDS = 600
"""How long an unreachable server is left alone before it is tried again, for the runs of a long sweep."""

NICE = 5
"""The training goes first where there are fewer cores than processes."""


class Follower:
    """Brings the runs it is told of to W&B; a fault of one run's tracking ends that run's tracking only."""

    def __init__(self, timeout: float, tracked_pid: int) -> None:
        from ablation.tracking.wandb_runs import (
            RunView,  # half a second: here, so that a missing wandb is told in one line
        )

        self.timeout, self.tracked_pid = timeout, tracked_pid
        self.views: dict[str, RunView] = {}
        self.offline_until = 0.0

    def hear(self, verb: str, argument: str) -> None:
        """Do what a line of the input asks for; say in one line why it could not be done."""
        does: dict[str, Callable[[str], None]] = {
            "open": self.open,
            "row": self.row,
            "close": self.close,
            "sweep": self.sweep,
        }
        try:
            does[verb](argument)
        except Exception as error:  # whatever wandb raises: the run goes on without it
            self.views.pop(argument, None)
            say(f"{Path(argument).name}: not tracked further: {error or type(error).__name__}; later: {SYNC}")

    def open(self, folder: str) -> None:
        from ablation.tracking.wandb_runs import NoKey, RunView, Settings, Unreachable, read_config

        config = read_config(Path(folder))
        assert config is not None, "its config.yaml cannot be read"
        chosen = config["tracker"]
        results = Path(folder).parent.parent
        settings = Settings(self.mode(chosen["mode"]), chosen["project"], chosen["entity"], self.timeout, results)
        try:
            self.views[folder] = RunView(Path(folder), settings, self.tracked_pid)
        except (NoKey, Unreachable) as error:
            if settings.mode == "offline":
                raise
            self.go_offline(str(error))
            self.open(folder)
            return
        self.row(folder)

    def mode(self, wished: str) -> str:
        """`wished`, or offline while the server is left alone."""
        return "offline" if time.monotonic() < self.offline_until else wished

    def go_offline(self, reason: str) -> None:
        self.offline_until = time.monotonic() + OFFLINE_SECONDS
        say(f"{reason}; runs are recorded offline; later: {SYNC}")

    def row(self, folder: str) -> None:
        if folder in self.views:
            self.views[folder].catch_up()

    def close(self, folder: str) -> None:
        if view := self.views.pop(folder, None):
            view.close()

    def sweep(self, path: str) -> None:
        told = json.loads(Path(path).read_text())
        Path(path).unlink()
        self.bring_sweep(told)

    def bring_sweep(self, told: dict[str, Any]) -> None:
        from ablation.tracking.wandb_runs import NoKey, Settings, Unreachable, log_sweep

        chosen = told["tracker"]
        results = Path(told["results"])
        settings = Settings(self.mode(chosen["mode"]), chosen["project"], chosen["entity"], self.timeout, results)
        try:
            log_sweep(told, settings)
        except (NoKey, Unreachable) as error:
            if settings.mode == "offline":
                raise
            self.go_offline(str(error))
            self.bring_sweep(told)

    def end(self) -> None:
        """Close what is open; the runs' status files say how they ended."""
        for folder in list(self.views):
            self.hear("close", folder)


def say(line: str) -> None:
    """A line for the user; there may be nobody left to hear it."""
    with contextlib.suppress(OSError):
        print(f"W&B: {' '.join(line.split())}", flush=True)


def main() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # meant for the run, which ends our input when it leaves
    os.nice(NICE)
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # offline means offline
    try:
        follower = Follower(float(sys.argv[1]), int(os.environ["ABLATION_TRACKED_PID"]))
    except ImportError as error:
        say(f"wandb cannot be imported ({error}); runs are not tracked; later: {SYNC}")
        return
    for line in sys.stdin:
        verb, _, argument = line.rstrip("\n").partition(" ")
        follower.hear(verb, argument)
    follower.end()


if __name__ == "__main__":
    main()
