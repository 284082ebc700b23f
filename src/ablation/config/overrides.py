"""The overrides of a command line, checked before Hydra composes: grammar, schema and the folders of conf/.

Hydra accepts some of these mistakes, and explains the others over several lines.
"""

from collections.abc import Sequence
from dataclasses import Field, fields, is_dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString
from hydra.errors import HydraException

from ablation.config.schema import OPEN_GROUPS, ROOT, Config
from ablation.errors import UserError, first_line, no_such

CONF = ROOT / "conf"


def check(arguments: Sequence[str], multirun: bool = True) -> None:
    """Raise UserError for the first override that is wrong. Only a `multirun` may give a key several values."""
    for argument in arguments:
        override = parsed(argument)
        key, text = override.key_or_group, argument.partition("=")[2]
        top = key.replace("/", ".").partition(".")[0]
        if top == "hydra":
            continue  # Hydra checks its own keys
        if top not in top_keys():
            raise UserError(key, text, no_such("key", top, text, top_keys()).allowed)
        if override.package is not None:
            raise UserError(key, text, f"has one place in the configuration: leave out @{override.package}")
        if (CONF / key).is_dir() and not isinstance(override.value(), dict):
            check_choice(override, text)
        else:
            check_value(override, text)
        if override.is_sweep_override() and not multirun:
            raise UserError(key, text, "several values make a sweep: put -m before them; a list is [1,2]")


def parsed(argument: str) -> Override:
    """The argument as Hydra reads it."""
    try:
        return OverridesParser.create().parse_override(argument)
    except (HydraException, AssertionError) as error:  # AssertionError: its answer to `+=`
        key, _, text = argument.partition("=")
        reason = f"{first_line(error)}; " if isinstance(error, HydraException) else ""
        raise UserError(key, text, f"cannot be read: {reason}key=value is needed, strange values in quotes") from None


def check_choice(override: Override, text: str) -> None:
    """A group's value is the name of one of its files, which Hydra then looks for."""
    group, value = override.key_or_group, override.value()
    if override.is_add() or override.is_force_add():
        raise UserError(group, text, "it is chosen already: leave out the +")
    if group == "sweep" and not isinstance(value, str):  # the axes of two would not multiply: Hydra drops both
        sweeps = ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
        raise UserError(group, text, f"a sweep is one name, with no -m before it; allowed: {sweeps}")
    names = value.list if isinstance(value, ChoiceSweep) else [value]
    if not all(isinstance(name, str | QuotedString | Glob) for name in names):
        raise UserError(group, text, "must be the name of one choice: a group cannot be left out")


def check_value(override: Override, text: str) -> None:
    """A key of the schema is there already, stays there, and takes no number for a truth value."""
    key, field = override.key_or_group, field_of(override.key_or_group)
    if override.is_delete() and key.partition(".")[0] not in OPEN_GROUPS:
        raise UserError(key, text, "cannot be removed")
    if override.is_add() and field is not None:
        raise UserError(key, text, "it is there already: leave out the +")
    number = isinstance(override.value(), int | float) and override.value() not in (0, 1)
    if number and field is not None and field.type in (bool, bool | None):
        raise UserError(key, text, f"must be {kind_of(key)}")


def top_keys() -> list[str]:
    """The keys of the schema, Hydra's, and the groups in conf/ that only choose others: experiment and sweep."""
    return sorted({entry.name for entry in fields(Config)} | {path.name for path in CONF.iterdir() if path.is_dir()})


def field_of(key: str) -> Field[Any] | None:
    """The field of the schema that a dotted key names, if there is one."""
    found: Field[Any] | None = None
    owner: Any = Config
    for part in key.split("."):
        own = {entry.name: entry for entry in fields(owner)} if is_dataclass(owner) else {}
        if (found := own.get(part)) is None:
            return None
        owner = found.type
    return found


KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    list[float]: "a list of numbers",
}


def kind_of(key: str) -> str | None:
    """What the schema asks of a key's value, in words; None for what is not in the schema."""
    field = field_of(key)
    asked = field.type if field is not None else None
    for kind, words in KINDS.items():
        if asked in (kind, kind | None):
            return words + (" or null" if asked != kind else "")
    return None
