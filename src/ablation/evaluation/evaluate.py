"""What `src/evaluate.py` does: measure a run's or a file's network on the test set, print the result and write it.

A finished run gives its record's numbers: same weights, data, normalization and precision. A run with
`selection=best_test` kept the weights that were best on the test set, and its number is labelled so here as well.
"""

import argparse
import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from torch import Tensor, nn

from ablation import data
from ablation.config import compose
from ablation.config.schema import Config
from ablation.errors import UserError, printable
from ablation.evaluation.confusion import by_class, show_confusion
from ablation.networks.resnet import parameter_count
from ablation.report.documents import csv_text
from ablation.runs.build import build_network
from ablation.runs.environment import environment
from ablation.runs.finish import digest
from ablation.runs.record import checkpoints
from ablation.runs.record.files import read_json, write_atomically
from ablation.runs.record.record import read as read_record
from ablation.training import devices
from ablation.training.evaluation import Evaluator

RUN_KEYS = ("data.root", "trainer.device", "trainer.precision")  # may differ from the run when it is evaluated
NEAR_CHANCE = 0.9  # share of chance's error, or of the images taken for one class, from which a result is suspicious
COUNTER = "num_batches_tracked"  # of batch norm

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Trained:
    """A trained network; `note` must be said beside its number, `record` is that of a finished run."""

    weights: Weights
    config: Config
    note: str | None = None
    record: dict[str, Any] | None = None


def evaluate_and_show(options: argparse.Namespace) -> None:
    """Evaluate as the options of src/evaluate.py ask. Raises UserError before anything is printed or written."""
    if os.path.isdir(options.path):  # Path.is_dir raises for a name that is too long
        trained = from_run(options.path, options.overrides)
    else:  # float32, as published numbers are: akamaster's ResNet-56 has 6.61 % as published, but 6.54 % in bfloat16
        config = compose.compose(["trainer.precision=float32", *options.overrides])
        trained = Trained(read_weights(options.path), config)
    confusion, result = measure(trained, options)
    config, where, output = trained.config, result["environment"], options.output
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
        frame = confusion.rename(index=csv_text, columns=csv_text)
        text = frame.to_csv(index_label="true") if output.suffix == ".csv" else json.dumps(result, indent=1)
        write_atomically(output, lambda file: file.write(text.encode()))
        print(f"written: {output}")


def from_run(folder: Path, overrides: list[str], with_weights: bool = True) -> Trained:
    """The result of the run in `folder`, or its newest checkpoint; without weights, a finished run's record alone."""
    changes = {key: value for key, _, value in (text.partition("=") for text in overrides)}
    for key in changes:
        if key not in RUN_KEYS:
            raise UserError(key, changes[key], f"is the run's own; of a run these may differ: {', '.join(RUN_KEYS)}")
    if not (folder / "record.json").exists():
        return from_unfinished_run(folder, changes)
    try:
        record = read_record(folder / "record.json")
    except ValueError as error:
        raise UserError("path", folder, f"its record.json is damaged ({error}); train it again") from None
    if not with_weights:
        return Trained({}, compose.from_dict(record["config"], changes), record=record)
    if not (folder / "weights.pt").exists():
        raise UserError("path", folder, "has a record but no weights.pt: published records come without their weights")
    weights = read_weights(folder / "weights.pt")
    if digest(weights) != record.get("weights_sha256"):
        raise UserError("path", folder, "weights.pt is not what record.json was written with")
    metrics, note = record["metrics"], f"final iterate, step {record['step']}"
    if metrics["selected_on"] is not None:
        note = f"step {metrics['selected_step']}, the best on the test set: selected on test"
    return Trained(weights, compose.from_dict(record["config"], changes), note, record)


def from_unfinished_run(folder: Path, changes: dict[str, str]) -> Trained:
    if not isinstance(saved := read_json(folder / "config.yaml", yaml.safe_load), dict):
        raise UserError("path", folder, "is no run's folder: it has neither record.json nor a whole config.yaml")
    config, state = compose.from_dict(saved, changes), checkpoints.load(folder, print)
    if state is None:
        raise UserError("path", folder, "is not finished and has no checkpoint yet")
    training = state["training"] if isinstance(state.get("training"), dict) else {}
    note = f"not finished: checkpoint at step {training.get('step')} of {config.schedule.steps}"
    return Trained(state_dict(training.get("network"), folder), config, note)


def splits_of(trained: Trained) -> data.Splits:
    config = trained.config
    splits = data.load(config.data.name, config.data_root, config.data.validation, config.data.split_seed)
    if trained.record and splits.checksum != trained.record["data"]["checksum"]:
        raise UserError("data.root", config.data_root, "its data is not what this run was trained on")
    return splits


def measure(trained: Trained, options: argparse.Namespace) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The confusion matrix on the test set, and the result as it is written to a JSON file."""
    config, path = trained.config, options.path
    device = devices.pick_device(config.trainer.device)
    precision = devices.pick_precision(config.trainer.precision, device)
    devices.set_deterministic(config.trainer.deterministic)
    splits = splits_of(trained)
    if options.mean:
        normalization = data.Normalization(*(torch.tensor(v).view(3, 1, 1) for v in (options.mean, options.std)))
    else:
        normalization = data.fit_normalization(config.data.normalization, splits.train)
    network = build_network(config, len(splits.classes), device)
    note = load_weights(network, trained.weights, path) or trained.note
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
        "test_loss": found.loss if math.isfinite(found.loss) else None,
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


def read_weights(path: Path) -> Weights:
    """The state dict in `path`: a run's weights.pt or checkpoint, or another project's of the same network.

    Others' names become torchvision's: `module.` is DataParallel's, `linear` and `shortcut` are akamaster's. Only
    tensors are read (`weights_only=True`): a downloaded file runs no code. Raises UserError.
    """
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        raise UserError("path", path, "no such file or folder; the runs are under results/runs")
    try:
        try:
            content = checkpoints.read(path)["training"]["network"]
        except ValueError:  # no checkpoint of a run
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises a dozen kinds, with pages of advice on how to let the file run code
        allowed = "cannot be read: it is damaged, not a PyTorch file, or holds code; torch.save a state dict alone"
        raise UserError("path", path, allowed) from None
    return state_dict(content.get("state_dict", content) if isinstance(content, dict) else content, path)


def state_dict(content: Any, path: Path) -> Weights:
    """`content` as weights under torchvision's names. Raises UserError unless it is names with finite real tensors."""
    tensors = content.items() if isinstance(content, dict) else ()
    if not tensors or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors):
        raise UserError("path", path, "is not the state dict of a network: names, and a tensor for each")
    weights = {}
    for name, value in tensors:
        if not name.endswith(COUNTER):  # a whole number
            dense = value.layout == torch.strided and value.is_cpu
            if not (dense and value.is_floating_point() and value.float().isfinite().all()):
                raise UserError("path", path, f"{name} ({value.dtype}) must be finite real numbers")
            value = value.float()
        weights[re.sub(r"^linear\.", "fc.", name.removeprefix("module.")).replace(".shortcut.", ".downsample.")] = value
    return weights


def load_weights(network: nn.Module, weights: Weights, path: Path) -> str | None:
    """Put `weights`, read from `path`, into `network`; returns what must be said beside the result.

    Raises UserError naming the first entry that does not fit.
    """
    own, note = network.state_dict(), None
    if 2 * len(own.keys() & weights.keys()) < len(own) and (renamed := by_order(own, weights)):
        weights, note = renamed, "unknown names, taken in their order: another network may have the same shapes"
    try:
        missing, unexpected = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # a line for each tensor of another shape, below a headline
        fault = str(error).splitlines()[1].strip()
    else:  # files from before torch 0.4.1 have no num_batches_tracked, and nothing here uses it
        missing = [name for name in missing if not name.endswith(COUNTER)]
        if not missing and not unexpected:
            return note
        fault = f"lacks {missing[0]}" if missing else f"has {unexpected[0]}, which the network lacks"
    raise UserError("path", path, f"{fault}{hint(own, weights)}")


def by_order(own: Weights, weights: Weights) -> Weights | None:
    """`weights` under the names of `own`, if in their order all shapes and kinds (weight, bias, ...) are the same."""
    names, theirs = ([name for name in state if not name.endswith(COUNTER)] for state in (own, weights))
    kinds = [(name.rpartition(".")[2], own[name].shape) for name in names]
    if kinds != [(name.rpartition(".")[2], weights[name].shape) for name in theirs]:
        return None
    return {name: weights[other] for name, other in zip(names, theirs, strict=True)}


def hint(own: Weights, weights: Weights) -> str:
    """What to change in the overrides, as far as the network's `own` state dict and the file's show."""
    depth, own_depth = (sum(value.shape[2:] == (3, 3) for value in state.values()) + 1 for state in (weights, own))
    if depth != own_depth and depth % 6 == 2:
        return f"; it looks like model.depth={depth}, not {own_depth}"
    if not own.keys() & weights.keys():
        known = "conv1.weight, bn1.bias, layer1.0.conv1.weight, ..., fc.bias"
        return f"; its names are {', '.join([*weights][:3])}, ...; known are torchvision's: {known}"
    projects, own_projects = (any("downsample" in name for name in names) for names in (weights, own))
    if projects == own_projects:
        return ""
    kind = "weights: shortcut=B, C or avgpool" if projects else "no weights: shortcut=A, or model.residual=false"
    return f"; its shortcuts have {kind}"
