"""The launchers without a cluster: threads and GPUs, killed jobs, and what is concluded from Slurm's queue."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ablation.launching.processes import slots, visible_gpus
from ablation.runs.record.status import Outcome

TRAIN = Path(__file__).resolve().parents[1] / "src" / "train.py"
RUN = """
model.depth=8 data=digits data.batch_size=32 schedule=onecycle augmentation=none trainer.device=cpu
trainer.checkpoint_every=5 tracker=disabled
""".split()  # noqa: SIM905
PROCESSES = ["hydra/launcher=processes", "hydra.launcher.threads=1"]


@pytest.mark.parametrize(
    ("processes", "threads", "cores", "gpus", "expected"),
    [
        (None, None, 4, [], [("1", None)] * 4),  # one a core
        (2, None, 8, [], [("4", None)] * 2),  # the cores divided
        (3, None, 2, [], [("1", None)] * 3),  # never less than one
        (2, 3, 8, [], [("3", None)] * 2),  # as asked
        (None, None, 16, ["0", "1"], [("8", "0"), ("8", "1")]),  # one a GPU
        (5, 1, 16, ["2", "7"], [("1", gpu) for gpu in ("2", "7", "2", "7", "2")]),  # in turn
    ],
)
def test_threads_and_gpus_of_each_process(
    processes: int | None, threads: int | None, cores: int, gpus: list[str], expected: list[tuple[str, str | None]]
) -> None:
    places = slots(processes, threads, cores, gpus)
    assert [(place["OMP_NUM_THREADS"], place.get("CUDA_VISIBLE_DEVICES")) for place in places] == expected


@pytest.mark.parametrize(
    ("listed", "expected"), [("0,2", ["0", "2"]), ("", []), ("-1", []), ("GPU-8f, GPU-1a", ["GPU-8f", "GPU-1a"])]
)
def test_only_the_gpus_that_were_given_are_handed_out(
    monkeypatch: pytest.MonkeyPatch, listed: str, expected: list[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert visible_gpus() == expected


def test_gpus_are_counted_by_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA A100 (UUID: GPU-a)'\necho 'GPU 1: NVIDIA A100 (UUID: GPU-b)'\n")
    command.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert visible_gpus() == ["0", "1"]
    command.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []


def multirun(results: Path, *overrides: str) -> "subprocess.Popen[str]":
    """A multirun in processes, from another folder and without PYTHONPATH; what it prints goes to a pipe."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TRAIN), "-m", *RUN, f"results={results}", *overrides]
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=results, env=environment, **out)  # type: ignore[call-overload, no-any-return]


def status(results: Path, config: str) -> dict[str, Any]:
    """The status of the run whose config.yaml has this line, or an empty dict before there is one."""
    for path in results.glob("runs/*/status.json"):
        if config in path.with_name("config.yaml").read_text():
            found: dict[str, Any] = json.loads(path.read_text())
            return found
    return {}


def until_it_trains(results: Path, config: str) -> int:
    """Wait until that run trains; its process id."""
    deadline = time.monotonic() + 120
    while status(results, config).get("step", 0) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(status(results, config)["pid"])


@pytest.mark.slow
def test_a_killed_job_is_interrupted_and_takes_no_other_one_with_it(tmp_path: Path) -> None:
    """The two runs differ in their precision alone: the fast one's metrics must not be shown for the killed one."""
    sweep = multirun(
        tmp_path, *PROCESSES, "schedule.steps=30", "hydra.launcher.processes=2", "trainer.precision=bfloat16,float32"
    )
    os.kill(until_it_trains(tmp_path, "precision: float32"), signal.SIGKILL)
    shown = sweep.communicate(timeout=180)[0]
    assert sweep.returncode == 75, shown
    assert "1 done, 1 interrupted" in shown
    assert "its process ended with exit status -9" in shown
    [record] = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/record.json")]
    assert record["environment"]["threads"] == 1
    assert record["config"]["trainer"]["precision"] == "bfloat16"


@pytest.mark.slow
def test_a_signal_is_passed_on_and_what_has_not_begun_is_left(tmp_path: Path) -> None:
    sweep = multirun(tmp_path, *PROCESSES, "schedule.steps=5000", "hydra.launcher.processes=1", "seed=0,1")
    until_it_trains(tmp_path, "seed: 0")
    for _ in range(2):  # the second one must not change the exit status
        sweep.send_signal(signal.SIGTERM)
        time.sleep(0.03)
    shown = sweep.communicate(timeout=180)[0]
    assert sweep.returncode == 75, shown
    assert "2 interrupted" in shown
    assert status(tmp_path, "seed: 0")["status"] == "interrupted"
    assert status(tmp_path, "seed: 1") == {}


@pytest.mark.slow
def test_no_process_is_started_after_a_failure(tmp_path: Path) -> None:
    failing = ("optimizer.lr=1e38", "seed=0,1,2", "schedule.steps=5")
    sweep = multirun(tmp_path, *PROCESSES, *failing, "hydra.launcher.processes=1", "hydra.launcher.max_failures=1")
    shown = sweep.communicate(timeout=180)[0]
    assert (sweep.returncode, "2 not started, 1 failed" in shown) == (1, True), shown


@pytest.mark.slow
def test_the_jobs_end_with_their_parent(tmp_path: Path) -> None:
    sweep = multirun(tmp_path, *PROCESSES, "schedule.steps=5000", "hydra.launcher.processes=1", "seed=0,1")
    until_it_trains(tmp_path, "seed: 0")
    sweep.kill()
    deadline = time.monotonic() + 30
    while status(tmp_path, "seed: 0")["status"] != "interrupted":
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("launcher", "setting"),
    [
        ("processes", "processes=0"),
        ("processes", "threads=-1"),
        ("gang", "at_once=many"),
        ("slurm", "runs_per_job=null"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(tmp_path: Path, launcher: str, setting: str) -> None:
    allowed = "must be a positive whole number" + (" or null" if launcher != "slurm" else "")
    sweep = multirun(tmp_path, "seed=0,1", f"hydra/launcher={launcher}", f"hydra.launcher.{setting}")
    assert sweep.communicate(timeout=60)[0] == f"hydra.launcher.{setting}: {allowed}\n"
    assert sweep.returncode == 2


GONE = {"1_0": "PREEMPTED"}

QUEUES: dict[str, tuple[list[dict[str, str] | None], dict[str, int], list[tuple[int, str | None]]]] = {
    "results end the wait": (
        [{"1_0": "RUNNING", "1_1": "PENDING"}, {"1_1": "RUNNING"}, {"1_1": "COMPLETED"}, {}],
        {"1_0": 1, "1_1": 2},
        [(0, None), (1, None)],
    ),
    "a job without a result is given up after three looks": (
        [{"1_0": "CANCELLED"}, {"1_0": "CANCELLED"}, {}, {}, {}],
        {"1_1": 0},
        [(1, None), (0, "not in Slurm's queue")],
    ),
    "a requeued job is waited for": (
        [GONE, GONE, {"1_0": "PENDING"}, GONE, GONE, {"1_0": "RUNNING"}, {}],
        {"1_1": 0, "1_0": 6},
        [(1, None), (0, None)],
    ),
    "no job is given up while Slurm does not answer": (
        [None] * 6 + [{}],
        {"1_1": 5, "1_0": 6},
        [(1, None), (0, None)],
    ),
}
"""What squeue says at each look, the look from which on each job's result is there, and how the jobs end."""


@pytest.mark.parametrize(("looks", "results", "expected"), QUEUES.values(), ids=QUEUES)
def test_how_a_job_ended_is_read_from_the_queue(
    looks: list[dict[str, str] | None], results: dict[str, int], expected: list[tuple[int, str | None]], tmp_path: Path
) -> None:
    pytest.importorskip("submitit", reason="needs the extra slurm")
    from ablation.launching.slurm import ends

    paths = {name: SimpleNamespace(folder=tmp_path, result_pickle=tmp_path / name) for name in ("1_0", "1_1")}
    jobs = [SimpleNamespace(job_id=name, paths=path) for name, path in paths.items()]
    count = 0

    def look() -> dict[str, str] | None:
        nonlocal count
        for name in (name for name, first in results.items() if first <= count):
            (tmp_path / name).touch()
        count += 1
        return looks[count - 1]

    assert list(ends(jobs, look, lambda: count < len(looks))) == expected  # type: ignore[arg-type]


def test_what_waits_in_slurms_queue_is_cancelled_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit", reason="needs the extra slurm")
    from ablation.launching import slurm

    jobs = [SimpleNamespace(job_id=f"1_{i}", paths=SimpleNamespace(folder=Path("logs/x"))) for i in range(3)]
    commands: list[list[str]] = []
    ended = [(1, None), (2, "CANCELLED"), (0, None)]
    states = {"1_0": "done", "1_1": "failed"}
    monkeypatch.setattr(slurm, "submit", lambda *_: jobs)
    monkeypatch.setattr(slurm, "ends", lambda *_: iter(ended))
    monkeypatch.setattr(slurm, "collect", lambda job, _: [Outcome("run", None, states[job.job_id])])
    monkeypatch.setattr(subprocess, "run", commands.append)
    outcomes = slurm.train([None] * 3, runs_per_job=1, poll_s=1, max_failures=1)  # type: ignore[list-item]
    assert [outcome and outcome.state for outcome in outcomes] == ["done", "failed", "not started"]
    assert commands == [["scancel", "--state=PENDING", "1"]]


class TestTheWorkOfASlurmJob:
    """What a job on its node returns for a made-up run."""

    @pytest.fixture
    def work(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], str]], list[str]]:
        """Does a job's work with a run of which a function gives the state; returns the job's states."""
        pytest.importorskip("submitit", reason="needs the extra slurm")
        from ablation.launching import slurm

        def work(run: Callable[[], str]) -> list[str]:
            monkeypatch.setattr("ablation.launching.gang.train", lambda *_: [Outcome("run", None, run())])
            monkeypatch.setattr(slurm, "RETRY_S", 0.01)
            return [outcome.state for outcome in slurm.SlurmJob()([])]

        return work

    def test_sigterm_leaves_no_result(self, work: Callable[..., list[str]]) -> None:
        def run() -> str:
            os.kill(os.getpid(), signal.SIGTERM)
            return "interrupted"

        with pytest.raises(SystemExit) as end:
            work(run)
        assert end.value.code == 143

    @pytest.mark.parametrize(("restarts", "expected"), [("0", "busy"), ("1", "resumed")])
    def test_only_a_requeued_job_waits_for_a_dead_nodes_lock(
        self, restarts: str, expected: str, work: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        states = iter(["busy", "busy", "resumed"])
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
        assert work(lambda: next(states)) == [expected]
