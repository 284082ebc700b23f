"""Starts the process that brings this program's runs to W&B or TensorBoard, and tells it their folders.

That process (follower.py) is told of each in a line of JSON. Notable: this module never imports wandb, so that no
hook, thread or hanging server touches the training; the program waits at its end, for a bounded time.
"""

import atexit
import json
import os
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ablation.config.schema import PACKAGE
from ablation.errors import UserError

LATER = "later: python src/dashboard.py sync (W&B), tensorboard"  # for whatever was not tracked


class Follower:
    """Starts the process, which reads what to follow from its standard input. Raises OSError."""

    def __init__(self, timeout: float) -> None:
        self.owner, self.timeout = os.getpid(), timeout
        path = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        own = {"PYTHONPATH": path, "WANDB__STATS_PID": str(self.owner), "WANDB_ERROR_REPORTING": "false"}
        own |= {"PYTHONIOENCODING": ":replace"}  # for a name that the terminal's encoding lacks
        environment = os.environ | own
        environment.pop("WANDB_SERVICE", None)  # another process's wandb service would end with that process
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ablation.tracking.follower"],
            stdin=subprocess.PIPE,  # it ends with this program: then the pipe is closed
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal is for the run, whose status says how it ended
            env=environment,
        )


_follower: Follower | None = None


def check_installed(mode: str) -> None:
    """Raise UserError for a tracker whose package is an extra and is not there."""
    if mode == "tensorboard" and find_spec("tensorboard") is None:
        raise UserError("tracker", mode, "is not installed: pip install tensorboard")


def follow(folder: Path, mode: str, timeout: float) -> None:
    """Follow the run in `folder`, whose config.yaml and status.json are written, until its status says how it ended."""
    if mode != "disabled":
        hand_over({"folder": str(folder)}, timeout)


def follow_sweep(group: str, page: Path, rows: list[dict[str, Any]], settings: dict[str, Any], results: Path) -> None:
    """Upload a sweep: a row a job, the report at `page` and its figures. `settings`: the config's `tracker`."""
    if settings["mode"] in ("offline", "online"):
        job = {"group": group, "page": str(page), "rows": rows, "tracker": settings, "results": str(results)}
        hand_over(job, settings["timeout"])


def hand_over(job: dict[str, Any], timeout: float) -> None:
    """Hand a run or a sweep to this process's follower, which starts with the first one. Never raises."""
    global _follower
    try:
        if _follower is None or _follower.owner != os.getpid():  # a forked child starts its own
            _follower = Follower(timeout)
            atexit.register(finish)
    except OSError as error:
        print(f"tracker: not started: {error}; {LATER}", flush=True)
        return
    pipe = _follower.process.stdin
    assert pipe is not None
    with suppress(OSError):  # the process died: `finish` says so
        pipe.write(json.dumps(job).encode() + b"\n")
        pipe.flush()


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
    if problem:
        print(f"tracker: {problem}; the runs' own files hold everything; {LATER}", flush=True)
