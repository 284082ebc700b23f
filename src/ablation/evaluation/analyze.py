"""What `src/analyze.py` does: look into the networks of finished runs, and write what is found beside their records."""

import argparse
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ablation import data
from ablation.analysis.correlation import gradient_correlation
from ablation.analysis.lesions import lesions
from ablation.analysis.slices import loss_slice
from ablation.errors import UserError
from ablation.evaluation.evaluate import Trained, from_run, splits_of
from ablation.evaluation.weights import load_weights
from ablation.runs.build import build_network
from ablation.runs.environment import environment
from ablation.runs.record import analysis
from ablation.runs.record.files import write_json
from ablation.training import devices

ANALYSES = {"lesions": lesions, "slice": loss_slice, "correlation": gradient_correlation}
FRESH = {"correlation"}
"""Those of the network as it is initialised, which need no weights."""


def analyze(options: argparse.Namespace) -> None:
    """Analyze the runs as the options of src/analyze.py ask. Raises UserError for a wrong run before it begins."""
    for folder, trained in [(folder, load(folder, options)) for folder in options.runs]:
        config, splits = trained.config, splits_of(trained)
        device = devices.pick_device(config.trainer.device)
        devices.set_deterministic(config.trainer.deterministic)
        normalization = data.fit_normalization(config.data.normalization, splits.train).to(device)
        found: dict[str, Any] = {}
        with suppress(ValueError):  # a damaged file is replaced
            found = analysis.read(folder)
        for name in options.only:
            started = time.monotonic()
            network = build_network(config, len(splits.classes), device)
            if name not in FRESH:
                load_weights(network, trained.weights, trained.record, folder)
            train, test = splits.train[: options.images], splits.test[: options.images]
            where = {"environment": environment(device, "float32", False, config.trainer.deterministic)}
            found[name] = ANALYSES[name](network, train, test, normalization) | where
            write_json(folder / analysis.FILE, found)
            print(f"{folder.name}: {name}, {time.monotonic() - started:.0f} s", flush=True)
    print("written: analysis.json in each run's folder; src/report.py shows it")


def load(folder: Path, options: argparse.Namespace) -> Trained:
    if not (folder / "record.json").exists():
        raise UserError("run", folder, "is not the folder of a finished run: it has no record.json")
    trained = from_run(folder, options.overrides)
    if not trained.weights and not FRESH.issuperset(options.only):
        allowed = f"has no weights.pt, like all published records; --only {','.join(FRESH)} needs none"
        raise UserError("run", folder, allowed)
    return trained
