"""The open groups, shortcut and optimizer: their members are built from the `_target_` of a YAML file in conf/.

A member is tried before anything is written: a shortcut on a tiny image, an optimizer for one step. The source of a
user's own member defines the result, so its digest stands beside the `_target_`, as `_source_`. Python code may give
a function or class itself (`given`), of a module, a script or a notebook.
"""

import dis
import functools
import hashlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import CodeType
from typing import Any

import yaml

from ablation.config.identity import files_digest, is_number
from ablation.config.schema import CONF, NAME, Config
from ablation.errors import UserError, no_such

# Keys of a member that are not arguments of its `_target_`.
NO_ARGUMENTS = ("name", "_target_", "_source_", "weight_decay_scope")
OURS = ("ablation", "torch")  # the code of these packages stands in a record as a commit and a version
GIVEN = set[str]()  # `_target_`s that this process gave itself, beside those in conf/


def check_member(group: str, node: dict[str, Any]) -> None:
    """Raise UserError unless `node` has a name, plain values, and a `_target_` that a file in conf/ names."""
    if not NAME.holds(node.get("name")):
        raise UserError(f"{group}.name", node.get("name"), NAME.allowed)
    for key, value in node.items():
        if isinstance(value, dict):  # Hydra's grammar for something else to be built
            raise UserError(f"{group}.{key}", value, "must be a value or a list")
    if str(node.get("_target_")) not in GIVEN | allowed_targets(group):
        allowed = f"must be a _target_ named in conf/{group}: {', '.join(sorted(allowed_targets(group)))}"
        raise UserError(f"{group}._target_", node.get("_target_"), allowed)


@functools.cache
def allowed_targets(group: str) -> set[str]:
    """The `_target_`s in conf/: a record may come from anywhere, and nothing else in it may be built."""
    targets = set()
    for path in (CONF / group).glob("*.yaml"):
        with suppress(OSError, ValueError, TypeError, KeyError, yaml.YAMLError):  # half written, and not asked for
            targets.add(str(yaml.safe_load(path.read_text("utf-8"))["_target_"]))
    return targets


def given(group: str, function: Any) -> dict[str, Any]:
    """The member that is this function or class, with the keyword arguments that functools.partial has bound to it.

    Raises UserError unless its module, script or notebook has it under its own name.
    """
    function, arguments = getattr(function, "func", function), getattr(function, "keywords", {})
    module, name = (str(getattr(function, key, function)) for key in ("__module__", "__qualname__"))
    if getattr(sys.modules.get(module), name, None) is not function:
        raise UserError(group, name, "must be a function or class that its module has under its own name")
    GIVEN.add(f"{module}.{name}")
    return {"name": name, "_target_": f"{module}.{name}", **arguments}


def source_of(target: str) -> str | None:
    """The files or definitions that a user's own `_target_` is made of, with a digest; None for OURS."""
    module, _, name = target.partition(".")
    if module != "__main__" or target not in GIVEN:
        return files_of(module)
    found: dict[str, str] = {}
    collect(name, getattr(sys.modules[module], name, None), found)
    return f"{' '.join(sorted(found)[:9])} {hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:16]}"


def collect(name: str, value: Any, found: dict[str, str]) -> None:
    """Note the text of what a script or notebook has under `name`, and of all that it uses, by name."""
    if name in found:
        return
    parts: dict[str, Any] = {}
    value = inspect.unwrap(getattr(value, "__func__", getattr(value, "fget", value)))  # of a method, a property
    module = value if inspect.ismodule(value) else sys.modules.get(str(getattr(value, "__module__", "")))
    own = module is sys.modules["__main__"]
    if own and inspect.isclass(value):
        parts = {base.__qualname__: base for base in value.__bases__}
        found[name] = " ".join(parts)
        parts |= {f"{name}.{key}": v for key, v in vars(value).items() if inspect.isfunction(v) or key[:2] != "__"}
    elif own and inspect.isfunction(value):
        try:
            found[name] = f"{inspect.getsource(value)}{value.__defaults__}{value.__kwdefaults__}"
        except OSError:
            raise UserError("source", name, "cannot be found: define it in a file or a notebook") from None
        parts = {key: value.__globals__[key] for key in global_names(value.__code__) & value.__globals__.keys()}
    elif module and Path.cwd() in Path(str(getattr(module, "__file__", None))).parents[:2]:  # not a library
        found[name] = str(files_of(module.__name__.partition(".")[0]))
    elif isinstance(value, int | float | str | tuple | list):
        found[name] = repr(value)
    for key, part in parts.items():
        collect(key, part, found)


def global_names(code: CodeType) -> set[str]:
    own = {instruction.argval for instruction in dis.get_instructions(code) if instruction.opname == "LOAD_GLOBAL"}
    return own.union(*(global_names(part) for part in code.co_consts if isinstance(part, CodeType)))


@functools.cache
def files_of(top: str) -> str | None:
    """The files of a user's own module or package, and those beside it that it imports, with a digest."""
    spec = importlib.util.find_spec(top) if top.isidentifier() and top not in (*OURS, "__main__") else None
    if spec is None or not str(spec.origin).endswith(".py"):
        return None
    origin, files = Path(str(spec.origin)), set[Path]()
    found, folder = {origin}, origin.parent
    if spec.submodule_search_locations:  # a package
        found, folder = set(folder.rglob("*.py")), folder.parent
    while found:
        files |= found
        text = "\n".join(path.read_text("utf-8", errors="replace") for path in found)
        imported = set(re.findall(r"\w+", " ".join(re.findall(r"^\s*(?:from|import)\s(.*)", text, re.MULTILINE))))
        found = {path for path in folder.glob("*.py") if path.stem in imported} - files
    names = sorted(path.relative_to(folder).as_posix() for path in files)
    return f"{' '.join(names[:9])} {files_digest(folder, names)}"


def check_arguments(config: Config) -> None:
    """Try the members of the open groups, leaving torch's random state alone. Raises UserError for one that fails."""
    from torch import random  # here, and not above: shell completion and --cfg do without torch

    with random.fork_rng(devices=[]):
        if config.model.residual:
            try_shortcut(config.shortcut, config.model.width)
        try_optimizer(config.optimizer)


def try_shortcut(node: dict[str, Any], width: int) -> None:
    """A forward pass for each shape of a block in a network of this width."""
    from torch import nn, zeros

    factory = target("shortcut", node, given=3)
    for channels, out, stride in ((1, 1, 1), (1, 2, 2), (2, 2, 1), (2, 4, 2), (4, 4, 1)):
        shape = (channels * width, out * width, stride)
        with fails_as_one_line("shortcut", node, f"{shape} (channels in and out, stride)"):
            module = factory(*shape)
            if not isinstance(module, nn.Module | None):
                raise TypeError(f"{type(module).__name__} is neither a torch.nn.Module nor None")
            x = zeros(2, shape[0], 8, 8)
            found, needed = (x if module is None else module(x)).shape, (2, shape[1], 8 // stride, 8 // stride)
            if found != needed:
                raise ValueError(f"from {tuple(x.shape)} it makes {tuple(found)}, and the block needs {needed}")


def try_optimizer(node: dict[str, Any]) -> None:
    """One step on parameters of the shapes of a convolution, a batch norm and a linear layer."""
    from torch import nn, ones, ones_like, tensor

    factory = target("optimizer", node, given=1)
    with fails_as_one_line("optimizer", node, "a step on a tiny network"):
        kernel, *others = (nn.Parameter(ones(shape)) for shape in ((2, 2, 3, 3), (2,), (2, 2)))
        rest = [{"params": others, "weight_decay": 0.0}]
        scoped = node.get("weight_decay_scope", "all") != "all"
        optimizer = factory([{"params": [kernel]}, *rest] if scoped else [{"params": [kernel, *others]}])
        for group in optimizer.param_groups:
            group["lr"] = tensor(float(node["lr"]))
            for parameter in group["params"]:
                parameter.grad = ones_like(parameter)
        optimizer.step()


@contextmanager
def fails_as_one_line(group: str, node: dict[str, Any], what: str) -> Iterator[None]:
    try:
        yield
    except (Exception, SystemExit) as error:  # a user's own code may raise anything
        reason = f"{type(error).__name__}: {error}"
        raise UserError(group, node["name"], f"{node['_target_']} fails at {what}: {reason}") from None


def target(group: str, node: dict[str, Any], given: int) -> Callable[..., Any]:
    """The function or class that `node` names, with its keyword arguments bound; `given` more go in front of them.

    Raises UserError for a target that cannot be imported, or an argument that it does not take.
    """
    check_member(group, node)
    if node.get("_source_") != (
        now := source_of(str(node["_target_"]))
    ):  # of a record, or of a job that waited in a queue
        raise UserError(f"{group}._source_", node.get("_source_"), f"is another code now: {now}; train it anew")
    try:
        function = pkgutil.resolve_name(node["_target_"])
        parameters = list(inspect.signature(function).parameters.values())
    except (Exception, SystemExit) as error:  # an import runs the user's own module, which may raise anything
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
