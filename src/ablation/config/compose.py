"""From `conf/`, Hydra or a record to a checked `Config`."""

import re
from dataclasses import fields, is_dataclass
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from ablation.config.identity import SCHEMA, current_target
from ablation.config.rules import check
from ablation.config.schema import ROOT, Config
from ablation.config.targets import check_arguments
from ablation.errors import UserError, no_such


def register() -> None:
    """Give Hydra the schema under the name `schema`, the first entry of `conf/config.yaml`'s defaults list."""
    ConfigStore.instance().store(name="schema", node=Config)


def from_hydra(composed: DictConfig) -> Config:
    """The checked `Config` of a composed configuration. Raises UserError for the first value against the rules."""
    check_keys(composed)
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Config)
    check(config)
    check_arguments(config)
    return config


def check_keys(composed: DictConfig) -> None:
    """Raise UserError for a key that the schema does not have: `+model.dept=20` would add it and change nothing."""
    values = OmegaConf.to_container(composed)
    assert isinstance(values, dict)
    for parent, node, schema in [
        ("", values, Config),
        *((f.name + ".", values.get(f.name), f.type) for f in fields(Config)),
    ]:
        if is_dataclass(schema) and isinstance(node, dict):
            known = [entry.name for entry in fields(schema)]
            for key, value in node.items():
                if key not in known:
                    raise no_such("key", f"{parent}{key!s}", value, known)


def compose(overrides: list[str]) -> Config:
    """The checked `Config` of `conf/` with `overrides`, outside of a Hydra program. Raises what Hydra raises."""
    register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return from_hydra(hydra.compose("config", overrides))


def from_dict(saved: dict[str, Any], changes: dict[str, str] | None = None) -> Config:
    """The checked `Config` of a record's `config`, with `changes` to it by dotted key.

    Raises UserError where it does not fit the schema.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(literal(with_todays_names(saved))))
        config = OmegaConf.to_object(merged)
    except Exception as error:  # OmegaConf's errors share no useful base class
        raise UserError("config", first_line(error), f"must fit schema {SCHEMA} of this version") from None
    for key, value in (changes or {}).items():
        try:
            typed = OmegaConf.from_dotlist([f"{key}={value}"])
            merged = OmegaConf.merge(merged, typed)
            config = OmegaConf.to_object(merged)
        except Exception as error:
            raise UserError(key, value, f"does not fit: {first_line(error)}") from None
    assert isinstance(config, Config)
    check(config)
    return config


def literal(value: Any) -> Any:
    """`value` with each ${...} as plain text for OmegaConf: a record is data, and ${oc.env:NAME} would be resolved."""
    if isinstance(value, dict):
        return {key: literal(one) for key, one in value.items()}
    if isinstance(value, list):
        return [literal(one) for one in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def with_todays_names(saved: dict[str, Any]) -> dict[str, Any]:
    """A record's configuration with what was renamed since: `trainer.fused`, and the modules of the shortcuts."""
    trainer, shortcut = dict(saved.get("trainer", {})), dict(saved.get("shortcut", {}))
    if "compile" in trainer:
        trainer["fused"] = trainer.pop("compile")
    if "_target_" in shortcut:
        shortcut["_target_"] = current_target(shortcut["_target_"])
    return saved | {"trainer": trainer, "shortcut": shortcut}


def first_line(error: Exception) -> str:
    """An error in one line, whatever it says."""
    return (str(error).splitlines() or [type(error).__name__])[0]
