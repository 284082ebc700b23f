"""Signals that ask a run to leave: it finishes its step and writes a checkpoint; a second SIGINT ends it at once."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Interrupts:
    """Context manager that notes a signal or the end of the time limit in `reason` instead of dying of it.

    Entered in the main thread only; elsewhere (a launcher's thread) just the time limit works. On leaving, the old
    handlers are back, and one that was a function (a batch system's, which requeues the job) hears the signal then.
    """

    def __init__(self, time_limit: float | None = None) -> None:
        """`time_limit` in minutes."""
        self.deadline = None if time_limit is None else time.monotonic() + 60 * time_limit
        self.signal: signal.Signals | None = None
        self.old: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            self.old = {number: signal.signal(number, self.note) for number in SIGNALS}
        return self

    def __exit__(self, *_exception: object) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)
        if self.signal is not None:
            handler = self.old[self.signal]
            if callable(handler) and handler is not signal.default_int_handler:
                handler(self.signal, None)

    def note(self, number: int, _frame: FrameType | None) -> None:
        """The handler: remember the first signal; leave at once on the second SIGINT."""
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            os._exit(128 + signal.SIGINT)
        self.signal = signal.Signals(number)

    @property
    def reason(self) -> str | None:
        """Why the run should leave now, or None."""
        if self.signal is not None:
            return f"it was asked to by {self.signal.name}"
        if self.deadline is not None and time.monotonic() > self.deadline:
            return "its time limit was reached"
        return None
