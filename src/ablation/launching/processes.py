"""`hydra/launcher=processes`: the runs of a sweep side by side on one machine, each in a process of its own.

N at once, the machine's threads divided between them, GPUs handed out in turn. A process for each run, not a pool: one
that is killed (out of memory) takes no other with it.
"""

import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.process import BaseProcess

from ablation.config.schema import Config
from ablation.interrupts import Interrupts
from ablation.program import make_unbreakable
from ablation.runs.record.outcome import Outcome

SIGNAL_CHECK_S = 0.5
"""Seconds between two looks for a signal while no process ends."""


@dataclass(frozen=True)
class Slot:
    """A place for one process at a time."""

    threads: int
    gpu: str | None

    def environment(self) -> dict[str, str]:
        """The variables that torch and CUDA read when they start."""
        threads = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        return threads if self.gpu is None else threads | {"CUDA_VISIBLE_DEVICES": self.gpu}


def slots(processes: int | None, threads: int | None, cores: int, gpus: Sequence[str]) -> list[Slot]:
    """Places for `processes` (None: one for each GPU, else each core) of `threads` (None: the cores divided)."""
    count = processes or len(gpus) or cores
    share = threads or max(1, cores // count)
    return [Slot(share, gpus[i % len(gpus)] if gpus else None) for i in range(count)]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them, without importing torch."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name.strip() for name in listed.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    try:
        found = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(i) for i, _ in enumerate(line for line in found.stdout.splitlines() if line.startswith("GPU "))]


def train(configs: Sequence[Config], processes: int | None, threads: int | None) -> list[Outcome | None]:
    """Train the runs; None is the outcome of one whose process was killed."""
    free = slots(processes, threads, len(os.sched_getaffinity(0)), visible_gpus())[: len(configs)]
    print(f"{len(configs)} jobs, {len(free)} at once, {free[0].threads} threads each", flush=True)
    outcomes: list[Outcome | None] = [None] * len(configs)
    waiting = deque(range(len(configs)))
    running: dict[connection.Connection, tuple[int, Slot, BaseProcess]] = {}
    leaving = False
    with Interrupts() as interrupts:
        while waiting or running:
            if interrupts.reason and not leaving:
                leaving = True
                while waiting:
                    outcomes[waiting.pop()] = Outcome("", None, "interrupted", f"{interrupts.reason}; not begun")
                for _, _, process in running.values():
                    process.terminate()
            while waiting and free:
                index, slot = waiting.popleft(), free.pop(0)
                receiver, process = start(slot, configs[index])
                running[receiver] = (index, slot, process)
            ended = connection.wait(list(running), timeout=SIGNAL_CHECK_S)
            for receiver in [one for one in running if one in ended]:
                index, slot, process = running.pop(receiver)
                outcomes[index] = collect(receiver, process, configs[index].name())
                free.append(slot)
    return outcomes


def start(slot: Slot, config: Config) -> tuple[connection.Connection, BaseProcess]:
    """Start a run in a new process; its outcome comes through the connection."""
    spawn = get_context("spawn")  # not fork: the parent may have threads
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=child, args=(sender, slot, config))
    process.start()
    sender.close()
    return receiver, process


def collect(receiver: connection.Connection, process: BaseProcess, name: str) -> Outcome | None:
    """The outcome that a process sent before it ended; None if a signal killed it."""
    outcome = None
    with receiver, suppress(EOFError, OSError):
        outcome = receiver.recv()
    process.join()
    assert process.exitcode is not None
    if outcome is None:
        print(f"{name}: its process ended with exit status {process.exitcode}", flush=True)
        if process.exitcode >= 0:
            return Outcome("", None, "failed", f"its process ended with exit status {process.exitcode}")
    assert outcome is None or isinstance(outcome, Outcome)
    return outcome


def child(sender: connection.Connection, slot: Slot, config: Config) -> None:
    """Train one run in this process, which has not imported torch yet."""
    os.setpgrp()  # Ctrl-C reaches only the parent, which then asks each process once to leave
    os.environ.update(slot.environment())
    make_unbreakable()
    with Interrupts():  # around everything: a signal must not be lost while torch is imported
        threading.Thread(target=leave_with_parent, daemon=True).start()
        from ablation.launching.gang import Gang

        outcomes = Gang([config], at_once=2).train()  # 2: no progress bar on a terminal that other processes write to
        with suppress(OSError):  # the parent was killed
            sender.send(outcomes[0])


def leave_with_parent() -> None:
    """Wait until the parent has ended, however it did, then ask this process to checkpoint and leave."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
