"""Studies: an optimiser of Hydra's chooses the runs by their validation error, here Optuna's sweeper."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import runs
import yaml

from ablation.launching import sweep
from ablation.training.step import Training

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra: pip install -e '.[optuna]'")

Study = Callable[..., int]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Study]:
    """Runs a sweep with small networks; the exit status."""
    monkeypatch.setattr(sweep, "make_report", lambda *_: None)
    monkeypatch.chdir(tmp_path)

    def start(*overrides: str) -> int:
        sweep.TRIALS.clear()
        small = [one for one in runs.SMALL if not one.startswith("schedule=")]
        return runs.in_process(monkeypatch, *small, "results=results", *overrides)

    yield start
    sweep.TRIALS.clear()


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in folder.glob("results/runs/*/record.json")]


def states() -> list[str]:
    return [outcome.state for _, outcome in sweep.TRIALS]


def test_the_least_validation_error_is_found_and_the_same_command_goes_on(study: Study, tmp_path: Path) -> None:
    assert study("sweep=tuning", "hydra.sweeper.n_trials=2") == 0
    assert study("sweep=tuning", "hydra.sweeper.n_trials=3") == 0
    assert states() == ["skipped", "skipped", "done"]  # the sampler's seed asks for the same trials again
    found = {r["config"]["optimizer"]["lr"]: r["metrics"]["val_error"] for r in records(tmp_path)}
    best = yaml.safe_load((tmp_path / "results/studies/tuning/optimization_results.yaml").read_text())
    assert best["best_value"] == min(found.values())
    assert found[best["best_params"]["optimizer.lr"]] == best["best_value"]
    assert {r["config"]["tracker"]["group"] for r in records(tmp_path)} == {"tuning"}
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    # an interrupted trial ends the study, whose command resumes it
    assert study("sweep=tuning", "hydra.sweeper.n_trials=6", "trainer.time_limit=1e-9") == 75
    assert states() == ["skipped"] * 3 + ["interrupted"]


CHOICE = ("-m", "hydra/sweeper=optuna", "hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=28")
CHOICE += ("hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1", "optimizer.lr=choice(1e38,0.02,0.03)")  # in this order


@pytest.mark.parametrize(
    "case",
    [
        (0.5, (), 0, [100.0, ..., ...]),  # the first one diverges
        (0.02, (), 1, [100.0, None]),  # the second one fails as well, which ends the study
        (0.02, ("hydra.sweeper.max_failure_rate=1",), 1, [100.0, None, ...]),
    ],
)
def test_trials_that_diverge_or_fail(
    case: tuple[Any, ...], study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`expected`: what Optuna was told of each trial; ... is the record's error, None that there is none."""
    import optuna

    broken, overrides, exit_status, expected = case

    def failing(training: Training) -> None:
        if training.optimizer.defaults["lr"] == broken:
            raise RuntimeError("out of memory")
        real(training)

    real = Training.take_step
    monkeypatch.setattr(Training, "take_step", failing)
    stored = {"study_name": "mine", "storage": f"sqlite:///{tmp_path}/study.db"}
    names = [f"hydra.sweeper.{key}='{value}'" for key, value in stored.items()]
    fixed = ("schedule=onecycle", "schedule.steps=12", "data.validation=144")
    assert study(*CHOICE, *fixed, *names, *overrides) == exit_status
    errors = {r["config"]["optimizer"]["lr"]: r["metrics"]["val_error"] for r in records(tmp_path)}
    told = [(trial.params["optimizer.lr"], trial.value) for trial in optuna.load_study(**stored).trials]
    wanted = zip((1e38, 0.02, 0.03), expected, strict=False)
    assert told == [(lr, errors[lr] if value is ... else value) for lr, value in wanted]


def test_a_study_needs_validation(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert study("sweep=tuning", "data.validation=0") == 2
    assert capsys.readouterr().err.startswith("data.validation=0: must be positive: hydra/sweeper=optuna")
    assert not (tmp_path / "results").exists()
