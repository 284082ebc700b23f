"""The typed configuration: schema, value rules and the identity of a run. Only this module knows OmegaConf.

Hydra composes `conf/`; the dataclasses below are the schema it is checked against (names and types), `problems` holds
the rules about values, and `Config.identity` the part of it that defines a result. torch is not imported here, so that
`--help`, `--cfg job` and shell completion answer at once.
"""

import functools
import hashlib
import inspect
import json
import math
import os
import re
import typing
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from ablation.errors import UserError, no_such

ROOT = Path(__file__).resolve().parents[2]
"""The checkout: conf/, sweeps/ and the default results/ and data/ lie here."""

SCHEMA = 1
"""Version of the configuration and of the files of a run; a folder of another version is left alone."""

INITS = ("he_fan_in", "he_fan_out", "glorot")
SCHEDULES = ("multistep", "cosine", "onecycle", "plateau")
DATA_SETS = ("cifar10", "cifar100", "digits", "image_folder")
TRAINING_PICTURES = {"cifar10": 50_000, "cifar100": 50_000, "digits": 1438}
"""Known without loading them, so that a sweep stops before its first job."""
MAX_STEPS = 10_000_000
MAX_DEPTH = 10_000
"""The deepest of the paper has 1202 layers."""
MAX_WIDTH = 1024
"""Channels of the first stage; the last has four times as many, and a wide ResNet is 10 times the paper's 16."""
MAX_PIXELS = 512
"""Of padding, a shift or a hole: more than a side of any picture that is small enough for these networks."""
NORMALIZATIONS = ("pixel_mean", "pixel_standardize", "channel_standardize")
POLICIES = (None, "trivial_augment")
DECAY_SCOPES = ("all", "weights", "convolutions")
PRECISIONS = ("auto", "bfloat16", "float32")
DEVICES = ("auto", "cpu", "cuda", "cuda:N", "mps")
SELECTIONS = ("final", "best_test")
TRACKER_MODES = ("offline", "online", "disabled")


@dataclass
class Model:
    """Which network (He et al. 2015, Sec. 4.2)."""

    depth: int = 20
    """Layers with weights: 6n + 2."""
    residual: bool = True
    """False: the plain net, which has no shortcuts; the group `shortcut` is then ignored."""
    width: int = 16
    """Channels of the first stage."""
    init: str = "he_fan_in"
    batch_norm_momentum: float = 0.1
    """Weight of the newest batch in the running statistics (Keras counts the other way round)."""
    batch_norm_eps: float = 1e-5


@dataclass
class Schedule:
    """The learning rate over the run, in optimisation steps; `optimizer.lr` is its highest value."""

    name: str = "paper"
    kind: str = "multistep"
    steps: int = 64_000
    """Optimisation steps of the whole run."""
    milestones: list[float] = field(default_factory=list)
    """multistep: where the rate is multiplied by `factor`, as fractions of `steps`: a shorter run anneals too."""
    factor: float = 0.1
    """multistep, plateau: what the rate is multiplied by."""
    warmup_lr: float | None = None
    """multistep: the rate until the training error is below `warmup_error` (He et al. 2015, Sec. 4.2, 110 layers)."""
    warmup_error: float = 80.0
    """Percent, over the last 100 batches."""
    peak: float = 0.3
    """onecycle: fraction of `steps` at which the rate is highest."""
    patience: int = 5
    """plateau: epochs without improvement before the rate falls."""
    min_delta: float = 0.01
    """plateau: how much lower the training loss must be to count as an improvement."""
    min_lr: float = 1e-6
    """plateau: the rate never falls below this."""


@dataclass
class Augmentation:
    """What is done to a training picture; every part is off at its zero."""

    name: str = "none"
    padding: int = 0
    """Pixels of zero padding on each side, then a random crop of the old size."""
    shift: float = 0.0
    """Largest continuous shift in pixels, bilinear, edges repeated."""
    flip: bool = False
    cutout: int = 0
    """Side of the square of zeros, in pixels."""
    policy: str | None = None


@dataclass
class Data:
    """Which pictures, and how they are normalised and batched."""

    name: str = "cifar10"
    root: str | None = None
    """Folder of the files; null: data/ in the checkout. A relative path starts at the working directory."""
    validation: int = 0
    """Training pictures held out for validation; the test set is never used for it."""
    split_seed: int = 0
    """Seed of the validation split, apart from `seed` so that all seeds of a study share one split."""
    normalization: str = "pixel_mean"
    batch_size: int = 128


@dataclass
class Trainer:
    """How the run is executed. Only `precision`, and `evaluate_every` if it is given, are part of a run's identity."""

    name: str = "fast"
    device: str = "auto"
    precision: str = "auto"
    """auto: bfloat16 where the device has it in hardware, else float32."""
    compile: bool | None = None
    """Batch norm, sum and ReLU as one operation; null: on a CPU and on CUDA, if the kernels can be built."""
    deterministic: bool = False
    evaluate_every: int | None = None
    """Steps between evaluations (history rows); null: once an epoch."""
    checkpoint_every: int = 2000
    """Steps between checkpoints."""
    time_limit: float | None = None
    """Minutes after the start of the process, in a sweep of the whole sweep, at which it checkpoints and leaves.

    Started again, it goes on. An evaluation under way ends first: leave it half a minute.
    """
    progress: bool | None = None
    """null: a bar on a terminal, a line per evaluation elsewhere; false: nothing."""


@dataclass
class Tracker:
    """Weights & Biases; the files of a run are the truth, this is a view of them."""

    name: str = "offline"
    mode: str = "offline"
    project: str = "ablation"
    entity: str | None = None
    group: str | None = None
    """null: the sweep's name."""
    timeout: float = 10.0
    """Seconds that W&B may take to answer, to begin or to finish, before the run goes on without it."""


@dataclass
class Config:
    """One run. `shortcut` and `optimizer` are open groups: `_target_` and its keyword arguments."""

    model: Model = field(default_factory=Model)
    shortcut: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    schedule: Schedule = field(default_factory=Schedule)
    augmentation: Augmentation = field(default_factory=Augmentation)
    data: Data = field(default_factory=Data)
    trainer: Trainer = field(default_factory=Trainer)
    tracker: Tracker = field(default_factory=Tracker)
    seed: int = 0
    selection: str = "final"
    """final: the last iterate is the result. best_test: the one with the least test error, labelled as such."""
    early_stopping: int | None = None
    """Evaluations without a better test error after which the run stops; null: never."""
    overwrite: bool = False
    """Train again what is done already; the old record is kept aside."""
    results: str | None = None
    """Where runs/, sweeps/ and report/ go; null: results/ in the checkout."""

    @property
    def results_dir(self) -> Path:
        return resolved("results", Path(self.results)) if self.results else ROOT / "results"

    @property
    def data_root(self) -> Path:
        if not self.data.root:
            return ROOT / "data"
        try:
            return resolved("data.root", Path(self.data.root).expanduser())
        except RuntimeError:  # what expanduser raises
            raise UserError("data.root", self.data.root, "there is no such user") from None

    def identity(self, precision: str) -> str:
        """Twelve hexadecimal digits that name what defines the result, with `auto` precision replaced by `precision`.

        The same digits mean the same network, data, recipe and seed; device, tracker, paths, progress and time limits
        are left out, and so is a plain net's shortcut.
        """
        parts = {key: value for key, value in self.to_dict().items() if key not in ("tracker", "overwrite", "results")}
        parts["trainer"] = {"precision": precision}
        if self.trainer.evaluate_every is not None:  # it says which iterates can be the best one
            parts["trainer"]["evaluate_every"] = self.trainer.evaluate_every
        parts["optimizer"] = {key: 0.0 + value if number(value) else value for key, value in self.optimizer.items()}
        parts["schema"] = SCHEMA
        if not self.model.residual:
            del parts["shortcut"]
        root = parts["data"].pop("root")
        if self.data.name == "image_folder":  # here the folder is the data: known by what is in it, not by its place
            parts["data"]["files"] = folder_digest(Path(root))
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]

    def name(self) -> str:
        """The readable part of the run's folder, such as `resnet56-A-cifar10-sgd-paper-crop_flip-seed0`."""
        model = self.model
        network = f"resnet{model.depth}-{self.shortcut['name']}" if model.residual else f"plain{model.depth}"
        parts = [network, self.data.name, self.optimizer["name"], self.schedule.name, self.augmentation.name]
        return "-".join([*parts, f"seed{self.seed}"])

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and values, with the paths made absolute."""
        return asdict(self) | {
            "results": str(self.results_dir),
            "data": asdict(self.data) | {"root": str(self.data_root)},
        }


def resolved(key: str, path: Path) -> Path:
    """`path`, given for `key`, with no links or dots in it. Raises UserError for one that cannot lead anywhere."""
    try:
        found = path.resolve()
        found.exists()  # which raises what `resolve` passes over: a name that is too long
        return found
    except (OSError, RuntimeError) as error:  # RuntimeError: what Python 3.11 and 3.12 raise for links in a circle
        reason = error.strerror if isinstance(error, OSError) else "its links lead in a circle"
        raise UserError(key, path, f"cannot be a folder: {reason}") from None


def folder_digest(root: Path) -> str:
    """A digest of the names and contents of all files below `root`, hidden ones left out."""
    try:
        files = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
        shown = [path for path in files if not any(part.startswith(".") for part in path.parts)]
        return contents_digest(root, tuple((str(p), (root / p).stat().st_mtime_ns) for p in sorted(shown)))
    except OSError as error:
        raise UserError("data.root", root, f"cannot be read: {error.strerror}: {error.filename}") from None


@functools.cache
def contents_digest(root: Path, files: tuple[tuple[str, int], ...]) -> str:
    """The digest of files given as (path below `root`, time of change): the time is for the cache alone."""
    digest = hashlib.sha256()
    for name, _ in files:
        with open(root / name, "rb") as file:
            digest.update(os.fsencode(name) + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


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
        merged = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(saved))
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


def first_line(error: Exception) -> str:
    """An error in one line, whatever it says."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def check(config: Config) -> None:
    """Raise UserError for the first value that is against the rules."""
    for problem in problems(config):
        raise problem


def problems(config: Config) -> Iterator[UserError]:
    """Every value that is against the rules, in the order of the schema."""
    values = asdict(config)

    def rule(key: str, holds: Callable[[Any], bool], allowed: str) -> Iterator[UserError]:
        value: Any = values
        for part in key.split("."):
            value = value[part]
        if not holds(value):
            yield UserError(key, value, allowed)

    def one_of(key: str, allowed: tuple[Any, ...]) -> Iterator[UserError]:
        return rule(key, lambda v: v in allowed, f"must be one of {', '.join(str(a or 'null') for a in allowed)}")

    def positive(key: str, or_null: bool = False) -> Iterator[UserError]:
        def holds(value: float | None) -> bool:
            return or_null if value is None else math.isfinite(value) and value > 0

        return rule(key, holds, "must be positive" + (" or null" if or_null else ""))

    def not_negative(key: str) -> Iterator[UserError]:
        return rule(key, lambda v: math.isfinite(v) and v >= 0, "must be zero or positive")

    def at_most(key: str, most: int) -> Iterator[UserError]:
        return rule(key, lambda v: v <= most, f"must be at most {most:,}")

    def fraction(key: str) -> Iterator[UserError]:
        return rule(key, lambda v: 0 < v < 1, "must lie between 0 and 1, both excluded")

    for folder in ("results_dir", "data_root"):
        try:
            getattr(config, folder)
        except UserError as problem:
            yield problem
    yield from rule("model.depth", lambda v: v >= 8 and (v - 2) % 6 == 0, "must be 6n + 2: 8, 14, 20, 26, 32, ...")
    yield from at_most("model.depth", MAX_DEPTH)
    yield from positive("model.width")
    yield from at_most("model.width", MAX_WIDTH)
    yield from one_of("model.init", INITS)
    yield from rule("model.batch_norm_momentum", lambda v: 0 < v <= 1, "must be above 0 and at most 1")
    yield from positive("model.batch_norm_eps")
    yield from open_group("shortcut", config.shortcut)
    yield from open_group("optimizer", config.optimizer)
    yield from optimizer_rules(config.optimizer)
    yield from rule("schedule.name", plain_name, NAME_RULE)
    yield from one_of("schedule.kind", SCHEDULES)
    yield from rule("schedule.steps", lambda v: 1 <= v <= MAX_STEPS, f"must be from 1 to {MAX_STEPS:,}")
    yield from rule(
        "schedule.milestones",
        lambda v: all(0 < m < 1 for m in v) and list(v) == sorted(set(v)),
        "must be growing fractions of schedule.steps, each between 0 and 1",
    )
    yield from fraction("schedule.factor")
    yield from positive("schedule.warmup_lr", or_null=True)
    highest = config.optimizer.get("lr")
    warmup = config.schedule.warmup_lr
    if warmup is not None and isinstance(highest, int | float) and warmup > highest:
        allowed = f"must be at most optimizer.lr, {highest:g}; schedule=paper has no warm-up"
        yield UserError("schedule.warmup_lr", warmup, allowed)
    yield from rule("schedule.warmup_error", lambda v: 0 < v <= 100, "must be a percentage above 0")
    yield from fraction("schedule.peak")
    yield from not_negative("schedule.patience")
    yield from not_negative("schedule.min_delta")
    yield from not_negative("schedule.min_lr")
    yield from rule("augmentation.name", plain_name, NAME_RULE)
    for key in ("augmentation.padding", "augmentation.shift", "augmentation.cutout"):
        yield from not_negative(key)
        yield from at_most(key, MAX_PIXELS)
    yield from one_of("augmentation.policy", POLICIES)
    yield from one_of("data.name", DATA_SETS)
    pictures = TRAINING_PICTURES.get(config.data.name, math.inf)
    yield from not_negative("data.validation")
    allowed = f"must be below the {pictures} training pictures of {config.data.name}"
    yield from rule("data.validation", lambda v: v < pictures, allowed)
    yield from rule("data.split_seed", lambda v: 0 <= v < 2**32, f"must be zero or positive, at most {2**32 - 1}")
    yield from one_of("data.normalization", NORMALIZATIONS)
    yield from rule("data.batch_size", lambda v: v >= 2, "must be at least 2: batch norm needs it")
    left = pictures - config.data.validation
    yield from rule("data.batch_size", lambda v: v <= left, f"must be at most the {left} training pictures")
    yield from rule("trainer.name", plain_name, NAME_RULE)
    yield from rule("trainer.device", device_pattern, f"must be one of {', '.join(DEVICES)}")
    yield from one_of("trainer.precision", PRECISIONS)
    yield from positive("trainer.evaluate_every", or_null=True)
    yield from positive("trainer.checkpoint_every")
    yield from positive("trainer.time_limit", or_null=True)
    yield from one_of("tracker.mode", TRACKER_MODES)
    yield from positive("tracker.timeout")
    yield from rule("tracker.project", plain_name, NAME_RULE)
    yield from rule("seed", lambda v: 0 <= v < 2**63, f"must be zero or positive, at most {2**63 - 1}")
    yield from one_of("selection", SELECTIONS)
    yield from positive("early_stopping", or_null=True)
    by_epoch = config.schedule.kind == "plateau" or config.early_stopping is not None
    if by_epoch and config.trainer.evaluate_every is not None:
        allowed = "must be null: the plateau schedule and early stopping count epochs"
        yield UserError("trainer.evaluate_every", config.trainer.evaluate_every, allowed)


NAME_RULE = "must be at most 64 letters, digits, '.', '_' and '-': it becomes part of a folder's name"


def plain_name(value: str) -> bool:
    """Whether `value` may be part of a file's name: nothing that leads out of the results folder."""
    return re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", value) is not None


def device_pattern(value: str) -> bool:
    """Whether `value` could name a device; whether it is there shows when it is used."""
    return value in ("auto", "cpu", "cuda", "mps") or (value.startswith("cuda:") and value[5:].isdecimal())


def number(value: Any) -> bool:
    """Whether `value` is a finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def optimizer_rules(optimizer: dict[str, Any]) -> Iterator[UserError]:
    """The numbers that the open group `optimizer` shares between its members."""
    if not number(optimizer.get("lr")) or optimizer["lr"] <= 0:
        yield UserError("optimizer.lr", optimizer.get("lr"), "must be a positive number")
    momentum = optimizer.get("momentum", 0)
    if not number(momentum) or not 0 <= momentum < 1:
        yield UserError("optimizer.momentum", momentum, "must be a number from 0 to below 1")
    decay = optimizer.get("weight_decay", 0)
    if not number(decay) or decay < 0:
        yield UserError("optimizer.weight_decay", decay, "must be zero or a positive number")
    if optimizer.get("weight_decay_scope", "all") not in DECAY_SCOPES:
        allowed = f"must be one of {', '.join(DECAY_SCOPES)}"
        yield UserError("optimizer.weight_decay_scope", optimizer["weight_decay_scope"], allowed)


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
    if isinstance(parameter.default, int | float) and not number(value):
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
