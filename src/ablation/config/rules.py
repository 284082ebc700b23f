"""The rules about values."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from ablation.config.identity import is_number
from ablation.config.schema import (
    DATA_SETS,
    DECAY_SCOPES,
    DEVICES,
    INITS,
    MAX_DEPTH,
    MAX_PIXELS,
    MAX_STEPS,
    MAX_WIDTH,
    NAME_RULE,
    NORMALIZATIONS,
    POLICIES,
    PRECISIONS,
    SCHEDULES,
    SELECTIONS,
    TRACKER_MODES,
    TRAINING_PICTURES,
    Config,
    device_pattern,
    plain_name,
)
from ablation.config.targets import open_group
from ablation.errors import UserError


def check(config: Config) -> None:
    """Raise UserError for the first value that is against the rules."""
    for problem in problems(config):
        raise problem


def problems(config: Config) -> Iterator[UserError]:
    """Every value that is against the rules, in the order of the schema."""
    values = asdict(config)

    def rule(key: str, holds: Callable[[Any], bool], allowed: str) -> Iterator[UserError]:
        value: Any = values
        for part in key.split("."):
            value = value[part]
        if not holds(value):
            yield UserError(key, value, allowed)

    def one_of(key: str, allowed: tuple[Any, ...]) -> Iterator[UserError]:
        return rule(key, lambda v: v in allowed, f"must be one of {', '.join(str(a or 'null') for a in allowed)}")

    def positive(key: str, or_null: bool = False) -> Iterator[UserError]:
        def holds(value: float | None) -> bool:
            return or_null if value is None else math.isfinite(value) and value > 0

        return rule(key, holds, "must be positive" + (" or null" if or_null else ""))

    def not_negative(key: str) -> Iterator[UserError]:
        return rule(key, lambda v: math.isfinite(v) and v >= 0, "must be zero or positive")

    def at_most(key: str, most: int) -> Iterator[UserError]:
        return rule(key, lambda v: v <= most, f"must be at most {most:,}")

    def fraction(key: str) -> Iterator[UserError]:
        return rule(key, lambda v: 0 < v < 1, "must lie between 0 and 1, both excluded")

    for folder in ("results_dir", "data_root"):
        try:
            getattr(config, folder)
        except UserError as problem:
            yield problem
    yield from rule("model.depth", lambda v: v >= 8 and (v - 2) % 6 == 0, "must be 6n + 2: 8, 14, 20, 26, 32, ...")
    yield from at_most("model.depth", MAX_DEPTH)
    yield from positive("model.width")
    yield from at_most("model.width", MAX_WIDTH)
    yield from one_of("model.init", INITS)
    yield from rule("model.batch_norm_momentum", lambda v: 0 < v <= 1, "must be above 0 and at most 1")
    yield from positive("model.batch_norm_eps")
    yield from open_group("shortcut", config.shortcut)
    yield from open_group("optimizer", config.optimizer)
    yield from optimizer_rules(config.optimizer)
    yield from rule("schedule.name", plain_name, NAME_RULE)
    yield from one_of("schedule.kind", SCHEDULES)
    yield from rule("schedule.steps", lambda v: 1 <= v <= MAX_STEPS, f"must be from 1 to {MAX_STEPS:,}")
    yield from rule(
        "schedule.milestones",
        lambda v: all(0 < m < 1 for m in v) and list(v) == sorted(set(v)),
        "must be growing fractions of schedule.steps, each between 0 and 1",
    )
    yield from fraction("schedule.factor")
    yield from positive("schedule.warmup_lr", or_null=True)
    highest = config.optimizer.get("lr")
    warmup = config.schedule.warmup_lr
    if warmup is not None and isinstance(highest, int | float) and warmup > highest:
        allowed = f"must be at most optimizer.lr, {highest:g}; schedule=paper has no warm-up"
        yield UserError("schedule.warmup_lr", warmup, allowed)
    yield from rule("schedule.warmup_error", lambda v: 0 < v <= 100, "must be a percentage above 0")
    yield from fraction("schedule.peak")
    yield from not_negative("schedule.patience")
    yield from not_negative("schedule.min_delta")
    yield from not_negative("schedule.min_lr")
    yield from rule("augmentation.name", plain_name, NAME_RULE)
    for key in ("augmentation.padding", "augmentation.shift", "augmentation.cutout"):
        yield from not_negative(key)
        yield from at_most(key, MAX_PIXELS)
    yield from one_of("augmentation.policy", POLICIES)
    yield from one_of("data.name", DATA_SETS)
    pictures = TRAINING_PICTURES.get(config.data.name, math.inf)
    yield from not_negative("data.validation")
    allowed = f"must be below the {pictures} training pictures of {config.data.name}"
    yield from rule("data.validation", lambda v: v < pictures, allowed)
    yield from rule("data.split_seed", lambda v: 0 <= v < 2**32, f"must be zero or positive, at most {2**32 - 1}")
    yield from one_of("data.normalization", NORMALIZATIONS)
    yield from rule("data.batch_size", lambda v: v >= 2, "must be at least 2: batch norm needs it")
    left = pictures - config.data.validation
    yield from rule("data.batch_size", lambda v: v <= left, f"must be at most the {left} training pictures")
    yield from rule("trainer.name", plain_name, NAME_RULE)
    yield from rule("trainer.device", device_pattern, f"must be one of {', '.join(DEVICES)}")
    yield from one_of("trainer.precision", PRECISIONS)
    yield from positive("trainer.evaluate_every", or_null=True)
    yield from positive("trainer.checkpoint_every")
    yield from positive("trainer.time_limit", or_null=True)
    yield from one_of("tracker.mode", TRACKER_MODES)
    yield from positive("tracker.timeout")
    yield from rule("tracker.project", plain_name, NAME_RULE)
    yield from rule("seed", lambda v: 0 <= v < 2**63, f"must be zero or positive, at most {2**63 - 1}")
    yield from one_of("selection", SELECTIONS)
    yield from positive("early_stopping", or_null=True)
    by_epoch = config.schedule.kind == "plateau" or config.early_stopping is not None
    if by_epoch and config.trainer.evaluate_every is not None:
        allowed = "must be null: the plateau schedule and early stopping count epochs"
        yield UserError("trainer.evaluate_every", config.trainer.evaluate_every, allowed)


def optimizer_rules(optimizer: dict[str, Any]) -> Iterator[UserError]:
    """The numbers that the open group `optimizer` shares between its members."""
    if not is_number(optimizer.get("lr")) or optimizer["lr"] <= 0:
        yield UserError("optimizer.lr", optimizer.get("lr"), "must be a positive number")
    momentum = optimizer.get("momentum", 0)
    if not is_number(momentum) or not 0 <= momentum < 1:
        yield UserError("optimizer.momentum", momentum, "must be a number from 0 to below 1")
    decay = optimizer.get("weight_decay", 0)
    if not is_number(decay) or decay < 0:
        yield UserError("optimizer.weight_decay", decay, "must be zero or a positive number")
    if optimizer.get("weight_decay_scope", "all") not in DECAY_SCOPES:
        allowed = f"must be one of {', '.join(DECAY_SCOPES)}"
        yield UserError("optimizer.weight_decay_scope", optimizer["weight_decay_scope"], allowed)
