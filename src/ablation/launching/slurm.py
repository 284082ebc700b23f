"""`hydra/launcher=slurm`: the runs of a sweep on a Slurm cluster, submitted by submitit.

- Waiting: submitit asks accounting (sacct) about a job without a result; where there is none, it waits for a killed job
  for ever. Here the queue is asked (squeue), which every Slurm has.
- Leaving: at the time limit (SIGUSR2) a run writes a checkpoint and submitit requeues the job. When Slurm takes the job
  away (SIGTERM: preemption, scontrol requeue, scancel), the run writes a checkpoint and the job ends without a result:
  whether it is requeued is Slurm's decision.
- One job may train several runs at once (`runs_per_job`), as a gang on its GPU.
"""

import os
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

from ablation.config.schema import ROOT, Config
from ablation.errors import UserError
from ablation.interrupts import Interrupts
from ablation.runs.record.outcome import Outcome

try:
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError
except ImportError:
    raise UserError("hydra/launcher", "slurm", "needs submitit: pip install -e '.[slurm]'") from None

Job = submitit.Job[Any]

SHARED = {"name", "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes"}
SHARED |= {"stderr_to_stdout"}
"""submitit's options for every kind of cluster; the others are Slurm's and get the prefix `slurm_`."""

UNLISTED = "not in Slurm's queue"
"""State of a job that the queue does not list: Slurm forgets an ended job after a few minutes."""

ENDED = {UNLISTED, "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"}
ENDED |= {"PREEMPTED", "REVOKED", "TIMEOUT"}
"""States of squeue in which a job has ended, unless it is requeued a moment later."""

LOOKS = 3
"""Looks at the queue in a row that find a job ended, without a result, before it is given up: a requeue takes a moment,
and so does a result on a network file system."""

LEASE_S, RETRY_S = 180, 20
"""For how long, and how often, a requeued job tries a run that is busy: a network file system holds the lock of a node
that died until its lease has run out (NFS: 90 s)."""


def train(configs: Sequence[Config], runs_per_job: int, poll_s: int, **options: Any) -> list[Outcome | None]:
    """Submit the runs, `options` being submitit's and sbatch's, and wait; None for a run whose job left no result.

    Looks at the queue every `poll_s` seconds. Raises UserError if Slurm refuses the first array of jobs.
    """
    batches = [list(configs[at : at + runs_per_job]) for at in range(0, len(configs), runs_per_job)]
    jobs = submit(batches, options)
    logs = jobs[0].paths.folder.parent
    print(f"Slurm: {len(jobs)} jobs of {len(configs)} runs; logs in {logs}", flush=True)
    queued = Outcome("", logs, "interrupted", "its Slurm job goes on; the same command finds what it did")
    refused = Outcome("", None, "interrupted", "Slurm did not take its job; the same command submits it")
    outcomes: list[Sequence[Outcome | None]] = [
        [queued if at < len(jobs) else refused] * len(batch) for at, batch in enumerate(batches)
    ]
    with Interrupts() as interrupts:
        for index, state in ends(jobs, queue, lambda: pause(poll_s, interrupts)):
            outcomes[index] = collect(jobs[index], state) or [None] * len(batches[index])
    if interrupts.reason:
        arrays = sorted({job.job_id.split("_")[0] for job in jobs})
        print(f"the jobs are left in Slurm's queue; to end them: scancel {' '.join(arrays)}", flush=True)
    return [outcome for batch in outcomes for outcome in batch]


def submit(batches: list[list[Config]], options: dict[str, Any]) -> list[Job]:
    """Submit one Slurm job a batch, in arrays as large as the cluster allows (Slurm's default is 1001)."""
    if shutil.which("sbatch") is None:
        raise UserError("hydra/launcher", "slurm", "needs sbatch, srun and squeue on the PATH")
    setup = [
        f"export PYTHONPATH={shlex.quote(str(ROOT / 'src'))}:$PYTHONPATH",  # some clusters pass no environment on
        "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}",
    ]
    options = options | {"setup": [*setup, *(options["setup"] or [])]}
    timeouts, logs = options.pop("max_num_timeout"), batches[0][0].results_dir / "slurm" / "%j"
    executor = submitit.AutoExecutor(logs, cluster="slurm", slurm_max_num_timeout=timeouts)
    executor.update_parameters(**{key if key in SHARED else f"slurm_{key}": value for key, value in options.items()})
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True).stdout.splitlines()
    sizes = [int(line.split("=")[1]) for line in shown if line.startswith("MaxArraySize")]
    size = max(1, (sizes or [1001])[0] - 1)
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
        """Train the runs of one batch."""
        from ablation.launching import gang  # here, and not above: it imports torch

        patience = LEASE_S if int(os.environ.get("SLURM_RESTART_COUNT", 0)) else 0
        with Interrupts() as interrupts:  # on leaving it, submitit's handler of SIGUSR2 requeues the job and exits
            outcomes = gang.train(configs, len(configs))
            while patience > 0 and not interrupts.reason and any(outcome.state == "busy" for outcome in outcomes):
                pause(RETRY_S, interrupts)
                patience -= RETRY_S
                outcomes = gang.train(configs, len(configs))
        if interrupts.signal is signal.SIGTERM:
            sys.exit(128 + signal.SIGTERM)
        return outcomes

    def checkpoint(self, configs: list[Config]) -> Any:
        """What submitit submits when it requeues the job: the same call, since the runs resume by themselves."""
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

    A requeued job is in the queue and is waited for. While Slurm does not answer (its controller restarts), no job is
    given up. `pause` waits between two looks and returns whether to go on.
    """
    waiting, looks_ended = dict(enumerate(jobs)), Counter[int]()
    shown = ""
    while waiting:
        states = look()
        for index, job in list(waiting.items()):
            state = states.get(job.job_id, UNLISTED) if states is not None else None
            if state is not None and state not in ENDED:
                looks_ended[index] = 0  # no look at the files of jobs that are alive: there may be thousands
                continue
            looks_ended[index] += state is not None
            result = has_result(job)
            if result or looks_ended[index] >= LOOKS:
                del waiting[index]
                yield index, None if result else state
        counts = Counter((states or {}).get(job.job_id, UNLISTED).lower() for job in waiting.values())
        parts = [*sorted(counts.items()), ("ended", len(jobs) - len(waiting))]
        line = "Slurm: " + ", ".join(f"{count} {state}" for state, count in parts)
        if states is not None and line != shown:
            print(shown := line, flush=True)
        if waiting and not pause():
            return


def pause(seconds: float, interrupts: Interrupts) -> bool:
    """Wait, but not once asked to leave; whether to go on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not interrupts.reason:
        time.sleep(min(0.5, seconds))
    return not interrupts.reason


def has_result(job: Job) -> bool:
    """Whether the job's result is there; listing the folder makes a network file system look again."""
    return job.paths.folder.is_dir() and job.paths.result_pickle.name in os.listdir(job.paths.folder)


def collect(job: Job, state: str | None) -> list[Outcome | None] | None:
    """What the job returned; None if it ended in this `state` without a result, or failed outside of its runs."""
    with suppress(UncompletedJobError):
        if state is None:
            outcomes: list[Outcome | None] = job.results()[0]
            return outcomes
    fault = f"it is {state} and left no result" if state else "it failed"
    print(f"Slurm job {job.job_id}: {fault}; log: {job.paths.stdout}", file=sys.stderr, flush=True)
    return None
