"""Starts the process that uploads this program's runs to Weights & Biases, and hands it their folders.

That process (follower.py) polls the runs' own files, so training only writes its history. A hand-over is one small JSON
file in a spool folder. Notable: this module never imports wandb, so that no hook or thread of W&B and no server that
hangs touches the training; the program waits for the uploads once, at its end, for a bounded time.
"""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ablation.config.schema import ROOT
from ablation.errors import UserError
from ablation.runs.record.files import write_json

SYNC = "python src/dashboard.py sync"
"""The command that uploads later whatever was not uploaded."""


class Process:
    """The follower process, its spool folder, and the pipe whose end tells it that this program has ended."""

    def __init__(self, timeout: float) -> None:
        """Start it. `timeout`: seconds that W&B may take to answer, to begin or to finish. Raises OSError."""
        self.owner, self.timeout, self.handed_over = os.getpid(), timeout, 0
        self.spool = Path(tempfile.mkdtemp(prefix="ablation-spool-"))
        paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "WANDB__STATS_PID": str(self.owner)}
        environment |= {"WANDB_ERROR_REPORTING": "false"}  # offline means offline
        environment.pop("WANDB_SERVICE", None)  # another process's wandb service would end with that process
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ablation.tracking.follower", self.spool],
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal is for the run, whose status says how it ended
            env=environment,
        )

    def hand_over(self, job: dict[str, Any]) -> None:
        """Give it a run or a sweep. Raises UserError if the disk is full."""
        self.handed_over += 1
        write_json(self.spool / f"{self.handed_over:06}.json", job, durable=False)

    def finish(self) -> None:
        """Let it upload the rest, for three timeouts at most."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            problem = "its process died" if self.process.wait(3 * self.timeout) else ""
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self.process.kill()
            self.process.wait()
            problem = "did not end in time"
        shutil.rmtree(self.spool, ignore_errors=True)
        if problem:
            print(f"W&B: {problem}; the runs' own files hold everything; later: {SYNC}", flush=True)


_process: Process | None = None


def follow(folder: Path, mode: str, timeout: float) -> None:
    """Follow the run in `folder`, whose config.yaml and status.json are written, until its status says how it ended."""
    if mode != "disabled":
        hand_over({"folder": str(folder)}, timeout)


def follow_sweep(group: str, page: Path, rows: list[dict[str, Any]], settings: dict[str, Any], results: Path) -> None:
    """Upload a sweep: a row a job, the report at `page` and its figures. `settings`: the config's `tracker`."""
    if settings["mode"] != "disabled":
        job = {"group": group, "page": str(page), "rows": rows, "tracker": settings, "results": str(results)}
        hand_over(job, settings["timeout"])


def hand_over(job: dict[str, Any], timeout: float) -> None:
    """Hand a run or a sweep to this process's follower, which starts with the first one. Never raises."""
    global _process
    try:
        if _process is None or _process.owner != os.getpid():  # a forked child starts its own
            _process = Process(timeout)
            atexit.register(finish)
        _process.hand_over(job)
    except (OSError, UserError) as error:
        print(f"W&B: not tracked: {error}; later: {SYNC}", flush=True)


def finish() -> None:
    """Wait, for a bounded time, until everything is uploaded; called when the program ends."""
    global _process
    if _process is not None and _process.owner == os.getpid():
        _process.finish()
    _process = None
