"""The checks of a whole `Config`: each field's own rules, and those between fields."""

import math
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, get_args

from ablation.config.identity import is_number
from ablation.config.schema import OPEN_GROUPS, TRAINING_IMAGES, Config, Rule, one_of
from ablation.config.targets import check_member
from ablation.errors import UserError

OPTIMIZER_RULES = {
    "lr": Rule(lambda v: is_number(v) and v > 0, "must be a positive number"),
    "momentum": Rule(lambda v: is_number(v) and 0 <= v < 1, "must be a number from 0 to below 1"),
    "weight_decay": Rule(lambda v: is_number(v) and v >= 0, "must be zero or a positive number"),
    "weight_decay_scope": one_of("all", "weights", "convolutions"),
}
"""Of the keys that the members of the open group `optimizer` share. Only `lr` must be there."""


def check(config: Config) -> None:
    """Raise UserError for the first value that is against the rules."""
    _ = config.results_dir, config.data_root  # they raise it for an impossible path
    check_fields(config)
    for group in OPEN_GROUPS:
        check_member(group, getattr(config, group))
    for key, rule in OPTIMIZER_RULES.items():
        if (key == "lr" or key in config.optimizer) and not rule.holds(config.optimizer.get(key)):
            raise UserError(f"optimizer.{key}", config.optimizer.get(key), rule.allowed)
    check_between(config)


def check_fields(node: Any, prefix: str = "") -> None:
    """Check the rules in the fields of a dataclass, and of those inside it."""
    for entry in fields(node):
        key, value = prefix + entry.name, getattr(node, entry.name)
        if is_dataclass(value):
            check_fields(value, f"{key}.")
        or_null = " or null" if NoneType in get_args(entry.type) else ""
        for rule in entry.metadata.get("rules", ()):
            if value is not None and not rule.holds(value):
                raise UserError(key, value, rule.allowed + or_null)


def check_between(config: Config) -> None:
    """The rules between fields."""
    lr, warmup_lr = config.optimizer["lr"], config.schedule.warmup_lr
    if warmup_lr is not None and warmup_lr > lr:
        allowed = f"must be at most optimizer.lr, {lr:g}; schedule=paper has no warm-up"
        raise UserError("schedule.warmup_lr", warmup_lr, allowed)
    by_epoch = config.schedule.kind == "plateau" or config.early_stopping is not None
    if by_epoch and config.trainer.evaluate_every is not None:
        allowed = "must be null: the plateau schedule and early stopping count epochs"
        raise UserError("trainer.evaluate_every", config.trainer.evaluate_every, allowed)
    images = TRAINING_IMAGES.get(config.data.name, math.inf)
    left = images - config.data.validation
    if left <= 0:
        allowed = f"must be below the {images} training images of {config.data.name}"
        raise UserError("data.validation", config.data.validation, allowed)
    if config.data.batch_size > left:
        raise UserError("data.batch_size", config.data.batch_size, f"must be at most the {left} training images")
