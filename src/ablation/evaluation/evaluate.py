"""What `src/evaluate.py` does: a trained network from a run's folder or a file, measured on the test set and shown.

A finished run evaluates to its record's numbers: same weights, data, normalisation and number format. A run with
`selection=best_test` kept the weights that were best on the test set, and its number is labelled so here as well.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from torch import Tensor

from ablation import data
from ablation.config import compose
from ablation.config.schema import Config
from ablation.errors import UserError
from ablation.evaluation.confusion import class_errors, class_table, matrix_table, pair_table
from ablation.evaluation.weights import Weights, load_weights, own_name, read_weights
from ablation.networks.resnet import parameter_count
from ablation.program import check_writable
from ablation.runs.build import build_network
from ablation.runs.environment import environment
from ablation.runs.finish import digest
from ablation.runs.record import checkpoints
from ablation.runs.record import record as records
from ablation.runs.record.files import write_atomically, write_json
from ablation.runs.record.record import finite
from ablation.training import devices
from ablation.training.evaluation import Evaluation, evaluate

OWN_KEYS = ("run", "checkpoint", "data.mean", "data.std", "matrix", "output")
RUN_KEYS = ("data.root", "trainer.device", "trainer.precision")
"""What may differ from a run when it is evaluated: where, not what."""

GROUPS = ("model", "shortcut", "data", "trainer")
"""The groups of the configuration that say which network and which pictures."""

SUFFIXES = (".json", ".csv")


@dataclass(frozen=True)
class Subject:
    """What is evaluated."""

    name: str
    path: Path
    """The file of the weights, for messages."""
    weights: Weights
    config: Config
    record: dict[str, Any] | None = None
    """That of the finished run, if it is one."""
    note: str = ""
    """What must be said beside the number."""


def main(arguments: Sequence[str]) -> None:
    """Evaluate as the command line asks. Raises UserError before any work for what is wrong with it."""
    given = parse(arguments)
    own = {key: value for key, value in given.items() if key in OWN_KEYS}
    rest = {key: value for key, value in given.items() if key not in OWN_KEYS}
    output = output_file(own.get("output"))
    matrix = boolean("matrix", own.get("matrix", "false"))
    normalization = given_normalization(own.get("data.mean"), own.get("data.std"))
    if ("run" in own) == ("checkpoint" in own):
        raise UserError("run", own.get("run", ""), "give either run=FOLDER or checkpoint=FILE; --help tells more")
    if "run" in own:
        if normalization is not None:
            raise UserError("data.mean", own["data.mean"], "is for checkpoint=; a run has its own normalisation")
        subject = run_subject(Path(own["run"]), rest)
    else:
        subject = file_subject(Path(own["checkpoint"]), rest)
    show(subject, *measure(subject, normalization), matrix, output)


def parse(arguments: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE arguments by key; the last one of a key counts, as in Hydra. Raises UserError for an unknown key."""
    given = {}
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not separator or not (key in OWN_KEYS or key.split(".")[0] in GROUPS):
            allowed = f"no such key; allowed: {', '.join(OWN_KEYS)} and the keys of {', '.join(GROUPS)}; see --help"
            raise UserError(key, value, allowed)
        given[key] = value
    return given


def boolean(key: str, text: str) -> bool:
    """`text` as true or false."""
    if text.lower() not in ("true", "false"):
        raise UserError(key, text, "must be true or false")
    return text.lower() == "true"


def output_file(text: str | None) -> Path | None:
    """Where the result is to be written, if anywhere."""
    if text is None:
        return None
    path = Path(text)
    if path.suffix not in SUFFIXES:
        raise UserError("output", text, f"must end with {' or '.join(SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise UserError("output", text, f"there is no folder {path.absolute().parent}")
    if path.is_dir():
        raise UserError("output", text, "is a folder")
    check_writable("output", path)
    return path


def given_normalization(mean: str | None, std: str | None) -> data.Normalization | None:
    """The normalisation by channel with this `mean` and `std`, or None if neither is given."""
    if mean is None and std is None:
        return None
    return data.Normalization(
        channels("data.mean", mean, lambda v: 0 <= v <= 1, "from 0 to 1"),
        channels("data.std", std, lambda v: 0 < v <= 1, "above 0 and at most 1"),
    )


def channels(key: str, text: str | None, holds: Callable[[float], bool], allowed: str) -> Tensor:
    """Three numbers, or one for all channels, as float32 (3, 1, 1)."""
    if text is None:
        raise UserError(key, "", "data.mean and data.std go together")
    try:
        values = [float(value) for value in text.strip("[]() ").split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 3) or not all(map(holds, values)):
        example = "such as [0.5,0.5,0.5]: pixels run from 0 to 1 here (divide by 255)"
        raise UserError(key, text, f"must be three numbers {allowed}, or one, {example}")
    return torch.tensor(values).expand(3).view(3, 1, 1)


def run_subject(folder: Path, changes: dict[str, str]) -> Subject:
    """The result of the run in `folder`, or its newest checkpoint if it is not finished."""
    for key, value in changes.items():
        if key not in RUN_KEYS:
            raise UserError(key, value, f"is the run's own; with run= these may differ: {', '.join(RUN_KEYS)}")
    if not folder.is_dir():
        raise UserError("run", folder, "no such folder; the runs are under results/runs")
    name = folder.resolve().name
    if not (folder / "record.json").exists():
        return unfinished_subject(folder, name, changes)
    try:
        record = records.read(folder / "record.json")
    except ValueError as error:
        raise UserError("run", folder, f"its record.json is damaged ({error}); train it again") from None
    path = folder / "weights.pt"
    if not path.exists():
        raise UserError("run", folder, "has a record but no weights.pt: published records come without their weights")
    weights = read_weights(path)
    if digest(weights) != record.get("weights_sha256"):
        raise UserError("run", folder, "weights.pt is not what record.json was written with")
    metrics = record["metrics"]
    note = f"final iterate, step {record['step']}"
    if metrics["selected_on"] is not None:
        note = f"step {metrics['selected_step']}, the best on the test set: selected on test"
    config = compose.from_dict(record["config"], changes)
    return Subject(name, path, weights, config, record, note)


def unfinished_subject(folder: Path, name: str, changes: dict[str, str]) -> Subject:
    """The newest checkpoint of a run without a record."""
    try:
        saved = yaml.safe_load((folder / "config.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError):
        raise UserError("run", folder, "is no run's folder: it has neither record.json nor config.yaml") from None
    if not isinstance(saved, dict):
        raise UserError("run", folder, "its config.yaml is damaged; train it again")
    state = checkpoints.load(folder, print)
    if state is None:
        raise UserError("run", folder, "is not finished and has no checkpoint yet")
    weights = {own_name(key): value for key, value in state["training"]["network"].items()}
    config = compose.from_dict(saved, changes)
    note = f"not finished: checkpoint at step {state['training']['step']} of {config.schedule.steps}"
    return Subject(name, folder / checkpoints.NEWEST, weights, config, note=note)


def file_subject(path: Path, overrides: dict[str, str]) -> Subject:
    """The state dict in the file at `path`, for the network that the overrides of conf/ name."""
    config = compose.compose([f"{key}={value}" for key, value in overrides.items()])
    return Subject(path.name, path, read_weights(path), config)


def measure(
    subject: Subject, normalization: data.Normalization | None
) -> tuple[Evaluation, data.Splits, dict[str, Any]]:
    """The subject's error, loss and confusion on the test set, the data, and what it was measured on."""
    config = subject.config
    device = devices.pick_device(config.trainer.device)
    precision = devices.pick_precision(config.trainer.precision, device)
    devices.set_deterministic(config.trainer.deterministic)
    splits = data.load(config.data.name, config.data_root, config.data.validation, config.data.split_seed)
    if subject.record is not None and splits.checksum != subject.record["data"]["checksum"]:
        raise UserError("data.root", config.data_root, "its data is not what this run was trained on")
    if normalization is None:
        normalization = data.fit_normalization(config.data.normalization, splits.train)
    network = build_network(config, len(splits.classes), device)
    load_weights(network, subject.weights, subject.path)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    result = evaluate(network, splits.test, normalization.to(device), autocast)
    where = environment(device, precision, fused=False, deterministic=config.trainer.deterministic)
    return result, splits, where | {"parameters": parameter_count(network)}


def show(
    subject: Subject,
    result: Evaluation,
    splits: data.Splits,
    where: dict[str, Any],
    matrix: bool,
    output: Path | None,
) -> None:
    """Print the tables and the numbers, the most important ones last, and write the output file."""
    config, console = subject.config, Console()
    if not console.is_terminal:
        console = Console(width=160)
    shortcut = f"residual, shortcut {config.shortcut['name']}" if config.model.residual else "plain"
    print(f"{subject.name}: {config.model.depth} layers, {shortcut}, {where['parameters']:,} parameters")
    if matrix:
        console.print(matrix_table(result.confusion, splits.classes))
    console.print(class_table(result.confusion, splits.classes))
    console.print(pair_table(result.confusion, splits.classes))
    note = f" ({subject.note})" if subject.note else ""
    print(f"test error {result.error:.2f} %, loss {result.loss:.4f}{note}")
    numbers = f"{len(splits.test):,} pictures of {config.data.name}"
    print(f"measured on {numbers}; {where['device_name']}, {where['precision']}, torch {where['torch']}")
    if subject.record is not None:
        print(comparison(subject.record, result))
    if output is not None:
        write(output, subject, result, splits, where)
        print(f"written: {output}")


def comparison(record: dict[str, Any], result: Evaluation) -> str:
    """Whether the run's record says the same."""
    recorded = record["metrics"]["selected_test_error"]
    if recorded == result.error:
        return "the same as in its record"
    then = record["environment"]
    return f"its record says {recorded:.2f} %, measured on {then['device_name']} in {then['precision']}"


def write(output: Path, subject: Subject, result: Evaluation, splits: data.Splits, where: dict[str, Any]) -> None:
    """The result as JSON, or its confusion matrix as CSV with the class names (rows true, columns predicted)."""
    table, errors = result.confusion.tolist(), class_errors(result.confusion)
    if output.suffix == ".csv":
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["true", *splits.classes])
        rows.writerows([name, *row] for name, row in zip(splits.classes, table, strict=True))
        write_atomically(output, lambda file: file.write(text.getvalue().encode()))
        return
    by_class = [
        {"class": name, "pictures": sum(row), "error": error}
        for name, row, error in zip(splits.classes, table, errors, strict=True)
    ]
    value = {
        "name": subject.name,
        "note": subject.note or None,
        "test_error": result.error,
        "test_loss": finite(result.loss),
        "pictures": len(splits.test),
        "model": vars(subject.config.model),
        "shortcut": subject.config.shortcut if subject.config.model.residual else None,
        "classes": by_class,
        "confusion": table,
        "data": {"name": subject.config.data.name, "checksum": splits.checksum},
        "environment": where,
    }
    write_json(output, value)
