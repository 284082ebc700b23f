"""The process that uploads a program's runs to W&B: python -m ablation.tracking.follower SPOOL.

Started by tracker.py. It takes runs and sweeps from the spool folder and polls the runs' own files until its standard
input ends, because the program has finished or was killed. Problems go to the program's standard output, a line each.
"""

import json
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ablation.config.schema import Tracker
from ablation.errors import UserError, printable
from ablation.interrupts import SIGNALS
from ablation.tracking.tracker import SYNC
from ablation.tracking.uploads import RunUpload, read_run, upload_sweep

POLL_SECONDS = 1.0
OFFLINE_SECONDS = 600  # how long an unreachable server is left alone before a later run of the program tries it again


class Follower:
    """Uploads the runs and sweeps of the spool folder. A fault in one of them ends the upload of that one only."""

    def __init__(self) -> None:
        self.uploads: dict[str, RunUpload] = {}
        self.offline_until = 0.0

    def poll(self, spool: Path, ended: bool) -> None:
        """Upload what is new in the spool folder and the runs' files; close the runs that have ended, or all."""
        for path in sorted(spool.glob("[0-9]*.json")):
            job = json.loads(path.read_text())
            path.unlink()
            with self.reported(job.get("folder") or job["group"]):
                self.take(job)
        for folder in list(self.uploads):
            self.update(folder, ended)

    @contextmanager
    def reported(self, name: str) -> Iterator[None]:
        """Turn an error into a line that says which run or sweep W&B will not have all of."""
        try:
            yield
        except Exception as error:  # wandb raises many kinds
            self.uploads.pop(name, None)
            say(f"{Path(name).name}: not tracked further: {str(error) or type(error).__name__}")

    def take(self, job: dict[str, Any]) -> None:
        """Begin to follow a run, or upload a sweep."""
        if "group" in job:
            self.reach(Tracker(**job["tracker"]), lambda tracker: upload_sweep(job, tracker))
        else:
            folder, path = job["folder"], Path(job["folder"])
            if folder in self.uploads:  # it has ended and begun again since the last poll
                self.update(folder, last=True)
            directory = path.parent.parent / "wandb"
            tracker = read_run(path)[0].tracker
            self.uploads[folder] = self.reach(tracker, lambda tracker: RunUpload(path, tracker, directory))

    def update(self, folder: str, last: bool) -> None:
        """Log the new rows of a run; forget it if it has ended."""
        with self.reported(folder):
            if self.uploads[folder].update(last):
                del self.uploads[folder]

    def reach(self, tracker: Tracker, begin: Callable[[Tracker], Any]) -> Any:
        """What `begin` returns, online if that is asked for and possible, else offline."""
        if tracker.mode == "online" and time.monotonic() > self.offline_until:
            try:
                return begin(tracker)
            except UserError as error:
                self.offline_until = time.monotonic() + OFFLINE_SECONDS
                say(f"{error}; runs are recorded offline")
        return begin(replace(tracker, mode="offline"))


def say(line: str) -> None:
    """Print a line for the user, unless nobody reads the program's output any more."""
    with suppress(OSError):
        print(f"W&B: {' '.join(printable(line).split())}; later: {SYNC}", flush=True)


def main() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # they are for the run; this process ends after it
    os.nice(5)  # the training goes first where there are fewer cores than processes
    spool, follower, ended = Path(sys.argv[1]), Follower(), False
    try:
        while not ended:
            ended = bool(select.select([sys.stdin], [], [], POLL_SECONDS)[0])
            follower.poll(spool, ended)
    finally:
        shutil.rmtree(spool, ignore_errors=True)


if __name__ == "__main__":
    main()
