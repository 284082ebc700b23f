"""The overrides of a command line, checked before Hydra composes: grammar, schema and the folders of conf/.

Hydra accepts some of these mistakes, and explains the others over several lines.
"""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString
from hydra.errors import HydraException

from ablation.config.schema import OPEN_GROUPS, ROOT, Config
from ablation.errors import UserError, first_line, no_such

CONF = ROOT / "conf"


def check(arguments: Sequence[str], multirun: bool = True) -> None:
    """Raise UserError for the first override that is wrong. Only a `multirun` may give a key several values."""
    top_keys = {entry.name for entry in fields(Config)} | {path.name for path in CONF.iterdir() if path.is_dir()}
    for argument in arguments:
        key, _, text = argument.partition("=")
        try:
            override = OverridesParser.create().parse_override(argument)
        except HydraException as error:
            allowed = f"cannot be read: {first_line(error)}; key=value is needed, strange values in quotes"
            raise UserError(key, text, allowed) from None
        key = override.key_or_group
        top = key.replace("/", ".").partition(".")[0]
        if top not in top_keys:
            raise UserError(key, text, no_such("key", top, text, top_keys).allowed)
        if top != "hydra" and (problem := mistake(override, multirun)):  # Hydra checks its own keys
            raise UserError(key, text, problem)


def mistake(override: Override, multirun: bool) -> str | None:
    """What is wrong with the override of a key that exists, in words."""
    key, value, asked = override.key_or_group, override.value(), type_of(override.key_or_group)
    if override.package is not None:
        return f"has one place in the configuration: leave out @{override.package}"
    if (CONF / key).is_dir() and not isinstance(value, dict):
        names = value.list if isinstance(value, ChoiceSweep) else [value]
        if override.is_add() or override.is_force_add():
            return "it is chosen already: leave out the +"
        if key == "sweep" and not isinstance(value, str):  # the axes of two would not multiply: Hydra drops both
            sweeps = sorted(path.stem for path in (CONF / key).glob("*.yaml"))
            return f"a sweep is one name, with no -m before it; allowed: {', '.join(sweeps)}"
        if not all(isinstance(name, str | QuotedString | Glob) for name in names):
            return "must be the name of one choice: a group cannot be left out"
    elif override.is_delete() and key.partition(".")[0] not in OPEN_GROUPS:
        return "cannot be removed"
    elif override.is_add() and asked is not None:
        return "it is there already: leave out the +"
    elif asked in (bool, bool | None) and isinstance(value, int | float) and value not in (0, 1):
        return f"must be {in_words(asked)}"
    if override.is_sweep_override() and not multirun:
        return "several values make a sweep: put -m before them; a list is [1,2]"
    return None


def type_of(key: str) -> Any:
    """The type that the schema gives a dotted key; None for a key that the schema leaves open or does not have."""
    found: Any = Config
    for part in key.split("."):
        found = get_type_hints(found).get(part) if is_dataclass(found) else None
    return found


def in_words(asked: Any) -> str | None:
    """A type of the schema in words; None for one of no single value."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    words[list[float]] = "a list of numbers"
    for kind, name in words.items():
        if asked in (kind, kind | None):
            return name if asked == kind else f"{name} or null"
    return None
