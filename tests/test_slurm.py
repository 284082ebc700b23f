"""A multirun on a real Slurm (tests/slurm_cluster.py): requeue, preemption, time limit, scancel, losses.

Each disturbance hits a run that is held still by SIGSTOP in mid-training, so that nothing depends on how fast it is.
"Bit-identical" compares the record's SHA-256 of the weights with that of the same run, undisturbed and without Slurm.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import slurm_cluster

pytest.importorskip("submitit", reason="needs the extra: pip install -e '.[slurm]'")
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(slurm_cluster.missing()), reason=f"no Slurm here: {slurm_cluster.missing()}"),
]

TRAIN = Path(__file__).resolve().parents[1] / "src" / "train.py"
RUN = """
model.depth=8 data=digits data.batch_size=32 schedule=onecycle schedule.steps=120 augmentation=none trainer=reference
trainer.device=cpu trainer.checkpoint_every=10 tracker=disabled
""".split()  # noqa: SIM905
ON_SLURM = """
hydra/launcher=slurm hydra.launcher.gpus_per_node=null hydra.launcher.cpus_per_task=1 hydra.launcher.mem_gb=1
hydra.launcher.poll_s=1
""".split()  # noqa: SIM905
CPUS = 6
PATIENCE_S = 240


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """The environment in which Slurm's commands find the cluster."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the user munge must get in, which keeps pytest's own folders out
        try:
            yield plain_environment() | slurm_cluster.start(folder, CPUS)
        finally:
            slurm_cluster.stop(folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """The weights' digests by seed, of runs that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, str(TRAIN), "-m", *RUN, f"results={folder}", "seed=0,1,2,3,4"]
    subprocess.run(command, check=True, cwd=folder, env=plain_environment(), stdout=subprocess.DEVNULL)
    return {record["seed"]: record["weights_sha256"] for record in records(folder)}


def plain_environment() -> dict[str, str]:
    """One thread, and no PYTHONPATH: the workers must find the package by themselves."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}


class Sweep:
    """`python src/train.py -m` with the Slurm launcher, in the background."""

    def __init__(self, cluster: dict[str, str], results: Path, *overrides: str) -> None:
        self.results, self.cluster = results, cluster
        results.mkdir(exist_ok=True)
        command = [sys.executable, str(TRAIN), "-m", *RUN, f"results={results}", *ON_SLURM, *overrides]
        self.log = results / "launcher.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, cwd=results, env=cluster, stdout=log, stderr=subprocess.STDOUT)

    def hold(self, *seeds: int) -> dict[int, int]:
        """Stop the runs of `seeds` as soon as each is in mid-training; returns their process ids by seed."""
        held: dict[int, int] = {}

        def all_held() -> bool:
            for seed in set(seeds) - set(held):
                status = self.status(seed)
                assert status is None or status["status"] == "running", f"it ended before it could be held: {status}"
                if status is not None and status["step"] >= 10:
                    os.kill(status["pid"], signal.SIGSTOP)
                    held[seed] = status["pid"]
            return len(held) == len(seeds)

        until(all_held, f"{seeds} train")
        return held

    def status(self, seed: int) -> dict[str, Any] | None:
        paths = list(self.results.glob(f"runs/*seed{seed}-*/status.json"))
        return json.loads(paths[0].read_text()) if paths else None

    def job(self, index: int = 0) -> str:
        """Slurm's number of the sweep's job `index`."""
        folders = [path.name for path in (self.results / "slurm").iterdir() if list(path.glob("*_submitted.pkl"))]
        arrays = sorted({int(name.split("_")[0]) for name in folders})
        return f"{arrays[-1]}_{index}" if f"{arrays[-1]}_{index}" in folders else str(arrays[-1])

    def slurm(self, *command: str) -> str:
        return subprocess.run(command, env=self.cluster, check=True, capture_output=True, text=True).stdout

    def end(self) -> tuple[int, str]:
        """Wait for the launcher; its exit status and what it printed."""
        try:
            status = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail(f"the launcher hangs: {self.log.read_text()}\n{self.slurm('squeue')}")
        return status, self.log.read_text()


def until(look: Callable[[], Any], what: str) -> Any:
    """What `look` returns once that is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (seen := look()):
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)
    return seen


def records(results: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(results.glob("runs/*/record.json"))]


def digests(results: Path) -> dict[int, str]:
    return {record["seed"]: record["weights_sha256"] for record in records(results)}


def test_a_sweep_in_which_jobs_are_requeued_cancelled_and_killed(
    cluster: dict[str, str], undisturbed: dict[int, str], tmp_path: Path
) -> None:
    results = tmp_path / "results"
    sweep = Sweep(cluster, results, "seed=0,1,2,3,4")
    held = sweep.hold(0, 1, 2, 3, 4)
    os.kill(held[0], signal.SIGCONT)
    sweep.slurm("scontrol", "requeue", sweep.job(1))
    sweep.slurm("scancel", "--signal=USR2", sweep.job(2))  # what --signal=USR2@120 does before the time limit
    os.kill(held[2], signal.SIGCONT)
    sweep.slurm("scancel", sweep.job(3))
    os.kill(held[4], signal.SIGKILL)
    status, shown = sweep.end()
    assert status == 75, shown  # not all is done, and the same command goes on
    assert "1 done, 2 resumed, 2 interrupted" in shown
    assert f"Slurm job {sweep.job(3)}: it is " in shown
    assert digests(results) == {seed: undisturbed[seed] for seed in (0, 1, 2)}
    assert all(record["timing"]["resumed_at"] for record in records(results) if record["seed"] != 0)
    assert len(list(results.glob("runs/*"))) == 5  # the same folders: nothing began anew elsewhere

    status, shown = Sweep(cluster, results, "seed=2,3,4").end()
    assert status == 0, shown
    assert "2 resumed, 1 skipped" in shown
    assert digests(results) == undisturbed


def test_the_time_limit(cluster: dict[str, str], undisturbed: dict[int, str], tmp_path: Path) -> None:
    limit = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=10"]
    sweep = Sweep(cluster, tmp_path / "results", "seed=0", *limit)
    pid = sweep.hold(0)[0]
    stat = Path(f"/proc/{pid}/stat")
    until(lambda: not stat.exists() or " T " not in stat.read_text(), "Slurm wakes the process at its time limit")
    status, shown = sweep.end()
    assert status == 0, shown
    assert "1 resumed" in shown
    assert digests(sweep.results) == {0: undisturbed[0]}


def test_preemption_by_a_higher_partition(cluster: dict[str, str], undisturbed: dict[int, str], tmp_path: Path) -> None:
    sweep = Sweep(cluster, tmp_path / "results", "seed=0", "hydra.launcher.partition=low", "tracker.mode=offline")
    sweep.hold(0)
    sweep.slurm("sbatch", "--partition=high", f"--ntasks={CPUS}", "--output=/dev/null", "--wrap", "sleep 3")
    status, shown = sweep.end()
    assert status == 0, shown
    assert "1 resumed" in shown
    assert digests(sweep.results) == {0: undisturbed[0]}
    identity = records(sweep.results)[0]["id"]
    runs = [path.name for path in sweep.results.glob("wandb/wandb/offline-run-*")]
    assert sum(name.endswith(f"-{identity}") for name in runs) == 1  # one W&B run, not one for each start
    assert len(runs) <= 2, runs  # the other is the sweep's own


def test_a_node_fails(cluster: dict[str, str], undisturbed: dict[int, str], tmp_path: Path) -> None:
    sweep = Sweep(cluster, tmp_path / "results", "seed=0")
    pid = sweep.hold(0)[0]
    node = sweep.slurm("sinfo", "-h", "-o", "%n").strip()
    sweep.slurm("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    resume = ["scontrol", "update", f"nodename={node}", "state=resume"]
    subprocess.run(resume, env=cluster, capture_output=True)  # refused where the node has come back by itself
    status, shown = sweep.end()
    assert status == 0, shown
    assert "1 resumed" in shown
    assert digests(sweep.results) == {0: undisturbed[0]}


def test_one_job_trains_several_runs_and_is_requeued(
    cluster: dict[str, str], undisturbed: dict[int, str], tmp_path: Path
) -> None:
    sweep = Sweep(cluster, tmp_path / "results", "seed=0,1,2", "hydra.launcher.runs_per_job=2")
    until(lambda: all((sweep.status(seed) or {"step": 0})["step"] >= 10 for seed in (0, 1)), "both train")
    pid = sweep.hold(0)[0]
    assert (sweep.status(1) or {})["pid"] == pid  # one process
    sweep.slurm("scontrol", "requeue", sweep.job(0))
    status, shown = sweep.end()
    assert status == 0, shown
    assert "1 done, 2 resumed" in shown
    assert "2 jobs of 3 runs" in shown
    assert digests(sweep.results) == {seed: undisturbed[seed] for seed in (0, 1, 2)}


def test_the_launcher_may_leave(cluster: dict[str, str], tmp_path: Path) -> None:
    sweep = Sweep(cluster, tmp_path / "results", "seed=0,1")
    until(lambda: "running" in sweep.log.read_text(), "the jobs run")
    sweep.process.send_signal(signal.SIGINT)
    status, shown = sweep.end()
    assert status == 75, shown
    assert "2 interrupted" in shown
    assert f"scancel {sweep.job(0).split('_')[0]}" in shown
    until(lambda: len(records(sweep.results)) == 2, "the jobs finish without their launcher")


def test_what_slurm_refuses_is_said_in_one_line(cluster: dict[str, str], tmp_path: Path) -> None:
    status, shown = Sweep(cluster, tmp_path / "results", "seed=0,1", "hydra.launcher.partition=nowhere").end()
    assert status != 0
    assert "Traceback" not in shown
    assert "invalid partition" in shown.lower()
