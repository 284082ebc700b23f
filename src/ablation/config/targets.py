"""The open groups, shortcut and optimizer: their members are built from the `_target_` of a YAML file in conf/."""

import functools
import inspect
import pkgutil
import typing
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import yaml

from ablation.config.identity import is_number
from ablation.config.schema import NAME, ROOT, Config
from ablation.errors import UserError, no_such

NO_ARGUMENTS = ("name", "_target_", "weight_decay_scope")  # keys of a member, but not arguments of its `_target_`


def check_member(group: str, node: dict[str, Any]) -> None:
    """Raise UserError unless `node` has a name, plain values, and a `_target_` that a file in conf/ names."""
    if not NAME.holds(node.get("name")):
        raise UserError(f"{group}.name", node.get("name"), NAME.allowed)
    for key, value in node.items():
        if isinstance(value, dict):  # Hydra's grammar for something else to be built
            raise UserError(f"{group}.{key}", value, "must be a value or a list")
    if str(node.get("_target_")) not in allowed_targets(group):
        allowed = f"must be a _target_ named in conf/{group}: {', '.join(sorted(allowed_targets(group)))}"
        raise UserError(f"{group}._target_", node.get("_target_"), allowed)


@functools.cache
def allowed_targets(group: str) -> set[str]:
    """The `_target_`s in conf/: a record may come from anywhere, and nothing else in it may be built."""
    targets = set()
    for path in (ROOT / "conf" / group).glob("*.yaml"):
        with suppress(OSError, ValueError, TypeError, KeyError, yaml.YAMLError):  # half written, and not asked for
            targets.add(str(yaml.safe_load(path.read_text())["_target_"]))
    return targets


def check_arguments(config: Config) -> None:
    """Raise UserError for an argument that a `_target_` does not take, or a value that it refuses."""
    from torch import nn, zeros  # here, and not above: shell completion and --cfg do without torch

    examples: dict[str, tuple[Any, ...]] = {"optimizer": ([nn.Parameter(zeros(1))],)}
    if config.model.residual:
        examples["shortcut"] = (config.model.width, 2 * config.model.width, 2)
    for group, given in examples.items():
        member = getattr(config, group)
        factory = target(group, member, len(given))
        try:
            factory(*given)
        except (TypeError, ValueError) as error:
            allowed = f"{member['_target_']} refuses its arguments: {error}"
            raise UserError(group, member["name"], allowed) from None


def target(group: str, node: dict[str, Any], given: int) -> Callable[..., Any]:
    """The function or class that `node` names, with its keyword arguments bound; `given` more go in front of them.

    Raises UserError for a target that cannot be imported, or an argument that it does not take.
    """
    check_member(group, node)
    try:
        function = pkgutil.resolve_name(node["_target_"])
        parameters = list(inspect.signature(function).parameters.values())
    except Exception as error:  # an import runs the user's own module, which may raise anything
        raise UserError(f"{group}._target_", node["_target_"], f"cannot be used: {error}") from None
    arguments = {key: value for key, value in node.items() if key not in NO_ARGUMENTS}
    accepted = {p.name: p for p in parameters[given:]}
    for key, value in arguments.items():
        if key in accepted and (allowed := needed(accepted[key], value)):
            raise UserError(f"{group}.{key}", value, allowed)
        if key not in accepted and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            raise no_such("key", f"{group}.{key}", value, accepted)
    return functools.partial(function, **arguments)


def needed(parameter: inspect.Parameter, value: Any) -> str | None:
    """What a parameter's default or annotation asks for, if `value` is not that: torch looks at it only in a step."""
    kinds = typing.get_args(parameter.annotation) or (parameter.annotation,)
    if typing.get_origin(parameter.annotation) is typing.Literal:
        return None if value in kinds else f"must be one of {', '.join(map(str, kinds))}"
    if isinstance(parameter.default, bool) or set(kinds) == {bool, type(None)}:
        fits = isinstance(value, bool) or (value is None and type(None) in kinds)
        return None if fits else "must be true or false" + (" or null" if type(None) in kinds else "")
    return "must be a number" if isinstance(parameter.default, int | float) and not is_number(value) else None
