"""`hydra/launcher=processes`: the jobs of a multirun side by side on one machine, each in a process of its own.

N at once, the machine's threads divided between them, GPUs handed out in turn. A process per job and not a pool: a job
that is killed (out of memory) takes no other one with it, and what it left is read from its folder. The jobs are
handed over with cloudpickle, because a task function lives in __main__.
"""

import io
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from typing import Any

import cloudpickle
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from ablation.errors import UserError
from ablation.interrupts import Interrupts
from ablation.program import Unbreakable, make_unbreakable
from ablation.runs.record.outcome import Outcome

LOOK_AROUND_S = 0.5
"""How long a signal may go unnoticed while nothing else happens."""


@dataclass(frozen=True)
class Slot:
    """A place for one process at a time."""

    threads: int
    gpu: str | None

    def environment(self) -> dict[str, str]:
        """What a process in this slot is told, before it imports torch."""
        threads = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        return threads if self.gpu is None else threads | {"CUDA_VISIBLE_DEVICES": self.gpu}


def slots(processes: int | None, threads: int | None, cores: int, gpus: Sequence[str]) -> list[Slot]:
    """The places that `processes` and `threads` ask for; None: one a GPU (else one a core), the cores divided."""
    count = processes or len(gpus) or cores
    share = threads or max(1, cores // count)
    return [Slot(share, gpus[i % len(gpus)] if gpus else None) for i in range(count)]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES writes them; torch is not asked: it takes seconds."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name.strip() for name in listed.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    try:
        found = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(i) for i, line in enumerate(x for x in found.stdout.splitlines() if x.startswith("GPU "))]


class Processes(Launcher):
    """Named by conf/hydra/launcher/processes.yaml, which says what the two numbers mean."""

    def __init__(self, processes: int | None, threads: int | None) -> None:
        """Raises UserError for a number that is not positive."""
        self.wanted = {"processes": processes, "threads": threads}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        for key, value in self.wanted.items():
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UserError(f"hydra.launcher.{key}", value, "must be a positive whole number or null")
        self.config, self.hydra_context, self.task_function = config, hydra_context, task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; those that a signal left unstarted or that were killed return nothing."""
        free = slots(**self.wanted, cores=len(os.sched_getaffinity(0)), gpus=visible_gpus())[: len(job_overrides)]
        print(f"{len(job_overrides)} jobs, {len(free)} at once, {free[0].threads} threads each", flush=True)
        context = cloudpickle.dumps((self.hydra_context, self.task_function, self.config, Singleton.get_state()))
        returns = [returned(overrides, None) for overrides in job_overrides]
        waiting = deque(range(len(job_overrides)))
        running: dict[connection.Connection, tuple[int, Slot, BaseProcess]] = {}
        with Interrupts() as interrupts:
            while running or (waiting and not interrupts.reason):
                while waiting and free and not interrupts.reason:
                    job, slot = waiting.popleft(), free.pop(0)
                    started = start(slot, context, list(job_overrides[job]), initial_job_idx + job)
                    running[started[0]] = (job, slot, started[1])
                if interrupts.reason:
                    for _, _, process in running.values():
                        process.terminate()
                for heard, value in finished(running):
                    job, slot, process = running.pop(heard)
                    process.join()
                    free.append(slot)
                    if value is None:
                        print(f"job {initial_job_idx + job} was ended, exit status {process.exitcode}", flush=True)
                    returns[job] = value or returns[job]
        return returns


def start(slot: Slot, context: bytes, overrides: list[str], index: int) -> tuple[connection.Connection, BaseProcess]:
    """Start a job in a fresh process; its JobReturn comes through the connection."""
    spawn = get_context("spawn")  # not fork: the parent may have threads
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=child, args=(sender, slot.environment(), context, overrides, index))
    process.start()
    sender.close()
    return receiver, process


def finished(running: dict[connection.Connection, Any]) -> Iterator[tuple[connection.Connection, JobReturn | None]]:
    """The connections of processes that ended within LOOK_AROUND_S, with what they returned; None: they were killed."""
    for ready in connection.wait(list(running), timeout=LOOK_AROUND_S):
        assert isinstance(ready, connection.Connection)
        try:
            yield ready, cloudpickle.loads(ready.recv_bytes())
        except EOFError:
            yield ready, None
        ready.close()


class Plain(io.TextIOWrapper):
    """A standard error that does not pass for a terminal: N progress bars on one would overwrite each other."""

    def isatty(self) -> bool:
        return False


def child(
    sender: connection.Connection, environment: dict[str, str], context: bytes, overrides: list[str], index: int
) -> None:
    """One job, in its own process: torch is first imported in here, and finds its threads and its GPU set."""
    os.setpgrp()  # Ctrl-C reaches the parent alone, which asks each job once to leave
    os.environ.update(environment)
    make_unbreakable()
    sys.stderr = Plain(io.BufferedWriter(Unbreakable(os.dup(2), "w")), errors="replace", line_buffering=True)
    with Interrupts():  # around everything: a signal while torch is being imported must not be lost
        hydra_context, task_function, config, state = cloudpickle.loads(context)
        returns = run_jobs(hydra_context, task_function, config, state, [overrides], index)
    sender.send_bytes(cloudpickle.dumps(returns[0]))


def run_jobs(
    hydra_context: HydraContext,
    task_function: TaskFunction,
    config: DictConfig,
    state: dict[Any, Any],
    jobs: Sequence[Sequence[str]],
    first: int,
) -> Sequence[JobReturn]:
    """Run jobs of a multirun, all at once, in another process than Hydra's, whose singletons are `state`."""
    from hydra_plugins.gang_launcher import GangLauncher  # here, and not above: Hydra imports its plugins in any order

    Singleton.set_state(state)
    setup_globals()
    gang = GangLauncher(at_once=len(jobs))
    gang.setup(hydra_context=hydra_context, task_function=task_function, config=config)
    return gang.launch(jobs, initial_job_idx=first)


def returned(overrides: Sequence[str], outcome: Outcome | None) -> JobReturn:
    """The return of a job that could not return by itself; without an outcome the sweep reads the run's folder."""
    return JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED, _return_value=outcome)
