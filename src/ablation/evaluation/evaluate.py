"""What `src/evaluate.py` does: measure a run's or a file's network on the test set, print the result and write it.

A finished run gives its record's numbers: same weights, data, normalization and precision. A run with
`selection=best_test` kept the weights that were best on the test set, and its number is labelled so here as well.
"""

import argparse
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from ablation import data
from ablation.config import compose
from ablation.config.schema import Config
from ablation.errors import UserError, printable
from ablation.evaluation.confusion import by_class, show_confusion
from ablation.evaluation.weights import Weights, load_weights, packed, read_file, state_dict
from ablation.networks.resnet import parameter_count
from ablation.report.documents import csv_text
from ablation.runs.build import build_network
from ablation.runs.environment import environment
from ablation.runs.record import checkpoints
from ablation.runs.record.files import read_json, write_atomically
from ablation.runs.record.record import finite
from ablation.runs.record.record import read as read_record
from ablation.training import devices
from ablation.training.evaluation import Evaluator

RUN_KEYS = ("data.root", "trainer.device", "trainer.precision")  # may differ from the run when it is evaluated
NEAR_CHANCE = 0.9  # share of chance's error, or of the images taken for one class, from which a result is suspicious


@dataclass(frozen=True)
class Trained:
    """A trained network. Of a run, `note` must be said beside its number; `record` is that of a finished run.

    A published record comes without weights.
    """

    weights: Weights
    config: Config
    note: str | None = None
    record: dict[str, Any] | None = None


def evaluate_and_show(options: argparse.Namespace) -> None:
    """Evaluate as the options of src/evaluate.py ask. Raises UserError before anything is printed or written."""
    trained, output = load(options.path, options.overrides), options.output
    if options.mean and trained.note:
        raise UserError("--mean", options.mean, "is for a file of weights alone; a run has its own normalization")
    if output and output.suffix == ".safetensors" and not trained.record:
        raise UserError("--output", output, "weights are written with the record of a finished run, and this has none")
    splits = splits_of(trained)
    normalization = data.fit_normalization(trained.config.data.normalization, splits.train)
    if options.mean:
        normalization = data.Normalization(*(torch.tensor(v).view(3, 1, 1) for v in (options.mean, options.std)))
    confusion, result = measure(trained, splits, normalization, options.path)
    config, where = trained.config, result["environment"]
    kind = f"residual, shortcut {config.shortcut['name']}" if config.model.residual else "plain"
    print(f"{result['name']}: {config.model.depth} layers, {kind}, {where['parameters']:,} parameters")
    show_confusion(confusion, options.matrix)
    loss = math.nan if result["test_loss"] is None else result["test_loss"]
    note = f" ({result['note']})" if result["note"] else ""
    print(f"test error {result['test_error']:.2f} %, loss {loss:.4f}{note}")
    numbers = f"{result['images']:,} images of {config.data.name}"
    print(f"measured on {numbers}; {where['device_name']}, {where['precision']}, torch {where['torch']}")
    if line := remark(trained.record, confusion, result["test_error"]):
        print(line)
    if output:
        if output.suffix == ".safetensors":
            assert trained.record  # asked for above
            contents = packed(trained.weights, trained.record, normalization)
        elif output.suffix == ".csv":
            frame = confusion.rename(index=csv_text, columns=csv_text)
            contents = frame.to_csv(index_label="true").encode()
        else:
            contents = json.dumps(result, indent=1).encode()
        write_atomically(output, lambda file: file.write(contents))
        print(f"written: {output}")


def load(path: Path, overrides: list[str]) -> Trained:
    """The run in a folder, or what a file holds: a finished run's weights with its record, or weights alone."""
    if os.path.isdir(path):  # Path.is_dir raises for a name that is too long
        return from_run(path, overrides)
    weights, record = read_file(path)
    if record is not None:
        return with_record(weights, record, run_changes(overrides))
    # float32, as published numbers are: akamaster's ResNet-56 has 6.61 % as published, but 6.54 % in bfloat16
    return Trained(weights, compose.compose(["trainer.precision=float32", *overrides]))


def from_run(folder: Path, overrides: list[str]) -> Trained:
    """The result of the run in `folder`, or its newest checkpoint."""
    changes = run_changes(overrides)
    if not (folder / "record.json").exists():
        return from_unfinished_run(folder, changes)
    try:
        record = read_record(folder / "record.json")
    except ValueError as error:
        raise UserError("path", folder, f"its record.json is damaged ({error}); train it again") from None
    weights = folder / "weights.pt"
    return with_record(read_file(weights)[0] if weights.exists() else {}, record, changes)


def run_changes(overrides: list[str]) -> dict[str, str]:
    """What the overrides change, by key. Raises UserError for what is the run's own."""
    changes = {key: value for key, _, value in (text.partition("=") for text in overrides)}
    for key in changes:
        if key not in RUN_KEYS:
            raise UserError(key, changes[key], f"is the run's own; of a run these may differ: {', '.join(RUN_KEYS)}")
    return changes


def with_record(weights: Weights, record: dict[str, Any], changes: dict[str, str]) -> Trained:
    metrics, note = record["metrics"], f"final iterate, step {record['step']}"
    if metrics["selected_on"] is not None:
        note = f"step {metrics['selected_step']}, the best on the test set: selected on test"
    return Trained(weights, compose.from_dict(record["config"], changes), note, record)


def from_unfinished_run(folder: Path, changes: dict[str, str]) -> Trained:
    if not isinstance(saved := read_json(folder / "config.yaml", yaml.safe_load), dict):
        raise UserError("path", folder, "is no run's folder: it has neither record.json nor a whole config.yaml")
    config, state = compose.from_dict(saved, changes), checkpoints.load(folder)
    if state is None:
        raise UserError("path", folder, "is not finished and has no checkpoint yet")
    note = f"not finished: checkpoint at step {state['training']['step']} of {config.schedule.steps}"
    return Trained(state_dict(state["training"]["network"], folder), config, note)


def splits_of(trained: Trained) -> data.Splits:
    config = trained.config
    splits = data.load(config.data.name, config.data_root, config.data.validation, config.data.split_seed)
    if trained.record and splits.checksum != trained.record["data"]["checksum"]:
        raise UserError("data.root", config.data_root, "its data is not what this run was trained on")
    return splits


def measure(
    trained: Trained, splits: data.Splits, normalization: data.Normalization, path: Path
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The confusion matrix on the test set, and the result as it is written to a JSON file."""
    config = trained.config
    device = devices.pick_device(config.trainer.device)
    precision = devices.pick_precision(config.trainer.precision, device)
    devices.set_deterministic(config.trainer.deterministic)
    network = build_network(config, len(splits.classes), device)
    note = load_weights(network, trained.weights, trained.record, path) or trained.note
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    evaluator = Evaluator(network, splits.test, normalization.to(device), autocast)
    evaluator.run()
    found = evaluator.result()
    classes = list(map(printable, splits.classes))  # names of folders
    confusion = pd.DataFrame(found.confusion.numpy(), classes, classes)
    where = environment(device, precision, False, config.trainer.deterministic)
    return confusion, {
        "name": printable(path.resolve().name),
        "note": note,
        "test_error": found.error,
        "test_loss": finite(found.loss),
        "images": len(splits.test),
        "model": vars(config.model),
        "shortcut": config.shortcut if config.model.residual else None,
        "classes": json.loads(by_class(confusion).reset_index(names="class").to_json(orient="records")),
        "confusion": found.confusion.tolist(),
        "data": {"name": config.data.name, "checksum": splits.checksum},
        "environment": where | {"parameters": parameter_count(network)},
    }


def remark(record: dict[str, Any] | None, confusion: pd.DataFrame, error: float) -> str:
    """Whether a run's record has the same error; of a file, the options to check where the error is near chance."""
    if record:
        recorded, then = record["metrics"]["selected_test_error"], record["environment"]
        shown = math.nan if recorded is None else recorded
        where = f"{shown:.2f} %, measured on {then['device_name']} in {then['precision']}"
        return "the same as in its record" if recorded == error else f"its record says {where}"
    predicted, chance = confusion.sum() / confusion.sum().sum(), 100 * (1 - 1 / len(confusion))
    if error < NEAR_CHANCE * chance and predicted.max() < NEAR_CHANCE:
        return ""
    most = f"{100 * predicted.max():.0f} % of the images are taken for {predicted.idxmax()}"
    check = "check --mean and --std or data.normalization, shortcut= and shortcut.zeros="
    return f"suspicious: chance has an error of {chance:.0f} %, and {most}: {check}"
