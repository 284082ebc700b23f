"""What is read back from a run's folder, whoever wrote it: usable values, or a reason in words."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import runs
import torch

from ablation.config.schema import ROOT
from ablation.runs.environment import environment
from ablation.runs.record import history, record, status

COMMITTED = sorted((ROOT / "results" / "reference").rglob("record.json"))


def test_committed_records_are_read_under_todays_names() -> None:
    assert COMMITTED
    for path in COMMITTED:
        raw, made = json.loads(path.read_text()), record.read(path)
        assert made["metrics"] == raw["metrics"]
        for group, old in ((raw["environment"], "compiled"), (raw["config"]["trainer"], "compile")):
            group.setdefault("fused", group.get(old))
        assert made["environment"]["fused"] == raw["environment"]["fused"]
        assert made["config"]["trainer"]["fused"] == raw["config"]["trainer"]["fused"]
        assert made["config"]["shortcut"]["_target_"].startswith("ablation.networks.shortcuts.")
        assert len(made["layers"]) == made["config"]["model"]["depth"] - 1


def test_a_runs_own_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    runs.finish(runs.small(tmp_path, "data.validation=100", "optimizer=adam"))
    path = runs.folder_of(tmp_path) / "record.json"
    assert record.read(path) == json.loads(path.read_text())


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


UNREADABLE: dict[str, tuple[str, Any, str]] = {
    "an error out of bounds": ("metrics.test_error", 10**400, "metrics.test_error is 1000"),
    "an error above 100": ("metrics.train_error", 101.0, "metrics.train_error is 101.0, not a percentage"),
    "a negative error": ("metrics.val_error", -1, "metrics.val_error is -1"),
    "NaN": ("metrics.test_loss", float("nan"), "metrics.test_loss is nan"),
    "text for a number": ("metrics.best_test_error", "low", "metrics.best_test_error is 'low'"),
    "a truth value for a number": ("config.schedule.steps", True, "config.schedule.steps is True"),
    "a negative depth": ("config.model.depth", -5, "config.model.depth is -5"),
    "a list as precision": ("environment.precision", ["bfloat16"], "environment.precision is ['bfloat16']"),
    "a number as a name": ("config.optimizer.name", 5, "config.optimizer.name is 5"),
    "infinity in the optimizer": ("config.optimizer.betas", [0.9, float("inf")], "config.optimizer.betas is [0.9, inf"),
    "a list for a group": ("config.data", [], "no key config.data.name"),
    "null for a group": ("timing", None, "timing is None"),
    "a confusion of texts": ("confusion", [["1"]], "confusion is [['1']]"),
    "a mapping for a text": ("environment.device_name", {"a": "b"}, "environment.device_name is {}"),
    "class names that are numbers": ("data.classes", [1, 2], "data.classes is [1, 2]"),
    "a dot in a key": ("config.optimizer", {"name": "sgd", "a.b": 1}, "a key is 'a.b'"),
    "bottomless lists": ("config.optimizer.betas", nested(400), "nested too deeply"),
    "another schema": ("schema", "1", "schema '1' is not this version's (1)"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unusable_record_has_a_reason(name: str, tmp_path: Path) -> None:
    key, value, reason = UNREADABLE[name]
    made = json.loads(COMMITTED[0].read_text())
    *groups, last = key.split(".")
    node = made
    for group in groups:
        node = node[group]
    node[last] = value
    path = tmp_path / "record.json"
    path.write_text(json.dumps(made))
    with pytest.raises(ValueError, match=f".*{re.escape(reason)}.{{0,150}}$"):
        record.read(path)


def test_what_is_no_file_is_unreadable_and_no_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "record.json")
    for path in (tmp_path / "record.json", tmp_path, tmp_path / "nothing"):
        with pytest.raises(ValueError, match="cannot be read: not a file"):
            record.read(path)
        assert history.read(path) == ([], 0)
    assert status.read(tmp_path) is None
    (tmp_path / "status.json").write_text('{"status": ["done"]}')
    assert status.read(tmp_path) is None


def test_a_layer_has_every_key(tmp_path: Path) -> None:
    made = json.loads(COMMITTED[0].read_text())
    (tmp_path / "record.json").write_text(json.dumps(made | {"layers": [{"name": "conv1"}]}))
    assert record.read(tmp_path / "record.json")["layers"] == [dict.fromkeys(made["layers"][0]) | {"name": "conv1"}]


def test_an_interpolation_stays_text(tmp_path: Path) -> None:
    made = json.loads(COMMITTED[0].read_text())
    made["config"]["optimizer"]["weight_decay"] = "${oc.env:HOME}"
    (tmp_path / "record.json").write_text(json.dumps(made))
    assert record.read(tmp_path / "record.json")["config"]["optimizer"]["weight_decay"] == "${oc.env:HOME}"


def test_history(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    lines = ['{"step": 10, "test_error": 5}', '{"step": 5}', "[]", '{"step": "a"}', '{"step": 7, "lr": 1e999}']
    path.write_text("\n".join([*lines, '{"step": 10, "test_error": 4}', '{"step": 15, "te']))
    assert history.read(path) == ([{"step": 5}, {"step": 10, "test_error": 4}], 4)


def test_whether_a_process_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    gone = {"pid": process.pid, "host": socket.gethostname()}
    assert status.process_is_gone(gone)
    for change in ({"pid": os.getpid()}, {"pid": 10**30}, {"pid": "x"}, {"host": "elsewhere"}):
        assert not status.process_is_gone(gone | change)


def test_commit_and_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a file whose name is not UTF-8; new code makes a difference, a new note does not."""
    monkeypatch.setattr("ablation.runs.environment.ROOT", tmp_path)
    monkeypatch.setenv("ABLATION_COMMIT", "from the image")

    def state() -> tuple[Any, Any]:
        found = environment(torch.device("cpu"), "float32", fused=False, deterministic=False)
        return found["git_commit"], found["git_dirty"]

    assert state() == ("from the image", None)
    (tmp_path / "src").mkdir()
    odd = os.path.join(os.fsencode(tmp_path), b"odd\xff")
    with open(odd, "w"):
        pass
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["config", "core.quotepath", "false"], ["add", "."], ["commit", "-qm", "a"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    (tmp_path / "note").touch()
    commit, dirty = state()
    assert (len(commit), dirty) == (40, False)
    with open(odd, "w") as file:
        file.write("changed")
    assert state() == (commit, True)
    subprocess.run(["git", "checkout", "-q", "."], cwd=tmp_path, check=True)
    (tmp_path / "src" / "new.py").touch()
    assert state() == (commit, True)


def test_the_files_of_a_run_need_neither_torch_nor_unix() -> None:
    code = "import sys; sys.modules['fcntl'] = None; from ablation.runs.record import record, history, status;"
    code += "assert 'torch' not in sys.modules; from ablation.runs.record import folder"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin"})
