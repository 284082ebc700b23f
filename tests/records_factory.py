"""Makes runs on disk as the training side leaves them, from a few numbers: what the report's tests feed on.

Notable: by default a run follows the paper's recipe, and its errors are near those that others measured, so that the
report made of them looks like a real one.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablation.report.evidence import run_row
from ablation.report.studies import Study, studies

SCHEDULES: dict[str, dict[str, Any]] = {
    "paper": {"kind": "multistep", "steps": 64_000, "milestones": [0.5, 0.75], "factor": 0.1},
    "onecycle": {"kind": "onecycle", "steps": 180, "milestones": [], "factor": 0.1, "peak": 0.3},
    "plateau": {"kind": "plateau", "steps": 156_200, "milestones": [], "factor": 0.316, "patience": 5},
}
SCHEDULES["paper_warmup"] = SCHEDULES["paper"] | {"warmup_lr": 0.01, "warmup_error": 80.0}

# Final errors in percent (training clean, test) of plain and residual nets, near those of public reproductions.
TYPICAL: dict[bool, dict[int, tuple[float, float]]] = {
    False: {20: (0.74, 9.7), 32: (0.79, 10.0), 44: (2.76, 11.6), 56: (3.33, 13.0), 110: (62.0, 63.0)},
    True: {20: (0.40, 8.6), 32: (0.12, 7.7), 44: (0.05, 7.3), 56: (0.04, 7.0), 110: (0.02, 6.6), 1202: (0.01, 7.9)},
}


def record(depth: int, residual: bool, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A record by the paper's recipe; `changes` are keys of `metrics` or paths joined by `__`."""
    schedule = changes.pop("schedule", "paper_warmup" if depth >= 110 else "paper")
    steps = SCHEDULES[schedule]["steps"]
    train, test = TYPICAL[residual].get(depth, (1.0, 10.0))
    noise = np.random.default_rng([seed, depth, residual]).normal(size=2)
    train, test = train * (1 + 0.05 * noise[0]), test + 0.15 * noise[1]
    shortcut = changes.pop("shortcut", "A")
    config = {
        "seed": seed,
        "selection": "final",
        "early_stopping": None,
        "overwrite": False,
        "results": "/somewhere/results",
        "model": {"depth": depth, "residual": residual, "width": 16, "init": "he_fan_in"},
        "shortcut": {"name": shortcut, "_target_": f"ablation.networks.shortcuts.{shortcut}"},
        "optimizer": {
            "name": "sgd",
            "_target_": "torch.optim.SGD",
            "lr": 0.1,
            "momentum": 0.9,
            "weight_decay": 1e-4,
            "weight_decay_scope": "all",
        },
        "schedule": {"name": schedule} | SCHEDULES[schedule],
        "augmentation": {"name": "crop_flip", "padding": 4, "shift": 0.0, "flip": True, "cutout": 0, "policy": None},
        "data": {"name": "cifar10", "root": "/somewhere", "validation": 0},
        "trainer": {"name": "fast", "device": "auto", "precision": "auto"},
        "tracker": {"name": "offline"},
    }
    config["model"] |= {"batch_norm_momentum": 0.1, "batch_norm_eps": 1e-5}
    config["data"] |= {"normalization": "pixel_mean", "batch_size": 128}
    metrics = {"train_error": train, "train_loss": train / 30, "test_error": test, "test_loss": test / 25}
    metrics |= {"running_train_error": min(100.0, train * 1.5 + 0.3), "running_train_loss": train / 20}
    metrics |= {"val_error": None, "val_loss": None, "best_test_error": test - 0.2, "best_test_step": 60_000}
    environment = {"device": "cuda", "device_name": "NVIDIA H200", "precision": "bfloat16", "fused": True}
    environment |= {"torch": "2.15.0", "git_commit": "a" * 40, "git_dirty": False}
    made: dict[str, Any] = {
        "schema": 1,
        "name": f"{'resnet' if residual else 'plain'}{depth}-seed{seed}",
        "status": "done",
        "config": config,
        "metrics": metrics,
        "parameters": 97_000 * (depth - 2) // 6 - 20_000,
        "seed": seed,
        "step": steps,
        "epoch": steps / 390.6,
        "stopped_early": False,
        "environment": environment,
        "data": {"name": "cifar10", "checksum": "c1", "train_size": 50_000, "test_size": 10_000},
        "timing": {"wall_seconds": 9.0 * depth, "images_per_second": 400_000 / depth},
        "layers": layers(depth, residual),
        "confusion": [[9, 1], [2, 8]],
        "weights_sha256": "0" * 64,
    }
    made["timing"]["finished"] = f"2026-01-0{1 + seed % 9}"
    for key, value in changes.items():
        place = metrics if key in metrics else made
        *path, last = key.split("__") if key not in metrics else [key]
        for part in path:
            place = place[part]
        place[last] = value
    metrics["selected_test_error"] = metrics["test_error"]
    identity = json.dumps([config, made["environment"]["precision"]], sort_keys=True)
    made["id"] = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return made


def layers(depth: int, residual: bool) -> list[dict[str, Any]]:
    """Responses like Figure 7's: plain ones larger, residual ones smaller the deeper the net."""
    count = depth - 1
    rough = np.random.default_rng([depth, residual]).uniform(0.7, 1.3, count)
    level = 1.0 / (1 + depth / 40) if residual else 1.0
    return [
        {
            "name": f"layer{i}",
            "response_std": float(level * (1.5 - i / count) * rough[i]),
            "gradient_norm_start": float(0.1 * rough[i] * (1.03 ** (count - i) if not residual else 1)),
            "gradient_norm_end": float(0.02 * rough[i] * math.exp(-i / count)),
        }
        for i in range(count)
    ]


def history(made: dict[str, Any], points: int = 60) -> list[dict[str, Any]]:
    """Rows that fall to the record's errors, with a drop at half of the steps."""
    steps = made["config"]["schedule"]["steps"]
    noise = np.random.default_rng(made["seed"]).normal(size=(points, 2))
    rows = []
    for k in range(points):
        done = (k + 1) / points
        above = 60 * math.exp(-12 * done) + (6 * (1.2 + 0.1 * noise[k, 0]) if done < 0.5 else 0)
        final = made["metrics"]
        row = {"step": round(done * steps), "epoch": k + 1, "lr": 0.1}
        for j, key in enumerate(("running_train_error", "test_error")):
            value = final[key]
            row[key] = None if value is None else min(90.0, value + above * (1 + 0.03 * noise[k, j]))
        rows.append(row)
    return rows


def write(folder: Path, made: dict[str, Any], points: int = 60) -> Path:
    """The run's folder below `folder`."""
    place = folder / f"{made['name']}-{made['id'][:8]}"
    place.mkdir(parents=True, exist_ok=True)
    (place / "record.json").write_text(json.dumps(made))
    (place / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history(made, points)))
    (place / "status.json").write_text(json.dumps({"status": "done", "step": made["step"], "steps": made["step"]}))
    return place


def write_all(folder: Path, records: Iterable[dict[str, Any]]) -> list[Path]:
    return [write(folder, made) for made in records]


def paper_study(seeds: int = 5, depths: Iterable[int] = (20, 32, 44, 56, 110)) -> list[dict[str, Any]]:
    """The paper's Figure 6 and Table 6, with seeds."""
    return [record(depth, residual, seed) for depth in depths for residual in (False, True) for seed in range(seeds)]


def digits_quickstart() -> list[dict[str, Any]]:
    """Four records, as `make quickstart` leaves them."""
    recipe = {"schedule": "onecycle", "config__data__name": "digits", "environment__device_name": "CPU"}
    recipe |= {"config__augmentation": {"name": "none", "padding": 0, "flip": False}}
    recipe |= {"environment__precision": "float32"}
    made = []
    for depth, residual, train in ((20, False, 0.07), (56, False, 52.3), (20, True, 0.0), (56, True, 0.0)):
        errors = {"train_error": train, "running_train_error": train + 0.4, "test_error": train + 2.1}
        made.append(record(depth, residual, **recipe, **errors))
    return made


def study_of(records: Iterable[dict[str, Any]]) -> Study:
    """The one study that these records make, without the disk."""
    (study,) = studies(pd.DataFrame([run_row(made, Path(made["name"])) for made in records], dtype=object))
    return study
