"""Failures of every sort: each is seen at once, in one place, and takes nothing along."""

import errno
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
from ablation.runs.record.files import read_json
from ablation.runs.run import stepwise
from ablation.training.step import Training

# ----------------------------------------------------------------------------------------------------- one failing run


def test_non_finite_loss_names_step_rate_and_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = runs.small(tmp_path, "optimizer.lr=1e30", "trainer.checkpoint_every=1")
    outcome = runs.finish(config)
    folder = runs.folder_of(tmp_path)
    assert (outcome.state, outcome.exit_status) == ("failed", 1)
    said = f"the loss is not finite at step 1, learning rate 5e+29; last good checkpoint: {folder / checkpoints.NEWEST}"
    assert outcome.message == said
    assert runs.status_of(folder)["message"] == outcome.message
    assert "Diverged" in (folder / "traceback.txt").read_text()
    assert "traceback.txt" in capsys.readouterr().out


def test_the_last_good_checkpoint_is_named_and_good(tmp_path: Path) -> None:
    config = runs.small(tmp_path, "trainer.checkpoint_every=1")
    with Interrupts() as interrupts:
        steps = stepwise(config, interrupts)
        for _ in range(4):
            next(steps)
        work = steps.gi_frame.f_locals["work"]
        with torch.no_grad():
            next(work.training.network.parameters()).fill_(float("nan"))
        outcome = runs.end_of(steps)
    good = runs.folder_of(tmp_path) / checkpoints.NEWEST
    assert str(good) in outcome.message
    state = checkpoints.read(good)["training"]
    assert state["step"] == 3
    assert all(bool(value.isfinite().all()) for value in state["network"].values())


def test_a_fault_leaves_its_traceback_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one before the first step, such as a device without memory."""
    for when, name in (
        ("before", "ablation.runs.trainer.build_training"),
        ("in", "ablation.training.step.Training.evaluate"),
    ):

        def fault(*_: object, **__: object) -> None:
            raise RuntimeError("out of everything")

        results = tmp_path / when
        with monkeypatch.context() as patch:
            patch.setattr(name, fault)
            outcome = runs.finish(runs.small(results))
        assert (outcome.state, outcome.message) == ("failed", "RuntimeError: out of everything")
        folder = runs.folder_of(results)
        assert "out of everything" in (folder / "traceback.txt").read_text()
        assert runs.status_of(folder)["status"] == "failed"
        assert runs.finish(runs.small(results)).state in ("done", "resumed")  # mended, the same command goes on
        assert not (folder / "traceback.txt").exists()


# ---------------------------------------------------------------------------------------------------------- in a sweep


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
    assert {path.name for path in tmp_path.iterdir()} <= {"runs", "report", "wandb"}

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


# ---------------------------------------------------------------------------------------------------------- interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP])
def test_signals_lead_to_a_checkpoint(number: signal.Signals, tmp_path: Path) -> None:
    before = signal.getsignal(number)
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


def test_what_dies_of_a_signal_in_a_step_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiler_killed(_training: Training) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("its compiler was killed")

    with Interrupts() as interrupts:
        steps = stepwise(runs.small(tmp_path), interrupts)
        next(steps)
        with monkeypatch.context() as patch:
            patch.setattr(Training, "advance", compiler_killed)
            outcome = runs.end_of(steps)
        interrupts.signal = None
    assert outcome.state == "interrupted"
    assert runs.status_of(runs.folder_of(tmp_path))["status"] == "interrupted"
    assert runs.finish(runs.small(tmp_path)).exit_status == 0


def test_a_signal_in_a_job_reaches_the_sweep() -> None:
    with Interrupts() as sweep:
        with Interrupts() as job:
            os.kill(os.getpid(), signal.SIGTERM)
            assert job.reason is not None
        assert sweep.reason is not None
        with Interrupts() as following:
            assert following.reason is not None
        sweep.signal = None


def test_time_limit_is_the_processs() -> None:
    elapsed = (time.monotonic() - PROCESS_STARTED) / 60
    assert Interrupts(elapsed / 2).reason == "its time limit was reached"
    assert Interrupts(elapsed + 5).reason is None


def test_time_limit_leaves_with_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = runs.small(tmp_path, "trainer.time_limit=1")
    with Interrupts(config.trainer.time_limit) as interrupts:
        interrupts.deadline = None
        steps = stepwise(config, interrupts)
        next(steps)
        interrupts.deadline = time.monotonic() - 1
        outcome = runs.end_of(steps)
    assert (outcome.state, outcome.exit_status) == ("interrupted", 75)
    assert "time limit" in outcome.message
    assert checkpoints.present(runs.folder_of(tmp_path))


def test_closed_generators_leave_lock_and_files(tmp_path: Path) -> None:
    runs.cut_off(runs.small(tmp_path), after=2)
    folder = runs.folder_of(tmp_path)
    assert runs.status_of(folder)["status"] == "interrupted"
    open_files = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if exists(fd)]
    assert not [path for path in open_files if str(tmp_path) in path]


BROKEN = {
    "a full disk": "{} > /dev/full 2>&1",
    "a reader that is gone": "{} 2>&1 | true",
    "closed": "{} <&- >&- 2>&-",
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_run_does_not_depend_on_who_reads_its_lines(how: str, tmp_path: Path) -> None:
    """Both jobs of a sweep: the first must not fail of it, nor keep the second from being begun."""
    arguments = ["-m", *runs.SMALL, f"results={tmp_path}", "seed=0,1", "trainer.progress=null"]
    command = shlex.join([sys.executable, str(runs.TRAIN), *arguments])
    whole = f"set -o pipefail; {BROKEN[how].format(command)}"
    assert subprocess.run(["bash", "-c", whole], check=False, timeout=300).returncode == 0
    assert [runs.status_of(folder)["status"] for folder in (tmp_path / "runs").iterdir()] == ["done", "done"]


def wait_until(true: Callable[[], bool]) -> None:
    """Look ten times a second, for a minute at most."""
    for _ in range(600):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("it never came")


def exists(descriptor: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{descriptor}")


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`runs.train`, whose processes do not outlive the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        processes.append(runs.train(*arguments, **options))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


Start = Callable[..., subprocess.Popen[str]]


@pytest.mark.slow
def test_sweep_left_by_a_signal_and_started_again(tmp_path: Path, started: Start) -> None:
    """As a user does it: Ctrl-C in the first of two jobs, then the same command; then twice Ctrl-C."""
    arguments = ["-m", *runs.SMALL, "schedule.steps=4000", f"results={tmp_path}", "seed=0,1", "trainer.progress=null"]
    process = started(*arguments)
    assert process.stdout is not None
    wait_for(process.stdout, "step 5/4000")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "2 interrupted" in out
    assert "not begun" in out
    assert "Traceback" not in err
    (folder,) = (tmp_path / "runs").iterdir()
    status = runs.status_of(folder)
    assert status["status"] == "interrupted"

    process = started(*arguments)
    assert process.stdout is not None
    wait_for(process.stdout, f"goes on at step {status['step']} of 4000")
    busy = started(*[argument for argument in arguments if argument != "-m" and "seed" not in argument])
    out, _ = busy.communicate(timeout=120)
    assert busy.returncode == 74
    assert f"process {process.pid} on " in out
    process.send_signal(signal.SIGSTOP)  # so that it cannot leave between the two
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    assert process.stderr is not None
    wait_for(process.stderr, "SIGINT again ends it at once")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in (130, 75), "ended at once, or had left already"


def wait_for(stream: IO[str], text: str) -> None:
    for line in stream:
        if text in line:
            return
    raise AssertionError(f"never said: {text}")


# --------------------------------------------------------------------------------------------------------------- files


def full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write beyond some bytes into a file whose name begins so meets a full disk, as the system reports it."""
    real = open

    class Full:
        def __init__(self, file: IO[bytes]) -> None:
            self.file = file

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            self.file.write(data[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def opened(name: Any, mode: str = "r", **options: Any) -> Any:
        file = real(name, mode, **options)
        return Full(file) if Path(name).name.startswith(path.name) and "w" in mode else file

    monkeypatch.setattr("builtins.open", opened)


@pytest.mark.parametrize("name", ["checkpoint.new.pt", "weights.pt", "record.json"])
def test_full_disk(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.cut_off(runs.small(tmp_path), after=8)
    folder = runs.folder_of(tmp_path)
    before = {path: (folder / path).read_bytes() for path in checkpoints.present(folder)}
    with monkeypatch.context() as patch:
        full_disk(folder / name, patch)
        with pytest.raises(UserError, match="No space left on device; what was there is left as it was"):
            runs.finish(runs.small(tmp_path))
    if name == "checkpoint.new.pt":
        assert {path: (folder / path).read_bytes() for path in checkpoints.present(folder)} == before
    assert not list(folder.glob("*.tmp"))
    assert runs.status_of(folder)["status"] == "failed"
    assert runs.finish(runs.small(tmp_path)).state == "resumed"


def test_a_disk_that_is_full_for_all(tmp_path: Path, started: Start) -> None:
    """A real limit of the system on the size of files: one line, and the checkpoint that was there still serves."""
    runs.cut_off(runs.small(tmp_path), after=4)
    arguments = [*runs.SMALL, f"results={tmp_path}"]
    process = started(*arguments, preexec_fn=limit_file_size)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert [line for line in err.splitlines() if "cannot be written: File too large" in line]
    assert "Traceback" not in err
    assert runs.finish(runs.small(tmp_path)).state == "resumed"


def limit_file_size() -> None:
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    path.write_bytes({"truncated": data[: len(data) // 2], "changed": data[:-9] + b"123456789", "empty": b""}[how])


@pytest.mark.parametrize("how", ["truncated", "changed", "empty"])
def test_damaged_checkpoint_falls_back(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    undisturbed = runs.small(tmp_path / "undisturbed")
    runs.finish(undisturbed)
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
    history = (folder / "history.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"no checkpoint is whole.*overwrite=true starts anew"):
        runs.finish(config)
    assert (folder / "history.jsonl").read_bytes() == history
    assert runs.finish(runs.small(tmp_path, "overwrite=true")).state == "done"
    (kept,) = (tmp_path / "replaced").iterdir()
    assert (kept / "history.jsonl").read_bytes() == history


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


FOREIGN: dict[str, tuple[Callable[[Path], None], str]] = {
    "schema of the status": (lambda folder: edit(folder / "status.json", schema=99), "was made with schema 99"),
    "schema of the record": (lambda folder: edit(folder / "record.json", schema=99), "was made with schema 99"),
    "same first 8 digits": (lambda folder: edit(folder / "record.json", id="0123456789ab"), "holds run 0123456789ab"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_folder_of_another_version_or_run(what: str, tmp_path: Path) -> None:
    config = runs.small(tmp_path)
    runs.finish(config)
    make, says = FOREIGN[what]
    make(runs.folder_of(tmp_path))
    before = {path: path.read_bytes() for path in runs.folder_of(tmp_path).iterdir()}
    for command in (config, runs.small(tmp_path, "overwrite=true")):
        with pytest.raises(UserError, match=says):
            runs.finish(command)
    assert {path: path.read_bytes() for path in runs.folder_of(tmp_path).iterdir()} == before


def test_a_checkpoint_of_another_version(tmp_path: Path) -> None:
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


def test_damaged_record_is_kept_and_the_run_begins_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = runs.small(tmp_path)
    runs.finish(config)
    expected = runs.essence(runs.folder_of(tmp_path))
    damage(runs.folder_of(tmp_path) / "record.json", "truncated")
    assert runs.finish(config).state == "done"
    assert "record.json is damaged" in capsys.readouterr().out
    (kept,) = (tmp_path / "replaced").iterdir()
    assert {"record.json", "weights.pt", "history.jsonl"} <= {path.name for path in kept.iterdir()}
    assert runs.essence(runs.folder_of(tmp_path)) == expected


MADE_WORSE = {
    "no step": {"step": None},
    "a step in words": {"step": "ten"},
    "no metrics": {"metrics": {}},
    "an error in words": {"metrics": {"train_error": "low", "test_error": 1.0, "selected_test_error": 1.0}},
    "no configuration": {"config": 5},
}


@pytest.mark.parametrize("how", MADE_WORSE)
def test_a_record_that_a_hand_was_at_is_a_damaged_one(how: str, tmp_path: Path) -> None:
    runs.finish(runs.small(tmp_path))
    folder = runs.folder_of(tmp_path)
    edit(folder / "record.json", **MADE_WORSE[how])
    (folder / "status.json").unlink()
    assert runs.finish(runs.small(tmp_path)).state == "done"
    assert len(list((tmp_path / "replaced").iterdir())) == 1


def test_brackets_without_end_are_no_record(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text("[" * 100_000)
    assert read_json(tmp_path / "record.json") is None


@pytest.mark.parametrize("moved", [0, 1, 2, 3])
def test_killed_while_it_set_a_run_aside(moved: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is moved to the same place later; what is half gone never passes for a finished run."""
    runs.finish(runs.small(tmp_path))
    before = runs.essence(runs.folder_of(tmp_path))
    really, moves = shutil.move, iter(range(100))

    def move(source: Path, target: Path) -> None:
        if next(moves) == moved:
            raise KeyboardInterrupt
        really(source, target)

    monkeypatch.setattr(shutil, "move", move)
    with pytest.raises(KeyboardInterrupt):
        runs.finish(runs.small(tmp_path, "overwrite=true"))
    monkeypatch.undo()
    assert runs.finish(runs.small(tmp_path)).state == "done"
    (aside,) = (tmp_path / "replaced").iterdir()
    for folder in (aside, runs.folder_of(tmp_path)):
        assert runs.essence(folder)["record"] == before["record"]
        assert runs.essence(folder)["history"] == before["history"]
    assert not (runs.folder_of(tmp_path) / "moving_to").exists()


def test_a_history_that_was_deleted_is_whole_in_the_end(tmp_path: Path) -> None:
    steps = runs.started(runs.small(tmp_path))
    for _ in range(7):
        next(steps)
    (runs.folder_of(tmp_path) / "history.jsonl").unlink()
    assert runs.end_of(steps).state == "done"
    assert [row["step"] for row in runs.essence(runs.folder_of(tmp_path))["history"]] == [5, 10, 12]


def test_finished_by_another_process_in_the_meantime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one ends between our look at the record and our taking the lock: nothing is trained twice."""
    config = runs.small(tmp_path / "here")
    runs.finish(runs.small(tmp_path / "there"))
    from ablation.runs import run

    load = run.load_data

    def meanwhile(config: Any) -> Any:
        shutil.copytree(tmp_path / "there", tmp_path / "here")
        return load(config)

    monkeypatch.setattr(run, "load_data", meanwhile)
    assert runs.finish(config).state == "skipped"


def test_a_killed_process_holds_no_lock(tmp_path: Path, started: Start) -> None:
    arguments = [*runs.SMALL, "schedule.steps=4000", f"results={tmp_path}", "trainer.progress=null"]
    process = started(*arguments)
    assert process.stdout is not None
    wait_for(process.stdout, "step 5/4000")
    process.kill()
    process.communicate()
    folder = runs.folder_of(tmp_path)
    assert str(process.pid) in (folder / "lock").read_text()
    assert runs.status_of(folder)["status"] == "running"
    runs.cut_off(runs.small(tmp_path, "schedule.steps=4000"), after=1)
    assert str(os.getpid()) in (folder / "lock").read_text()


def test_a_signal_with_nobody_to_tell(tmp_path: Path, started: Start) -> None:
    """Ctrl-C ends the reader of `train.py 2>&1 | tee log` as well; there is a checkpoint all the same."""
    reader, writer = os.pipe()
    process = started(
        *runs.SMALL, f"results={tmp_path}", "schedule.steps=5000", "trainer.progress=null", stdout=writer, stderr=writer
    )
    os.close(writer)
    with open(reader, "rb", buffering=0) as lines:
        assert lines.read(1)  # it trains; then the reader goes
    wait_until(lambda: (tmp_path / "runs").exists() and (runs.folder_of(tmp_path) / "checkpoint.pt").exists())
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 75
    status = runs.status_of(runs.folder_of(tmp_path))
    assert "left at step" in status["message"]
    state = checkpoints.read(runs.folder_of(tmp_path) / checkpoints.NEWEST)
    assert state["training"]["step"] == status["step"]
