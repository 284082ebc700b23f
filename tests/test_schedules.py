"""The learning rate, value by value: the paper's table, the 110-layer rule, Keras' plateau rule, the ends of curves."""

import math
import random
from functools import cache
from itertools import pairwise

import pytest
import torch

from ablation.config import schema
from ablation.config.compose import compose
from ablation.training.schedules import Schedule, build_schedule

CPU = torch.device("cpu")


@cache
def composed(name: str) -> schema.Schedule:
    return compose([f"schedule={name}"]).schedule


def conf_schedule(name: str, lr: float = 0.1, **changes: object) -> Schedule:
    """The schedule of conf/schedule/NAME.yaml."""
    plan = vars(composed(name)) | changes
    arguments = {key: value for key, value in plan.items() if key not in ("name", "kind", "steps")}
    return build_schedule(plan["kind"], lr, plan["steps"], CPU, **arguments)


def rates(schedule: Schedule, errors: list[float]) -> list[float]:
    """The rate of each step, for a stream of batch errors (fractions)."""
    seen = []
    for error in errors:
        schedule.begin()
        seen.append(float(schedule.rate))
        schedule.end(torch.tensor(error))
    return seen


def test_the_papers_table_value_by_value() -> None:
    schedule = conf_schedule("paper")
    assert len(schedule.table) == 64_000
    expected = torch.cat([torch.full((count,), lr) for count, lr in [(32_000, 0.1), (16_000, 0.01), (16_000, 0.001)]])
    torch.testing.assert_close(schedule.table, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("step", "lr"),
    [(0, 0.1), (31_999, 0.1), (32_000, 0.01), (32_001, 0.01), (47_999, 0.01), (48_000, 0.001), (63_999, 0.001)],
)
def test_the_papers_rate_at_the_boundaries(step: int, lr: float) -> None:
    """`step` counts from 0: the first 32,000 steps are taken at 0.1."""
    schedule = conf_schedule("paper")
    schedule.step.fill_(step)
    assert rates(schedule, [0.5]) == [pytest.approx(lr, rel=1e-6)]


def test_milestones_scale_with_the_length() -> None:
    assert rates(conf_schedule("paper", steps=8), [0.5] * 8) == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)


def switch(errors: list[float], steps: int = 2000) -> int:
    """The first step taken at the full rate, by the rule of the 110-layer nets."""
    seen = rates(conf_schedule("paper_warmup", steps=steps), errors)
    at = next((i for i, lr in enumerate(seen) if lr != pytest.approx(0.01)), len(seen))
    assert seen[:at] == pytest.approx([0.01] * at)
    return at


def expected_switch(errors: list[float]) -> int:
    """In integers of 1/128: after the first batch at which the last 100 have an error below 80 %, unseen ones wrong."""
    wrong = [128] * 100
    for step, error in enumerate(errors):
        wrong = [*wrong[1:], round(error * 128)]
        if sum(wrong) < 0.8 * 128 * 100:
            return step + 1
    return len(errors)


STREAMS = {
    "learns at once": [0.0] * 100,
    "never learns": [0.9] * 500,
    "exactly 80 % is not below": [103 / 128, 102 / 128, 102 / 128, 103 / 128, 102 / 128] * 80,
    "one picture less is below": [103 / 128, 102 / 128, 102 / 128, 102 / 128, 102 / 128] * 80,
    "falls slowly": [round(128 * (0.9 - 0.0005 * step)) / 128 for step in range(700)],
    "one lucky batch is not enough": [115 / 128] * 150 + [0.0] + [115 / 128] * 200,
    "falls and rises again": [115 / 128] * 120 + [64 / 128] * 40 + [115 / 128] * 300,
}


@pytest.mark.parametrize("name", STREAMS)
def test_the_110_layer_rule(name: str) -> None:
    errors = STREAMS[name]
    assert switch(errors) == expected_switch(errors)


def test_what_the_streams_are_for() -> None:
    assert expected_switch(STREAMS["learns at once"]) == 21
    assert expected_switch(STREAMS["exactly 80 % is not below"]) == 400
    assert 99 < expected_switch(STREAMS["one picture less is below"]) < 130
    assert expected_switch(STREAMS["one lucky batch is not enough"]) == 351
    assert 140 < expected_switch(STREAMS["falls and rises again"]) < 160


def test_the_warm_up_ends_for_good_and_moves_no_milestone() -> None:
    errors = [115 / 128] * 120 + [64 / 128] * 80 + [1.0] * 1800  # worse again afterwards: the rate stays
    seen = rates(conf_schedule("paper_warmup", steps=2000), errors)
    at = expected_switch(errors)
    assert seen == pytest.approx([0.01] * at + [0.1] * (1000 - at) + [0.01] * 500 + [0.001] * 500)


class KerasPlateau:
    """keras.callbacks.ReduceLROnPlateau, mode "min", written from its documentation and source in plain Python."""

    def __init__(self, lr: float, factor: float, patience: int, min_delta: float, min_lr: float) -> None:
        self.lr, self.factor, self.patience, self.min_delta, self.min_lr = lr, factor, patience, min_delta, min_lr
        self.wait, self.best = 0, float("inf")

    def on_epoch_end(self, loss: float) -> None:
        if loss < self.best - self.min_delta:
            self.best = loss
            self.wait = 0
        else:
            self.wait += 1
            if self.wait >= self.patience and self.lr > self.min_lr:
                self.lr = max(self.lr * self.factor, self.min_lr)
                self.wait = 0


def losses(kind: str) -> list[float]:
    draw = random.Random(5)
    if kind == "steady":
        return [2.0 * 0.97**epoch for epoch in range(120)]
    if kind == "just too little":  # falls by 0.0099 an epoch: none alone is an improvement of 0.01, two together are
        return [2.0 - 0.0099 * epoch for epoch in range(60)]
    if kind == "flat":
        return [1.0] * 80
    return [1.0 + 0.5 * math.exp(-epoch / 10) + 0.02 * draw.random() for epoch in range(150)]


@pytest.mark.parametrize("kind", ["steady", "just too little", "flat", "noisy"])
@pytest.mark.parametrize(
    "changes", [{}, {"min_delta": 0.0}, {"min_lr": 0.02}, {"patience": 1}, {"factor": 0.5}], ids=str
)
def test_plateau_is_keras(kind: str, changes: dict[str, float]) -> None:
    plan = {"factor": math.sqrt(0.1), "patience": 5, "min_delta": 0.01, "min_lr": 1e-6} | changes
    schedule, keras = conf_schedule("plateau", **changes), KerasPlateau(0.1, **plan)
    for epoch, loss in enumerate(losses(kind)):
        [rate] = rates(schedule, [0.5])
        assert rate == pytest.approx(keras.lr, rel=1e-6), epoch
        schedule.end_epoch(loss)
        keras.on_epoch_end(loss)
    if kind == "flat":
        assert keras.lr == plan["min_lr"] or "factor" in changes  # the case does reach the floor


def test_plateau_never_raises_the_rate() -> None:
    schedule = conf_schedule("plateau", lr=1e-7, patience=1)
    for _ in range(5):
        assert rates(schedule, [0.5]) == pytest.approx([1e-7])
        schedule.end_epoch(1.0)


def test_onecycle_ends() -> None:
    seen = rates(conf_schedule("onecycle", steps=100), [0.5] * 100)
    assert max(seen) == pytest.approx(0.1)
    assert seen[0] == pytest.approx(0.1 / 30)  # 30 equal steps up
    assert seen.index(max(seen)) in (29, 30)
    assert seen[-1] == pytest.approx(0.1 / 71)  # and down to one step above zero
    changes = [after - before for before, after in pairwise(seen)]
    up, down = changes[:29], changes[31:]
    assert up == pytest.approx([up[0]] * len(up), abs=1e-7)
    assert down == pytest.approx([down[0]] * len(down), abs=1e-7)


@pytest.mark.parametrize("steps", [1, 2, 3, 22])
def test_short_onecycle_is_positive_and_reaches_its_peak(steps: int) -> None:
    seen = rates(conf_schedule("onecycle", steps=steps), [0.5] * steps)
    assert all(lr > 0 for lr in seen)
    assert max(seen) == pytest.approx(0.1)


def test_cosine_ends() -> None:
    seen = rates(conf_schedule("cosine", steps=1000), [0.5] * 1000)
    assert seen[0] == pytest.approx(0.1)
    assert seen[500] == pytest.approx(0.05)
    assert 0 < seen[-1] < 1e-6
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=1000)
    for lr in seen:
        assert lr == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-4, abs=1e-9)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("name", ["paper", "paper_warmup", "plateau", "cosine", "onecycle"])
def test_state_round_trip(name: str) -> None:
    """Cut in two anywhere, the rates are those of one piece."""
    draw = random.Random(2)
    errors = [draw.randint(20, 60) / 128 for _ in range(80)]

    def train(schedule: Schedule, start: int, stop: int) -> list[float]:
        seen = []
        for step in range(start, stop):
            seen += rates(schedule, [errors[step]])
            if step % 10 == 9:
                schedule.end_epoch(1.0 + 0.001 * errors[step])
        return seen

    whole = train(conf_schedule(name, steps=80), 0, 80)
    assert len(set(whole)) > 1
    for cut in (1, 25, 66):
        first, second = conf_schedule(name, steps=80), conf_schedule(name, steps=80)
        before = train(first, 0, cut)
        second.load_state_dict(first.state_dict())
        assert before + train(second, cut, 80) == whole


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown schedule"):
        build_schedule("steps", 0.1, 10, CPU)
