"""From `conf/`, Hydra or a record to a checked `Config`."""

from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from ablation.config import overrides
from ablation.config.identity import SCHEMA, current_target
from ablation.config.rules import check
from ablation.config.schema import ROOT, Config
from ablation.config.targets import check_arguments
from ablation.errors import UserError, first_line


def register() -> None:
    """Give Hydra the schema under the name `schema`, the first entry of `conf/config.yaml`'s defaults list."""
    ConfigStore.instance().store(name="schema", node=Config)


def compose(arguments: list[str]) -> Config:
    """The checked `Config` of `conf/` with these overrides, outside of a Hydra program. Raises what Hydra raises."""
    overrides.check(arguments)
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return from_hydra(hydra.compose("config", arguments))


def from_hydra(composed: DictConfig) -> Config:
    """The checked `Config` of a composed configuration. Raises UserError for the first value against the rules.

    Raises OmegaConf's errors for a key that the schema does not have: `+model.dept=20` only adds it to `composed`.
    """
    config = merge(OmegaConf.structured(Config), OmegaConf.to_container(composed))[1]
    check(config)
    check_arguments(config)
    return config


def from_dict(saved: dict[str, Any], changes: dict[str, str] | None = None) -> Config:
    """The checked `Config` of a record's `config`, with `changes` to it by dotted key.

    Raises UserError where it does not fit the schema.
    """
    try:
        merged, config = merge(OmegaConf.structured(Config), with_todays_names(saved))
    except Exception as error:  # OmegaConf's errors share no useful base class
        raise UserError("config", first_line(error), f"must fit schema {SCHEMA} of this version") from None
    for key, value in (changes or {}).items():
        try:
            merged, config = merge(merged, OmegaConf.from_dotlist([f"{key}={value}"]))
        except Exception as error:
            raise UserError(key, value, f"does not fit: {first_line(error)}") from None
    check(config)
    return config


def merge(below: DictConfig, values: Any) -> tuple[DictConfig, Config]:
    """`values` over `below`, which is typed by the schema: as a node, and as a `Config`. Raises OmegaConf's errors."""
    merged = OmegaConf.merge(below, values)
    config = OmegaConf.to_object(merged)
    assert isinstance(merged, DictConfig)
    assert isinstance(config, Config)
    return merged, config


def with_todays_names(saved: dict[str, Any]) -> dict[str, Any]:
    """A saved configuration with what was renamed since: `trainer.compile`, and the modules of the shortcuts."""
    trainer, shortcut = dict(saved.get("trainer", {})), dict(saved.get("shortcut", {}))
    if "compile" in trainer:
        trainer["fused"] = trainer.pop("compile")
    if "_target_" in shortcut:
        shortcut["_target_"] = current_target(shortcut["_target_"])
    return saved | {"trainer": trainer, "shortcut": shortcut}
