"""A run cut off anywhere and started again ends as if nothing had happened, bit for bit."""

import json
import math
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import runs
import torch

from ablation.config.schema import Config
from ablation.errors import UserError
from ablation.interrupts import Interrupts
from ablation.runs.record import checkpoints
from ablation.runs.run import stepwise
from ablation.training import devices

RECIPES = {
    "sgd": (),
    "adam, bfloat16, validation": (
        *("optimizer=adam", "schedule=cosine", "schedule.steps=12", "trainer.precision=bfloat16"),
        *("data.validation=200", "trainer.evaluate_every=2", "shortcut=B"),
    ),
    "warm-up, policy, shift": (
        *("schedule=paper_warmup", "schedule.steps=12", "schedule.warmup_error=99"),
        *("augmentation=trivial_augment", "augmentation.shift=2", "augmentation.cutout=4"),
    ),
    "plateau, stopped early, best on test": (
        # the rate falls to nothing, so that there is nothing to improve, whatever a processor makes of the last bits
        *("schedule=plateau", "schedule.steps=100", "schedule.patience=1", "schedule.min_delta=9"),
        *("schedule.factor=1e-3", "optimizer=nesterov", "optimizer.lr=3", "early_stopping=2", "selection=best_test"),
    ),
    "reference": ("trainer=reference", "model.residual=false"),
}
ON_CUDA = {
    f"{name}, on CUDA": (*recipe, "trainer=reference", "trainer.device=cuda") for name, recipe in RECIPES.items()
}
RECIPES |= ON_CUDA


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=[pytest.mark.cuda] * (name in ON_CUDA)) for name in RECIPES]
)
def test_cut_off_anywhere(recipe: str, tmp_path: Path) -> None:
    undisturbed, disturbed = (runs.small(tmp_path / name, *RECIPES[recipe]) for name in ("undisturbed", "disturbed"))
    assert runs.finish(undisturbed).state == "done"
    torch.rand(1)  # the process's generator is somewhere else than it was
    runs.cut_off(disturbed, after=1)  # before the first checkpoint
    runs.cut_off(disturbed, after=3)  # the checkpoint of this step is not written yet: from 0 again
    runs.cut_off(disturbed, after=5)  # at an epoch's end, before its evaluation: from 0 again, to 5
    asked_to_leave(disturbed, after=1)  # from 3, leaves with a checkpoint in mid-epoch, at 4
    asked_to_leave(disturbed, after=1)  # from 4, leaves right after an epoch's evaluation, at 5
    runs.cut_off(disturbed, after=2)  # at 7, which will be repeated from the checkpoint of 6
    if recipe.startswith("plateau"):
        runs.cut_off(disturbed, after=7)  # at 13, after the rate's first fall
    assert runs.finish(disturbed).state == "resumed"
    expected, got = (runs.essence(runs.folder_of(tmp_path / name)) for name in ("undisturbed", "disturbed"))
    assert got == expected
    if recipe.startswith("plateau"):
        assert expected["record"]["stopped_early"], "this recipe is to exercise early stopping"
        assert len({row["lr"] for row in expected["history"]}) > 1, "this recipe is to exercise the falling rate"


def asked_to_leave(config: Config, after: int) -> None:
    with Interrupts() as interrupts:
        steps = stepwise(config, interrupts)
        for _ in range(after):
            next(steps)
        interrupts.signal = signal.SIGTERM
        assert runs.end_of(steps).exit_status == 75


@pytest.mark.parametrize("how", ["damaged", "deleted", "deleted while it trains"])
def test_history_has_every_evaluation_once(how: str, tmp_path: Path) -> None:
    """The checkpoint holds the rows too; one that came after it comes again."""
    config = runs.small(tmp_path)
    runs.cut_off(config, after=6)  # the row of step 5 is on disk, the newest checkpoint is of step 3
    folder = runs.folder_of(tmp_path)
    history = folder / "history.jsonl"
    assert [row["step"] for row in runs.rows_of(folder)] == [5]
    assert checkpoints.read(folder / checkpoints.NEWEST)["training"]["step"] == 3
    if how == "damaged":
        history.write_text(history.read_text() + '{"step": 10, "ep')  # and a row that was cut off
    elif how == "deleted":
        history.unlink()
    steps = runs.started(config)
    for _ in range(5):
        next(steps)
    if how == "deleted while it trains":
        history.unlink()
    assert runs.end_of(steps).state == "resumed"
    assert [row["step"] for row in runs.rows_of(folder)] == [5, 10, 12]


def test_done_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = runs.small(tmp_path)
    runs.finish(config)
    before = {path: path.read_bytes() for path in runs.folder_of(tmp_path).iterdir()}
    again = runs.finish(config)
    assert (again.state, again.exit_status) == ("skipped", 0)
    assert again.metrics["test_error"] is not None
    assert "done" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in runs.folder_of(tmp_path).iterdir()} == before


@pytest.mark.parametrize("killed", [False, True])
def test_overwrite_keeps_the_old_run_and_goes_on_when_cut_off(
    killed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`killed`: right after the old folder was moved, before the new one is made."""
    runs.finish(runs.small(tmp_path))
    old = runs.essence(runs.folder_of(tmp_path))
    again = runs.small(tmp_path, "overwrite=true")
    if killed:
        with monkeypatch.context() as patch:
            patch.setattr("ablation.runs.record.folder.RunFolder.begin", runs.die)
            runs.dies(runs.finish, again)
    runs.cut_off(again, after=5)
    (kept,) = (tmp_path / "replaced").iterdir()
    assert runs.essence(kept) == old
    assert runs.finish(again).state == "resumed"  # the same command goes on, and moves nothing
    assert list((tmp_path / "replaced").iterdir()) == [kept]
    assert runs.essence(runs.folder_of(tmp_path)) == old


def test_a_generator_of_a_users_own_shortcut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout draws from torch's own generator, which the checkpoint holds as well."""
    monkeypatch.setattr("ablation.config.targets.GIVEN", {"runs.Dropout"})
    overrides = ("shortcut.name=dropout", "shortcut._target_=runs.Dropout", "~shortcut.zeros")
    for name, cuts in (("undisturbed", ()), ("disturbed", (4, 4))):
        config = runs.small(tmp_path / name, *overrides)
        for after in cuts:
            torch.rand(7)
            runs.cut_off(config, after)
        torch.rand(3)
        runs.finish(config)
    undisturbed, disturbed = (runs.essence(runs.folder_of(tmp_path / name)) for name in ("undisturbed", "disturbed"))
    assert disturbed == undisturbed


@pytest.mark.parametrize("kept", ["last checkpoint", "weights.pt", "record.json", "newest checkpoint"])
def test_killed_while_finishing(kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoint, weights, record, removal of the checkpoints: killed after any of them, the same command ends it."""
    every = "trainer.checkpoint_every=5"
    undisturbed, config = (runs.small(tmp_path / name, every) for name in ("undisturbed", "disturbed"))
    runs.finish(undisturbed)
    unlink = Path.unlink
    points = {
        "last checkpoint": ("ablation.training.step.Training.evaluate", runs.die),
        "weights.pt": ("ablation.runs.finish.write_json", runs.die),
        "record.json": ("ablation.runs.record.checkpoints.remove", runs.die),
        "newest checkpoint": (
            "pathlib.Path.unlink",
            lambda path, **options: runs.die() if path.name == checkpoints.NEWEST else unlink(path, **options),
        ),
    }
    with monkeypatch.context() as patch:
        patch.setattr(*points[kept])
        runs.dies(runs.finish, config)
    folder = runs.folder_of(tmp_path / "disturbed")
    assert checkpoints.read(folder / checkpoints.NEWEST)["training"]["step"] == 12
    (folder / "record.json.99.tmp").write_text("{")
    assert runs.finish(config).state == ("resumed" if kept in ("last checkpoint", "weights.pt") else "skipped")
    assert runs.essence(folder) == runs.essence(runs.folder_of(tmp_path / "undisturbed"))
    assert runs.status_of(folder)["status"] == "done"


@pytest.mark.parametrize(("at", "calls"), [("fsync", 0), ("fsync", 1), ("replace", 0), ("replace", 1), ("replace", 2)])
def test_killed_while_writing_a_checkpoint(
    at: str, calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every moment the newest checkpoint is whole: the one that is written, or the one before."""
    checkpoints.save(tmp_path, {"step": 1})
    checkpoints.save(tmp_path, {"step": 2})
    ways = iter([getattr(os, at)] * calls)
    with monkeypatch.context() as patch:
        patch.setattr(os, at, lambda *given: next(ways, runs.die)(*given))
        runs.dies(checkpoints.save, tmp_path, {"step": 3})
    state = checkpoints.load(tmp_path)
    assert state is not None
    assert state["step"] == 2
    checkpoints.save(tmp_path, {"step": 4})
    steps = [checkpoints.read(tmp_path / name)["step"] for name in checkpoints.NAMES]
    assert steps == [4, 2]


def test_a_checkpoint_that_cannot_be_put_in_place_is_one_line(tmp_path: Path) -> None:
    checkpoints.save(tmp_path, {"step": 1})
    checkpoints.save(tmp_path, {"step": 2})
    (tmp_path / checkpoints.NEWEST).unlink()
    (tmp_path / checkpoints.NEWEST).mkdir()  # which cannot replace the file of the one before
    with pytest.raises(UserError, match=r"checkpoint.pt: cannot be written"):
        checkpoints.save(tmp_path, {"step": 3})
    assert checkpoints.read(tmp_path / checkpoints.PREVIOUS)["step"] == 1


ODD: dict[str, Callable[[dict[str, Any]], object]] = {
    "best is 5": lambda state: state.update(best=5),
    "best is {": lambda state: state["best"].update(error="low"),
    "best.weights is 5": lambda state: state["best"].update(weights=5),
    "seconds is 'long'": lambda state: state.update(seconds="long"),
    "train_seconds is nan": lambda state: state.update(train_seconds=math.nan),
    "window_seconds is 1e+300": lambda state: state.update(window_seconds=1e300),
    "training.step is 1000000000": lambda state: state["training"].update(step=10**9),
    "training.step is -1": lambda state: state["training"].update(step=-1),
    "history has rows of the steps []": lambda state: state.update(history=[{"step": "5"}]),
    "gradients_at_start is {}": lambda state: state.update(gradients_at_start={}),
    "id is None": lambda state: state.pop("id"),
}


@pytest.mark.parametrize("said", ODD)
def test_a_whole_checkpoint_with_odd_contents_is_refused(said: str, tmp_path: Path) -> None:
    """Somebody wrote into it: the checksum agrees. It is one line before the training, not an error after it."""
    config = runs.small(tmp_path)
    runs.cut_off(config, after=4)
    path = runs.folder_of(tmp_path) / checkpoints.NEWEST
    state = checkpoints.read(path)
    ODD[said](state)
    checkpoints.save(path.parent, state)
    with pytest.raises(UserError, match=f"ValueError: {re.escape(said)}.*overwrite=true"):
        runs.finish(config)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_a_run_goes_on_with_as_many_threads_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their number decides the rounding, and by itself it follows from what else the machine does."""
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(devices, "leave_busy_cores", lambda: None)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        runs.cut_off(runs.small(tmp_path, "trainer.device=cpu"), after=7)
        torch.set_num_threads(1)
        runs.finish(runs.small(tmp_path, "trainer.device=cpu"))
    finally:
        torch.set_num_threads(threads)
    record = json.loads((runs.folder_of(tmp_path) / "record.json").read_text())
    assert [part["threads"] for part in record["environment"]["parts"]] == [2, 2]
