"""The learning rate, value by value: the paper's table, the 110-layer rule, the ends of curves."""

import random
from functools import cache

import numpy as np
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


def test_milestones_scale_with_the_length() -> None:
    assert rates(conf_schedule("paper", steps=8), [0.5] * 8) == pytest.approx([0.1] * 4 + [0.01] * 2 + [0.001] * 2)


def expected_switch(errors: list[float]) -> int:
    """The first step at the full rate, in integers of 1/128: after the first batch at which the last 100 have an error
    below 80 %, batches not seen yet being wrong.
    """
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
    "one image less is below": [103 / 128, 102 / 128, 102 / 128, 102 / 128, 102 / 128] * 80,
    "falls slowly": [round(128 * (0.9 - 0.0005 * step)) / 128 for step in range(700)],
    "one lucky batch is not enough": [115 / 128] * 150 + [0.0] + [115 / 128] * 200,
    "falls and rises again": [115 / 128] * 120 + [64 / 128] * 40 + [115 / 128] * 300,
}


@pytest.mark.parametrize("name", STREAMS)
def test_the_110_layer_rule(name: str) -> None:
    errors = STREAMS[name]
    at = expected_switch(errors)
    seen = rates(conf_schedule("paper_warmup", steps=2000), errors)
    assert seen == pytest.approx([0.01] * at + [0.1] * (len(errors) - at))


def test_the_warm_up_ends_for_good_and_moves_no_milestone() -> None:
    errors = [115 / 128] * 120 + [64 / 128] * 80 + [1.0] * 1800  # worse again afterwards: the rate stays
    seen = rates(conf_schedule("paper_warmup", steps=2000), errors)
    at = expected_switch(errors)
    assert seen == pytest.approx([0.01] * at + [0.1] * (1000 - at) + [0.01] * 500 + [0.001] * 500)


def test_plateau_never_raises_the_rate() -> None:
    schedule = conf_schedule("plateau", lr=1e-7, patience=1)
    for _ in range(5):
        assert rates(schedule, [0.5]) == pytest.approx([1e-7])
        schedule.end_epoch(1.0)


@pytest.mark.parametrize("steps", [1, 2, 3, 22, 100])
def test_onecycle_is_two_straight_lines(steps: int) -> None:
    """From 0 just before the first step up to the peak, and down to 0 just after the last."""
    seen = rates(conf_schedule("onecycle", steps=steps), [0.5] * steps)
    top = max(round(0.3 * steps), 1)
    assert seen == pytest.approx(np.interp(range(1, steps + 1), [0, top, steps + 1], [0, 0.1, 0]))


def test_cosine_is_torchs() -> None:
    seen = rates(conf_schedule("cosine", steps=1000), [0.5] * 1000)
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
