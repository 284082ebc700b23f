"""Tells a process beside the training what to bring to Weights & Biases; wandb itself is never imported here.

The run's own files are the truth and `ablation.tracking.process` reads them: all that passes through the pipe is which
folder has news. Notable: a message never blocks, and nothing that W&B does (its signal and exit hooks, its
threads, a server that hangs) happens in the training process; it is waited for only at the program's end, for a
bounded time.
"""

import atexit
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

from ablation.config.schema import ROOT

SYNC = "python src/dashboard.py sync"
"""What brings to W&B, later, whatever did not get there."""


class Silent:
    """tracker=disabled: hears of everything and tells nobody."""

    def row(self) -> None:
        """Hear that the history has a new row."""

    def close(self) -> None:
        """Hear that the run has ended and that its status file says how."""


class Tracked(Silent):
    """One run that the tracker process follows."""

    def __init__(self, process: "TrackerProcess", folder: Path) -> None:
        self.process, self.folder = process, folder
        process.send("open", str(folder))

    def row(self) -> None:
        self.process.send("row", str(self.folder))

    def close(self) -> None:
        self.process.send("close", str(self.folder))


class TrackerProcess:
    """The process beside this one, and the pipe to it. No method raises: a run must not fail for its tracker."""

    def __init__(self, timeout: float) -> None:
        """`timeout` in seconds: how long W&B may take for each of reaching its server, beginning and finishing."""
        self.owner, self.timeout, self.alive = os.getpid(), timeout, True
        self.waiting: deque[bytes] = deque()
        paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
        # A wandb service that some other process began would end with that process.
        environment = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ablation.tracking.process", str(timeout)],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C at the terminal is for the run, which tells the tracker how it ended
                env=environment | {"PYTHONPATH": os.pathsep.join(paths), "ABLATION_TRACKED_PID": str(self.owner)},
            )
        except OSError as error:
            self.give_up(f"cannot be started: {error}")
            return
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.to, self.back = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.to, False)
        os.set_blocking(self.back, False)

    def send(self, verb: str, argument: str) -> None:
        """Pass a message on. While the pipe is full, messages wait here for a later call; a row is not waited for."""
        if not self.alive:
            return
        if verb != "row" or not self.waiting:
            self.waiting.append(f"{verb} {argument}\n".encode())
        self.flush()
        if verb == "row" and self.waiting:
            self.waiting.pop()
        self.show()

    def flush(self) -> None:
        """Write what waits, as far as the pipe takes it."""
        try:
            while self.waiting:
                os.write(self.to, self.waiting[0])  # shorter than PIPE_BUF: all of it or nothing
                self.waiting.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self.give_up("its process died")

    def show(self) -> None:
        """Print what the process has to say to the user."""
        try:
            while text := os.read(self.back, 65536):
                print(text.decode(errors="replace"), end="", flush=True)
        except OSError:
            pass  # nothing to read

    def give_up(self, reason: str) -> None:
        """Go on without W&B."""
        self.alive = False
        print(f"W&B: {reason}; the runs' own files hold everything; later: {SYNC}", flush=True)

    def finish(self) -> None:
        """Let the process end its work, for three timeouts at most."""
        if os.getpid() != self.owner or not self.alive:
            return
        deadline = time.monotonic() + 3 * self.timeout
        try:
            while self.waiting and self.alive and time.monotonic() < deadline:
                time.sleep(0.05)
                self.flush()
            self.alive = False
            assert self.process.stdin is not None
            self.process.stdin.close()  # the end of its input is the process's sign to end its work
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self.process.kill()
            self.process.wait()
            print(f"W&B: did not end in time; the runs' own files hold everything; later: {SYNC}", flush=True)
        self.show()


_process: TrackerProcess | None = None


def tracker_process(timeout: float) -> TrackerProcess:
    """The one tracker process of this process, started when first asked for; a forked child gets its own."""
    global _process
    if _process is None or _process.owner != os.getpid():
        _process = TrackerProcess(timeout)
        atexit.register(finish)
    return _process


def finish() -> None:
    """Wait, for a bounded time, until all is with W&B; called when the program ends."""
    global _process
    if _process is not None:
        _process.finish()
    _process = None


def track(folder: Path, mode: str, timeout: float) -> Silent:
    """Begin to follow the run in `folder`, whose config.yaml and history are in place."""
    return Silent() if mode == "disabled" else Tracked(tracker_process(timeout), folder)


def follow_sweep(group: str, page: Path, rows: list[dict[str, Any]], settings: dict[str, Any], results: Path) -> None:
    """Bring a sweep's summary table and its report's figures to W&B; `settings` are those of the config's tracker."""
    if settings["mode"] == "disabled":
        return
    told = {"group": group, "report": str(page), "runs": rows, "tracker": settings, "results": str(results)}
    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False) as file:  # its reader removes it
        json.dump(told, file)
    tracker_process(settings["timeout"]).send("sweep", file.name)
