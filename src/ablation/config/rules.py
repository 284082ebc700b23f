"""The checks of a whole `Config`: each field's own rules, and those between fields."""

import math
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, get_args

from ablation.config.schema import OPEN_GROUPS, TRAINING_IMAGES, Config
from ablation.config.targets import check_member
from ablation.config.values import is_number
from ablation.errors import UserError

DECAY_SCOPES = ("all", "weights", "convolutions")


def check(config: Config) -> None:
    """Raise UserError for the first value that is against the rules."""
    _ = config.results_dir, config.data_root  # they raise it for an impossible path
    check_fields(config)
    for group in OPEN_GROUPS:
        check_member(group, getattr(config, group))
    check_optimizer(config.optimizer)
    check_schedule(config)
    check_sizes(config)


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


def check_optimizer(optimizer: dict[str, Any]) -> None:
    """The values that the members of the open group `optimizer` share."""
    momentum, decay = optimizer.get("momentum", 0), optimizer.get("weight_decay", 0)
    if not is_number(optimizer.get("lr")) or optimizer["lr"] <= 0:
        raise UserError("optimizer.lr", optimizer.get("lr"), "must be a positive number")
    if not is_number(momentum) or not 0 <= momentum < 1:
        raise UserError("optimizer.momentum", momentum, "must be a number from 0 to below 1")
    if not is_number(decay) or decay < 0:
        raise UserError("optimizer.weight_decay", decay, "must be zero or a positive number")
    scope = optimizer.get("weight_decay_scope", "all")
    if scope not in DECAY_SCOPES:
        raise UserError("optimizer.weight_decay_scope", scope, f"must be one of {', '.join(DECAY_SCOPES)}")


def check_schedule(config: Config) -> None:
    """The schedule's warm-up beside the optimizer's rate, and what is counted in epochs."""
    lr, warmup_lr = config.optimizer["lr"], config.schedule.warmup_lr
    if warmup_lr is not None and warmup_lr > lr:
        allowed = f"must be at most optimizer.lr, {lr:g}; schedule=paper has no warm-up"
        raise UserError("schedule.warmup_lr", warmup_lr, allowed)
    by_epoch = config.schedule.kind == "plateau" or config.early_stopping is not None
    if by_epoch and config.trainer.evaluate_every is not None:
        allowed = "must be null: the plateau schedule and early stopping count epochs"
        raise UserError("trainer.evaluate_every", config.trainer.evaluate_every, allowed)


def check_sizes(config: Config) -> None:
    """The validation split and the batch beside the number of training images, where that is known."""
    images = TRAINING_IMAGES.get(config.data.name, math.inf)
    if config.data.validation >= images:
        allowed = f"must be below the {images} training images of {config.data.name}"
        raise UserError("data.validation", config.data.validation, allowed)
    left = images - config.data.validation
    if config.data.batch_size > left:
        raise UserError("data.batch_size", config.data.batch_size, f"must be at most the {left} training images")
