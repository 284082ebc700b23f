"""Failures of every sort: each is seen at once, in one place, and the other runs go on."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import runs
import torch

from ablation.errors import UserError
from ablation.interrupts import PROCESS_STARTED, Interrupts
from ablation.runs.record import checkpoints
from ablation.runs.run import stepwise
from ablation.training.step import Training


def test_non_finite_loss_names_step_rate_and_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = runs.finish(runs.small(tmp_path, "optimizer.lr=1e30", "trainer.checkpoint_every=1"))
    folder = runs.folder_of(tmp_path)
    assert (outcome.state, outcome.exit_status) == ("failed", 1)
    said = f"the loss is not finite at step 1, learning rate 5e+29; last good checkpoint: {folder / checkpoints.NEWEST}"
    assert outcome.message == said
    assert runs.status_of(folder)["message"] == outcome.message
    assert "Diverged" in (folder / "traceback.txt").read_text()
    assert "traceback.txt" in capsys.readouterr().out


def test_a_broken_network_is_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that an update broke although the loss was finite."""
    take_step = Training.take_step

    def broken(training: Training) -> None:
        take_step(training)
        if training.step == 4:
            with torch.no_grad():
                next(training.network.parameters()).fill_(float("nan"))

    monkeypatch.setattr(runs.TAKE_STEP, broken)
    outcome = runs.finish(runs.small(tmp_path, "trainer.checkpoint_every=1"))
    good = runs.folder_of(tmp_path) / checkpoints.NEWEST
    assert outcome.message.startswith("the network is not finite at step 3, learning rate ")
    assert outcome.message.endswith(f"last good checkpoint: {good}")
    state = checkpoints.read(good)["training"]
    assert state["step"] == 3
    assert all(bool(value.isfinite().all()) for value in state["network"].values())


@pytest.mark.parametrize(
    ("place", "then"),
    [
        ("ablation.runs.trainer.build_training", "done"),  # before the first step, such as a device without memory
        ("ablation.training.step.Training.begin_evaluation", "done"),
        ("ablation.runs.finish.environment", "resumed"),  # after the last step, whose checkpoint is kept
    ],
)
def test_a_fault_leaves_its_traceback_in_the_folder(
    place: str, then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: object, **__: object) -> None:
        raise RuntimeError("out of everything")

    config = runs.small(tmp_path, "trainer.checkpoint_every=100")
    with monkeypatch.context() as patch:
        patch.setattr(place, fault)
        outcome = runs.finish(config)
    assert (outcome.state, outcome.message) == ("failed", "RuntimeError: out of everything")
    folder = runs.folder_of(tmp_path)
    assert "out of everything" in (folder / "traceback.txt").read_text()
    assert runs.status_of(folder)["status"] == "failed"
    assert runs.finish(config).state == then  # mended, the same command ends it
    assert not (folder / "traceback.txt").exists()


def test_the_other_jobs_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-m", *runs.SMALL, f"results={tmp_path}", "optimizer.lr=1e30,0.1", "seed=0,1"]
    monkeypatch.chdir(tmp_path)
    assert runs.in_process(monkeypatch, *arguments) == 1
    shown = capfd.readouterr()
    assert "Traceback" not in shown.out + shown.err
    assert "Error executing job" not in shown.err
    assert "2 done, 2 failed" in shown.out
    states = {folder: runs.status_of(folder)["status"] for folder in (tmp_path / "runs").iterdir()}
    assert sorted(states.values()) == ["done", "done", "failed", "failed"]
    for folder, state in states.items():
        assert (folder / "traceback.txt").exists() == (state == "failed")
        assert state == "done" or f"({folder})" in shown.out
    assert {path.name for path in tmp_path.iterdir()} <= {"runs", "locks", "report", "wandb"}

    arguments[-2] = "optimizer.lr=0.1"
    assert runs.in_process(monkeypatch, *arguments) == 0
    assert "2 skipped" in capfd.readouterr().out


def test_a_users_mistake_in_one_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One that only shows when the job's data is looked for."""
    arguments = ["-m", *runs.SMALL, f"results={tmp_path}", f"data.root={tmp_path}/none", "data=image_folder,digits"]
    assert runs.in_process(monkeypatch, *arguments) == 1
    shown = capfd.readouterr()
    assert len([line for line in shown.err.splitlines() if line.startswith("data.root=")]) == 1
    assert "Traceback" not in shown.err
    assert "1 done, 1 failed" in shown.out


def test_equal_jobs_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["-m", *runs.SMALL, f"results={tmp_path}", "model.residual=false", "shortcut=A,B"]
    assert runs.in_process(monkeypatch, *arguments) == 0
    assert "2 combinations are 1 different runs" in capfd.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP])
def test_signals_lead_to_a_checkpoint(number: signal.Signals, tmp_path: Path) -> None:
    before = signal.getsignal(number)
    if before == signal.SIG_IGN:
        pytest.skip("these tests run under nohup, which is obeyed")
    with Interrupts() as interrupts:
        steps = stepwise(runs.small(tmp_path), interrupts)
        for _ in range(4):
            next(steps)
        os.kill(os.getpid(), number)
        outcome = runs.end_of(steps)
        following = runs.end_of(stepwise(runs.small(tmp_path / "next"), interrupts))
        assert following.message.endswith("not begun")
        interrupts.signal = None
    assert signal.getsignal(number) == before
    assert (outcome.state, outcome.exit_status) == ("interrupted", 75)
    folder = runs.folder_of(tmp_path)
    assert number.name in runs.status_of(folder)["message"]
    assert checkpoints.read(folder / checkpoints.NEWEST)["training"]["step"] == 4
    assert not (tmp_path / "next").exists()
    assert runs.finish(runs.small(tmp_path)).state == "resumed"


def test_nohup_is_obeyed() -> None:
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupts.reason is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, old)


def test_an_error_that_a_signal_causes_in_a_step_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiler_killed(_training: Training) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("its compiler was killed")

    with Interrupts() as interrupts:
        steps = stepwise(runs.small(tmp_path), interrupts)
        next(steps)
        with monkeypatch.context() as patch:
            patch.setattr(runs.TAKE_STEP, compiler_killed)
            outcome = runs.end_of(steps)
        interrupts.signal = None
    assert outcome.state == "interrupted"
    assert runs.status_of(runs.folder_of(tmp_path))["status"] == "interrupted"
    assert runs.finish(runs.small(tmp_path)).exit_status == 0


def test_trying_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """trainer=debug: three steps whatever is asked for, apart from the real runs; an error shows its traceback."""
    debug = (*runs.SMALL, "schedule.steps=4000", f"results={tmp_path}", "trainer=debug", "tracker=online")
    for _ in range(2):
        assert runs.in_process(monkeypatch, *debug) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["debug"]
    assert [row["step"] for row in runs.rows_of(runs.folder_of(tmp_path / "debug"))] == [3]
    assert "Traceback" not in capsys.readouterr().err
    assert runs.in_process(monkeypatch, *debug, "optimizer.lr=1e38") == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_signal_in_a_job_reaches_the_sweep() -> None:
    with Interrupts() as sweep:
        with Interrupts() as job:
            os.kill(os.getpid(), signal.SIGTERM)
            assert job.reason is not None
        assert sweep.reason is not None
        with Interrupts() as following:
            assert following.reason is not None
        sweep.signal = None


def test_time_limit_counts_from_the_start_of_the_process(tmp_path: Path) -> None:
    elapsed = (time.monotonic() - PROCESS_STARTED) / 60
    assert Interrupts(elapsed / 2).reason == "its time limit was reached"
    interrupts = Interrupts(elapsed + 5)
    steps = stepwise(runs.small(tmp_path), interrupts)
    next(steps)
    interrupts.deadline = time.monotonic() - 1
    outcome = runs.end_of(steps)
    assert (outcome.state, outcome.exit_status) == ("interrupted", 75)
    assert "time limit" in outcome.message
    assert checkpoints.present(runs.folder_of(tmp_path))


BROKEN = {
    "a full disk": "{} > /dev/full 2>&1",
    "a reader that is gone": "{} 2>&1 | true",
    "closed": "{} <&- >&- 2>&-",
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_run_does_not_depend_on_who_reads_its_lines(how: str, tmp_path: Path) -> None:
    """Both jobs of a sweep: neither fails, and the second one is begun."""
    arguments = ["-m", *runs.SMALL, f"results={tmp_path}", "seed=0,1", "trainer.progress=null"]
    command = shlex.join([sys.executable, str(runs.TRAIN), *arguments])
    whole = f"set -o pipefail; {BROKEN[how].format(command)}"
    assert subprocess.run(["bash", "-c", whole], check=False, timeout=300).returncode == 0
    assert [runs.status_of(folder)["status"] for folder in (tmp_path / "runs").iterdir()] == ["done", "done"]


@pytest.mark.parametrize("command", ["train.py --cfg job", "report.py --format terminal"])
def test_a_program_whose_result_is_its_output_says_that_it_was_lost(command: str, tmp_path: Path) -> None:
    script, *arguments = command.split()
    with open("/dev/full", "w") as full:
        command_line = [sys.executable, str(runs.TRAIN.with_name(script)), *arguments]
        done = subprocess.run(command_line, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stderr) == (2, "standard output=: cannot be written: No space left on device\n")


def test_a_signal_while_hydra_is_imported(tmp_path: Path, started: "Start") -> None:
    """And another one when the program leaves: it ends as the first one asked it to."""
    first = "import atexit, os, signal, sys\nos.kill(os.getpid(), signal.SIGTERM)\n"
    second = "atexit.register(os.kill, os.getpid(), signal.SIGTERM)\n"
    real = f"sys.path.remove({str(tmp_path)!r})\ndel sys.modules['hydra']\nimport hydra\n"
    (tmp_path / "hydra.py").write_text(first + second + real)
    process = started(*runs.SMALL, f"results={tmp_path / 'results'}", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err.count("SIGTERM: leaving")) == (75, 1)
    assert not (tmp_path / "results").exists()


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def started() -> Iterator[Start]:
    """`runs.train`, whose processes do not outlive the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        processes.append(runs.train(*arguments, **options))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(stream: IO[str] | None, text: str) -> None:
    assert stream is not None
    assert any(text in line for line in stream), f"never said: {text}"


@pytest.mark.slow
def test_sweep_left_by_a_signal_and_started_again(tmp_path: Path, started: Start) -> None:
    """As a user does it: Ctrl-C in the first of two jobs, then the same command; then twice Ctrl-C."""
    arguments = ["-m", *runs.SMALL, "schedule.steps=4000", f"results={tmp_path}", "seed=0,1", "trainer.progress=null"]
    process = started(*arguments)
    wait_for(process.stdout, "step 5/4000")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "2 interrupted" in out
    assert "not begun" in out
    assert "Traceback" not in err
    status = runs.status_of(runs.folder_of(tmp_path))
    assert status["status"] == "interrupted"

    process = started(*arguments)
    wait_for(process.stdout, f"goes on at step {status['step']} of 4000")
    process.send_signal(signal.SIGSTOP)  # so that it cannot leave between the two
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    wait_for(process.stderr, "SIGINT again ends it at once")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in (130, 75), "ended at once, or had left already"


def test_a_signal_after_the_reader_of_its_lines_is_gone(tmp_path: Path, started: Start) -> None:
    """Ctrl-C ends the reader of `train.py 2>&1 | tee log` as well; there is a checkpoint all the same."""
    reader, writer = os.pipe()
    arguments = (*runs.SMALL, f"results={tmp_path}", "schedule.steps=5000", "trainer.progress=null")
    process = started(*arguments, stdout=writer, stderr=writer)
    os.close(writer)
    with open(reader, "rb", buffering=0) as lines:
        assert lines.read(1)  # it trains; then the reader goes
    until = time.monotonic() + 60
    while not list(tmp_path.glob("runs/*/checkpoint.pt")):
        assert time.monotonic() < until, "there is no checkpoint"
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 75
    status = runs.status_of(runs.folder_of(tmp_path))
    assert "left at step" in status["message"]
    state = checkpoints.read(runs.folder_of(tmp_path) / checkpoints.NEWEST)
    assert state["training"]["step"] == status["step"]


def test_two_processes_never_train_one_run(tmp_path: Path, started: Start, capsys: pytest.CaptureFixture[str]) -> None:
    """The lock says who holds it, and a killed process holds nothing; nor does a generator that was closed."""
    config = runs.small(tmp_path, "schedule.steps=4000")
    process = started(*runs.SMALL, "schedule.steps=4000", f"results={tmp_path}", "trainer.progress=null")
    wait_for(process.stdout, "step 5/4000")
    outcome = runs.finish(config)
    assert (outcome.state, outcome.exit_status) == ("busy", 74)
    assert outcome.message.startswith(f"process {process.pid} on ")
    assert outcome.message in capsys.readouterr().out
    process.kill()
    process.communicate()
    assert runs.status_of(runs.folder_of(tmp_path))["status"] == "running"
    for _ in range(2):
        runs.cut_off(config, after=1)
        assert runs.status_of(runs.folder_of(tmp_path))["status"] == "interrupted"
    other = runs.started(config)
    next(other)
    assert runs.finish(config).state == "busy", "also in one process"
    other.close()


def test_finished_by_another_process_in_the_meantime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After this one looked for the record, before it takes the lock: nothing is trained twice."""
    config = runs.small(tmp_path / "here")
    runs.finish(runs.small(tmp_path / "there"))
    from ablation.runs import trainer

    load = trainer.load_data

    def meanwhile(config: Any) -> Any:
        shutil.copytree(tmp_path / "there", tmp_path / "here")
        return load(config)

    monkeypatch.setattr(trainer, "load_data", meanwhile)
    assert runs.finish(config).state == "skipped"


def full_disk(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file whose name begins so is written to a full disk, the system's own."""
    real = open

    def opened(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        full = "w" in mode and Path(path).name.startswith(name)
        return real("/dev/full" if full else path, mode, *arguments, **options)

    monkeypatch.setattr("builtins.open", opened)


@pytest.mark.parametrize("name", ["checkpoint.new", "weights.pt", "record.json", "config.yaml", "history.jsonl"])
def test_full_disk(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.cut_off(runs.small(tmp_path), after=8)
    folder = runs.folder_of(tmp_path)
    before = {path: (folder / path).read_bytes() for path in checkpoints.present(folder)}
    with monkeypatch.context() as patch:
        full_disk(name, patch)
        with pytest.raises(UserError, match="No space left on device; what was there is left as it was"):
            runs.finish(runs.small(tmp_path))
    if name not in ("weights.pt", "record.json"):
        assert {path: (folder / path).read_bytes() for path in checkpoints.present(folder)} == before
    assert not list(folder.glob("*.tmp"))
    assert runs.finish(runs.small(tmp_path)).state == "resumed"


def test_a_disk_without_room_for_the_status_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        full_disk("status.json", patch)
        assert runs.finish(runs.small(tmp_path)).state == "done"
    assert runs.finish(runs.small(tmp_path)).state == "skipped"


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    path.write_bytes({"truncated": data[: len(data) // 2], "changed": data[:-9] + b"123456789", "empty": b""}[how])


@pytest.mark.parametrize("how", ["truncated", "changed", "empty"])
def test_damaged_checkpoint_falls_back(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs.finish(runs.small(tmp_path / "undisturbed"))
    config = runs.small(tmp_path / "damaged")
    runs.cut_off(config, after=8)
    folder = runs.folder_of(tmp_path / "damaged")
    damage(folder / checkpoints.NEWEST, how)
    assert runs.finish(config).state == "resumed"
    out = capsys.readouterr().out
    assert f"{folder / checkpoints.NEWEST} is damaged" in out
    assert "goes on at step 3 of 12" in out
    assert runs.essence(folder) == runs.essence(runs.folder_of(tmp_path / "undisturbed"))


def test_only_damaged_checkpoints(tmp_path: Path) -> None:
    config = runs.small(tmp_path)
    runs.cut_off(config, after=8)
    folder = runs.folder_of(tmp_path)
    for name in checkpoints.present(folder):
        damage(folder / name, "truncated")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UserError, match=r"no checkpoint is whole.*overwrite=true starts anew"):
        runs.finish(config)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert runs.finish(runs.small(tmp_path, "overwrite=true")).state == "done"
    (kept,) = (tmp_path / "replaced").iterdir()
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {path.name: b for path, b in before.items()}


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("status.json", {"schema": 99}, "of schema 99"),
        ("record.json", {"schema": "1"}, "of schema '1'"),
        ("record.json", {"id": "0123456789ab"}, "holds run '0123456789ab'"),  # the same first 8 digits
    ],
)
def test_a_folder_of_another_version_or_run(file: str, change: dict[str, Any], says: str, tmp_path: Path) -> None:
    config = runs.small(tmp_path)
    runs.finish(config)
    edit(runs.folder_of(tmp_path) / file, **change)
    before = {path: path.read_bytes() for path in runs.folder_of(tmp_path).iterdir()}
    for command in (config, runs.small(tmp_path, "overwrite=true")):
        with pytest.raises(UserError, match=says):
            runs.finish(command)
    assert {path: path.read_bytes() for path in runs.folder_of(tmp_path).iterdir()} == before


def test_a_checkpoint_of_another_version_or_run(tmp_path: Path) -> None:
    runs.cut_off(runs.small(tmp_path), after=4)
    folder = runs.folder_of(tmp_path)
    state = checkpoints.read(folder / checkpoints.NEWEST)
    del state["training"]["schedule"]
    checkpoints.save(folder, state)
    with pytest.raises(UserError, match=r"does not fit this version.*KeyError"):
        runs.finish(runs.small(tmp_path))
    checkpoints.save(folder, state | {"id": "0123456789ab"})
    with pytest.raises(UserError, match="belongs to run 0123456789ab"):
        runs.finish(runs.small(tmp_path))


@pytest.mark.parametrize("how", ["truncated", "edited", "a folder"])
def test_a_damaged_record_is_kept_and_the_run_begins_anew(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = runs.small(tmp_path)
    runs.finish(config)
    expected = runs.essence(runs.folder_of(tmp_path))
    record = runs.folder_of(tmp_path) / "record.json"
    if how == "truncated":
        damage(record, how)
    elif how == "edited":
        edit(record, step="ten")
    else:
        record.unlink()
        record.mkdir()
    assert runs.finish(config).state == "done"
    assert "record.json is damaged" in capsys.readouterr().out
    (kept,) = (tmp_path / "replaced").iterdir()
    assert {"record.json", "weights.pt", "history.jsonl"} <= {path.name for path in kept.iterdir()}
    assert runs.essence(runs.folder_of(tmp_path)) == expected
