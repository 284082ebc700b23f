"""A gang: each run comes out as if it were alone, and what happens to one happens to it only."""

import json
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablation.config.schema import Config
from ablation.interrupts import Interrupts
from ablation.launching import gang
from ablation.networks import resnet as networks
from ablation.runs.record.status import Outcome
from ablation.runs.run import run
from ablation.training import devices
from ablation.training.step import Training

MEMBERS = {
    "fast": (),
    "deeper and longer": ("model.depth=14", "schedule.steps=11"),
    "float32": ("trainer.precision=float32", "model.residual=false"),
    "deterministic": ("trainer=reference",),
    "plateau": ("schedule=plateau", "schedule.steps=8", "optimizer=adamw"),
}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the runs in without a pause, so that small ones overlap; and put the process's settings back."""
    monkeypatch.setattr(gang, "ROUNDS_BETWEEN_STARTS", 1)
    yield
    torch.use_deterministic_algorithms(False)


def small(results: Path, *overrides: str) -> Config:
    return runs.small(results, "schedule.steps=7", "augmentation=crop_flip", "trainer.precision=auto", *overrides)


def seeds(count: int, *overrides: str) -> list[Config]:
    config = small(Path("not written to"), *overrides)
    return [replace(config, seed=seed) for seed in range(count)]


def essence(outcome: Outcome) -> dict[str, Any]:
    """All that a run left behind, but for times."""
    assert outcome.folder is not None
    record = json.loads((outcome.folder / "record.json").read_text())
    rows = [json.loads(line) for line in (outcome.folder / "history.jsonl").read_text().splitlines()]
    kept = {key: record[key] for key in ("weights_sha256", "metrics", "layers", "confusion", "step")}
    return kept | {"history": [{k: v for k, v in row.items() if "second" not in k} for row in rows]}


def dropping_out(norm: nn.BatchNorm2d, x: Tensor, skip: Tensor | None = None) -> Tensor:
    """A layer that draws from the process's random generator, as a user's own may."""
    return F.dropout(networks.norm_relu(norm, x, skip), 0.1, norm.training)


def test_the_same_as_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks.Block, "norm_relu", staticmethod(dropping_out))
    alone = {name: run(small(tmp_path / "alone", *overrides)) for name, overrides in MEMBERS.items()}
    configs = [small(tmp_path / "gang", *overrides) for overrides in MEMBERS.values()]
    runs.cut_off(configs[0], after=4)  # it is resumed within the gang, and so loads a random state
    together = dict(zip(MEMBERS, gang.train(configs, at_once=4), strict=True))
    assert together["fast"].state == "resumed"
    for name in MEMBERS:
        assert essence(together[name]) == essence(alone[name]), name


def test_a_failure_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(training: Training) -> None:
        if training.seed == 1 and training.step == 2:
            raise RuntimeError("out of memory")
        real(training)

    real = Training.take_step
    monkeypatch.setattr(Training, "take_step", failing)
    configs = [small(tmp_path, f"seed={seed}") for seed in range(3)]
    configs.insert(1, small(tmp_path, "data=cifar10", f"data.root={tmp_path / 'file' / 'below'}"))
    (tmp_path / "file").touch()  # so that nothing can be downloaded to below it
    outcomes = gang.train(configs, at_once=4)
    assert [outcome.state for outcome in outcomes] == ["done", "failed", "failed", "done"]
    assert "data.root" in outcomes[1].message
    assert outcomes[2].message == "RuntimeError: out of memory"
    assert outcomes[2].folder is not None
    assert "out of memory" in (outcomes[2].folder / "traceback.txt").read_text()


def test_after_too_many_failures_no_other_run_is_begun(tmp_path: Path) -> None:
    rates = ("0.1", "1e38", "0.1", "1e38", "0.1")
    configs = [small(tmp_path, f"seed={i}", f"optimizer.lr={rate}") for i, rate in enumerate(rates)]
    states = [outcome.state for outcome in gang.train(configs, at_once=1, max_failures=2)]
    assert states == ["done", "failed", "done", "failed", "not started"]


def test_a_run_that_is_far_ahead_waits_for_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    real = Training.take_step
    monkeypatch.setattr(Training, "take_step", lambda training: (taken.append(training.seed), real(training))[1])
    monkeypatch.setattr(Training, "far_ahead", lambda training: training.seed == 0 and taken.count(1) < 7)
    outcomes = gang.train([small(tmp_path, f"seed={seed}") for seed in range(2)], at_once=2)
    assert [outcome.state for outcome in outcomes] == ["done", "done"]
    assert taken == [1] * 7 + [0] * 7


def test_random_numbers_of_a_gpu_are_no_gangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs of a gang share its generator: what one of them draws would depend on the others."""
    drawn = iter(range(1000))
    monkeypatch.setattr(Training, "drawn_on_device", lambda _training: next(drawn))
    assert [outcome.state for outcome in gang.train([small(tmp_path)], at_once=1)] == ["done"]
    (outcome,) = gang.train([small(tmp_path, "seed=1")], at_once=2)
    assert outcome.state == "failed"
    assert "hydra.launcher.at_once=1" in outcome.message


def test_places_on_a_gpu_are_given_again(watched: Any, two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its stream: two runs at once must never share one, however many came before."""
    places: list[int] = []
    monkeypatch.setattr(devices, "own_stream", lambda device, place: (places.append(place), nullcontext())[1])
    gang.train(seeds(40, "trainer.device=cuda:0"), 3)
    assert set(places) == {0, 1, 2}


def test_a_signal_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def signalled(training: Training) -> None:
        real(training)
        if training.seed == 1 and training.step == 2:
            signal.raise_signal(signal.SIGTERM)

    real = Training.take_step
    configs = [small(tmp_path, f"seed={seed}") for seed in range(3)]
    with monkeypatch.context() as patched, Interrupts():
        patched.setattr(Training, "take_step", signalled)
        outcomes = gang.train(configs, at_once=2)
    assert [outcome.state for outcome in outcomes] == ["interrupted"] * 3
    assert "not begun" in outcomes[2].message
    assert [outcome.state for outcome in gang.train(configs, at_once=3)] == ["resumed", "resumed", "done"]


class Watched:
    """Stands in for `stepwise`: runs of thirty steps that note who is running beside them."""

    def __init__(self) -> None:
        self.running: list[Config] = []
        self.most: dict[str, int] = {}
        self.mixed = False

    def stepwise(self, config: Config, _interrupts: Interrupts, alone: bool) -> Iterator[None]:
        self.running.append(config)
        for _ in range(30):
            for device in {one.trainer.device for one in self.running}:
                there = sum(one.trainer.device == device for one in self.running)
                self.most[device] = max(self.most.get(device, 0), there)
            self.mixed |= len({one.trainer.deterministic for one in self.running}) > 1
            yield
        self.running.remove(config)
        return Outcome(f"seed{config.seed}", None, "done")


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    watched = Watched()
    monkeypatch.setattr(gang, "stepwise", watched.stepwise)
    return watched


@pytest.mark.parametrize(("asked", "most"), [(None, 1), (1, 1), (3, 3)])
def test_at_most_so_many_at_once(asked: int | None, most: int, watched: Watched) -> None:
    outcomes = gang.train(seeds(7), asked)
    assert [outcome.name for outcome in outcomes] == [f"seed{seed}" for seed in range(7)]
    assert watched.most == {"cpu": most}


def test_deterministic_runs_are_not_mixed_with_others(watched: Watched) -> None:
    fast, reference = seeds(2), seeds(2, "trainer=reference")
    assert len(gang.train([fast[0], *reference, fast[1]], 4)) == 4
    assert not watched.mixed
    assert watched.most == {"cpu": 2}  # the two reference runs


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the gang asks of CUDA, of two devices of 80 GB that are not there."""
    monkeypatch.setattr(devices, "pick_device", lambda name: torch.device("cuda:0" if name == "auto" else name))
    monkeypatch.setattr(devices, "own_stream", lambda device, place: nullcontext())
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("taken", "most"),
    [
        (lambda runs: 4 * runs, {"cuda:0": 8, "cuda:1": 8}),
        (lambda runs: 30 * runs, {"cuda:0": 2, "cuda:1": 2}),  # 20 GB are left beside two, and a third would take 30
    ],
)
def test_several_gpus_by_memory(
    taken: Any, most: dict[str, int], watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def memory(device: torch.device) -> tuple[int, int]:
        return 80 - taken(sum(one.trainer.device == str(device) for one in watched.running)), 80

    monkeypatch.setattr(torch.cuda, "mem_get_info", memory)
    outcomes = gang.train(seeds(40, "trainer.device=auto"), None)
    assert len(outcomes) == 40
    assert watched.most == most


@pytest.mark.usefixtures("two_gpus")
def test_a_device_that_was_asked_for_is_kept(watched: Watched) -> None:
    gang.train(seeds(4, "trainer.device=cuda:1"), 2)
    assert watched.most == {"cuda:1": 2}
