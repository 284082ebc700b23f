"""Small real runs for the tests of what a run survives: digits, 8 layers of width 4, a dozen steps, a second each."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ablation.config import compose
from ablation.config.schema import Config
from ablation.interrupts import Interrupts
from ablation.runs.finish import digest
from ablation.runs.record.status import Outcome
from ablation.runs.run import Steps, run, stepwise
from ablation.runs.run import end_of as end_of  # for the tests that finish a run by hand

TRAIN = Path(__file__).resolve().parent.parent / "src" / "train.py"

TAKE_STEP = "ablation.training.step.Training.take_step"

SMALL = (
    *("data=digits", "data.batch_size=256"),  # 5 steps an epoch
    *("model.depth=8", "model.width=4", "schedule=onecycle", "schedule.steps=12", "augmentation=none"),
    *("trainer.device=cpu", "trainer.precision=float32", "trainer.progress=false", "trainer.checkpoint_every=3"),
    "tracker=disabled",
)


def small(results: Path, *overrides: str) -> Config:
    return compose.compose([*SMALL, f"results={results}", *overrides])


def finish(config: Config) -> Outcome:
    return run(config)


def cut_off(config: Config, after: int) -> None:
    """Begin or go on, and close the run when it has taken `after` steps, as a dying process would leave it."""
    with Interrupts() as interrupts:
        steps = stepwise(config, interrupts)
        for _ in range(after):
            next(steps)
        steps.close()


def started(config: Config) -> Steps:
    return stepwise(config, Interrupts())


def folder_of(results: Path) -> Path:
    (folder,) = (results / "runs").iterdir()
    return folder


def essence(folder: Path) -> dict[str, Any]:
    """All of a finished run that must be the same bit for bit, however often it was cut off."""
    record = json.loads((folder / "record.json").read_text())
    assert record["weights_sha256"] == digest(torch.load(folder / "weights.pt", weights_only=True))
    rows = rows_of(folder)
    for row in rows:
        del row["images_per_second"], row["wall_seconds"]
    del record["timing"], record["environment"], record["config"]["results"], record["config"]["overwrite"]
    del record["config"]["trainer"]["checkpoint_every"]
    return {"record": record, "history": rows, "left": sorted(path.name for path in folder.iterdir())}


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def status_of(folder: Path) -> dict[str, Any]:
    status: dict[str, Any] = json.loads((folder / "status.json").read_text())
    return status


def in_process(monkeypatch: pytest.MonkeyPatch, *arguments: str, program: str = "train.py") -> int:
    """`python src/train.py ARGUMENTS` without a new process: its exit status."""
    path = str(TRAIN.with_name(program))
    monkeypatch.setattr(sys, "argv", [path, *arguments])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "")
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def train(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, str(TRAIN), *arguments]
    environment = options.pop("env", os.environ) | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=environment, **(pipes | options))


class Killed(BaseException):
    """What a test raises where a process is to die."""


def die(*_: object, **__: object) -> None:
    raise Killed


def dies(function: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(Killed):
        function(*arguments)


class Dropout(nn.Sequential):
    """A shortcut of a user's own that draws from torch's global generator."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(nn.Conv2d(in_channels, out_channels, 1, stride), nn.Dropout(0.3))
