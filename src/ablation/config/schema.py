"""The typed configuration: every key with its type, its meaning and the rules for its value.

Hydra composes `conf/` against these dataclasses. This module does not import torch, so that `--help`, `--cfg job` and
shell completion answer at once.
"""

import errno
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ablation.config.identity import identity
from ablation.config.values import (
    FRACTION,
    NOT_NEGATIVE,
    PLAIN_NAME,
    POSITIVE,
    Rule,
    at_most,
    is_growing,
    one_of,
    seed_below,
    value,
)
from ablation.errors import UserError
from ablation.program import exists

ROOT = Path(__file__).resolve().parents[3]
"""The checkout: conf/, sweeps/ and the default results/ and data/ lie here."""

OPEN_GROUPS = ("shortcut", "optimizer")
"""Groups whose members are built from a `_target_`; their keys are the arguments of it."""

TRAINING_IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "digits": 1438}
"""Known without loading the data, so that a sweep stops before its first job."""

MAX_PIXELS = 512
"""Of padding, a shift or a hole: more than the side of any image that is small enough for these networks."""


def is_device(text: str) -> bool:
    """Whether `text` could name a device; whether the machine has it shows when it is used."""
    return text in ("auto", "cpu", "cuda", "mps") or (text.startswith("cuda:") and text[5:].isdecimal())


@dataclass
class Model:
    """Which network (He et al. 2015, Sec. 4.2)."""

    depth: int = value(
        20, Rule(lambda v: v >= 8 and v % 6 == 2, "must be 6n + 2: 8, 14, 20, 26, 32, ..."), at_most(10_000)
    )
    """Layers with weights: 6n + 2. The paper's deepest network has 1202."""
    residual: bool = True
    """False: the plain net, which has no shortcuts; the group `shortcut` is then ignored."""
    width: int = value(16, POSITIVE, at_most(1024))
    """Channels of the first stage; the last has four times as many."""
    init: str = value("he_fan_in", one_of("he_fan_in", "he_fan_out", "glorot"))
    batch_norm_momentum: float = value(0.1, Rule(lambda v: 0 < v <= 1, "must be above 0 and at most 1"))
    """Weight of the newest batch in the running statistics (Keras counts the other way round)."""
    batch_norm_eps: float = value(1e-5, POSITIVE)


@dataclass
class Schedule:
    """The learning rate over the run, in optimisation steps; `optimizer.lr` is its highest value."""

    name: str = value("paper", PLAIN_NAME)
    kind: str = value("multistep", one_of("multistep", "cosine", "onecycle", "plateau"))
    steps: int = value(64_000, Rule(lambda v: 1 <= v <= 10_000_000, "must be from 1 to 10,000,000"))
    """Optimisation steps of the whole run."""
    milestones: list[float] = field(
        default_factory=list,
        metadata={"rules": [Rule(is_growing, "must be growing fractions of schedule.steps, each between 0 and 1")]},
    )
    """multistep: where the rate is multiplied by `factor`, as fractions of `steps`: a shorter run anneals too."""
    factor: float = value(0.1, FRACTION)
    """multistep, plateau: what the rate is multiplied by."""
    warmup_lr: float | None = value(None, POSITIVE)
    """multistep: the rate until the training error is below `warmup_error` (He et al. 2015, Sec. 4.2, 110 layers)."""
    warmup_error: float = value(80.0, Rule(lambda v: 0 < v <= 100, "must be a percentage above 0"))
    """Percent, over the last 100 batches."""
    peak: float = value(0.3, FRACTION)
    """onecycle: fraction of `steps` at which the rate is highest."""
    patience: int = value(5, NOT_NEGATIVE)
    """plateau: epochs without improvement before the rate falls."""
    min_delta: float = value(0.01, NOT_NEGATIVE)
    """plateau: how much lower the training loss must be to count as an improvement."""
    min_lr: float = value(1e-6, NOT_NEGATIVE)
    """plateau: the rate never falls below this."""


@dataclass
class Augmentation:
    """What is done to a training image; every part is off at its zero."""

    name: str = value("none", PLAIN_NAME)
    padding: int = value(0, NOT_NEGATIVE, at_most(MAX_PIXELS))
    """Pixels of zero padding on each side, then a random crop of the old size."""
    shift: float = value(0.0, NOT_NEGATIVE, at_most(MAX_PIXELS))
    """Largest continuous shift in pixels, bilinear, edges repeated."""
    flip: bool = False
    cutout: int = value(0, NOT_NEGATIVE, at_most(MAX_PIXELS))
    """Side of the square of zeros, in pixels."""
    policy: str | None = value(None, one_of("trivial_augment"))


@dataclass
class Data:
    """Which images, and how they are normalised and batched."""

    name: str = value("cifar10", one_of(*TRAINING_IMAGES, "image_folder"))
    root: str | None = None
    """Folder of the files; null: data/ in the checkout. A relative path starts at the working directory."""
    validation: int = value(0, NOT_NEGATIVE)
    """Training images held out for validation; the test set is never used for it."""
    split_seed: int = value(0, seed_below(2**32))
    """Seed of the validation split, apart from `seed` so that all seeds of a study share one split."""
    normalization: str = value("pixel_mean", one_of("pixel_mean", "pixel_standardize", "channel_standardize"))
    batch_size: int = value(128, Rule(lambda v: v >= 2, "must be at least 2: batch norm needs it"))


@dataclass
class Trainer:
    """How the run is executed. Only `precision`, and `evaluate_every` if it is given, are part of a run's identity."""

    name: str = value("fast", PLAIN_NAME)
    device: str = value("auto", Rule(is_device, "must be one of auto, cpu, cuda, cuda:N, mps"))
    precision: str = value("auto", one_of("auto", "bfloat16", "float32"))
    """auto: bfloat16 where the device has it in hardware, else float32."""
    fused: bool | None = None
    """Batch norm, sum and ReLU as one operation; null: on a CPU and on CUDA, if the kernels can be built."""
    deterministic: bool = False
    evaluate_every: int | None = value(None, POSITIVE)
    """Steps between evaluations (history rows); null: once an epoch."""
    checkpoint_every: int = value(2000, POSITIVE)
    """Steps between checkpoints."""
    time_limit: float | None = value(None, POSITIVE)
    """Minutes from the start of the process to a checkpoint and its end; for a sweep, of the whole sweep.

    Started again, the run resumes. An evaluation that has begun is finished first: allow half a minute for it.
    """
    progress: bool | None = None
    """null: a bar on a terminal, a line per evaluation elsewhere; false: nothing."""


@dataclass
class Tracker:
    """Weights & Biases; the files of a run are the truth, this is a view of them."""

    name: str = "offline"
    mode: str = value("offline", one_of("offline", "online", "disabled"))
    project: str = value("ablation", PLAIN_NAME)
    entity: str | None = None
    group: str | None = None
    """null: the sweep's name."""
    timeout: float = value(10.0, POSITIVE)
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
    seed: int = value(0, seed_below(2**63))
    selection: str = value("final", one_of("final", "best_test"))
    """final: the last iterate is the result. best_test: the one with the least test error, labelled as such."""
    early_stopping: int | None = value(None, POSITIVE)
    """Evaluations without a better test error after which the run stops; null: never."""
    overwrite: bool = False
    """Train again what is done already; the old run is kept in results/replaced."""
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
        """The hash that names what defines the result, with `auto` precision replaced by `precision`."""
        return identity(self.to_dict(), precision)

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
        exists(found)  # raises OSError where `resolve` does not: a name that is too long
        return found
    except (OSError, RuntimeError) as error:
        reason = "its links lead in a circle"  # RuntimeError in Python 3.11 and 3.12, OSError since
        if isinstance(error, OSError) and error.errno != errno.ELOOP:
            reason = str(error.strerror)
        raise UserError(key, path, f"cannot be a folder: {reason}") from None
