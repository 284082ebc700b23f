"""From `conf/`, Hydra or a record to a checked `Config`: each field's own rules hold, and those between fields."""

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, get_args

import hydra
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from ablation.config import targets
from ablation.config.command_line import NOT_INSTALLED, axis, check_overrides, check_sweep, is_hydras, translate
from ablation.config.identity import SCHEMA, is_number
from ablation.config.schema import CONF, OPEN_GROUPS, SWEEPS, TRAINING_IMAGES, Config, Rule, one_of
from ablation.config.targets import check_arguments, check_member, source_of
from ablation.errors import UserError, first_line, no_such
from ablation.program import spin_briefly

OPTIMIZER_RULES = {  # of the keys that the members of the open group `optimizer` share; only `lr` must be there
    "lr": Rule(lambda v: is_number(v) and v > 0, "must be a positive number"),
    "momentum": Rule(lambda v: is_number(v) and 0 <= v < 1, "must be a number from 0 to below 1"),
    "weight_decay": Rule(lambda v: is_number(v) and v >= 0, "must be zero or a positive number"),
    "weight_decay_scope": one_of("all", "weights", "convolutions"),
}

DEBUG_STEPS = 3  # of a run with trainer=debug
LISTERS = ("ablation", "basic", "list")  # sweepers that list their jobs; any other one is an optimiser
LISTS = ("params", "arms", "zip")  # what this project's own sweeper takes

ConfigStore.instance().store(name="schema", node=Config)  # the first entry of conf/config.yaml's defaults list
if not (CONF / "sweep").is_dir():  # a link to sweeps/, in place of which Windows has a file
    for file in SWEEPS.glob("*.yaml"):
        ConfigStore.instance().store(file.stem, OmegaConf.load(file), group="sweep", package="_global_")


def compose(overrides: Sequence[str] = (), *, shortcut: Any = None, optimizer: Any = None) -> Config:
    """The checked `Config` of `conf/` with these overrides (`model.depth=56`), outside of a Hydra program.

    `shortcut` and `optimizer` take a function or class in place of the one of `conf/`; its arguments are bound by
    functools.partial, an optimizer's `lr` among them. Raises UserError.
    """
    spin_briefly()  # before torch is imported
    targets.allowed_targets.cache_clear()  # a notebook's process lives long, and conf/ changes
    check_overrides(overrides, multirun=False)
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return from_hydra(hydra.compose("config", [*overrides]), shortcut=shortcut, optimizer=optimizer)
    except Exception as error:
        if is_hydras(error):
            raise translate(error, overrides) from None
        raise


def from_hydra(composed: DictConfig, **members: Any) -> Config:
    """The checked `Config` of a composed configuration. Raises UserError, or what `typed` raises."""
    own = {group: targets.given(group, one) for group, one in members.items() if one is not None}
    container = OmegaConf.to_container(composed)
    assert isinstance(container, dict)
    config = typed(container | own)
    if config.trainer.debug:  # whatever an experiment, a sweep or the command line says
        config.schedule.steps = min(config.schedule.steps, DEBUG_STEPS)
        config.trainer.strict = config.overwrite = True
        config.tracker.mode, config.results = "disabled", str(config.results_dir / "debug")
    check(config)
    for group, node in (("shortcut", config.shortcut), ("optimizer", config.optimizer)):
        top = str(node["_target_"]).partition(".")[0]
        if targets.files_of(top) != targets.files_of.__wrapped__(top):
            raise UserError(f"{group}._target_", node["_target_"], "its file has changed since: restart Python")
        if source := source_of(str(node["_target_"])):
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


def is_study(choices: Mapping[str, Any], validation: int) -> bool:
    """Whether an optimiser chooses the jobs, by Hydra's `choices`. Raises UserError if no images are held out."""
    name = choices["hydra/sweeper"]
    if name not in LISTERS and validation == 0:
        allowed = f"must be positive: hydra/sweeper={name} looks for the least validation error"
        raise UserError("data.validation", 0, allowed)
    return name not in LISTERS


def check_files() -> int:
    """Print a line for each file of conf/ and sweeps/ that is wrong; the exit status, 0 or 2."""
    paths, right, wrong = sorted([*CONF.glob("*/*.yaml"), *CONF.glob("hydra/*/*.yaml")]), 0, 0
    for path in paths:
        try:
            check_file(str(path.parent.relative_to(CONF)), path.stem)
            right += 1
        except Exception as error:  # as composing raises it
            print(f"{path}: {(found := translate(error))}", file=sys.stderr, flush=True)
            wrong += found.allowed != NOT_INSTALLED
    print(f"{right} of {len(paths)} files are right")
    return 2 if wrong else 0


def check_file(group: str, name: str) -> None:
    """Compose with this choice; a sweep with each of its values and arms, but not with every combination of them."""
    choice = f"{group}={name}"
    axes: list[list[list[str]]] = [[[]]]
    if group == "sweep":
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = hydra.compose("config", [choice], return_hydra_config=True)
        study = is_study(composed.hydra.runtime.choices, composed.data.validation)
        sweeper = composed.hydra.sweeper
        for key in () if study else set(sweeper) - {"_target_", *LISTS}:
            raise no_such("key", f"hydra.sweeper.{key}", sweeper[key], LISTS)
        params, arms = check_sweep(*(sweeper.get(key) for key in LISTS))
        axes = [arms, *([[v] for v in axis(one, study)] for one in OverridesParser.create().parse_overrides(params))]
    for index in range(max(map(len, axes))):
        compose([choice, *(override for values in axes for override in values[index % len(values)])])
