"""`record.json`: written once, when a run is finished, and read back."""

import json
from pathlib import Path
from typing import Any

from ablation.config.identity import SCHEMA

Number = (int, float, type(None))
REQUIRED: dict[str, Any] = {
    "id": str,
    "config.seed": int,
    "config.model.depth": int,
    "config.model.residual": bool,
    "config.shortcut": dict,
    "config.data.name": str,
    "config.optimizer.name": str,
    "config.schedule.name": str,
    "config.schedule.steps": int,
    "config.augmentation.name": str,
    "config.trainer": dict,
    "metrics.train_error": Number,
    "metrics.test_error": Number,
}
"""Key -> type. A record without one of these is unreadable."""


def read(path: Path) -> dict[str, Any]:
    """The record, nested, under today's names. Raises ValueError, with the reason in words, if it cannot be used."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError("not text: damaged or not a record") from None
    except RecursionError:
        raise ValueError("not a record of this project: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not complete JSON (cut off or damaged): {error}") from None
    if not isinstance(record, dict) or "schema" not in record:
        raise ValueError("not a record of this project: no key schema")
    if record["schema"] != SCHEMA:
        raise ValueError(f"schema {record['schema']} is not this version's ({SCHEMA}): update, or read it with its own")
    for key, kind in REQUIRED.items():
        value: Any = record
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                raise ValueError(f"not a complete record: no key {key}")
            value = value[part]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ValueError(f"not a valid record: {key} is {value!r}")
    for group, keys in (
        ("environment", ("device_name", "precision", "torch", "git_commit")),
        ("timing", ("finished",)),
    ):
        record[group] = dict.fromkeys(keys) | record.get(group, {})
    if "compiled" in record["environment"]:
        record["environment"]["fused"] = record["environment"].pop("compiled")
    record["data"] = {"checksum": None} | record.get("data", {})
    record.setdefault("layers", [])
    return record


def is_record(value: Any) -> bool:
    """Whether it has what is read from the record of a finished run: a hand may have been at it."""
    try:
        metrics = value["metrics"]
        errors = [metrics[name] for name in ("train_error", "test_error", "selected_test_error")]
        steps = [value["step"], metrics["selected_step"], value["config"]["schedule"]["steps"]]
        texts = [value["id"], value["data"]["checksum"], metrics["selected_on"] or ""]
    except (KeyError, TypeError, IndexError):
        return False
    kinds = ((errors, int | float), (steps, int), (texts, str))
    return all(isinstance(one, kind) for those, kind in kinds for one in those)
