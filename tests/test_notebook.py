"""`experiment=notebook` against what real Keras did in its place (keras_notebook.py): steps, callbacks, epochs."""

import json
import math
from types import SimpleNamespace
from typing import Any

import keras_notebook as notebook
import numpy as np
import pytest
import torch
from test_schedules import conf_schedule

from ablation.config import compose
from ablation.data import Images, Normalization, Splits
from ablation.runs.build import build_training
from ablation.runs.trainer import Trainer
from ablation.training.step import Training

KERAS = json.loads(notebook.FILE.read_text())
NAMES = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}
NAMES |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
MOMENTUM = float(np.float32(0.9))  # Keras' has passed through float32, in float64 as well


def training_of(count: int, *changes: str) -> Training:
    """The notebook's, on the first `count` images; normalised in float64."""
    config = compose.compose(["experiment=notebook", f"optimizer.momentum={MOMENTUM}", *changes])
    pixels = torch.from_numpy(notebook.PIXELS[:count]).permute(0, 3, 1, 2)
    train = Images(pixels.contiguous(), torch.from_numpy(notebook.LABELS[:count]))
    splits = Splits(train, None, train, tuple("0123456789"), checksum="")
    mean, std = pixels.double().mean(0), pixels.double().std(0, correction=0)
    return build_training(config, splits, Normalization(mean / 255, std / 255), torch.device("cpu"), "float32")


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-9), ("float32", 1e-6)])
def test_steps_are_those_of_keras(dtype: str, rtol: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """All twenty in float64, as float32's rounding grows a hundredfold a step; the first in float32 for the running
    variances, which Keras takes from another batch norm there: unbiased, as torch has them.
    """
    training = training_of(notebook.COUNT, "schedule.patience=1", "schedule.min_delta=10", "schedule.steps=20")
    training.steps_per_epoch, training.epoch_begun = 20, 0
    training.order = torch.from_numpy(np.concatenate([np.resize(batch, 64) for batch in notebook.BATCHES]))
    columns = np.where(notebook.FLIPS, -notebook.COLUMNS, notebook.COLUMNS)  # Keras shifts, then flips
    draws = {"shift_row": notebook.ROWS, "shift_column": columns, "flip": notebook.FLIPS}
    draws |= {name: np.zeros(notebook.COUNT, int) for name in ("crop_row", "crop_column")}
    training.draws = {name: torch.from_numpy(values)[training.order] for name, values in draws.items()}
    state = training.network.double().state_dict()
    for name, weights in state.items():
        if weights.ndim > 1:
            shape = (*weights.shape[2:], weights.shape[1], weights.shape[0])
            theirs = notebook.kernel(name.removesuffix(".weight"), shape)
            weights.copy_(torch.from_numpy(np.moveaxis(theirs, (-1, -2), (0, 1))))
    if dtype == "float64":
        monkeypatch.setattr(torch, "float32", torch.float64)  # of the normalised images
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # of the logits
        training.objective_sum = training.objective_sum.double()
        training.schedule.double().table.fill_(0.1)
        for group in training.optimizer.param_groups:
            group["lr"] = training.schedule.rate
    else:
        state = training.network.float().state_dict()

    expected: dict[str, Any] = KERAS[dtype]
    for loss, rate in zip(expected["losses"], expected["rates"], strict=True):
        training.take_step()
        objective = training.read_sums().objective
        assert (objective, float(training.schedule.rate)) == pytest.approx((loss, rate), rel=rtol), training.step
        if training.step % 5 == 0:
            training.schedule.end_epoch(objective)
    for name, norm in expected["norms"].items():
        layer, kind = name.removesuffix(":0").split("/")
        if (kind == "moving_variance") == (dtype == "float32"):
            assert float(state[f"{layer}.{NAMES[kind]}"].double().norm()) == pytest.approx(norm, rel=3e-7), name


def test_plateau_is_keras() -> None:
    cases = [(losses, changes) for losses in notebook.LOSSES for changes in notebook.CHANGES]
    for (losses, changes), expected in zip(cases, KERAS["plateau"], strict=True):
        schedule, rates = conf_schedule("plateau", **changes), []
        for loss in losses:
            schedule.end_epoch(loss)
            schedule.begin()
            rates.append(float(schedule.rate))
        assert rates == pytest.approx(expected, rel=1e-6), changes


def test_early_stopping_is_keras() -> None:
    for accuracies, expected in zip(notebook.ACCURACIES, KERAS["stops"], strict=True):
        trainer = object.__new__(Trainer)
        trainer.config = SimpleNamespace(early_stopping=3, selection="final")  # type: ignore[assignment]
        trainer.training, trainer.best = SimpleNamespace(step=0), {"error": math.inf, "evaluations_since": 0}
        for accuracy in accuracies:
            if not trainer.stopped_early:
                trainer.note_best(SimpleNamespace(error=100 - 100 * accuracy))  # type: ignore[arg-type]
                trainer.training.step += 1
        assert [trainer.training.step, trainer.best["step"]] == expected


def test_an_epochs_batches_are_those_of_keras() -> None:
    """Five of the six batches of 21 images, each image once; the batch of one image anywhere or left out."""
    training, seen = training_of(21, "data.batch_size=4"), set()
    for epoch in range(60):
        training.step = 5 * epoch
        training.begin_epoch()
        sizes = [len(set(batch)) for batch in training.order.view(5, 4).tolist()]
        assert len(training.order.unique()) == sum(sizes)
        seen.add(tuple(sizes))
    assert seen == set(map(tuple, np.reshape(KERAS["sizes"], (60, 5)).tolist()))
