"""What reaches a W&B server, value by value, from real runs; and that no fault of W&B changes a run."""

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
import yaml
from filelock import FileLock
from wandb_server import Run, WandbServer, serving

from ablation.errors import UserError
from ablation.tracking import tracker

SOURCE = Path(__file__).resolve().parent.parent / "src"
OWN = ("_step", "_timestamp", "_runtime")
"""Keys that wandb adds to a row."""
LAYER_KEYS = ("name", "response_std", "gradient_norm_start", "gradient_norm_end")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    yield from serving(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one finished run without a tracker."""
    results = tmp_path_factory.mktemp("finished")
    assert runs.finish(runs.small(results)).state == "done"
    return results


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """The folder of a copy of that run."""
    return runs.folder_of(Path(shutil.copytree(finished, tmp_path / "results")))


def tracked(results: Path, mode: str, *overrides: str) -> Path:
    """A real run with a tracker, until everything is uploaded; its folder."""
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


def cut_short(folder: Path, rows: int, state: str, mode: str) -> Callable[[], None]:
    """Give a finished run's folder the look of one with `rows` rows in `state`; call the result to make it whole."""
    kept = {name: (folder / name).read_text() for name in ("history.jsonl", "status.json")}
    config = (folder / "config.yaml").read_text().replace("mode: disabled", f"mode: {mode}")
    (folder / "config.yaml").write_text(re.sub(r"timeout: [\d.]+", "timeout: 4.0", config))
    (folder / "history.jsonl").write_text("".join(kept["history.jsonl"].splitlines(keepends=True)[:rows]))
    (folder / "status.json").write_text(json.dumps(json.loads(kept["status.json"]) | {"status": state}))
    return lambda: [(folder / name).write_text(text) for name, text in kept.items()] and None


def follow(folder: Path) -> None:
    """Upload what is in the folder, as beside a training."""
    tracker.follow(folder, "online", 4)
    tracker.finish()


def read(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A run's history and record."""
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], json.loads((folder / "record.json").read_text())


def steps(run: Run) -> list[int]:
    """The steps of the rows that the server has."""
    return [row["_step"] for row in run.history]


def expected_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of the history, then one a layer."""
    history, record = read(folder)
    kind = "residual" if record["config"]["model"]["residual"] else "plain"
    made = []
    for row in history:
        twice = {f"{kind}/train_error": row["running_train_error"], f"{kind}/test_error": row["test_error"]}
        made.append({"_step": row["step"]} | {k: v for k, v in row.items() if v is not None} | twice)
    for index, layer in enumerate(record["layers"], 1):
        numbers = {f"layer/{key}": layer[key] for key in LAYER_KEYS}
        made.append({"_step": record["step"] + index, "layer/index": index} | numbers)
    return made


def check_rows(run: Run, folder: Path, but_not: tuple[str, ...] = ()) -> None:
    """The server has everything that the run's files hold, once, at its step and with its value."""
    expected = expected_rows(folder)
    assert steps(run) == [row["_step"] for row in expected]
    for row, wanted in zip(run.history, expected, strict=True):
        assert row.keys() - {*OWN} == wanted.keys() - {"_step"}
        for key, value in wanted.items():
            wanted_value = value if isinstance(value, str) else pytest.approx(value, rel=1e-12, abs=0)
            assert key in but_not or row[key] == wanted_value, key
    assert (run.state, run.exit_code) == ("finished", 0)


def values(run: Run) -> dict[str, Any]:
    """The summary, with the digest of each table, without what wandb adds."""
    kept = {key: value for key, value in run.summary.items() if key[0] != "_"}
    return {key: value["sha256"] if isinstance(value, dict) else value for key, value in kept.items()}


def table(run: Run, key: str) -> Any:
    """An uploaded table of the summary."""
    return json.loads(run.uploads[run.summary[key]["path"]])


def test_online_run_value_by_value(server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # the training must not import it
    folder = tracked(tmp_path, "online", "tracker.group=my group")
    history, record = read(folder)
    (run,) = server.runs.values()
    assert (run.name, run.sessions) == (record["id"], 1)
    named = {key: run.fields[key] for key in ("displayName", "groupName", "jobType", "project")}
    assert named == {"displayName": folder.name, "groupName": "my group", "jobType": "residual", "project": "ablation"}
    assert run.fields["tags"] == ["resnet8", "A", "digits", "sgd", "onecycle", "none", "seed0"]
    whole = record["config"] | {"trainer": record["config"]["trainer"] | {"precision": "float32"}}
    for key in whole.keys() - {"results", "data"}:  # a record has no folders of this machine
        assert run.config[key] == whole[key], key
    assert run.config["environment"] == record["environment"]
    check_rows(run, folder)
    metrics = {f"final/{key}": value for key, value in record["metrics"].items() if value is not None}
    assert {key: run.summary[key] for key in run.summary if key.startswith("final/")} == pytest.approx(metrics)
    for key in ("test_error", "running_train_error"):
        assert run.summary[f"{key}_min"] == pytest.approx(min(row[key] for row in history))
    assert "val_error_min" not in run.summary
    confusion = table(run, "confusion")
    assert confusion["columns"] == ["true class", *record["data"]["classes"]]
    assert [row[1:] for row in confusion["data"]] == record["confusion"]
    axes = {metric["1"]: run.metrics[metric["5"] - 1]["1"] for metric in run.metrics if "5" in metric}
    assert axes.keys() == {key for row in run.history for key in row} - {*OWN, "step", "layer/index"}
    assert all(axis == ("layer/index" if key.startswith("layer/") else "step") for key, axis in axes.items())


def test_resumed_run_goes_on_in_the_same_wandb_run(server: WandbServer, tmp_path: Path) -> None:
    runs.cut_off(runs.small(tmp_path, "tracker=online", "tracker.timeout=4"), after=11)
    tracker.finish()
    (run,) = server.runs.values()
    assert (run.state, run.exit_code, steps(run)) == ("preempted", 75, [5, 10])
    folder = tracked(tmp_path, "online")  # from the checkpoint of step 9: the row of step 10 comes again
    assert list(server.runs.values()) == [run]
    assert run.sessions == 2
    check_rows(
        run, folder, but_not=("images_per_second", "wall_seconds")
    )  # of a row that came twice, W&B keeps the first
    assert run.summary["test_error_min"] == pytest.approx(min(row["test_error"] for row in read(folder)[0]))


def test_failed_run_shows_as_failed(server: WandbServer, tmp_path: Path) -> None:
    folder = tracked(tmp_path, "online", "optimizer.lr=1e30")
    (run,) = server.runs.values()
    assert (run.state, run.exit_code) == ("failed", 1)
    assert run.summary["status"] == "failed"
    assert run.summary["message"] == runs.status_of(folder)["message"]


def test_multirun_is_a_wandb_run_a_job_and_one_for_the_sweep(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = ("seed=0,1", "optimizer.lr=0.1,1e30")
    arguments = [*runs.SMALL, f"results={tmp_path}", "tracker=online", "tracker.timeout=8", *axes]
    assert runs.in_process(monkeypatch, "-m", *arguments) == 1
    tracker.finish()
    assert {run.fields["groupName"] for run in server.runs.values()} == {"multirun-seed-optimizer.lr"}
    (sweep,) = [server.runs.pop(name) for name in list(server.runs) if name.startswith("sweep-")]
    folders = list((tmp_path / "runs").iterdir())
    assert {runs.status_of(folder)["id"] for folder in folders} == server.runs.keys()
    for folder in folders:
        run, status = server.runs[runs.status_of(folder)["id"]], runs.status_of(folder)["status"]
        assert run.fields["displayName"] == folder.name
        if status == "done":
            check_rows(run, folder)
        else:
            assert (status, run.state, run.exit_code) == ("failed", "failed", 1)
    cells = {run.config["cell"]: run.config["optimizer"]["lr"] for run in server.runs.values()}
    assert sorted(cells.values()) == [0.1, 1e30], "seeds share a cell, and nothing else does"
    assert (sweep.state, sweep.fields["jobType"]) == ("finished", "sweep")
    (row,) = sweep.history
    figures = {f"figures/{path.stem}": path.read_bytes() for path in (tmp_path / "report").rglob("*.png")}
    assert {key for key in row if key.startswith("figures/")} == figures.keys() != set()
    assert all(sweep.uploads[row[key]["path"]] == image for key, image in figures.items())
    assert sorted(line[1] for line in table(sweep, "jobs")["data"]) == ["done", "done", "failed", "failed"]


def test_sync_uploads_what_is_missing_and_nothing_twice(server: WandbServer, folder: Path) -> None:
    make_whole = cut_short(folder, 1, "interrupted", "online")
    follow(folder)
    (run,) = server.runs.values()
    assert (run.state, len(run.history)) == ("preempted", 1)
    make_whole()
    whole = len(expected_rows(folder))
    assert sync(folder) == (whole - 1, whole)
    check_rows(run, folder)
    summary = values(run)
    assert sync(folder) == (0, whole)
    check_rows(run, folder)
    assert values(run) == summary
    assert len(server.artifacts) == 1, "one version of the table"


def test_offline_run_is_shown_by_name_and_synced(server: WandbServer, folder: Path) -> None:
    make_whole = cut_short(folder, 2, "interrupted", "offline")
    follow(folder)
    make_whole()
    follow(folder)
    assert not server.operations, "offline means offline"
    (shown,) = (folder.parent.parent / "wandb").glob("run-*")  # a resumed run replaces its first part
    assert shown.name.startswith(f"run-{folder.name}-run-")
    wandb = Path(sys.executable).with_name("wandb")
    leet = subprocess.run([wandb, "leet", "inspect", "--json", shown], capture_output=True, text=True, check=True)
    logged = [json.loads(line)["history"]["item"] for line in leet.stdout.splitlines() if '"type":"history"' in line]
    expected = [row.keys() - {"_step", "step"} for row in expected_rows(folder)]
    assert [row.keys() - {*OWN, "step"} for row in logged] == expected, "no confusion.ncols"
    whole = len(expected_rows(folder))
    assert sync(folder) == (whole, whole)
    (run,) = server.runs.values()
    subprocess.run([wandb, "sync", shown.parent], capture_output=True, stdin=subprocess.DEVNULL, check=False)
    check_rows(run, folder)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("no key", "WANDB_API_KEY=(none): "),
        ("refused", "cannot be reached, "),
        ("error", "answers with status 500"),
        ("hang", "does not answer in time"),
    ],
)
def test_without_a_server_the_run_is_recorded_offline(
    fault: str,
    said: str,
    server: WandbServer,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if fault == "no key":
        monkeypatch.delenv("WANDB_API_KEY")
    elif fault == "refused":
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    else:
        server.fault = fault
    tracked(tmp_path, "online")
    assert essence(tmp_path) == essence(finished)
    (line,) = [line for line in capfd.readouterr().out.splitlines() if line.startswith("tracker: ")]
    assert said in line
    assert line.endswith(f"; runs are recorded offline; {tracker.LATER}")
    assert len(list((tmp_path / "wandb" / "wandb").glob("offline-run-*"))) == 1
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
    assert essence(tmp_path) == essence(finished)
    assert "later: python src/dashboard.py sync" in capfd.readouterr().out
    server.fault = None
    folder = runs.folder_of(tmp_path)
    sync(folder)
    (run,) = server.runs.values()
    check_rows(run, folder)


def test_killed_run_shows_as_killed_and_leaves_nothing(server: WandbServer, folder: Path, tmp_path: Path) -> None:
    make_whole = cut_short(folder, 1, "running", "online")
    code = f"from pathlib import Path; from ablation.tracking.tracker import follow; import time; \
follow(Path({str(folder)!r}), 'online', 4); time.sleep(600)"
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "TMPDIR": str(tmp_path)}
    program = subprocess.Popen([sys.executable, "-c", code], env=environment)
    try:
        server.wait_for("UpsertBucket")
        (run,) = server.runs.values()
    finally:
        program.kill()
        program.wait()
    server.wait_until(lambda: run.complete)
    assert (run.state, run.exit_code, run.summary["status"], steps(run)) == ("failed", 137, "killed", [5])
    server.wait_until(lambda: not list(tmp_path.glob("ablation-*")))
    make_whole()
    follow(folder)
    check_rows(run, folder)


@pytest.mark.slow
def test_interrupted_from_the_terminal_shows_as_preempted(server: WandbServer, tmp_path: Path) -> None:
    overrides = [*runs.SMALL, f"results={tmp_path}", "tracker=online", "schedule.steps=100000"]
    process = runs.train(*overrides, "trainer.checkpoint_every=100000", start_new_session=True)
    server.wait_for("UpsertBucket", seconds=120)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to all processes of the terminal's group
    out, err = process.communicate(timeout=120)
    assert process.returncode == 75, out + err
    assert "tracker: " not in out + err
    (run,) = server.runs.values()
    assert (run.state, run.exit_code) == ("preempted", 75)
    assert "SIGINT" in run.summary["message"]
    history = (runs.folder_of(tmp_path) / "history.jsonl").read_text().splitlines()
    assert steps(run) == [json.loads(line)["step"] for line in history]


@pytest.mark.parametrize(("number", "said"), [(signal.SIGSTOP, "did not end in time"), (signal.SIGKILL, "died")])
def test_a_follower_that_stops_or_dies_holds_nothing_up(
    number: signal.Signals, said: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tracker.follow(folder, "offline", 0.3)
    assert tracker._follower is not None
    process = tracker._follower.process
    process.send_signal(number)
    for _ in range(20):
        tracker.follow(folder, "offline", 0.3)
    tracker.finish()
    assert process.poll() is not None
    (line,) = capfd.readouterr().out.splitlines()
    assert said in line
    assert line.endswith(tracker.LATER)


def test_a_run_that_cannot_be_tracked_is_one_line(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = folder / "config.yaml"
    whole = cut_short(folder, 1, "running", "offline") and config.read_text()
    config.write_text("model: {}")
    follow(folder)
    config.write_text(whole)
    (folder.parent.parent / "locks").mkdir(exist_ok=True)
    with FileLock(folder.parent.parent / "locks" / f"{folder.name}.wandb.lock"):
        follow(folder)
    broken, locked = capfd.readouterr().out.splitlines()
    assert broken.startswith(f"tracker: {folder.name}: not tracked further: ")
    assert locked.startswith(f"tracker: {folder.name}: not tracked further: The file lock")


def test_disabled_starts_nothing(tmp_path: Path) -> None:
    runs.finish(runs.small(tmp_path))
    assert tracker._follower is None
    assert not (tmp_path / "wandb").exists()


def test_a_newline_in_a_path_is_part_of_the_path(server: WandbServer, folder: Path, tmp_path: Path) -> None:
    """A protocol of lines once took what followed a newline for a command, and deleted the file that it named."""
    victim = tmp_path / "victim"
    victim.write_text("a user's file")
    results = tmp_path / f"a\nsweep {tmp_path.name}" / "results"
    shutil.move(folder.parent.parent, results)
    cut_short(runs.folder_of(results), 9, "done", "online")
    follow(runs.folder_of(results))
    (run,) = server.runs.values()
    check_rows(run, runs.folder_of(results))
    assert victim.exists()


def test_overwritten_run_gets_an_id_of_its_own(server: WandbServer, folder: Path) -> None:
    results = folder.parent.parent
    first = runs.status_of(folder)["id"]
    runs.finish(runs.small(results, "overwrite=true", "tracker=online"))
    tracker.finish()
    assert list(server.runs) == [f"{first}-2"]


@pytest.mark.parametrize("live", [True, False])
def test_event_files_hold_what_the_runs_own_files_hold(live: bool, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    plugin = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")
    if live:
        runs.cut_off(runs.small(tmp_path, "tracker=tensorboard"), after=7)
    folder = tracked(tmp_path, "tensorboard" if live else "disabled")
    for _ in range(0 if live else 2):  # the second time, nothing may be there twice
        command = [sys.executable, SOURCE / "dashboard.py", "tensorboard", folder, "--results", tmp_path]
        subprocess.run(command, check=True)
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard" / folder.name))
    found.Reload()

    def points(tag: str) -> list[tuple[int, float]]:
        return [(event.step, event.value) for event in found.Scalars(tag)]

    history, record = read(folder)
    for tag in ("error/test_error", "error/running_train_error", "loss/test_loss", "run/lr"):
        key = tag.partition("/")[2]
        assert points(tag) == [(row["step"], pytest.approx(row[key], rel=1e-6)) for row in history]
    seconds = [event.wall_time - (folder / "config.yaml").stat().st_mtime for event in found.Scalars("run/lr")]
    assert seconds == pytest.approx([row["wall_seconds"] for row in history], abs=1e-3)
    assert points("final/train_error") == [(12, pytest.approx(record["metrics"]["train_error"]))]
    starts = [layer["gradient_norm_start"] for layer in record["layers"]]
    assert points("layer/gradient_norm_start") == [(i, pytest.approx(v)) for i, v in enumerate(starts, start=1)]
    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = plugin.HParamsPluginData.FromString(content).session_start_info.hparams
    assert (settings["model.depth"].number_value, settings["data.name"].string_value) == (8, "digits")


def test_tensorboard_that_is_not_installed_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match="tracker=tensorboard: is not installed"):
        runs.finish(runs.small(tmp_path, "tracker=tensorboard"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_agent_of_wandbs_own_sweep_trains(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/wandb_sweep.yaml with a small network: what W&B minimises arrives under the id that the agent was given."""
    config = yaml.safe_load((SOURCE.parent / "docs" / "wandb_sweep.yaml").read_text())
    config["command"] += [*runs.SMALL[:-1], f"results={tmp_path}", "tracker.timeout=20"]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for arguments in (["sweep", str(tmp_path / "sweep.yaml")], ["agent", "--count", "1", "me/ablation/sweep"]):
        subprocess.run([sys.executable, "-m", "wandb", *arguments], cwd=SOURCE.parent, check=True, timeout=300)
    record = json.loads((runs.folder_of(tmp_path) / "record.json").read_text())
    assert record["config"]["optimizer"]["lr"] == config["parameters"]["optimizer.lr"]["max"]
    assert server.runs["trial"].state == "finished"
    assert server.runs["trial"].summary[config["metric"]["name"]] == record["metrics"]["val_error"]
