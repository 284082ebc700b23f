"""From `conf/`, Hydra or a record to a checked `Config`: each field's own rules hold, and those between fields."""

import json
import math
import re
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, get_args

import hydra
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from ablation.config.command_line import check_overrides
from ablation.config.identity import SCHEMA, is_number
from ablation.config.schema import OPEN_GROUPS, ROOT, TRAINING_IMAGES, Config, Rule, one_of
from ablation.config.targets import check_arguments, check_member, source_of
from ablation.errors import UserError, first_line

OPTIMIZER_RULES = {  # of the keys that the members of the open group `optimizer` share; only `lr` must be there
    "lr": Rule(lambda v: is_number(v) and v > 0, "must be a positive number"),
    "momentum": Rule(lambda v: is_number(v) and 0 <= v < 1, "must be a number from 0 to below 1"),
    "weight_decay": Rule(lambda v: is_number(v) and v >= 0, "must be zero or a positive number"),
    "weight_decay_scope": one_of("all", "weights", "convolutions"),
}

ConfigStore.instance().store(name="schema", node=Config)  # the first entry of conf/config.yaml's defaults list


def compose(arguments: list[str]) -> Config:
    """The checked `Config` of `conf/` with these overrides, outside of a Hydra program. Raises what Hydra raises."""
    check_overrides(arguments)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return from_hydra(hydra.compose("config", arguments))


def from_hydra(composed: DictConfig) -> Config:
    """The checked `Config` of a composed configuration. Raises UserError, or what `typed` raises."""
    config = typed(OmegaConf.to_container(composed))
    check(config)
    for node in (config.shortcut, config.optimizer):
        if source := source_of(node["_target_"]):
            node["_source_"] = source
    check_arguments(config)
    return config


def from_dict(saved: dict[str, Any], changes: dict[str, str] | None = None) -> Config:
    """The checked `Config` of a record's `config`, with `changes` to it by dotted key. Raises UserError."""
    changes = changes or {}
    try:  # a record is data: each ${...} in it stays text for OmegaConf, which would resolve ${oc.env:NAME}
        literal = json.loads(re.sub(r"(\\*)\$\{", r"\1\1\\\\${", json.dumps(saved)))
        config = typed(literal, OmegaConf.from_dotlist([f"{key}={value}" for key, value in changes.items()]))
    except Exception as error:  # OmegaConf's and YAML's errors share no useful base class
        key = str(getattr(error, "full_key", None) or "config")
        raise UserError(key, changes.get(key, ""), f"does not fit schema {SCHEMA}: {first_line(error)}") from None
    check(config)
    return config


def typed(*parts: Any) -> Config:
    """The `Config` of these parts, the later ones over the earlier. Raises OmegaConf's errors."""
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), *parts))
    assert isinstance(config, Config)
    return config


def check(config: Config) -> None:
    _ = config.results_dir, config.data_root  # they raise it for an impossible path
    check_fields(config)
    for group in OPEN_GROUPS:
        check_member(group, getattr(config, group))
    for key, rule in OPTIMIZER_RULES.items():
        if (key == "lr" or key in config.optimizer) and not rule.holds(config.optimizer.get(key)):
            raise UserError(f"optimizer.{key}", config.optimizer.get(key), rule.allowed)
    lr, warmup_lr, data = config.optimizer["lr"], config.schedule.warmup_lr, config.data
    if warmup_lr is not None and warmup_lr > lr:
        allowed = f"must be at most optimizer.lr, {lr:g}; schedule=paper has no warm-up"
        raise UserError("schedule.warmup_lr", warmup_lr, allowed)
    every, by_epoch = config.trainer.evaluate_every, config.schedule.kind == "plateau" or config.early_stopping
    if every is not None and by_epoch:
        allowed = "must be null: the plateau schedule and early stopping count epochs"
        raise UserError("trainer.evaluate_every", every, allowed)
    images = TRAINING_IMAGES.get(data.name, math.inf)
    if data.validation >= images:
        allowed = f"must be below the {images} training images of {data.name}"
        raise UserError("data.validation", data.validation, allowed)
    if data.batch_size > (left := images - data.validation):
        raise UserError("data.batch_size", data.batch_size, f"must be at most the {left} training images")


def check_fields(node: Any, prefix: str = "") -> None:
    for entry in fields(node):
        key, value = prefix + entry.name, getattr(node, entry.name)
        if is_dataclass(value):
            check_fields(value, f"{key}.")
        for rule in entry.metadata.get("rules", ()):
            if value is not None and not rule.holds(value):
                raise UserError(key, value, rule.allowed + (" or null" if NoneType in get_args(entry.type) else ""))
