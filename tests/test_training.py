"""The training loop against independent recomputations: what it draws, sums and evaluates; a seed is a result."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import essence, finish, folder_of, small
from sklearn.metrics import confusion_matrix, log_loss, zero_one_loss
from test_schedules import conf_schedule
from torch.nn import functional as F

from ablation import data
from ablation.config.compose import compose
from ablation.config.schema import Config
from ablation.data import Images, Splits
from ablation.runs.build import build_training, load_data
from ablation.runs.finish import digest
from ablation.training.schedules import Plateau
from ablation.training.step import Training

CPU = torch.device("cpu")


def training_of(config: Config) -> tuple[Training, Splits]:
    splits = load_data(config)
    normalization = data.fit_normalization(config.data.normalization, splits.train)
    return build_training(config, splits, normalization, CPU, "float32"), splits


def record_of(results: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder_of(results) / "record.json").read_text())
    return record


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished runs of one recipe, augmented: twice with one seed, once with another, once evaluated more often."""
    asked = {"once": "seed=0", "again": "seed=0", "other": "seed=1", "often": "trainer.evaluate_every=2"}
    folders = {name: tmp_path_factory.mktemp(name) for name in asked}
    for name, override in asked.items():
        assert finish(small(folders[name], "augmentation=cutout", override)).state == "done"
    return folders


def test_same_seed_bit_identical(seeded: dict[str, Path]) -> None:
    assert essence(folder_of(seeded["once"])) == essence(folder_of(seeded["again"]))


def test_another_seed_another_result(seeded: dict[str, Path]) -> None:
    one, other = (essence(folder_of(seeded[name])) for name in ("once", "other"))
    assert one["record"]["weights_sha256"] != other["record"]["weights_sha256"]
    assert [row["running_train_loss"] for row in one["history"]] != [
        row["running_train_loss"] for row in other["history"]
    ]


def test_evaluation_does_not_change_training(seeded: dict[str, Path]) -> None:
    once, often = record_of(seeded["once"]), record_of(seeded["often"])
    assert once["weights_sha256"] == often["weights_sha256"]
    assert [row["step"] for row in rows_of(folder_of(seeded["often"]))] == [2, 4, 6, 8, 10, 12]


def test_the_result_is_the_final_iterate(seeded: dict[str, Path]) -> None:
    for name in ("once", "often", "other"):
        record, folder = record_of(seeded[name]), folder_of(seeded[name])
        rows, metrics = rows_of(folder), record["metrics"]
        assert rows[-1]["step"] == record["step"] == metrics["selected_step"] == 12
        assert metrics["test_error"] == metrics["selected_test_error"] == rows[-1]["test_error"]
        assert metrics["best_test_error"] == min(row["test_error"] for row in rows)
        assert metrics["selected_on"] is None
        assert metrics["running_train_error"] == rows[-1]["running_train_error"]


def test_best_on_test_is_kept_and_labelled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With this seed and rate the best iterate is an earlier one, and it is the one that is kept."""
    overrides = ["selection=best_test", "schedule=paper", "schedule.steps=15", "seed=2", "optimizer.lr=0.05"]
    config = small(tmp_path, *overrides, "schedule.milestones=[]", "trainer.progress=null")
    finish(config)
    record, folder = record_of(tmp_path), folder_of(tmp_path)
    rows, metrics = rows_of(folder), record["metrics"]
    best = min(rows, key=lambda row: row["test_error"])
    assert best["step"] < rows[-1]["step"], "the case is to have its best before its end"
    assert (metrics["selected_test_error"], metrics["selected_step"]) == (best["test_error"], best["step"])
    assert metrics["test_error"] == rows[-1]["test_error"]
    assert metrics["selected_on"] == "test"
    weights = torch.load(folder / "weights.pt", weights_only=True)
    assert digest(weights) == record["weights_sha256"]
    training, splits = training_of(config)
    training.network.load_state_dict(weights)
    assert training.evaluate(splits.test).error == best["test_error"]
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"best test error {best['test_error']:.2f} %" in last
    assert last.endswith("selected on test")


def test_early_stopping_counts_evaluations_without_a_better_test_error(tmp_path: Path) -> None:
    # nothing moves: every evaluation ties with the first
    still = ("optimizer.lr=1e-9", "model.batch_norm_momentum=1e-9")
    finish(small(tmp_path, "early_stopping=2", "schedule.steps=60", *still))
    record, folder = record_of(tmp_path), folder_of(tmp_path)
    errors = [row["test_error"] for row in rows_of(folder)]
    assert record["stopped_early"]
    assert record["step"] == 5 * len(errors) < 60
    best, wait = 101.0, 0  # Keras' EarlyStopping(patience=2)
    stops = []
    for error in errors:
        best, wait = (error, 0) if error < best else (best, wait + 1)
        stops.append(wait >= 2)
    assert stops == [False] * (len(errors) - 1) + [True]


def test_the_plateau_rule_hears_each_epochs_loss_with_its_l2_term(tmp_path: Path) -> None:
    """The notebook's recipe, short: rates of the history against Keras' rule on the objective that it holds."""
    plan = ["schedule.patience=2", "schedule.min_delta=0.2", "schedule.steps=60"]
    finish(small(tmp_path, "optimizer=nesterov", "schedule=plateau", *plan))
    rows = rows_of(folder_of(tmp_path))
    assert [row["step"] for row in rows] == list(range(5, 61, 5))  # once an epoch
    rule = conf_schedule("plateau", patience=2, min_delta=0.2)
    assert isinstance(rule, Plateau)
    for row in rows:
        assert row["lr"] == pytest.approx(rule.lr, rel=1e-6), row["step"]
        assert row["objective"] > row["running_train_loss"]
        rule.end_epoch(row["objective"])
    assert rule.lr < 0.05, "the case is to reach a drop"


def test_the_loss_of_the_reference_is_a_plain_loops_and_pinned() -> None:
    """Three epochs against a loop of plain torch; the constant shows that neither of the two has changed."""
    options = ["data=digits", "trainer=reference", "augmentation=none", "schedule=onecycle", "schedule.steps=33"]
    # at a rate of 0.1 rounding errors grow tenfold a step
    small_and_slow = ["model.depth=8", "model.width=4", "optimizer.lr=0.01", "seed=3"]
    training, splits = training_of(compose([*options, *small_and_slow]))
    network = copy.deepcopy(training.network)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, momentum=0.9, weight_decay=1e-4, foreach=False)
    images = splits.train.images.float() / 255
    images -= images.mean(0)
    losses: list[float] = []
    found: list[float] = []
    for epoch in range(3):
        seed = np.random.SeedSequence([3, epoch]).generate_state(1, np.uint64)[0] >> 1
        order = torch.randperm(1438, generator=torch.Generator().manual_seed(int(seed)))
        for batch in order[: 11 * 128].split(128):  # the remainder of 30 images is dropped
            for group in optimizer.param_groups:  # up to 0.01 in ten steps, then down
                group["lr"] = np.interp(len(losses) + 1, [0, 10, 34], [0, 0.01, 0])
            optimizer.zero_grad()
            loss = F.cross_entropy(network(images[batch]), splits.train.labels[batch])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            training.take_step()
        found.append(training.read_sums().loss)
    assert found == pytest.approx(list(np.reshape(losses, (3, 11)).mean(1)), rel=1e-4)
    assert found == pytest.approx([2.49083, 2.23755, 2.10076], rel=3e-4)
    for (name, p), q in zip(training.network.named_parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov"])
def test_steps_and_running_sums_against_a_plain_loop(optimizer: str) -> None:
    """Network, loss, L2 term, error and update of a few steps, recomputed with a list of images and torch's SGD."""
    schedule = ["schedule=plateau", "optimizer.lr=0.05"]  # the one that hears the loss with its L2 term
    sizes = ["data.batch_size=64", "model.depth=8", "model.width=4", "augmentation=crop_flip"]
    training, splits = training_of(compose(["data=digits", f"optimizer={optimizer}", *schedule, *sizes]))
    twin, _ = training_of(compose(["data=digits", f"optimizer={optimizer}", *schedule, *sizes]))
    network, normalization = twin.network, training.normalization
    convolutions = [p for name, p in network.named_parameters() if p.dim() == 4]
    l2 = 1e-4 if optimizer == "nesterov" else 0.5e-4
    decayed = convolutions if optimizer == "nesterov" else list(network.parameters())
    plain = torch.optim.SGD(
        network.parameters(), lr=0.05, momentum=0.9, nesterov=optimizer == "nesterov", foreach=False
    )
    losses, objectives, wrong, steps = [], [], 0, 6
    for step in range(steps):
        training.take_step()
        chosen = training.order[64 * step : 64 * (step + 1)].tolist()
        batch = []
        for place, i in enumerate(chosen, start=64 * step):
            image = F.pad(normalization(splits.train.images[i : i + 1])[0], (4, 4, 4, 4))
            row, column = int(training.draws["crop_row"][place]), int(training.draws["crop_column"][place])
            image = image[:, row : row + 16, column : column + 16]
            batch.append(image.flip(2) if training.draws["flip"][place] else image)
        labels = splits.train.labels[chosen]
        logits = network(torch.stack(batch))
        loss = -logits.log_softmax(1)[torch.arange(64), labels].mean()
        objective = loss + l2 * sum((p**2).sum() for p in decayed)
        plain.zero_grad()
        objective.backward()
        plain.step()
        losses.append(loss.item())
        objectives.append(objective.item())
        wrong += int((logits.argmax(1) != labels).sum())
    sums = training.read_sums()
    assert sums.steps == steps
    assert sums.loss == pytest.approx(sum(losses) / steps, rel=1e-4)
    assert sums.objective == pytest.approx(sum(objectives) / steps, rel=1e-4)
    assert sums.error == 100 * wrong / (64 * steps)
    for (name, p), q in zip(training.network.named_parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4, msg=name)
    assert training.read_sums().steps == 0  # begun anew


def test_evaluate_against_sklearn() -> None:
    training, splits = training_of(compose(["data=digits", "model.depth=8", "augmentation=none", "schedule=onecycle"]))
    for _ in range(12):
        training.take_step()
    result = training.evaluate(splits.test)
    training.network.eval()
    with torch.no_grad():
        logits = torch.cat([training.network(training.normalization(part)) for part in splits.test.images.split(50)])
    true, predicted = splits.test.labels.numpy(), logits.argmax(1).numpy()
    assert result.error == pytest.approx(100 * zero_one_loss(true, predicted))
    assert result.loss == pytest.approx(log_loss(true, logits.double().softmax(1).numpy(), labels=range(10)), rel=1e-4)
    assert result.confusion.tolist() == confusion_matrix(true, predicted, labels=range(10)).tolist()


def test_evaluation_leaves_the_networks_mode_and_statistics() -> None:
    training, splits = training_of(compose(["data=digits", "model.depth=8", "model.width=4"]))
    before = digest(training.network.state_dict())
    for mode in (True, False):
        training.network.train(mode)
        for size in (10, 20, 30):  # sets that live for a moment are not confused
            assert int(training.evaluate(splits.test[:size]).confusion.sum()) == size
        assert training.network.training is mode
    assert digest(training.network.state_dict()) == before


def test_the_metrics_are_those_of_their_sets(tmp_path: Path) -> None:
    config = small(tmp_path, "data.validation=300")
    splits = load_data(config)
    assert splits.val is not None
    finish(config)
    metrics = record_of(tmp_path)["metrics"]
    training, _ = training_of(config)
    training.network.load_state_dict(torch.load(folder_of(tmp_path) / "weights.pt", weights_only=True))
    for part, images in [("val", splits.val), ("test", splits.test), ("train", splits.train)]:
        found = training.evaluate(images)
        assert (metrics[f"{part}_error"], metrics[f"{part}_loss"]) == (found.error, pytest.approx(found.loss)), part
    assert training.steps_per_epoch == (1438 - 300) // 256


def test_a_loss_that_is_not_finite_is_named_with_its_step(tmp_path: Path) -> None:
    outcome = finish(small(tmp_path, "optimizer=sgd", "optimizer.lr=1e30", "schedule.steps=5"))
    assert outcome.state == "failed"
    assert "the loss is not finite at step" in outcome.message
    assert not (folder_of(tmp_path) / "record.json").exists()


def test_images_of_every_size_train(tmp_path: Path) -> None:
    """The policy's epoch, odd sizes and a shortcut of every kind go through the same step."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 3, 13, 10), generator=generator, dtype=torch.uint8)
    odd = Images(images, torch.arange(20) % 10)
    splits = Splits(odd, None, odd, tuple("0123456789"), "")
    for extra in ("shortcut=avgpool", "shortcut=A", "augmentation=trivial_augment", "augmentation=shift_flip"):
        config = compose(["data=digits", "data.batch_size=8", "model.depth=8", "model.width=4", extra])
        training = build_training(config, splits, data.fit_normalization("pixel_mean", odd), CPU, "float32")
        for _ in range(3):
            training.take_step()
        sums = training.read_sums()
        assert 0 <= sums.error <= 100
