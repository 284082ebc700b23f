"""`hydra/launcher=slurm`: the runs of a sweep on a Slurm cluster, submitted by submitit.

Waiting: submitit asks accounting (sacct), and without one waits for a killed job for ever; here the queue is asked.
Leaving: a run writes a checkpoint; at the time limit (SIGUSR2) submitit requeues the job, and when Slurm takes it away
(SIGTERM: preemption, scontrol requeue, scancel) it ends without a result: whether it is requeued is Slurm's decision.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from ablation.config.schema import PACKAGE, Config
from ablation.errors import UserError
from ablation.interrupts import Interrupts
from ablation.launching.sweep import left_out
from ablation.runs.record.status import Outcome

try:
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError
except ImportError:
    raise UserError("hydra/launcher", "slurm", "needs submitit: pip install -e '.[slurm]'") from None
assert sys.platform != "win32"  # where there is no sbatch; mypy passes over the rest there

Job = submitit.Job[Any]

# submitit's options for every kind of cluster; the others are Slurm's and get the prefix `slurm_`.
SHARED = {"name", "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes"}
SHARED |= {"stderr_to_stdout"}
UNLISTED = "not in Slurm's queue"  # Slurm forgets an ended job after a few minutes
# States of squeue in which a job has ended, unless it is requeued a moment later.
ENDED = {UNLISTED, "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"}
ENDED |= {"PREEMPTED", "REVOKED", "TIMEOUT"}
LOOKS = 3  # in a row that find a job ended without a result before it is given up: a requeue takes a moment
# How often a requeued job tries a busy run again: a network file system holds a dead node's lock (NFS: 90 s).
RETRIES, RETRY_S = 9, 20


def train(configs: Sequence[Config], runs_per_job: int, poll_s: int, **options: Any) -> list[Outcome | None]:
    """Submit the runs with submitit's `options` and wait; None for a run whose job left no result. Raises UserError."""
    max_failures, left = options.pop("max_failures"), None
    batches = [list(configs[at : at + runs_per_job]) for at in range(0, len(configs), runs_per_job)]
    jobs = submit(batches, options)
    logs = jobs[0].paths.folder.parent
    print(f"Slurm: {len(jobs)} jobs of {len(configs)} runs; logs in {logs}", flush=True)
    queued = Outcome("", logs, "interrupted", "its Slurm job goes on; the same command finds what it did")
    refused = Outcome("", None, "interrupted", "Slurm did not take its job; the same command submits it")
    outcomes: list[Outcome | None] = [queued if i < len(jobs) * runs_per_job else refused for i in range(len(configs))]
    arrays = sorted({job.job_id.split("_")[0] for job in jobs})
    ended: list[Outcome | None] = []
    with Interrupts() as interrupts:
        for index, state in ends(jobs, queue, lambda: pause(poll_s, interrupts)):
            cancelled = left is not None and state in (UNLISTED, "CANCELLED")
            found = [left] * len(batches[index]) if cancelled else collect(jobs[index], state)
            outcomes[index * runs_per_job : (index + 1) * runs_per_job] = found or [None] * len(batches[index])
            ended += found or [None]
            if left is None and (left := left_out(ended, max_failures)):
                subprocess.run(["scancel", "--state=PENDING", *arrays])
    if interrupts.reason:
        print(f"the jobs are left in Slurm's queue; to end them: scancel {' '.join(arrays)}", flush=True)
    return outcomes


def submit(batches: list[list[Config]], options: dict[str, Any]) -> list[Job]:
    """Submit one Slurm job a batch, in arrays as large as the cluster allows (Slurm's default is 1001)."""
    if shutil.which("sbatch") is None:
        raise UserError("hydra/launcher", "slurm", "needs sbatch, srun and squeue on the PATH")
    setup = [
        f"export PYTHONPATH={shlex.quote(str(PACKAGE.parent))}:$PYTHONPATH",  # some clusters pass no environment on
        "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}",
        *(options["setup"] or []),
    ]
    timeouts, logs = options.pop("max_num_timeout"), batches[0][0].results_dir / "slurm" / "%j"
    executor = submitit.AutoExecutor(logs, cluster="slurm", slurm_max_num_timeout=timeouts)
    options["setup"] = setup
    executor.update_parameters(**{key if key in SHARED else f"slurm_{key}": value for key, value in options.items()})
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True).stdout
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", shown, re.MULTILINE)
    size = max(1, int(found[1] if found else 1001) - 1)
    jobs: list[Job] = []
    for at in range(0, len(batches), size):
        try:
            jobs += executor.map_array(SlurmJob(), batches[at : at + size])
        except (FailedJobError, FailedSubmissionError) as error:
            reason = str(error).strip().splitlines()[-1]
            if not jobs:
                raise UserError("hydra/launcher", "slurm", f"sbatch refused the jobs: {reason}") from None
            print(f"Slurm took {len(jobs)} of {len(batches)} jobs: {reason}", file=sys.stderr)
            break
    return jobs


class SlurmJob:
    """The work of one Slurm job on its node; to requeue it, submitit needs an object with these two methods."""

    def __call__(self, configs: list[Config]) -> list[Outcome]:
        from ablation.launching import gang  # here, and not above: it imports torch

        retries = RETRIES if int(os.environ.get("SLURM_RESTART_COUNT", 0)) else 0
        with Interrupts() as interrupts:  # on leaving it, submitit's handler of SIGUSR2 requeues the job and exits
            outcomes = gang.train(configs, len(configs))
            while retries and any(one.state == "busy" for one in outcomes) and pause(RETRY_S, interrupts):
                retries -= 1
                outcomes = gang.train(configs, len(configs))
        if interrupts.signal is signal.SIGTERM:
            sys.exit(128 + signal.SIGTERM)
        return outcomes

    def checkpoint(self, configs: list[Config]) -> Any:
        """What submitit requeues: the same call, since the runs resume by themselves."""
        return submitit.helpers.DelayedSubmission(self, configs)


def queue() -> dict[str, str] | None:
    """The state of each of this user's jobs that Slurm lists, by job number; None if it does not answer."""
    mine = ["--states=all", f"--user={os.getuid()}", "--array"]
    shown = subprocess.run(["squeue", *mine, "--noheader", "--format=%i %T"], capture_output=True, text=True)
    return None if shown.returncode else dict(line.split() for line in shown.stdout.splitlines() if line.strip())


def ends(
    jobs: Sequence[Job], look: Callable[[], dict[str, str] | None], pause: Callable[[], bool]
) -> Iterator[tuple[int, str | None]]:
    """Wait for all jobs; yield each one's index when it ends, with None if it has a result, else its last state.

    While Slurm does not answer (its controller restarts), no job is given up. `pause` waits between two looks and
    returns whether to go on.
    """
    waiting, looks_ended, shown = dict(enumerate(jobs)), Counter[int](), ""
    while waiting:
        states = look()
        for index, job in list(waiting.items()):
            state = states.get(job.job_id, UNLISTED) if states is not None else None
            if state is not None and state not in ENDED:
                looks_ended[index] = 0  # no look at the files of jobs that are alive: there may be thousands
                continue
            looks_ended[index] += state is not None
            folder = job.paths.folder  # listing it makes a network file system look again
            result = folder.is_dir() and job.paths.result_pickle.name in os.listdir(folder)
            if result or looks_ended[index] >= LOOKS:
                del waiting[index]
                yield index, None if result else state
        if states is not None:
            counts = Counter(states.get(job.job_id, UNLISTED).lower() for job in waiting.values())
            parts = [*sorted(counts.items()), ("ended", len(jobs) - len(waiting))]
            line = "Slurm: " + ", ".join(f"{count} {state}" for state, count in parts)
            if line != shown:
                print(shown := line, flush=True)
        if waiting and not pause():
            return


def pause(seconds: float, interrupts: Interrupts) -> bool:
    """Wait, but not once asked to leave; whether to go on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not interrupts.reason:
        time.sleep(min(0.5, seconds))
    return not interrupts.reason


def collect(job: Job, state: str | None) -> list[Outcome | None] | None:
    """What the job returned; None if it ended in this `state` without a result, or failed outside of its runs."""
    with suppress(UncompletedJobError):
        if state is None:
            return job.results()[0]
    fault = f"it is {state} and left no result" if state else "it failed"
    print(f"Slurm job {job.job_id}: {fault}; log: {job.paths.stdout}", file=sys.stderr, flush=True)
    return None
