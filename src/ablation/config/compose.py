"""From `conf/`, Hydra or a record to a checked `Config`."""

import re
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from ablation.config import overrides
from ablation.config.identity import SCHEMA
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
    """The checked `Config` of a composed configuration. Raises UserError, or what `typed` raises."""
    config = typed(OmegaConf.to_container(composed))
    check(config)
    check_arguments(config)
    return config


def from_dict(saved: dict[str, Any], changes: dict[str, str] | None = None) -> Config:
    """The checked `Config` of a record's `config`, with `changes` to it by dotted key. Raises UserError."""
    changes = changes or {}
    try:
        config = typed(literal(saved), OmegaConf.from_dotlist([f"{key}={value}" for key, value in changes.items()]))
    except Exception as error:  # OmegaConf's and YAML's errors share no useful base class
        key = str(getattr(error, "full_key", None) or "config")
        raise UserError(key, changes.get(key, ""), f"does not fit schema {SCHEMA}: {first_line(error)}") from None
    check(config)
    return config


def literal(value: Any) -> Any:
    """`value` with each ${...} as plain text for OmegaConf: a record is data, and ${oc.env:NAME} would be resolved."""
    if isinstance(value, dict):
        return {key: literal(one) for key, one in value.items()}
    if isinstance(value, list):
        return [literal(one) for one in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def typed(*parts: Any) -> Config:
    """The `Config` of these parts, the later ones over the earlier.

    Raises OmegaConf's errors for a wrong type or a key that the schema lacks: Hydra lets `+model.dept=20` add one.
    """
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), *parts))
    assert isinstance(config, Config)
    return config
