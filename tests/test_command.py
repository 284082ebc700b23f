"""`python src/train.py` as a user types it, in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ablation.config.schema import ROOT

TINY = (
    *("data=digits", "schedule=onecycle", "schedule.steps=3", "augmentation=none", "model.width=4"),
    "tracker=disabled",
)


def train(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "src" / "train.py"), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_a_sweep_makes_a_folder_a_run_with_the_records_schema(tmp_path: Path) -> None:
    """From any directory; the depths of the sweep's file are replaced by those given here."""
    done = train("sweep=quickstart", "model.depth=8,14", *TINY, "results=there", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 done" in done.stdout
    folders = sorted((tmp_path / "there" / "runs").iterdir())
    assert [folder.name.rsplit("-", 1)[0] for folder in folders] == [
        f"{network}-digits-sgd-onecycle-none-seed0" for network in ("plain14", "plain8", "resnet14-A", "resnet8-A")
    ]
    for folder in folders:
        check_record(folder)
    assert {path.name for path in tmp_path.iterdir()} == {"there"}  # nothing is left in the working directory


def check_record(folder: Path) -> None:
    """The keys that the report and other readers rely on, and what can be said of the numbers."""
    record = json.loads((folder / "record.json").read_text())
    config, metrics, data = record["config"], record["metrics"], record["data"]
    assert (record["schema"], record["name"], len(record["id"])) == (1, folder.name, 12)
    assert folder.name.endswith(record["id"][:8])
    assert (record["status"], record["step"], record["seed"], record["stopped_early"]) == ("done", 3, 0, False)
    assert (config["schedule"]["steps"], config["data"]["name"]) == (3, "digits")
    for key in ("train_error", "running_train_error", "test_error", "best_test_error", "selected_test_error"):
        assert 0 <= metrics[key] <= 100
    assert min(metrics[key] for key in ("train_loss", "running_train_loss", "test_loss")) > 0
    assert (metrics["val_error"], metrics["val_loss"]) == (None, None)
    assert (data["train_size"], data["val_size"], data["test_size"], data["image_size"]) == (1438, 0, 359, 16)
    assert data["classes"] == list("0123456789")
    right = sum(record["confusion"][i][i] for i in range(10))
    assert sum(map(sum, record["confusion"])) == 359
    assert metrics["test_error"] == pytest.approx(100 * (359 - right) / 359)
    assert len(record["layers"]) == config["model"]["depth"] - 1
    assert {"name", "response_std", "gradient_norm_start", "gradient_norm_end"} <= set(record["layers"][0])
    assert {"device_name", "precision", "threads", "torch", "git_commit", "git_dirty"} < set(record["environment"])
    assert {"wall_seconds", "train_seconds", "images_per_second", "started", "finished"} <= set(record["timing"])
    assert len(record["weights_sha256"]) == 64
    last = json.loads((folder / "history.jsonl").read_text().splitlines()[-1])
    keys = {"step", "epoch", "lr", "running_train_loss", "running_train_error", "test_loss", "test_error"}
    assert keys | {"val_loss", "val_error", "images_per_second", "wall_seconds"} <= set(last)
    assert last["step"] == 3
    assert json.loads((folder / "status.json").read_text())["status"] == "done"
    assert {path.name for path in folder.iterdir()} >= {"config.yaml", "weights.pt"}


@pytest.mark.parametrize("arguments", ["--help", "--cfg job", "--cfg job sweep=degradation"])
def test_help_and_cfg_do_without_torch(arguments: str, tmp_path: Path) -> None:
    wrapper = (
        "import runpy, sys\n"
        "script, sys.argv = sys.argv[1], sys.argv[1:]\n"
        "sys.path.insert(0, script.rsplit('/', 1)[0])\n"
        "try:\n"
        "    runpy.run_path(script, run_name='__main__')\n"
        "finally:\n"
        "    print('torch' in sys.modules, file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", wrapper, str(ROOT / "src" / "train.py"), *arguments.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "False"
    assert "schedule" in done.stdout
    assert not list(tmp_path.iterdir())
