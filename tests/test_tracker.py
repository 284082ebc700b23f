"""What reaches a W&B server, value by value, from real runs; and what a run has to suffer for it: nothing."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import runs
from wandb_server import Run, WandbServer

from ablation.tracking import tracker
from ablation.tracking.tracker import TrackerProcess, track
from ablation.tracking.wandb_runs import LAYER_COLUMNS, cell, wandb_id

SOURCE = Path(__file__).resolve().parent.parent / "src"
WANDB = Path(sys.executable).with_name("wandb")
OWN = ("_step", "_timestamp", "_runtime")
"""Keys that wandb adds to a row."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    """A W&B server, and an environment in which wandb knows no other and no key but its own."""
    with WandbServer() as made:
        for name, value in (made.environment | {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}).items():
            monkeypatch.setenv(name, value)
        yield made
        tracker.finish()
        assert not made.unknown, "wandb asked something that the server does not know"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one finished run that no tracker has seen."""
    results = tmp_path_factory.mktemp("finished")
    assert runs.finish(runs.small(results)).state == "done"
    return results


@pytest.fixture
def results(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "results"))


def tracked(results: Path, mode: str, *overrides: str) -> Path:
    """A real run with a tracker, until all is with W&B; its folder."""
    runs.finish(runs.small(results, f"tracker={mode}", "tracker.timeout=4", *overrides))
    tracker.finish()
    return runs.folder_of(results)


def sync(folder: Path) -> tuple[int, int]:
    """`python src/dashboard.py sync FOLDER`: how many rows were new, and of how many."""
    command = [sys.executable, SOURCE / "dashboard.py", "sync", folder]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"(\d+) of (\d+) rows were new", ran.stdout)
    assert found is not None, ran.stdout
    return int(found[1]), int(found[2])


def essence(results: Path) -> dict[str, Any]:
    """All of a finished run that no tracker and no fault of a server may change."""
    made = runs.essence(runs.folder_of(results))
    del made["record"]["config"]["tracker"]
    return made


def played(folder: Path, mode: str, rows: slice = slice(None), state: str = "done", message: str = "") -> None:
    """A run with a tracker, without the training: the files of a finished one come into their places as if it were."""
    history = (folder / "history.jsonl").read_text().splitlines(keepends=True)
    status = runs.status_of(folder)
    config = (folder / "config.yaml").read_text().replace("mode: disabled", f"mode: {mode}")
    (folder / "config.yaml").write_text(config)
    (folder / "status.json").write_text(json.dumps(status | {"status": "running"}))
    (folder / "history.jsonl").write_text("")
    follower = track(folder, mode, 4)
    with open(folder / "history.jsonl", "a") as file:
        for line in history[rows]:
            file.write(line)
            file.flush()
            follower.row()
    (folder / "status.json").write_text(json.dumps(status | {"status": state, "message": message}))
    follower.close()
    tracker.finish()
    (folder / "history.jsonl").write_text("".join(history))
    (folder / "status.json").write_text(json.dumps(status))


def read(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A run's history and record."""
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], json.loads((folder / "record.json").read_text())


def rows(run: Run) -> list[dict[str, Any]]:
    """The rows that the server has, without what wandb adds, and with their step."""
    return [{"at": row["_step"]} | {k: v for k, v in row.items() if k not in OWN} for row in run.history]


def expected_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of the history, then one of the tables, then one a layer."""
    history, record = read(folder)
    kind = "residual" if record["config"]["model"]["residual"] else "plain"
    made = []
    for row in history:
        twice = {f"{kind}/train_error": row["running_train_error"], f"{kind}/test_error": row["test_error"]}
        made.append({"at": row["step"]} | {k: v for k, v in row.items() if v is not None} | twice)
    step = record["step"] + 1
    made.append({"at": step, "confusion": ..., "layers": ...})
    for index, layer in enumerate(record["layers"], 1):
        numbers = {f"layer/{key}": layer[key] for key in LAYER_COLUMNS}
        made.append({"at": step + index, "layer/index": index} | numbers)
    return made


def check_rows(run: Run, folder: Path, but_not: tuple[str, ...] = ()) -> None:
    """Everything that the run's files hold is there, once, at its step and with its value."""
    got, expected = rows(run), expected_rows(folder)
    assert [row["at"] for row in got] == [row["at"] for row in expected]
    for row, wanted in zip(got, expected, strict=True):
        assert row.keys() - {"step"} == wanted.keys() - {"step"}  # wandb adds the axis to the row of the tables
        for key, value in wanted.items():
            assert value is ... or key in but_not or row[key] == pytest.approx(value, rel=1e-12, abs=0), key


def table(run: Run, key: str) -> Any:
    """A table that was uploaded."""
    (row,) = [row for row in run.history if key in row]
    return json.loads(run.uploads[row[key]["path"]])


def test_online_run_value_by_value(server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import of it here, beside the training, would fail
    folder = tracked(tmp_path, "online", "tracker.group=my group")
    history, record = read(folder)
    assert list(server.runs) == [record["id"]]
    run = server.runs[record["id"]]
    assert (run.state, run.exit_code, run.sessions) == ("finished", 0, 1)
    named = {key: run.fields[key] for key in ("displayName", "groupName", "jobType", "project")}
    assert named == {"displayName": folder.name, "groupName": "my group", "jobType": "residual", "project": "ablation"}
    assert run.fields["tags"] == ["resnet8", "shortcut-A", "digits", "sgd", "onecycle", "none", "seed0"]
    whole = record["config"] | {"trainer": record["config"]["trainer"] | {"precision": "float32"}}
    for key in whole.keys() - {"results", "data"}:  # a record names no folders of this machine
        assert run.config[key] == whole[key], key
    assert run.config["environment"] == record["environment"]
    assert run.config["parameters"] == record["parameters"]
    check_rows(run, folder)
    metrics = {f"final/{key}": value for key, value in record["metrics"].items() if value is not None}
    assert {key: run.summary[key] for key in run.summary if key.startswith("final/")} == pytest.approx(metrics)
    for key in ("test_error", "running_train_error"):
        assert run.summary[key] == pytest.approx(history[-1][key])
        assert run.summary[f"{key}_min"] == pytest.approx(min(row[key] for row in history))
    assert "val_error_min" not in run.summary
    confusion = table(run, "confusion")
    assert confusion["columns"] == ["true class", *record["data"]["classes"]]
    assert [row[1:] for row in confusion["data"]] == record["confusion"]
    assert [row[1] for row in table(run, "layers")["data"]] == [layer["name"] for layer in record["layers"]]
    axes = {metric["1"]: run.metrics[metric["5"] - 1]["1"] for metric in run.metrics if "5" in metric}
    assert axes.keys() == {key for row in run.history for key in row} - {*OWN, "step", "layer/index"}
    for key, axis in axes.items():
        assert axis == ("layer/index" if key.startswith("layer/") else "step"), key


def test_resumed_run_goes_on_in_the_same_wandb_run(server: WandbServer, tmp_path: Path) -> None:
    runs.cut_off(runs.small(tmp_path, "tracker=online", "tracker.timeout=4"), after=11)
    tracker.finish()
    (run,) = server.runs.values()
    assert (run.state, run.exit_code, [row["at"] for row in rows(run)]) == ("preempted", 75, [5, 10])
    folder = tracked(tmp_path, "online")  # from the checkpoint of step 9: the row of step 10 comes again
    assert list(server.runs.values()) == [run]
    assert (run.state, run.exit_code, run.sessions) == ("finished", 0, 2)
    check_rows(run, folder, but_not=runs.TIMES)  # of a row that came twice, W&B keeps the first
    least = min(row["test_error"] for row in read(folder)[0])
    assert run.summary["test_error_min"] == pytest.approx(least)


def test_failed_run_shows_as_failed(server: WandbServer, tmp_path: Path) -> None:
    folder = tracked(tmp_path, "online", "optimizer.lr=1e30")
    assert runs.status_of(folder)["status"] == "failed"
    (run,) = server.runs.values()
    assert (run.state, run.exit_code) == ("failed", 1)
    assert run.summary["status"] == "failed"
    assert "not finite at step" in run.summary["message"]


def test_multirun_is_a_wandb_run_a_job_and_one_for_the_sweep(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = ("seed=0,1", "optimizer.lr=0.1,1e30")
    arguments = [*runs.SMALL, f"results={tmp_path}", "tracker=online", "tracker.timeout=8", *axes]
    assert runs.in_process(monkeypatch, "-m", *arguments) == 1
    tracker.finish()
    jobs = {name: run for name, run in server.runs.items() if not name.startswith("sweep-")}
    assert len(jobs) == 4
    assert {run.fields["groupName"] for run in server.runs.values()} == {"multirun-seed-optimizer.lr"}
    for folder in (tmp_path / "runs").iterdir():
        status = runs.status_of(folder)
        run = jobs.pop(status["id"])
        assert run.fields["displayName"] == folder.name
        state, code = {"done": ("finished", 0), "failed": ("failed", 1)}[status["status"]]
        assert (run.state, run.exit_code) == (state, code)
        if status["status"] == "done":
            check_rows(run, folder)
    (sweep,) = [run for name, run in server.runs.items() if name.startswith("sweep-")]
    assert (sweep.state, sweep.fields["jobType"]) == ("finished", "sweep")
    (row,) = sweep.history
    figures = {f"figures/{path.stem}": path.read_bytes() for path in (tmp_path / "report").rglob("*.png")}
    assert figures
    assert {key for key in row if key.startswith("figures/")} == figures.keys()
    assert all(sweep.uploads[row[key]["path"]] == picture for key, picture in figures.items())
    assert sorted(line[1] for line in table(sweep, "jobs")["data"]) == ["done", "done", "failed", "failed"]


def test_sync_brings_an_untracked_run_as_if_it_had_been_online(server: WandbServer, results: Path) -> None:
    folder = runs.folder_of(results)
    brought = sync(folder)
    (run,) = server.runs.values()
    check_rows(run, folder)
    known = len(run.history)
    assert (run.state, *brought) == ("finished", known, known)
    summary = run.summary
    assert sync(folder) == (0, known)
    check_rows(run, folder)
    assert {k: v for k, v in run.summary.items() if k[0] != "_"} == {k: v for k, v in summary.items() if k[0] != "_"}
    assert len(server.artifacts) == 2  # of the two tables, one version each


def test_sync_adds_what_a_half_synced_run_lacks(server: WandbServer, results: Path) -> None:
    folder = runs.folder_of(results)
    played(folder, "online", slice(1), "interrupted")
    (run,) = server.runs.values()
    assert len(run.history) == 1
    whole = len(expected_rows(folder))
    assert sync(folder) == (whole - 1, whole)
    assert (run.state, run.exit_code) == ("finished", 0)
    check_rows(run, folder)


def test_offline_run_is_brought_by_wandb_sync(server: WandbServer, results: Path) -> None:
    folder = runs.folder_of(results)
    played(folder, "offline", slice(2), "interrupted")
    played(folder, "offline")
    assert not server.operations, "offline means offline"
    offline = list((results / "wandb").glob("offline-run-*"))
    assert len(offline) == 1, "a resumed run's folder replaces the earlier one"
    subprocess.run([WANDB, "sync", results / "wandb"], check=True, capture_output=True, stdin=subprocess.DEVNULL)
    (run,) = server.runs.values()
    assert (run.state, run.exit_code) == ("finished", 0)
    check_rows(run, folder)
    assert sync(folder)[0] == 0
    check_rows(run, folder)


def test_wandb_sync_doubles_nothing_that_is_there(server: WandbServer, results: Path) -> None:
    folder = runs.folder_of(results)
    played(folder, "online", slice(2), "interrupted")
    played(folder, "offline")  # goes on where there is no network
    subprocess.run([WANDB, "sync", results / "wandb"], capture_output=True, stdin=subprocess.DEVNULL, check=False)
    sync(folder)
    (run,) = server.runs.values()
    check_rows(run, folder)


def no_key(_server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("WANDB_API_KEY")
    return "No API key"


def refused(_server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    return "cannot be reached"


def error(server: WandbServer, _monkeypatch: pytest.MonkeyPatch) -> str:
    server.fault = "error"
    return "answers with status 500"


def hang(server: WandbServer, _monkeypatch: pytest.MonkeyPatch) -> str:
    server.fault = "hang"
    return "did not answer"


@pytest.mark.parametrize("fault", [no_key, refused, error, hang])
def test_without_a_server_the_run_is_recorded_offline(
    fault: Callable[[WandbServer, pytest.MonkeyPatch], str],
    server: WandbServer,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    said = fault(server, monkeypatch)
    tracked(tmp_path, "online")
    assert essence(tmp_path) == essence(finished)
    told = [line for line in capfd.readouterr().out.splitlines() if line.startswith("W&B")]
    assert len(told) == 1
    assert said in told[0]
    assert told[0].endswith("later: python src/dashboard.py sync")
    (offline,) = (tmp_path / "wandb").iterdir()
    assert offline.name.startswith("offline-run-")
    assert not server.runs


@pytest.mark.parametrize("fault", ["error", pytest.param("hang", marks=pytest.mark.slow)])
def test_a_server_lost_in_mid_run_costs_nothing_but_time_at_the_end(
    fault: str, server: WandbServer, finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = runs.small(tmp_path, "tracker=online", "tracker.timeout=2")
    steps = runs.started(config)
    for _ in range(7):
        next(steps)
    server.wait_for("UpsertBucket")
    server.fault = fault
    assert runs.end_of(steps).state == "done"
    tracker.finish()
    folder = runs.folder_of(tmp_path)
    assert essence(tmp_path) == essence(finished)
    assert "later: python src/dashboard.py sync" in capfd.readouterr().out
    server.fault = None
    sync(folder)
    (run,) = server.runs.values()
    check_rows(run, folder)
    assert run.state == "finished"


def test_killed_run_is_closed_and_blocks_nothing(server: WandbServer, results: Path) -> None:
    folder = runs.folder_of(results)
    history, status = (folder / "history.jsonl").read_text(), runs.status_of(folder)
    config = (folder / "config.yaml").read_text().replace("mode: disabled", "mode: online")
    (folder / "config.yaml").write_text(config)
    (folder / "status.json").write_text(json.dumps(status | {"status": "running"}))
    (folder / "history.jsonl").write_text(history.splitlines(keepends=True)[0])
    code = f"""
import os, signal, time
from pathlib import Path
from ablation.tracking.tracker import track, tracker_process
track(Path({str(folder)!r}), "online", 4).row()
print(tracker_process(4).process.pid, flush=True)
time.sleep(600)
"""
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    trained = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    assert trained.stdout is not None
    follower = int(trained.stdout.readline())
    try:
        server.wait_for("UpsertBucket")
    finally:
        trained.kill()
        trained.wait()
    server.wait_until(lambda: not Path(f"/proc/{follower}/cmdline").exists())
    (run,) = server.runs.values()
    assert (run.state, run.exit_code, [row["at"] for row in rows(run)]) == ("failed", 137, [5])
    (folder / "history.jsonl").write_text(history)
    (folder / "status.json").write_text(json.dumps(status))
    played(folder, "online")
    assert run.state == "finished"
    check_rows(run, folder)


@pytest.mark.slow
def test_interrupted_from_the_terminal_shows_as_preempted(server: WandbServer, tmp_path: Path) -> None:
    overrides = [*runs.SMALL, f"results={tmp_path}", "tracker=online", "schedule.steps=100000"]
    process = runs.train(*overrides, "trainer.checkpoint_every=100000", start_new_session=True)
    server.wait_for("UpsertBucket", seconds=120)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to all processes of the terminal's group
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, out + err
    assert "W&B" not in out + err
    (run,) = server.runs.values()
    assert (run.state, run.exit_code) == ("preempted", 75)
    assert "SIGINT" in run.summary["message"]
    folder = runs.folder_of(tmp_path)
    history = [json.loads(line)["step"] for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [row["at"] for row in rows(run)] == history


def test_a_stopped_tracker_process_holds_nothing_up(
    server: WandbServer, results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    process = TrackerProcess(timeout=0.3)
    process.process.send_signal(signal.SIGSTOP)
    for _ in range(5000):  # far more than a pipe holds
        process.send("row", str(results))
        process.send("close", str(results))
    process.finish()
    assert process.process.poll() is not None
    told = capfd.readouterr().out
    assert "did not end in time" in told
    assert told.count("\n") == 1


def test_a_dead_tracker_process_holds_nothing_up(results: Path, capfd: pytest.CaptureFixture[str]) -> None:
    process = TrackerProcess(timeout=4)
    process.process.kill()
    process.process.wait()
    for _ in range(3):
        process.send("row", str(results))
    process.finish()
    told = capfd.readouterr().out
    assert "its process died" in told
    assert told.count("\n") == 1


def test_a_run_that_cannot_be_tracked_is_told_in_a_line(
    server: WandbServer, results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = runs.folder_of(results)
    (folder / "config.yaml").write_text("model: {}")
    follower = track(folder, "online", 4)
    follower.row()
    follower.close()
    tracker.finish()
    told = capfd.readouterr().out
    assert told.startswith(f"W&B: {folder.name}: not tracked further")
    assert told.count("\n") == 1


def test_disabled_starts_nothing(tmp_path: Path) -> None:
    runs.finish(runs.small(tmp_path))
    assert tracker._process is None
    assert not (tmp_path / "wandb").exists()


def test_seeds_share_a_cell_and_nothing_else_does(tmp_path: Path) -> None:
    changes = ("", "seed=1", "optimizer.lr=0.05", "model.width=8")
    configs = [runs.small(tmp_path, *filter(None, [change])) for change in changes]
    cells = [cell(config.to_dict(), config.identity("float32")) for config in configs]
    assert cells[0] == cells[1]
    assert len(set(cells)) == 3


def test_overwritten_run_gets_an_id_of_its_own(results: Path) -> None:
    folder = runs.folder_of(results)
    identity = runs.status_of(folder)["id"]
    assert wandb_id(folder, identity) == identity
    runs.finish(runs.small(results, "overwrite=true"))
    assert wandb_id(folder, identity) == f"{identity}-2"
