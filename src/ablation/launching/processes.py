"""`hydra/launcher=processes`: the runs of a sweep side by side on one machine, each in a process of its own.

A process for each run, not a pool: one that is killed (out of memory) takes no other with it.
"""

import os
import re
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import connection, get_context
from multiprocessing.context import SpawnProcess
from typing import Any

from ablation.config.schema import Config
from ablation.interrupts import Interrupts
from ablation.launching.sweep import left_out
from ablation.program import make_unbreakable
from ablation.runs.record.status import Outcome


def slots(processes: int | None, threads: int | None, cores: int, gpus: Sequence[str]) -> list[dict[str, str]]:
    """The environment variables of each of the `processes` at once (None: one a GPU, else one a core)."""
    count = processes or len(gpus) or cores
    share = str(threads or max(1, cores // count))
    places = [{"OMP_NUM_THREADS": share, "MKL_NUM_THREADS": share} for _ in range(count)]
    return [one | {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else one for i, one in enumerate(places)]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; torch is not imported for it."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name.strip() for name in listed.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    try:
        found = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, encoding="utf-8", timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"^GPU (\d+):", found.stdout, re.MULTILINE)


def train(
    configs: Sequence[Config], processes: int | None, threads: int | None, max_failures: int | None
) -> list[Outcome | None]:
    """Train the runs, and begin no other one after `max_failures`; None: its process was killed."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = slots(processes, threads, cores, visible_gpus())[: len(configs)]
    print(f"{len(configs)} jobs, {len(free)} at once, {free[0]['OMP_NUM_THREADS']} threads each", flush=True)
    outcomes: list[Outcome | None] = [None] * len(configs)
    waiting = deque(range(len(configs)))
    spawn = get_context("spawn")  # not fork: this process may have threads
    running: dict[Any, tuple[int, dict[str, str], SpawnProcess]] = {}
    ended: list[Outcome | None] = []
    leaving = False
    with Interrupts() as interrupts:
        while waiting or running:
            left = left_out(ended, max_failures)
            if interrupts.reason and not leaving:
                leaving = True
                left = Outcome("", None, "interrupted", f"{interrupts.reason}; not begun")
                for pipe in running:
                    with suppress(OSError):  # it has ended
                        pipe.send("leave")
            while waiting and left:
                outcomes[waiting.pop()] = left
            while waiting and free:
                index, slot = waiting.popleft(), free.pop(0)
                pipe, childs = spawn.Pipe()
                process = spawn.Process(target=child, args=(childs, slot, configs[index]))
                process.start()
                childs.close()  # the child has its own; the last one closed marks the end of what it sends
                running[pipe] = (index, slot, process)
            ready = connection.wait(list(running), timeout=0.5)  # seconds between two looks for a signal
            for pipe in [one for one in running if one in ready]:
                index, slot, process = running.pop(pipe)
                with pipe:  # closed only when the process has ended, to which that would mean that it is to leave
                    with suppress(EOFError, OSError):  # it was killed
                        outcomes[index] = pipe.recv()
                    process.join()
                if outcomes[index] is None:
                    print(f"{configs[index].name()}: its process ended with exit status {process.exitcode}", flush=True)
                free.append(slot)
                ended.append(outcomes[index])
    return outcomes


def child(pipe: connection.Connection, environment: dict[str, str], config: Config) -> None:
    """Train one run in this process, which has not imported torch yet."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # Ctrl-C reaches only the parent, which then asks each process once to leave
    os.environ.update(environment)
    make_unbreakable()
    with Interrupts():  # around everything: a signal must not be lost while torch is imported
        threading.Thread(target=leave_when_asked, args=(pipe,), daemon=True).start()
        from ablation.launching import gang

        outcomes = gang.train([config], at_once=2)  # 2: no progress bar on a terminal that other processes write to
        with suppress(OSError):  # the parent was killed
            pipe.send(outcomes[0])


def leave_when_asked(pipe: connection.Connection) -> None:
    """Wait until the parent asks for it or has ended, however it did, then make this process checkpoint and leave.

    Not by a signal from outside, which Windows does not have.
    """
    with suppress(EOFError, OSError):
        pipe.recv()
    signal.raise_signal(signal.SIGTERM)
