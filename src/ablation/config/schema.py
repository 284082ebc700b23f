"""The typed configuration: schema, value rules and the identity of a run. Only this module knows OmegaConf.

Hydra composes `conf/`; the dataclasses below are the schema it is checked against (names and types), `problems` holds
the rules about values, and `Config.identity` the part of it that defines a result. torch is not imported here, so that
`--help`, `--cfg job` and shell completion answer at once.
"""

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ablation.config.identity import identity
from ablation.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
"""The checkout: conf/, sweeps/ and the default results/ and data/ lie here."""

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
    fused: bool | None = None
    """Batch norm, sum and ReLU as one operation; null: on CUDA, where the kernels work."""
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
        found.exists()  # which raises what `resolve` passes over: a name that is too long
        return found
    except (OSError, RuntimeError) as error:  # RuntimeError: what Python 3.11 and 3.12 raise for links in a circle
        reason = error.strerror if isinstance(error, OSError) else "its links lead in a circle"
        raise UserError(key, path, f"cannot be a folder: {reason}") from None


NAME_RULE = "must be at most 64 letters, digits, '.', '_' and '-': it becomes part of a folder's name"


def plain_name(value: str) -> bool:
    """Whether `value` may be part of a file's name: nothing that leads out of the results folder."""
    return re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", value) is not None


def device_pattern(value: str) -> bool:
    """Whether `value` could name a device; whether it is there shows when it is used."""
    return value in ("auto", "cpu", "cuda", "mps") or (value.startswith("cuda:") and value[5:].isdecimal())
