"""src/study.py: slices of a sweep, and the archive that travels between them."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import records_factory
import runs

import study
from ablation.errors import UserError
from ablation.interrupts import SIGNALS
from ablation.runs.record.folder import RunFolder

STUDY = runs.TRAIN.with_name("study.py")
NAME = "plain8-digits-seed0-0123abcd"


def run_of(results: Path, step: int | None = None, checkpoint: str | None = None, **files: str) -> Path:
    """A hand-made run below `results`: `step` of its status, contents of its checkpoint and of other files."""
    folder = results / "runs" / NAME
    folder.mkdir(parents=True)
    texts = {name.replace("_", "."): text for name, text in files.items()}
    if step is not None:
        texts["status.json"] = json.dumps({"step": step})
    if checkpoint is not None:
        texts["checkpoint.pt"] = checkpoint
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != "lock"}


def tar_of(path: Path, name: str, **attributes: Any) -> None:
    """A tar of one member."""
    member = tarfile.TarInfo(name)
    for key, value in ({"size": 2} | attributes).items():
        setattr(member, key, value)
    with tarfile.open(path, "w") as tar:
        tar.addfile(member, io.BytesIO(b"{}"))


# ------------------------------------------------------------------------------------------------------------ bad input


def cut_short(path: Path) -> None:
    tar_of(path, f"runs/{NAME}/history.jsonl")
    path.write_bytes(path.read_bytes()[:513])


ARCHIVES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a text file": (lambda path: path.write_text("notes\n" * 200), "cannot be read as a tar"),
    "an empty file": (lambda path: path.touch(), "cannot be read as a tar"),
    "cut short": (cut_short, "cannot be read as a tar"),
    "a folder": (Path.mkdir, "is a folder"),
    "outside": (lambda path: tar_of(path, "../status.json"), "holds ../status.json"),
    "outside, in a run's place": (lambda path: tar_of(path, "runs/../status.json"), "holds runs/../status.json"),
    "absolute": (lambda path: tar_of(path, f"/runs/{NAME}/status.json"), "holds "),
    "a foreign file": (lambda path: tar_of(path, f"runs/{NAME}/weights.pt"), "holds "),
    "a link": (lambda path: tar_of(path, f"runs/{NAME}/status.json", type=tarfile.SYMTYPE, linkname="/x"), "holds "),
}

ARGUMENTS = {
    "": ("study=", "allowed: augmentations, degradation"),
    "quikstart": ("study=quikstart", "did you mean quickstart?"),
    "quickstart --minutes abc": ("--minutes=abc", "a positive number"),
    "quickstart --minutes nan": ("--minutes=nan", "a positive number"),
    "quickstart --minutes inf": ("--minutes=inf", "a positive number"),
    "quickstart --minutes 0": ("--minutes=0", "a positive number"),
    "quickstart --minutes -1": ("--minutes=-1", "a positive number"),
    "quickstart --minute 1": ("--minute 1", "--help shows"),
    "quickstart --archive": ("--archive: expected one argument", "--help shows"),
    "quickstart --archive taken/study.tar tracker=disabled": ("--archive=taken/study.tar", "cannot be written"),
}


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that holds nothing but the file `taken`."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    (folder / "taken").write_text("mine")
    monkeypatch.chdir(folder)
    return folder


def the_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that the program leaves with; nothing may be started."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was started")

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    status = runs.in_process(monkeypatch, *arguments, program="study.py")
    shown = capfd.readouterr()
    assert (status, shown.out) == (2, ""), shown
    (only,) = shown.err.splitlines()
    return only


@pytest.mark.parametrize("line", ARGUMENTS)
def test_arguments(line: str, empty: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    names, allowed = ARGUMENTS[line]
    first, rest = line.split()[:1], line.split()[1:]
    only = the_line(monkeypatch, capfd, *first, *[f"results={empty / 'results'}" for _ in first], *rest)
    assert names in only
    assert allowed in only
    assert [path.name for path in empty.iterdir()] == ["taken"]


@pytest.mark.parametrize("case", ARCHIVES)
def test_archive(case: str, empty: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    make, says = ARCHIVES[case]
    make(Path("study.tar"))
    only = the_line(monkeypatch, capfd, "quickstart", "--archive", "study.tar", "results=results", "tracker=disabled")
    assert only.startswith("--archive=study.tar: ")
    assert says in only
    assert {path.name for path in empty.iterdir()} == {"taken", "study.tar"}


@pytest.mark.parametrize("fault", ["no config", "no history", "half of it"])
def test_nothing_is_published_where_a_record_is_wrong(fault: str, tmp_path: Path) -> None:
    good, bad = records_factory.write_all(tmp_path / "runs", records_factory.digits_quickstart()[:2])
    assert good < bad, "the good one is met first"
    record = json.loads((bad / "record.json").read_text())
    if fault == "no config":
        del record["config"]
    (bad / "record.json").write_text(json.dumps(record)[: 300 if fault == "half of it" else None])
    if fault == "no history":
        (bad / "history.jsonl").unlink()
    with pytest.raises(UserError, match=f"^record={bad / 'record.json'}: "):
        study.publish(tmp_path / "runs", tmp_path / "reference")
    assert not (tmp_path / "reference").exists()


def test_published_records_name_no_folder_of_the_machine(tmp_path: Path) -> None:
    (made,) = records_factory.write_all(tmp_path / "runs", records_factory.digits_quickstart()[:1])
    record = json.loads((made / "record.json").read_text())
    record["config"]["results"] = record["config"]["data"]["root"] = "/home/me"
    (made / "record.json").write_text(json.dumps(record))
    run_of(tmp_path, step=5, checkpoint="unfinished")
    assert study.publish(tmp_path / "runs", tmp_path / "reference") == 1
    (published,) = (tmp_path / "reference").iterdir()
    assert {path.name for path in published.iterdir()} == {"record.json", "history.jsonl"}
    record["config"]["results"] = record["config"]["data"]["root"] = None
    assert json.loads((published / "record.json").read_text()) == record


# -------------------------------------------------------------------------------------------------------- the archive


LOCAL: dict[str, tuple[dict[str, Any], bool]] = {
    "nothing": ({}, True),
    "less": ({"step": 4, "checkpoint": "local"}, True),
    "as much": ({"step": 5, "checkpoint": "local"}, False),
    "more": ({"step": 6, "checkpoint": "local"}, False),
    "no checkpoint": ({"step": 6}, True),
    "no status": ({"checkpoint": "local"}, True),
    "a broken status": ({"checkpoint": "local", "status_json": "[["}, True),
    "finished": ({"step": 5, "record_json": "{}"}, False),
    "finished, in the midst of clearing up": ({"step": 4, "checkpoint": "local", "record_json": "{}"}, False),
}


@pytest.mark.parametrize("case", LOCAL)
def test_unpacking_never_goes_back(case: str, tmp_path: Path) -> None:
    local, taken = LOCAL[case]
    archived = run_of(tmp_path / "there", step=5, checkpoint="archived", history_jsonl="archived", weights_pt="stay")
    study.pack(tmp_path / "there", tmp_path / "study.tar")
    here = run_of(tmp_path / "here", **local)
    before = contents(here)
    study.unpack(tmp_path / "study.tar", tmp_path / "here")
    expected = contents(archived)
    del expected["weights.pt"]
    assert contents(here) == (before | expected if taken else before)


def test_a_finished_archived_run_and_an_older_checkpoint(tmp_path: Path) -> None:
    """A checkpoint that a kill left under its first name would count as newer than what was unpacked."""
    archived = run_of(tmp_path / "there", step=5, record_json="{}", history_jsonl="archived")
    study.pack(tmp_path / "there", tmp_path / "study.tar")
    here = run_of(tmp_path / "here", step=5, checkpoint="local")
    (here / "checkpoint.new.pt").write_text("local, too")
    study.unpack(tmp_path / "study.tar", tmp_path / "here")
    assert contents(here) == contents(archived)


def test_a_run_that_another_process_trains(tmp_path: Path) -> None:
    run_of(tmp_path / "there", step=5, checkpoint="archived")
    study.pack(tmp_path / "there", tmp_path / "study.tar")
    here = run_of(tmp_path / "here", step=4, checkpoint="local")
    before = contents(here)
    with RunFolder(tmp_path / "here", *NAME.rsplit("-", 1)).held(), pytest.raises(UserError) as error:
        study.unpack(tmp_path / "study.tar", tmp_path / "here")
    assert f"{NAME}: process {os.getpid()} on " in str(error.value)
    assert contents(here) == before


def test_a_run_cut_off_here_and_finished_there(tmp_path: Path) -> None:
    """Bit-identical to an undisturbed one, by the archive alone."""
    runs.finish(runs.small(tmp_path / "undisturbed"))
    runs.cut_off(runs.small(tmp_path / "here"), after=7)
    study.pack(tmp_path / "here", tmp_path / "study.tar")
    study.unpack(tmp_path / "study.tar", tmp_path / "there")
    assert runs.finish(runs.small(tmp_path / "there")).state == "resumed"
    folders = [runs.folder_of(tmp_path / name) for name in ("there", "undisturbed")]
    assert runs.essence(folders[0]) == runs.essence(folders[1])


# ------------------------------------------------------------------------------------------------------------ signals


CHILD = """
import pathlib, signal, sys, time
def leave(*_):
    time.sleep(0.2)
    sys.exit(75)
signal.signal(int(sys.argv[1]), leave)
pathlib.Path(sys.argv[2]).touch()
time.sleep(20)
"""


def handlers() -> list[Any]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_is_handed_on_and_outlived(number: signal.Signals, tmp_path: Path) -> None:
    """All but SIGINT, which a terminal has sent to both."""
    before, ready = handlers(), tmp_path / "ready"
    with study.started([sys.executable, "-c", CHILD, str(number.value), str(ready)]) as child:
        wait_until(ready.exists)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), number)
        assert child.wait(timeout=10) == 75
        os.kill(os.getpid(), number)  # while packing
    assert handlers() == before


def test_a_signal_before_there_is_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = subprocess.Popen

    def late(command: list[str]) -> "subprocess.Popen[bytes]":
        os.kill(os.getpid(), signal.SIGTERM)
        return begin(command)

    monkeypatch.setattr(subprocess, "Popen", late)
    with study.started([sys.executable, "-c", CHILD, "15", str(tmp_path / "ready")]) as child:
        assert child.wait(timeout=10) in (-signal.SIGTERM, 75)


def wait_until(true: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_slices_in_four_folders(tmp_path: Path) -> None:
    """As a user does it: no time at all, then cut off by SIGTERM, then by Ctrl-C, then to the end."""
    archive, steps = tmp_path / "study.tar", "schedule.steps=150"
    settings = [*runs.SMALL, steps, "model.residual=true"]

    def begin(folder: str, *options: str) -> "subprocess.Popen[str]":
        command = [sys.executable, str(STUDY), "quickstart", *options, "--archive", str(archive)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        overrides = [*settings, f"results={tmp_path / folder}"]
        return subprocess.Popen([*command, *overrides], text=True, start_new_session=True, **pipes)

    def end(process: "subprocess.Popen[str]") -> tuple[int, str]:
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in err
        assert f"packed: {archive}" in out
        return process.returncode, out

    assert end(begin("first", "--minutes", "0.0001"))[0] == 75
    step = 0
    for folder, leave in (("second", terminate), ("third", interrupt_group)):
        process = begin(folder)
        try:
            wait_until(partial(further, tmp_path / folder, step))
            leave(process)
            assert end(process)[0] == 75
        finally:
            process.kill()
        last, step = step, runs.status_of(runs.folder_of(tmp_path / folder))["step"]
        assert last < step < 150
    status, out = end(begin("fourth"))
    assert status == 0
    assert f"goes on at step {step} of 150" in out
    runs.finish(runs.small(tmp_path / "undisturbed", steps, "model.residual=true", "tracker.group=quickstart"))
    found = [runs.essence(runs.folder_of(tmp_path / name)) for name in ("fourth", "undisturbed")]
    assert found[0] == found[1]


def further(results: Path, step: int) -> bool:
    """Whether the run below `results` has taken more than `step` steps."""
    statuses = [study.read_json(path) for path in results.glob("runs/*/status.json")]
    return any(status["step"] > step for status in statuses)


def terminate(process: "subprocess.Popen[str]") -> None:
    """As a batch system does: study.py alone."""
    process.send_signal(signal.SIGTERM)


def interrupt_group(process: "subprocess.Popen[str]") -> None:
    """As Ctrl-C does: study.py and what it has started."""
    os.killpg(process.pid, signal.SIGINT)


# ----------------------------------------------------------------------------------------------------------- the pages


PAGE = """# Report

12 finished runs

## Reference study digits

### digits · onecycle

| Network | n |
| --- | --- |
| plain-20 | 5 |

![digits-curves](figures/digits-curves.png)

![digits-depth](figures/digits-depth.png)

| Verdict | Claim |
| --- | --- |
| reproduced | Degradation |

## Reference study alone

### cifar10 · one network

| Network | n |
| --- | --- |
| ResNet-20 | 1 |

![alone-curves](figures/alone-curves.png)

## Reference study short

### cifar10 · short

| Network | n |
| --- | --- |
| plain-56 | 3 |

![short-depth](figures/short-depth.png)
"""


def test_excerpt_keeps_what_compares_depths_with_cifar10_first() -> None:
    assert (
        study.excerpt(PAGE)
        == """**cifar10 · short**

| Network | n |
| --- | --- |
| plain-56 | 3 |

![Error against depth](docs/images/reference/short-depth.svg)

**digits · onecycle**

| Network | n |
| --- | --- |
| plain-20 | 5 |

![Error against depth](docs/images/reference/digits-depth.svg)"""
    )
