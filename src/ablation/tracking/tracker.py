"""Starts the process that uploads this program's runs to Weights & Biases, and hands it their folders.

That process (follower.py) finds them as small JSON files in a spool folder. Notable: this module never imports wandb,
so that no hook, thread or hanging server touches the training; the program waits at its end, for a bounded time.
"""

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ablation.config.schema import PACKAGE
from ablation.errors import UserError
from ablation.runs.record.files import write_json
from ablation.runs.record.status import process_is_gone

SYNC = "python src/dashboard.py sync"  # uploads later whatever was not uploaded


class Follower:
    """Starts the process that uploads what is in its spool folder. Raises OSError."""

    def __init__(self, timeout: float) -> None:
        self.owner, self.timeout = os.getpid(), timeout
        remove_old_spools()
        self.spool = Path(tempfile.mkdtemp(prefix=f"ablation-spool-{self.owner}-"))
        path = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        own = {"PYTHONPATH": path, "WANDB__STATS_PID": str(self.owner), "WANDB_ERROR_REPORTING": "false"}
        environment = os.environ | own
        environment.pop("WANDB_SERVICE", None)  # another process's wandb service would end with that process
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ablation.tracking.follower", self.spool],
            stdin=subprocess.PIPE,  # it ends with this program: then the pipe is closed
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal is for the run, whose status says how it ended
            env=environment,
        )


def remove_old_spools() -> None:
    """Remove what programs left that were killed together with their followers, more than an hour ago."""
    for spool in Path(tempfile.gettempdir()).glob("ablation-spool-*-*"):
        with suppress(OSError, ValueError):
            owner = {"pid": int(spool.name.split("-")[2]), "host": socket.gethostname()}
            if process_is_gone(owner) and time.time() - spool.stat().st_mtime > 3600:
                shutil.rmtree(spool)


_follower: Follower | None = None


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
    global _follower
    try:
        if _follower is None or _follower.owner != os.getpid():  # a forked child starts its own
            _follower = Follower(timeout)
            atexit.register(finish)
        write_json(_follower.spool / f"{time.monotonic_ns():020}.json", job, durable=False)
    except (OSError, UserError) as error:
        print(f"W&B: not tracked: {error}; later: {SYNC}", flush=True)


def finish() -> None:
    """Wait until everything is uploaded, for three timeouts at most; called when the program ends."""
    global _follower
    follower, _follower = _follower, None
    if follower is None or follower.owner != os.getpid():
        return
    try:
        follower.process.communicate(timeout=3 * follower.timeout)  # closes its standard input
        problem = "its process died" if follower.process.returncode else ""
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        follower.process.kill()
        follower.process.wait()
        problem = "did not end in time"
    shutil.rmtree(follower.spool, ignore_errors=True)
    if problem:
        print(f"W&B: {problem}; the runs' own files hold everything; later: {SYNC}", flush=True)
