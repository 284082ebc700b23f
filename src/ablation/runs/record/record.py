"""`record.json`: the result of a finished run. This module reads it, without torch; runs/finish.py writes it.

A record may come from another machine, from an older version or out of a text editor, so `read` checks the type of
every value that the report, the tracker or evaluate.py uses. A text such as `${...}` stays text: nothing resolves it.
"""

import json
import math
import reprlib
from collections.abc import Iterator
from dataclasses import is_dataclass
from itertools import accumulate
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from ablation.config.identity import LARGEST, SCHEMA, current_target, is_number
from ablation.config.schema import Config
from ablation.runs.record.files import printable_tree, read_text

Number, Text = float | None, str | None

ERRORS = ("train_error", "running_train_error", "test_error", "val_error", "best_test_error", "selected_test_error")
"""In percent."""
OTHER_METRICS = ("train_loss", "running_train_loss", "test_loss", "val_loss", "best_test_step", "selected_step")

GROUPS: dict[str, dict[str, Any]] = {
    "metrics": dict.fromkeys((*ERRORS, *OTHER_METRICS), Number) | {"selected_on": Text},
    "environment": dict.fromkeys(("device_name", "precision", "torch", "git_commit"), Text)
    | dict.fromkeys(("fused", "graph"), bool | None),
    "timing": dict.fromkeys(("wall_seconds", "train_seconds", "images_per_second"), Number) | {"finished": Text},
    "data": {"checksum": Text, "classes": list[str] | None},
}
"""Group -> key -> type. A key that a record lacks is read as null."""

LAYER = {"name": str} | dict.fromkeys(("response_std", "gradient_norm_start", "gradient_norm_end"), Number)

REQUIRED = (
    *("id", "step", "config.seed", "config.model.depth", "config.model.residual", "config.shortcut.name"),
    *("config.data.name", "config.optimizer.name", "config.schedule.name", "config.schedule.steps"),
    *("config.augmentation.name", "config.trainer.precision"),
    *("metrics.train_error", "metrics.test_error", "metrics.selected_test_error"),
)


def types() -> dict[str, Any]:
    """Dotted key -> type: the configuration's are its schema's."""
    found: dict[str, Any] = {"id": str, "step": int, "parameters": Number, "confusion": list[list[int]], "layers": Any}
    config = {"config": get_type_hints(Config)}
    config |= {f"config.{name}": get_type_hints(kind) for name, kind in config["config"].items() if is_dataclass(kind)}
    for group, kinds in (GROUPS | config).items():
        found |= {group: dict} | {f"{group}.{key}": kind for key, kind in kinds.items() if not is_dataclass(kind)}
    return found | {"config.optimizer.name": str, "config.optimizer.lr": Number, "config.shortcut.name": str}


TYPES = types()


def read(path: Path) -> dict[str, Any]:
    """The record in a file, as `parse` returns it. Raises ValueError."""
    try:
        return parse(read_text(path))
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None


def parse(text: str) -> dict[str, Any]:
    """The record, nested, under today's names. Raises ValueError, with the reason in words, if it cannot be used."""
    try:
        return checked(printable_tree(json.loads(text)))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"not complete JSON (cut off, damaged or nested too deeply): {error}") from None


def published(record: dict[str, Any]) -> dict[str, Any]:
    """The record without the folders of the machine it was made on."""
    data = record["config"]["data"] | {"root": None}
    return record | {"config": record["config"] | {"data": data, "results": None}}


def checked(record: Any) -> dict[str, Any]:
    """The record with every key that is read elsewhere, under today's names. Raises ValueError as `read`."""
    if not isinstance(record, dict) or "schema" not in record:
        raise ValueError("not a record of this project: no key schema")
    if record["schema"] != SCHEMA:
        made = reprlib.repr(record["schema"])
        raise ValueError(f"schema {made} is not this version's ({SCHEMA}): update, or read it with its own")
    values = dict(leaves(record))
    for key in REQUIRED:
        if key not in values:
            raise ValueError(f"not a complete record: no key {key}")
    for key, value in values.items():
        for name in accumulate(key.split("."), "{}.{}".format):  # a mapping in place of a value has keys of its own
            part = value if name == key else {}
            if not fits(part, TYPES.get(name, Any)) and name != "layers":
                raise ValueError(f"not a valid record: {name} is {reprlib.repr(part)}")
    for key in ERRORS:
        if not 0 <= (values.get(f"metrics.{key}") or 0) <= 100:
            raise ValueError(f"not a valid record: metrics.{key} is {values[f'metrics.{key}']}, not a percentage")
    for group, kinds in GROUPS.items():
        record[group] = dict.fromkeys(kinds) | record.get(group, {})
    record["environment"]["fused"] = record["environment"].pop("compiled", record["environment"]["fused"])
    trainer = record["config"]["trainer"]
    trainer["fused"] = trainer.pop("compile", trainer.get("fused"))
    for group in ("shortcut", "optimizer"):
        node = record["config"][group]
        node |= {"_target_": current_target(node["_target_"])} if "_target_" in node else {}
    layers = record.get("layers") or []
    if not (fits(layers, list[dict[str, Any]]) and all(fits(x.get(key), LAYER[key]) for x in layers for key in LAYER)):
        layers = []
    return record | {"layers": [dict.fromkeys(LAYER) | layer for layer in layers]}


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no mapping, with its keys joined by dots; an empty mapping is a value."""
    for key, value in tree.items():
        if "." in key:
            raise ValueError(f"not a valid record: a key is {reprlib.repr(key)}")
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def fits(value: Any, kind: Any) -> bool:
    """Whether a JSON value is of a type: a count for `int`, a finite number for `float`, any plain data for `Any`."""
    if kind is int:
        return type(value) is int and 0 <= value <= LARGEST
    if kind is float:
        return is_number(value)
    if isinstance(kind, UnionType):
        return any(fits(value, one) for one in get_args(kind))
    if get_origin(kind) is list:
        return isinstance(value, list) and all(fits(one, get_args(kind)[0]) for one in value)
    if kind is Any:
        return is_number(value) or isinstance(value, str | bool | None) or fits(value, list[Any] | dict)
    return isinstance(value, get_origin(kind) or kind)


def finite(value: float) -> float | None:
    """`value`, or None if it is NaN or infinite, which JSON does not have."""
    return value if math.isfinite(value) else None
