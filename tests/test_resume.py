"""A run cut off anywhere and started again ends as if nothing had happened, bit for bit."""

import signal
from pathlib import Path

import pytest
import runs
import torch

from ablation.config.schema import Config
from ablation.interrupts import Interrupts
from ablation.runs.record import checkpoints
from ablation.runs.run import stepwise

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
    asked_to_leave(disturbed, after=1)  # from 4, leaves right behind an epoch's evaluation, at 5
    runs.cut_off(disturbed, after=2)  # at 7, which is from the checkpoint of 6 on to be done again
    if recipe.startswith("plateau"):
        runs.cut_off(disturbed, after=7)  # at 13, behind the rate's first fall
    assert runs.finish(disturbed).state == "resumed"
    folders = [runs.folder_of(tmp_path / name) for name in ("undisturbed", "disturbed")]
    assert runs.essence(folders[1]) == runs.essence(folders[0])
    if recipe.startswith("plateau"):
        record = runs.essence(folders[0])["record"]
        assert record["stopped_early"], "this recipe is to exercise early stopping"
        rates = {row["lr"] for row in runs.essence(folders[0])["history"]}
        assert len(rates) > 1, "this recipe is to exercise the falling rate"


def asked_to_leave(config: Config, after: int) -> None:
    with Interrupts() as interrupts:
        steps = stepwise(config, interrupts)
        for _ in range(after):
            next(steps)
        interrupts.signal = signal.SIGTERM
        assert runs.end_of(steps).exit_status == 75


def test_history_of_every_evaluation_once(tmp_path: Path) -> None:
    """A kill between an evaluation and the next checkpoint leaves a row that comes again."""
    config = runs.small(tmp_path)
    runs.cut_off(config, after=6)  # the row of step 5 is on disk, the newest checkpoint is of step 3
    history = runs.folder_of(tmp_path) / "history.jsonl"
    assert [row["step"] for row in rows(history)] == [5]
    assert checkpoints.read(history.parent / checkpoints.NEWEST)["training"]["step"] == 3
    history.write_text(history.read_text() + '{"step": 10, "ep')  # and a row torn in two
    runs.finish(config)
    assert [row["step"] for row in rows(history)] == [5, 10, 12]


def test_history_lost(tmp_path: Path) -> None:
    """The checkpoint knows the rows too."""
    config = runs.small(tmp_path)
    runs.cut_off(config, after=8)
    history = runs.folder_of(tmp_path) / "history.jsonl"
    history.unlink()
    runs.finish(config)
    assert [row["step"] for row in rows(history)] == [5, 10, 12]


def rows(history: Path) -> list[dict[str, object]]:
    import json

    return [json.loads(line) for line in history.read_text().splitlines()]


def test_done_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = runs.small(tmp_path)
    runs.finish(config)
    before = {path: path.read_bytes() for path in runs.folder_of(tmp_path).iterdir()}
    again = runs.finish(config)
    assert (again.state, again.exit_status) == ("skipped", 0)
    assert again.metrics["test_error"] is not None
    assert "done" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in runs.folder_of(tmp_path).iterdir()} == before


def test_overwrite_keeps_the_old_record_and_goes_on_when_cut_off(tmp_path: Path) -> None:
    runs.finish(runs.small(tmp_path))
    old = (runs.folder_of(tmp_path) / "record.json").read_bytes()
    again = runs.small(tmp_path, "overwrite=true")
    runs.cut_off(again, after=5)
    (kept,) = (tmp_path / "replaced").iterdir()
    assert (kept / "record.json").read_bytes() == old
    assert {"history.jsonl", "weights.pt"} <= {path.name for path in kept.iterdir()}
    outcome = runs.finish(again)  # the same command: it goes on, and puts nothing aside
    assert outcome.state == "resumed"
    assert list((tmp_path / "replaced").iterdir()) == [kept]


def test_a_generator_of_a_users_own_shortcut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout draws from torch's own generator, which the checkpoint holds as well."""
    monkeypatch.setattr("ablation.config.targets.allowed_targets", lambda group: {"runs.Dropout", "torch.optim.SGD"})
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


@pytest.mark.parametrize("kept", ["weights.pt", "record.json", "newest checkpoint"])
def test_killed_while_finishing(kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, record, removal of the checkpoints: after a kill behind each, the same command finishes the run."""
    undisturbed, config = (runs.small(tmp_path / name) for name in ("undisturbed", "disturbed"))
    runs.finish(undisturbed)

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if kept == "weights.pt":
            patch.setattr("ablation.runs.record.record.write", die)
        elif kept == "record.json":
            patch.setattr("ablation.runs.record.checkpoints.remove", die)
        else:
            remove = Path.unlink
            patch.setattr(
                Path,
                "unlink",
                lambda self, **options: die() if self.name == checkpoints.NEWEST else remove(self, **options),
            )
        with pytest.raises(Killed):
            runs.finish(config)
    folder = runs.folder_of(tmp_path / "disturbed")
    assert checkpoints.present(folder)
    (folder / "record.json.99.tmp").write_text("{")
    outcome = runs.finish(config)
    assert outcome.state == ("resumed" if kept == "weights.pt" else "skipped")
    assert runs.essence(folder) == runs.essence(runs.folder_of(tmp_path / "undisturbed"))
    assert runs.status_of(folder)["status"] == "done"


@pytest.mark.parametrize("at", range(4))
def test_killed_while_writing_a_checkpoint(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every order of old and new files on the way leads to a whole checkpoint, never to an older one than necessary."""
    checkpoints.save(tmp_path, {"step": 1})
    checkpoints.save(tmp_path, {"step": 2})
    calls = iter(range(9))

    class Killed(BaseException):
        pass

    def replace(source: Path, target: Path) -> None:
        if next(calls) == at:
            raise Killed
        real(source, target)

    import os

    real = os.replace
    monkeypatch.setattr(os, "replace", replace)
    if at < 3:
        with pytest.raises(Killed):
            checkpoints.save(tmp_path, {"step": 3})
    else:
        checkpoints.save(tmp_path, {"step": 3})
    state = checkpoints.load(tmp_path, print)
    assert state is not None
    assert state["step"] == (2 if at == 0 else 3)
    monkeypatch.setattr(os, "replace", real)
    checkpoints.save(tmp_path, {"step": 4})
    state = checkpoints.load(tmp_path, print)
    assert state is not None
    assert state["step"] == 4
