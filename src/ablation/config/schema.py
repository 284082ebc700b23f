"""The typed configuration, against which Hydra composes `conf/`: every key's type, meaning and rules.

Nothing here imports torch, so that `--help`, `--cfg job` and shell completion answer at once.
"""

import math
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import MISSING

from ablation.config.identity import identity
from ablation.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = (PACKAGE / "conf").is_dir()  # a copy outside of a checkout: setup.py puts conf/ and sweeps/ into it
ROOT = Path.cwd() if INSTALLED else PACKAGE.parents[1]  # the default results/ and data/ lie here
CONF = (PACKAGE if INSTALLED else ROOT) / "conf"
SWEEPS = CONF / "sweep" if INSTALLED else ROOT / "sweeps"
OPEN_GROUPS = ("shortcut", "optimizer")  # their members are built from a `_target_` and its keyword arguments
TRAINING_IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "digits": 1438}  # so that a sweep stops before its first job


class Rule(NamedTuple):
    """What a value must satisfy, and how an error message says so."""

    holds: Callable[[Any], object]
    allowed: str


def value(default: Any, *rules: Rule) -> Any:
    """A field with a default and rules. The rules of a field that may be null do not apply to null."""
    return field(default=default, metadata={"rules": rules})


def one_of(*allowed: str) -> Rule:
    return Rule(lambda v: v in allowed, f"must be one of {', '.join(allowed)}")


def at_most(most: int) -> Rule:
    return Rule(lambda v: v <= most, f"must be at most {most:,}")


POSITIVE = Rule(lambda v: 0 < v < math.inf, "must be positive")
NOT_NEGATIVE = Rule(lambda v: 0 <= v < math.inf, "must be zero or positive")
PERCENTAGE = Rule(lambda v: 0 < v <= 100, "must be a percentage above 0")
FRACTION = Rule(lambda v: 0 < v < 1, "must lie between 0 and 1, both excluded")
PIXELS = Rule(lambda v: 0 <= v <= 512, "must be from 0 to 512")  # more than the side of an image for these networks
DEPTH = Rule(lambda v: v >= 8 and v % 6 == 2, "must be 6n + 2: 8, 14, 20, 26, 32, ...")
DEVICE = Rule(re.compile(r"auto|cpu|cuda(:\d+)?|mps").fullmatch, "must be one of auto, cpu, cuda, cuda:N, mps")
NAME = Rule(  # YAML's yes and no come as True and False, its numbers as text without a letter
    lambda v: isinstance(v, str) and re.fullmatch(r"(?!(True|False)$)(?=.*[A-Za-z])[\w-][\w.-]{0,63}", v, re.ASCII),
    "must be at most 64 letters, digits, '.', '_' and '-', one of them a letter: it becomes part of a folder's name",
)
MILESTONES = Rule(
    lambda v: all(isinstance(m, float) and 0 < m < 1 for m in v) and v == sorted(set(v)),
    "must be growing fractions of schedule.steps, each between 0 and 1",
)


@dataclass
class Model:
    """Which network (He et al. 2015, Sec. 4.2)."""

    depth: int = value(20, DEPTH, at_most(10_000))  # layers with weights; the paper's deepest network has 1202
    residual: bool = True  # false: the plain net, which has no shortcuts; the group `shortcut` is then ignored
    width: int = value(16, POSITIVE, at_most(1024))  # channels of the first stage; the last has four times as many
    init: str = value("he_fan_in", one_of("he_fan_in", "he_fan_out", "glorot", "dirac"))
    """Initial weights: normal (He 2015b), uniform (Glorot), or normal with the identity added (DiracNets)."""
    batch_norm_momentum: float = value(0.1, Rule(lambda v: 0 < v <= 1, "must be above 0 and at most 1"))
    """Weight of the newest batch in the running statistics (Keras counts the other way round)."""
    batch_norm_eps: float = value(1e-5, POSITIVE)  # added to the variance
    padding: str = value("both", one_of("both", "end"))
    """Where 3x3 convolutions of stride 2 pad an even side: at both ends, or at its end alone (Keras' `same`)."""


@dataclass
class Schedule:
    """The learning rate over the run, in optimisation steps; `optimizer.lr` is its highest value."""

    name: str = value(MISSING, NAME)
    kind: str = value("multistep", one_of("multistep", "cosine", "onecycle", "plateau"))  # how the rate changes
    steps: int = value(64_000, Rule(lambda v: 1 <= v <= 10_000_000, "must be from 1 to 10,000,000"))  # how many
    milestones: list[float] = field(default_factory=list, metadata={"rules": [MILESTONES]})  # fractions of `steps`
    factor: float = value(0.1, FRACTION)  # multistep (at each milestone), plateau: what the rate is multiplied by
    warmup_lr: float | None = value(None, POSITIVE)  # multistep: the rate while the training error is above the next
    warmup_error: float = value(80.0, PERCENTAGE)  # over the last 100 batches (He et al. 2015, Sec. 4.2, 110 layers)
    peak: float = value(0.3, FRACTION)  # onecycle: fraction of `steps` at which the rate is highest
    patience: int = value(5, NOT_NEGATIVE)  # plateau: epochs without improvement before the rate falls
    min_delta: float = value(0.01, NOT_NEGATIVE)  # plateau: by how much the training loss must fall to have improved
    min_lr: float = value(1e-6, NOT_NEGATIVE)  # plateau: the rate never falls below this


@dataclass
class Augmentation:
    """What is done to a training image; every part is off at its zero."""

    name: str = value(MISSING, NAME)
    padding: int = value(0, PIXELS)  # pixels of zero padding on each side, then a random crop of the old size
    shift: float = value(0.0, PIXELS)  # largest continuous shift in pixels, bilinear, edges repeated
    flip: bool = False  # a horizontal flip, every other time
    cutout: int = value(0, PIXELS)  # side of the square of zeros, in pixels
    policy: str | None = value(None, one_of("trivial_augment"))  # of torchvision, before all else


@dataclass
class Data:
    """Which images, and how they are normalised and batched."""

    name: str = value(MISSING, one_of(*TRAINING_IMAGES, "image_folder"))  # the data set
    root: str | None = None  # folder of the files; null: data/ in the checkout (installed: in the working directory)
    validation: int = value(0, NOT_NEGATIVE)  # training images held out; the test set is never used for validation
    split_seed: int = value(0, NOT_NEGATIVE, at_most(2**32 - 1))  # apart from `seed`: a study's seeds share one split
    normalization: str = value("pixel_mean", one_of("pixel_mean", "pixel_standardize", "channel_standardize"))
    """What is subtracted, and divided by, from the training images."""
    batch_size: int = value(128, Rule(lambda v: v >= 2, "must be at least 2: batch norm needs it"))  # images a step
    remainder: str = value("drop", one_of("drop", "repeat"))
    """The images that do not fill a batch: left out, or repeated to fill one more, while an epoch keeps its number of
    steps and so misses one batch at random. Keras' smaller batch has the same gradient if it divides a full one."""


@dataclass
class Trainer:
    """How the run is executed. `precision` is part of an identity, `evaluate_every` where it can change the result."""

    name: str = value("fast", NAME)
    device: str = value("auto", DEVICE)  # auto: a CUDA GPU if there is one, else the CPU
    precision: str = value("auto", one_of("auto", "bfloat16", "float32"))  # auto: bfloat16 where the hardware has it
    fused: bool | None = None  # batch norm, sum and ReLU as one operation; null: on CUDA, where the kernels work
    deterministic: bool = False  # the same bits each time, more slowly
    strict: bool = False  # kernels or a CUDA graph that fail end the run; else it goes on without, and a line says why
    debug: bool = False  # three steps, one evaluation and no tracker, strict, in results/debug: to try a configuration
    evaluate_every: int | None = value(None, POSITIVE)  # steps between evaluations (history rows); null: once an epoch
    checkpoint_every: int = value(2000, POSITIVE)  # steps
    time_limit: float | None = value(None, POSITIVE)
    """Minutes from the (whole sweep's) start to a checkpoint and the end, plus half a minute for a begun evaluation."""
    progress: bool | None = None  # null: a bar on a terminal, lines elsewhere (at most 50 a run); false: nothing
    label: str | None = None  # the run on the terminal; null: its folder's name; a sweep names what varies


@dataclass
class Tracker:
    """W&B or TensorBoard; the files of a run are the truth, this is a view of them."""

    name: str = "offline"
    mode: str = value("offline", one_of("offline", "online", "tensorboard", "disabled"))
    """offline: W&B without account and network."""
    project: str = value("ablation", NAME)  # W&B's project
    entity: str | None = None  # W&B's user or team; null: your default one
    group: str | None = None  # null: the sweep's name
    timeout: float = value(10.0, POSITIVE)  # seconds that W&B may take to answer, to begin or to finish


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
    seed: int = value(0, NOT_NEGATIVE, at_most(2**63 - 1))  # of weights, batches and augmentation
    selection: str = value("final", one_of("final", "best_test"))  # which iterate is the result
    early_stopping: int | None = value(None, POSITIVE)  # stop after so many evaluations without a better test error
    overwrite: bool = False  # train again what is done already; the old run is kept in results/replaced
    results: str | None = None  # folder of runs/, report/, wandb/ and the like; null: results/ beside the default data/

    @property
    def results_dir(self) -> Path:
        return resolved("results", self.results) if self.results else ROOT / "results"

    @property
    def data_root(self) -> Path:
        return resolved("data.root", self.data.root) if self.data.root else ROOT / "data"

    def identity(self, precision: str) -> str:
        """The hash that names what defines the result, with `auto` precision replaced by `precision`."""
        return identity(self.to_dict(), precision)

    def name(self) -> str:
        """The readable part of the run's folder, such as `resnet56-A-cifar10-sgd-paper-crop_flip-seed0`."""
        depth = self.model.depth
        network = f"resnet{depth}-{self.shortcut['name']}" if self.model.residual else f"plain{depth}"
        recipe = f"{self.optimizer['name']}-{self.schedule.name}-{self.augmentation.name}"
        return f"{network}-{self.data.name}-{recipe}-seed{self.seed}"

    def run_folder(self, precision: str) -> Path:
        """The run's folder: its name, and the first digits of its identity."""
        return self.results_dir / "runs" / f"{self.name()}-{self.identity(precision)[:8]}"

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists and values, with the paths made absolute."""
        data = asdict(self.data) | {"root": str(self.data_root)}
        return asdict(self) | {"data": data, "results": str(self.results_dir)}


def resolved(key: str, folder: str) -> Path:
    """The absolute path of a folder, without links. Raises UserError, about `key`, if there can be no such folder."""
    if re.search(r"[\x00-\x1f]", folder):
        raise UserError(key, repr(folder), "must be one line, without control characters")
    try:
        path = Path(os.path.realpath(Path(folder).expanduser()))
        with suppress(FileNotFoundError):
            path.stat()  # raises OSError for links in a circle or a name that is too long
        return path
    except RuntimeError:  # what expanduser raises
        raise UserError(key, folder, "there is no such user") from None
    except OSError as error:
        raise UserError(key, folder, f"cannot be a folder: {error.strerror}") from None
