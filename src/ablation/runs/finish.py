"""The end of a run: the final iterate is measured, its weights and its record are written, the checkpoints removed."""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

from torch import Tensor

from ablation.analysis.layers import gradient_norms, response_stds
from ablation.config.identity import SCHEMA
from ablation.networks.resnet import parameter_count
from ablation.runs.environment import environment
from ablation.runs.progress import errors
from ablation.runs.record import checkpoints, history
from ablation.runs.record.files import write_atomically, write_json
from ablation.runs.record.record import finite
from ablation.runs.trainer import Trainer


def finish(trainer: Trainer) -> dict[str, Any]:
    """Write weights.pt and record.json, remove the checkpoints, and return the record."""
    training, config, folder, data = trainer.training, trainer.config, trainer.folder, trainer.data
    history.write(folder.path, trainer.history)  # whole, should somebody have moved or deleted it meanwhile
    test, train = training.evaluate(data.test), training.evaluate(data.train)
    best, last = trainer.best, trainer.history[-1]
    on_test = config.selection == "best_test"
    weights = best["weights"] if on_test else training.network.state_dict()
    weights = {name: value.cpu() for name, value in weights.items()}
    contents = checkpoints.serialized(weights)
    write_atomically(folder.path / "weights.pt", lambda file: file.write(contents))
    as_run = config.to_dict()
    as_run["trainer"]["precision"] = trainer.precision  # what `auto` became
    measured_last = ("running_train_error", "running_train_loss", "test_error", "test_loss", "val_error", "val_loss")
    sizes = {"train_size": len(data.train), "val_size": len(data.val or ()), "test_size": len(data.test)}
    sizes["image_size"] = data.train.images.shape[-1]
    record = {
        "schema": SCHEMA,
        "name": folder.name,
        "id": folder.identity,
        "status": "done",
        "config": as_run,
        "metrics": {
            "train_error": train.error,
            "train_loss": finite(train.loss),
            **{key: last[key] for key in measured_last},
            "best_test_error": best["error"],
            "best_test_step": best["step"],
            "selected_test_error": best["error"] if on_test else test.error,
            "selected_step": best["step"] if on_test else training.step,
            "selected_on": "test" if on_test else None,
        },
        "parameters": parameter_count(training.network),
        "seed": config.seed,
        "step": training.step,
        "epoch": training.epoch,
        "stopped_early": trainer.stopped_early,
        "environment": environment(trainer.device, trainer.precision, trainer.fused, config.trainer.deterministic)
        | {"graph": training.replayed.replay is not None, "parts": trainer.parts},
        "data": sizes
        | {"name": config.data.name, "checksum": data.checksum, "split": data.split, "classes": list(data.classes)},
        "timing": timing(trainer),
        "layers": layers(trainer),
        "confusion": test.confusion.tolist(),
        "weights_sha256": digest(weights),
    }
    write_json(folder.path / "record.json", record)
    checkpoints.remove(folder.path)
    return record


def timing(trainer: Trainer) -> dict[str, Any]:
    """Seconds in all the processes that worked on the run, and the training's images per second."""
    wall, train, now = trainer.seconds(), trainer.train_seconds, datetime.now(UTC)
    return {
        "wall_seconds": wall,
        "train_seconds": train,
        "images_per_second": trainer.training.step * trainer.training.batch_size / max(train, 1e-9),
        "started": (now - timedelta(seconds=wall)).isoformat(timespec="seconds"),
        "finished": now.isoformat(timespec="seconds"),
        "resumed_at": trainer.resumed_at,
    }


def layers(trainer: Trainer) -> list[dict[str, Any]]:
    """Per 3x3 convolution, in network order: the response's standard deviation, gradient norms at start and end."""
    subject = trainer.training.network, trainer.data.train, trainer.training.normalization
    stds, end = response_stds(*subject), gradient_norms(*subject)
    columns = {"response_std": stds, "gradient_norm_start": trainer.gradients_at_start, "gradient_norm_end": end}
    return [{"name": name} | {key: finite(values[name]) for key, values in columns.items()} for name in stds]


def result_line(record: dict[str, Any]) -> str:
    """The last line of a finished run; a number that was selected on the test set is never shown without that label."""
    metrics, stopped = record["metrics"], " (stopped early)" if record["stopped_early"] else ""
    final = ", ".join(errors(metrics, "train_error", "val_error", "test_error"))
    resumed = " (resumed)" if record["timing"]["resumed_at"] else ""
    line = f"done{resumed} at step {record['step']}{stopped}: {final}"
    if metrics["selected_on"] is None:
        return line
    error, step = metrics["selected_test_error"], metrics["selected_step"]
    return f"{line}; best test error {error:.2f} % (accuracy {100 - error:.2f} %) at step {step}, selected on test"


def digest(weights: dict[str, Tensor]) -> str:
    """SHA-256 over names and values of a state dict: equal digests mean bit-identical networks."""
    sha = hashlib.sha256()
    for name, value in weights.items():
        sha.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
