"""Signals, and a time limit, that ask a run to leave: it finishes its step and writes a checkpoint.

A second SIGINT ends the process at once. The time limit is the process's: that of a whole sweep, not of each run.
"""

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any, ClassVar

SIGNALS = tuple(s for s in signal.Signals if s.name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP"))
PROCESS_STARTED = time.monotonic()  # near enough: this module is imported before torch is


def asked_for() -> list[signal.Signals]:
    """SIGNALS, without the end of a terminal's connection where `nohup` has it ignored."""
    return [number for number in SIGNALS if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN]


class Interrupts:
    """Context manager that notes a signal or the end of the time limit (minutes since the process's start) in `reason`.

    One inside another also has the reason of the outer one, so that a signal during one job of a sweep ends the sweep.
    Only the main thread can note signals. On leaving the outermost, the old handlers are back, and one that is a
    function (a batch system's, which requeues the job) is called for the signal noted.
    In a `session`, a process that is not the run's own (a notebook), the time counts from here, a second SIGINT raises
    KeyboardInterrupt, and on leaving the signal noted is raised again: the old handler does what it always did.
    """

    current: ClassVar["Interrupts | None"] = None

    def __init__(self, time_limit: float | None = None, session: bool = False) -> None:
        started, self.session = time.monotonic() if session else PROCESS_STARTED, session
        self.deadline = None if time_limit is None else started + 60 * time_limit
        self.signal: signal.Signals | None = None
        self.old: dict[signal.Signals, Any] = {}
        self.outer: Interrupts | None = None

    def __enter__(self) -> "Interrupts":
        self.outer, Interrupts.current = Interrupts.current, self
        if self.outer is None and threading.current_thread() is threading.main_thread():
            self.old = {number: signal.signal(number, self.note) for number in asked_for()}
        return self

    def __exit__(self, *_exception: object) -> None:
        Interrupts.current = self.outer
        for number, handler in self.old.items():
            # SIG_DFL ends the process, which ends already, with its own status
            ends = self.signal and handler == signal.SIG_DFL and not self.session
            signal.signal(number, signal.SIG_IGN if ends else handler)
        if self.session and self.signal:
            signal.raise_signal(self.signal)
            return
        handler = self.old[self.signal] if self.signal else None
        if callable(handler) and handler is not signal.default_int_handler:
            handler(self.signal, None)

    def note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            if not self.session:
                os._exit(128 + signal.SIGINT)
            self.signal = None
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        advice = "; SIGINT again ends it at once" if number == signal.SIGINT else ""
        with suppress(OSError):  # `train.py 2>&1 | tee log`: the same Ctrl-C has ended the reader
            os.write(2, f"{self.signal.name}: leaving after this step, with a checkpoint{advice}\n".encode())

    @property
    def reason(self) -> str | None:
        if self.signal is not None:
            return f"it was asked to by {self.signal.name}"
        if self.deadline is not None and time.monotonic() > self.deadline:
            return "its time limit was reached"
        return self.outer.reason if self.outer else None
