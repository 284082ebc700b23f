"""The open groups: members that are built from `_target_`."""

import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from hydra.utils import get_object, instantiate

from ablation.config.identity import is_number
from ablation.config.schema import NAME_RULE, ROOT, Config, plain_name
from ablation.errors import UserError, no_such

OWN_KEYS = ("name", "_target_", "weight_decay_scope")
"""Keys of an open group that are ours and not arguments of its `_target_`."""


def open_group(group: str, node: dict[str, Any]) -> Iterator[UserError]:
    """The rules of a group whose members are built from `_target_`: named, and a target that `conf/` knows."""
    if not plain_name(str(node.get("name") or "")):
        yield UserError(f"{group}.name", node.get("name"), NAME_RULE)
    for key, value in node.items():
        if isinstance(value, dict):  # Hydra's grammar for something else to be built
            yield UserError(f"{group}.{key}", value, "must be a value or a list")
    if str(node.get("_target_")) not in allowed_targets(group):
        allowed = f"must be a _target_ named in conf/{group}: {', '.join(sorted(allowed_targets(group)))}"
        yield UserError(f"{group}._target_", node.get("_target_"), allowed)


def allowed_targets(group: str) -> set[str]:
    """What may be built for `group`: the `_target_`s of the YAML files in conf/, nothing read from elsewhere."""
    targets = set()
    for path in (ROOT / "conf" / group).glob("*.yaml"):
        try:
            targets.add(yaml.safe_load(path.read_text())["_target_"])
        except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
            raise UserError(group, path.stem, f"{path} must be YAML with a _target_: {error}") from None
    return targets


def check_arguments(config: Config) -> None:
    """Raise UserError for what only the targets know: a key that they do not take, a value that they refuse."""
    from torch import nn, zeros  # late: shell completion and --cfg get here never

    if config.model.residual:
        target("shortcut", config.shortcut, given=3)
    factory = target("optimizer", config.optimizer, given=1)
    try:
        factory([nn.Parameter(zeros(1))])
    except (TypeError, ValueError) as error:
        allowed = f"{config.optimizer['_target_']} refuses its arguments: {error}"
        raise UserError("optimizer", config.optimizer["name"], allowed) from None


def kind_needed(parameter: inspect.Parameter, value: Any) -> str | None:
    """What a parameter needs instead of `value`, where its default or annotation tells; None if `value` will do.

    torch's optimizers look at most of this in their first step only, and then in several lines.
    """
    kinds = typing.get_args(parameter.annotation) or (parameter.annotation,)
    if isinstance(parameter.default, bool) or set(kinds) == {bool, type(None)}:
        optional = type(None) in kinds
        fits = isinstance(value, bool) or (optional and value is None)
        return None if fits else "must be true or false" + (" or null" if optional else "")
    if isinstance(parameter.default, int | float) and not is_number(value):
        return "must be a number"
    return None


def target(group: str, node: dict[str, Any], given: int) -> Callable[..., Any]:
    """The function that `node` names, its keyword arguments bound; `given` is how many arguments the caller adds.

    Raises UserError for a target that cannot be imported or an argument that it does not take. A `_target_` inside an
    argument is not built: only the one at the top was checked, and a record may come from anywhere.
    """
    for problem in open_group(group, node):
        raise problem
    try:
        function = get_object(node["_target_"])
    except Exception as error:  # Hydra wraps whatever the import raised
        raise UserError(f"{group}._target_", node["_target_"], f"cannot be imported: {error}") from None
    arguments = {key: value for key, value in node.items() if key not in OWN_KEYS}
    accepted = list(inspect.signature(function).parameters.values())
    if not any(p.kind is p.VAR_KEYWORD for p in accepted):
        names = [p.name for p in accepted[given:]]
        for key in arguments:
            if key not in names:
                raise no_such("key", f"{group}.{key}", arguments[key], names)
    for p in accepted:
        if p.name in arguments and (allowed := kind_needed(p, arguments[p.name])):
            raise UserError(f"{group}.{p.name}", arguments[p.name], allowed)
        named = typing.get_args(p.annotation) if typing.get_origin(p.annotation) is typing.Literal else ()
        if named and arguments.get(p.name, named[0]) not in named:
            allowed = f"must be one of {', '.join(map(str, named))}"
            raise UserError(f"{group}.{p.name}", arguments[p.name], allowed)
    partial: Callable[..., Any] = instantiate(
        {"_target_": node["_target_"], **arguments}, _partial_=True, _convert_="all", _recursive_=False
    )
    return partial
