"""Between the shell and Hydra: one clear line and exit status 2 for a user's mistake, never a traceback.

Hydra prints its errors itself, over several lines and with status 1, unless HYDRA_FULL_ERROR asks for the exception.
`hydra_command` asks for it and turns what Hydra and OmegaConf know about the fault into a `UserError`.
"""

import argparse
import os
import re
import sys
import traceback
import typing
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, NoReturn

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from ablation.config.schema import ROOT, Config
from ablation.errors import UserError, no_such
from ablation.program import fail, make_unbreakable, spin_briefly


def hydra_command(main: Callable[[], Any]) -> None:
    """Run a `@hydra.main` function as the whole program, with the exit status of its outcome."""
    sys.path.insert(0, str(ROOT / "src"))  # Hydra looks for plugins here, workers for the package
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    make_unbreakable()
    spin_briefly()
    asked = os.environ.get("HYDRA_FULL_ERROR", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"
    argparse.ArgumentParser.error = one_line_usage  # type: ignore[method-assign,assignment]
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))  # at any place
    try:
        main()
    except UserError as error:
        fail(error)
    except Exception as error:
        if asked == "1" or not raised_by_hydra(error):
            raise
        fail(translate(error))
    finally:
        os.environ["HYDRA_FULL_ERROR"] = asked


def one_line_usage(_parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """In place of argparse's own `error`, which prints Hydra's options over several lines."""
    raise UserError("command line", " ".join(sys.argv[1:]), f"{message}; --help shows what there is")


def raised_by_hydra(error: BaseException) -> bool:
    """Whether the error comes from Hydra or OmegaConf: then it is about the input. Some of theirs are ValueErrors."""
    if isinstance(error, HydraException | OmegaConfBaseException):
        return True
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_globals.get("__name__", "").partition(".")[0] in ("hydra", "omegaconf")


def translate(error: BaseException) -> UserError:
    """The `UserError` that says what `error`, raised by Hydra or OmegaConf, means to the user."""
    chain = [error]
    while following := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(following)
    for link in chain:
        if isinstance(link, OverrideParseException):
            key, _, value = link.override.partition("=")
            said = [line for line in link.message.splitlines() if not re.match(r"Error parsing|See http|\s*\^", line)]
            reason = said[0] if said else "no key=value"
            return UserError(key, value, f"cannot be read: {reason}; key=value is needed, strange values in quotes")
        if isinstance(link, UserError):  # Hydra wraps what a launcher or sweeper raised while it was built
            return link
        if isinstance(link, OmegaConfBaseException) and link.full_key:
            return about_key(link)
    text = str(error)
    if found := re.search(r"Could not find '([^']*)'", text):
        group, _, name = found[1].rpartition("/")
        return no_such("choice", group, name, re.findall(r"^\t([^=\s]+)$", text, re.MULTILINE))
    if found := re.search(r"Could not override '([^']*)'", text):
        return unknown_key(found[1].split("@")[0])
    if found := re.search(r"Ambiguous value for argument '([^=]*)=(.*)'", text):
        if found[1] == "sweep":
            return not_one_sweep(found[2])
        return UserError(found[1], found[2], "several values make a sweep: put -m before them; a list is [1,2]")
    if found := re.search(r"Multiple values for (\S+)\. To override", text):
        return UserError(found[1], typed_value(found[1]), "it is chosen already: leave out the +")
    if found := re.search(r"Could not delete.*'([^']*)'", text):
        return UserError(found[1], "", "cannot be removed")
    if "Config group override must be" in text:
        key, value = next(filter(is_no_name, map(key_and_value, reversed(sys.argv[1:]))), ("group", ""))
        return UserError(key, value, "must be the name of a choice: a group cannot be left out")
    first = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    return UserError("command line", " ".join(sys.argv[1:]), first.strip())


def not_one_sweep(value: str) -> UserError:
    """The mistake of several sweeps at once: their axes would not multiply, and Hydra would drop them all."""
    names = ", ".join(sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml")))
    return UserError("sweep", value, f"a sweep is one name, with no -m before it; allowed: {names}")


def key_and_value(argument: str) -> tuple[str, str]:
    """The two sides of an argument such as +optimizer@here=adam: optimizer and adam."""
    key, _, value = argument.lstrip("+~").partition("=")
    return key.split("@")[0], value


def is_no_name(typed: tuple[str, str]) -> bool:
    """Whether a group was given something that Hydra reads as a number, a mapping, null, ... and not as a name."""
    key, value = typed
    if not key or not (ROOT / "conf" / key).is_dir():
        return False
    override = OverridesParser.create().parse_override(f"{key}={value}")
    values = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
    return not all(isinstance(one, str | list) for one in values)


def about_key(error: OmegaConfBaseException) -> UserError:
    """The mistake in a key's value, or in the key itself."""
    assert error.full_key is not None
    key, reason = error.full_key, str(error).splitlines()[0]
    if re.search(r"^Key '.*' (?:is )?not in ", reason):
        return unknown_key(key)
    value = error.value if error.value is not None else typed_value(key)
    if "deletion" in reason:
        return UserError(key, value, "cannot be removed")
    if "nterpolation" in reason or "expected one of" in reason:
        return UserError(key, value, reason)
    kind = kind_of(key)
    return UserError(key, value, f"must be {kind}" if kind else reason)


def typed_value(key: str) -> str:
    """What was typed for a key."""
    arguments = map(key_and_value, reversed(sys.argv[1:]))  # the last one counts
    return next((value for name, value in arguments if name == key or name.startswith(f"{key}.")), "")


def unknown_key(key: str) -> UserError:
    """A key, possibly nested, that the configuration does not have."""
    top, _, below = key.partition(".")
    if top == "hydra":
        return UserError(key, typed_value(key), "no such key; --cfg hydra shows Hydra's")
    if not below or top not in keys_of(""):
        return no_such("key", top, typed_value(key), keys_of("")) if not below else no_such_group(key, top)
    if top in ("shortcut", "optimizer"):
        error = no_such("key", key, typed_value(key), keys_of(top))
        return UserError(key, error.value, f"{error.allowed}; +{key}= for another argument of its _target_")
    return no_such("key", key, typed_value(key), keys_of(top))


def no_such_group(key: str, top: str) -> UserError:
    """A nested key whose first part is the misspelt one."""
    error = no_such("key", top, "", keys_of(""))
    return UserError(key, typed_value(key), error.allowed)


def keys_of(group: str) -> list[str]:
    """The keys that a group may have ("" is the top): the schema's, or for an open group those of its files."""
    if not group:
        folders = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
        return sorted({entry.name for entry in fields(Config)} | folders)
    node = getattr(Config(), group, None)
    if is_dataclass(node):
        return sorted(entry.name for entry in fields(node))
    files = (ROOT / "conf" / group).glob("*.yaml")
    return sorted({key for path in files for key in re.findall(r"^(\w+):", path.read_text(), re.MULTILINE)})


KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", list: "a list of numbers"}


def kind_of(key: str) -> str | None:
    """What the schema asks of a key's value, in words; None for what is not in the schema."""
    schema: Any = Config
    for part in re.sub(r"\[\d+\]", ".item", key).split("."):
        if part == "item":
            return KINDS[float]  # the only lists there are
        hints = typing.get_type_hints(schema) if is_dataclass(schema) else {}
        if part not in hints:
            return None
        schema = hints[part]
    kinds = [KINDS.get(typing.get_origin(kind) or kind) for kind in typing.get_args(schema) or (schema,)]
    if typing.get_origin(schema) is list:
        kinds = [KINDS[list]]
    words = [kind for kind in kinds if kind] + (["null"] if type(None) in typing.get_args(schema) else [])
    return " or ".join(words) or None
