"""The process that brings a program's runs to W&B or TensorBoard: python -m ablation.tracking.follower.

Started by tracker.py. It reads runs and sweeps, a line of JSON each, from its standard input, and polls the runs' own
files until that ends, because the program has finished or was killed. Problems go to the program's standard output.
"""

import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

from ablation.config.schema import Tracker
from ablation.errors import UserError, printable
from ablation.interrupts import SIGNALS
from ablation.tracking.tracker import LATER
from ablation.tracking.uploads import RunUpload, read_run, upload_sweep

POLL_SECONDS = 1.0
OFFLINE_SECONDS = 600  # how long an unreachable server is left alone before a later run of the program tries it again


class Follower:
    """Uploads runs and sweeps. A fault in one of them ends the upload of that one only."""

    def __init__(self) -> None:
        self.uploads: dict[str, Any] = {}  # folder -> RunUpload or EventFiles
        self.offline_until = 0.0

    def poll(self, jobs: deque[dict[str, Any]], ended: bool) -> None:
        """Take up the new jobs, upload what is new in the runs' files; close the runs that have ended, or all."""
        while jobs:
            job = jobs.popleft()
            with self.reported(job.get("folder") or job["group"]):
                self.take(job)
        for folder in list(self.uploads):
            self.update(folder, ended)

    @contextmanager
    def reported(self, name: str) -> Iterator[None]:
        """Turn an error into a line that says which run or sweep is not tracked to its end."""
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
            results, tracker = path.parent.parent, read_run(path)[0].tracker
            if tracker.mode == "tensorboard":
                from ablation.tracking.event_files import EventFiles  # here, and not above: its package is an extra

                self.uploads[folder] = EventFiles(path, results / "tensorboard")
            else:
                self.uploads[folder] = self.reach(tracker, lambda known: RunUpload(path, known, results / "wandb"))

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
        print(f"tracker: {' '.join(printable(line).split())}; {LATER}", flush=True)


def listen(jobs: deque[dict[str, Any]], ended: Event) -> None:
    """Put what the program says into `jobs`; this waits, in a thread of its own, until the program ends."""
    for line in sys.stdin.buffer:
        with suppress(ValueError):  # the program was killed while it wrote
            jobs.append(json.loads(line))
    ended.set()


def main() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # they are for the run; this process ends after it
    if hasattr(os, "nice"):
        os.nice(5)  # the training goes first where there are fewer cores than processes
    jobs, ended, follower, last = deque[dict[str, Any]](), Event(), Follower(), False
    Thread(target=listen, args=(jobs, ended), daemon=True).start()
    while not last:
        last = ended.wait(POLL_SECONDS)
        follower.poll(jobs, last)


if __name__ == "__main__":
    main()
