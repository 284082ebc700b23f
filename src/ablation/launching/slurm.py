"""`hydra/launcher=slurm`: the jobs of a multirun on a Slurm cluster, through hydra-submitit-launcher.

Three things are ours. Waiting: submitit asks accounting (sacct) about a job without a result, and where there is none
it waits for a killed job for ever; here the queue is asked (squeue), which every Slurm has, and a killed job costs the
others nothing. Leaving: at the time limit (SIGUSR2) a run checkpoints and submitit requeues its job; when Slurm takes
the job away (SIGTERM: preemption, scontrol requeue, scancel) it checkpoints and leaves no result, because what becomes
of the job is Slurm's to say. Batching: one job may train several runs at once
(`runs_per_job`), as a gang on its GPU (src/ablation/launching/gang.py).
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher

from ablation.config.schema import ROOT
from ablation.errors import UserError
from ablation.interrupts import Interrupts
from ablation.launching.processes import returned, run_jobs
from ablation.runs.record.outcome import Outcome

if TYPE_CHECKING:  # Hydra imports this module at every start; submitit takes 0.2 s and is met only where it works
    import submitit

SHARED = ("name", "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes")
"""submitit's names for what every kind of cluster has (with stderr_to_stdout); all others are Slurm's."""

UNKNOWN = "unknown to Slurm"
"""What we call the state of a job that the queue does not list: Slurm forgets an ended job after a few minutes."""

ENDED = {UNKNOWN, "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"}
ENDED |= {"PREEMPTED", "REVOKED", "TIMEOUT"}
"""States of squeue from which a job does not come back, unless it is requeued a moment later."""

PATIENCE = 3
"""Looks at the queue in a row that must find a job gone, without a result, before it is given up: a requeue takes a
moment, and so does a result on a network file system."""

LEASE_S, RETRY_S = 180, 20
"""How long, and how often in it, a requeued job tries a run that looks taken: the lock of a node that died is let go
by a network file system when its lease has run out (NFS: 90 s)."""


class Slurm(SlurmLauncher):
    """Named by conf/hydra/launcher/slurm.yaml, where every parameter is explained."""

    def __init__(self, runs_per_job: int, poll_s: float, **params: Any) -> None:
        super().__init__(**params)
        self.runs_per_job, self.poll_s = runs_per_job, poll_s

    def setup(self, **context: Any) -> None:
        """Raises UserError for a number that makes no sense."""
        if not isinstance(self.runs_per_job, int) or self.runs_per_job < 1:
            raise UserError("hydra.launcher.runs_per_job", self.runs_per_job, "must be a positive whole number")
        if not isinstance(self.poll_s, int | float) or self.poll_s <= 0:
            raise UserError("hydra.launcher.poll_s", self.poll_s, "must be a positive number of seconds")
        super().setup(**context)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit the jobs as arrays and wait for all of them. Raises UserError where Slurm does not take them."""
        size = self.runs_per_job
        batches = [list(map(list, job_overrides[at : at + size])) for at in range(0, len(job_overrides), size)]
        starts = [initial_job_idx + at for at in range(0, len(job_overrides), size)]
        jobs = self.submit(batches, starts)
        logs = jobs[0].paths.folder.parent
        print(f"Slurm: {len(jobs)} jobs of {len(job_overrides)} runs; logs in {logs}", flush=True)
        alone = Outcome("", logs, "interrupted", "its Slurm job goes on; the same command finds what it did")
        unsent = Outcome("", None, "interrupted", "Slurm did not take its job; the same command submits it")
        known: list[Sequence[JobReturn]] = [
            [returned(overrides, alone if at < len(jobs) else unsent) for overrides in batch]
            for at, batch in enumerate(batches)
        ]
        with Interrupts() as interrupts:
            for index, state in ends(jobs, queue, lambda: pause(self.poll_s, interrupts)):
                known[index] = self.collect(jobs[index], state, batches[index])
        if interrupts.reason:
            arrays = sorted({job.job_id.split("_")[0] for job in jobs})
            print(f"the jobs are left in Slurm's queue; to end them: scancel {' '.join(arrays)}", flush=True)
        return [a_return for batch in known for a_return in batch]

    def submit(self, batches: list[list[list[str]]], starts: list[int]) -> "list[submitit.Job[Any]]":
        """One Slurm job a batch, in arrays as large as the cluster allows."""
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        assert self.config is not None
        if shutil.which("sbatch") is None:
            raise UserError("hydra/launcher", "slurm", "needs sbatch, srun and squeue on the PATH")
        results = Path(self.config.results or ROOT / "results").resolve()
        params = {
            key if key in (*SHARED, "stderr_to_stdout") else f"slurm_{key}": value for key, value in self.params.items()
        }
        executor = submitit.AutoExecutor(
            results / "slurm" / "%j", cluster="slurm", slurm_max_num_timeout=params.pop("slurm_max_num_timeout")
        )
        executor.update_parameters(**params | {"slurm_setup": [*environment(), *(self.params["setup"] or [])]})
        jobs: list[submitit.Job[Any]] = []
        largest = largest_array()
        for at in range(0, len(batches), largest):
            part = slice(at, at + largest)
            states = [Singleton.get_state()] * len(batches[part])
            try:
                jobs += executor.map_array(self, batches[part], starts[part], states)
            except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
                if jobs:  # those are in the queue: their work is waited for, the rest is for the next time
                    print(f"Slurm took {len(jobs)} of {len(batches)} jobs: {last_line(error)}", file=sys.stderr)
                    break
                raise UserError("hydra/launcher", "slurm", f"sbatch refused the jobs: {last_line(error)}") from None
        return jobs

    def __call__(self, batch: list[list[str]], start: int, state: dict[Any, Any]) -> list[JobReturn]:
        """The work of one Slurm job, on its node."""
        assert self.config is not None
        context = (self.hydra_context, self.task_function, self.config)
        requeued = int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0
        patience = LEASE_S if requeued else 0
        with Interrupts() as interrupts:  # on leaving, SIGUSR2 is submitit's, which requeues the job and exits
            returns = run_jobs(*context, state, batch, start)
            while patience > 0 and not interrupts.reason and any(map(is_busy, returns)):
                pause(RETRY_S, interrupts)
                patience -= RETRY_S
                returns = run_jobs(*context, state, batch, start)
        if interrupts.signal is signal.SIGTERM:
            sys.exit(128 + signal.SIGTERM)
        return list(returns)

    def collect(self, job: "submitit.Job[Any]", state: str | None, batch: list[list[str]]) -> Sequence[JobReturn]:
        """What the job returned; nothing for its runs if it did not live to return, or failed outside of them."""
        from submitit.core.utils import FailedJobError, UncompletedJobError

        if state is None:
            try:
                returns: Sequence[JobReturn] = job.results()[0]
                return returns
            except (FailedJobError, UncompletedJobError) as error:
                fault = last_line(error)
        else:
            fault = f"it is {state} and left no result"
        print(f"Slurm job {job.job_id}: {fault}; log: {job.paths.stdout}", file=sys.stderr, flush=True)
        return [returned(overrides, None) for overrides in batch]


def is_busy(job: JobReturn) -> bool:
    """Whether the job left its run to another process."""
    return isinstance(job._return_value, Outcome) and job._return_value.state == "busy"


def environment() -> list[str]:
    """Shell lines before the job's work: src/ on the path also where sbatch passes no environment on, and its cores."""
    return [
        f"export PYTHONPATH={shlex.quote(str(ROOT / 'src'))}:$PYTHONPATH",
        "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}",
    ]


def largest_array() -> int:
    """How many jobs one array may have here; 1000 (Slurm's default allows 1001) where it does not say."""
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True)
    sizes = [line.split("=")[1] for line in shown.stdout.splitlines() if line.startswith("MaxArraySize")]
    return max(1, int(sizes[0]) - 1) if sizes else 1000


def queue() -> dict[str, str] | None:
    """The state of each of this user's jobs that Slurm still knows, by job number; None if it does not answer."""
    mine = ["--states=all", f"--user={os.getuid()}", "--array"]
    shown = subprocess.run(["squeue", *mine, "--noheader", "--format=%i %T"], capture_output=True, text=True)
    if shown.returncode:
        return None
    return dict(line.split() for line in shown.stdout.splitlines() if line.strip())


def ends(
    jobs: "Sequence[submitit.Job[Any]]", look: Callable[[], dict[str, str] | None], pause: Callable[[], bool]
) -> Iterator[tuple[int, str | None]]:
    """Wait for all jobs; yield each one's index when it ends, with None if it has a result, else its last known state.

    A requeued job is in the queue and is waited for. While Slurm does not answer (its controller restarts), a job
    without a result counts as alive. `pause` waits between two looks and says whether to go on.
    """
    waiting, gone = dict(enumerate(jobs)), Counter[int]()
    shown = ""
    while waiting:
        states = look()
        for index, job in list(waiting.items()):
            state = "unanswered" if states is None else states.get(job.job_id, UNKNOWN)
            if states is not None and state not in ENDED:
                gone[index] = 0  # the files of jobs that are alive are not looked at: there may be thousands
            elif has_result(job):
                del waiting[index]
                yield index, None
            elif states is not None:
                gone[index] += 1
                if gone[index] >= PATIENCE:
                    del waiting[index]
                    yield index, state
        if states is not None and (line := progress(waiting.values(), states, len(jobs))) != shown:
            print(shown := line, flush=True)
        if waiting and not pause():
            return


def pause(seconds: float, interrupts: Interrupts) -> bool:
    """Wait, but not when asked to leave; whether to go on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not interrupts.reason:
        time.sleep(min(0.5, seconds))
    return not interrupts.reason


def progress(waiting: "Iterable[submitit.Job[Any]]", states: dict[str, str], total: int) -> str:
    """One line: how many jobs are in which state."""
    counts = Counter(states.get(job.job_id, UNKNOWN).lower() for job in waiting)
    ended = total - sum(counts.values())
    return "Slurm: " + ", ".join(f"{count} {state}" for state, count in [*sorted(counts.items()), ("ended", ended)])


def has_result(job: "submitit.Job[Any]") -> bool:
    """Whether the job's result is there; a look into its folder makes a network file system forget what it knew."""
    try:
        os.listdir(job.paths.folder)
    except OSError:
        return False
    return bool(job.paths.result_pickle.exists())


def last_line(error: BaseException) -> str:
    """What an error of submitit or Slurm comes down to: the last line of its text that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" -")]
    tidy = [line for line in lines if not line.startswith(("You can check full logs", "- /"))]
    return (tidy or [type(error).__name__])[-1]
