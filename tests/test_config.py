"""conf/ and sweeps/: every file composes, says what it is, and leads to a network that takes a step."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ablation import data
from ablation.config.compose import compose
from ablation.config.schema import ROOT, Config
from ablation.data import Images, Splits
from ablation.errors import UserError
from ablation.runs.build import build_training

CONF = ROOT / "conf"
GROUPS = ("model", "shortcut", "optimizer", "schedule", "augmentation", "data", "trainer", "tracker", "experiment")
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
FILES = sorted([*CONF.glob("**/*.yaml"), *(ROOT / "sweeps").glob("*.yaml")])
TINY = ("model.depth=8", "model.width=4", "data.batch_size=8", "schedule.steps=4", "data.root=.")


@pytest.fixture(scope="module")
def tiny_data() -> Splits:
    images = torch.randint(0, 256, (24, 3, 12, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = Images(images, torch.arange(24) % 10)
    return Splits(images, None, images, tuple("0123456789"), "")


def step(config: Config, splits: Splits) -> None:
    """One optimisation step of the network, optimizer, schedule and augmentation of `config`."""
    normalization = data.fit_normalization(config.data.normalization, splits.train)
    training = build_training(config, splits, normalization, torch.device("cpu"), "float32")
    before = {name: p.detach().clone() for name, p in training.network.named_parameters()}
    training.take_step()
    sums = training.read_sums()
    assert sums.steps == 1
    assert sums.first_bad_step is None
    moved = [name for name, p in training.network.named_parameters() if not torch.equal(p, before[name])]
    assert "conv1.weight" in moved
    assert "fc.weight" in moved


def test_the_groups_are_those_of_the_design() -> None:
    folders = {path.name for path in CONF.iterdir() if path.is_dir()}
    assert folders == {*GROUPS, "sweep", "hydra"}
    expected = {
        "model": {*(f"resnet{d}" for d in (20, 32, 44, 56, 110, 1202)), *(f"plain{d}" for d in (20, 32, 44, 56, 110))},
        "shortcut": {"A", "B", "C", "avgpool"},
        "optimizer": {"sgd", "nesterov", "adamw"},
        "schedule": {"paper", "paper_warmup", "plateau", "cosine", "onecycle"},
        "augmentation": {"none", "crop_flip", "shift_flip", "cutout"},
        "data": {"cifar10", "cifar100", "digits", "image_folder"},
        "experiment": {"paper", "notebook"},
    }
    for group, names in expected.items():
        assert names <= {name for own, name in OPTIONS if own == group}, group


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_what_it_is(path: Path) -> None:
    """Its source or subject first, then its command, what it costs and what to expect."""
    lines = path.read_text().splitlines()
    if lines[0].startswith("# @package"):
        lines = lines[1:]
    head = list(itertools.takewhile(lambda line: line.startswith("#"), lines))
    text = "\n".join(head)
    assert head, "it must open with a comment"
    assert len(head[0]) > 10
    assert "python" not in head[0]
    for part in ("python src/", "# Cost: ", "Expected"):
        assert part in text, part
    assert text.index("python src/") < text.index("# Cost: ") < text.index("Expected")


@pytest.mark.parametrize(("group", "name"), OPTIONS, ids=lambda value: value)
def test_every_option_composes_and_takes_a_step(group: str, name: str, tiny_data: Splits) -> None:
    config = compose([f"{group}={name}", *TINY])
    if group != "experiment":
        node: Any = getattr(config, group)
        if group in ("shortcut", "optimizer"):
            assert node["name"] == name
        elif group != "model":
            assert node.name == name
    step(config, tiny_data)


@pytest.mark.parametrize("path", sorted((CONF / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_models_name_is_its_network(path: Path) -> None:
    model = compose([f"model={path.stem}"]).model
    assert path.stem == ("resnet" if model.residual else "plain") + str(model.depth)


def arms(path: Path) -> list[list[str]]:
    """The overrides of every job of a sweep, with the first seed alone."""
    sweeper = yaml.safe_load(path.read_text())["hydra"]["sweeper"]
    axes = [[f"{key}={value}" for value in str(values).split(",")] for key, values in sweeper["params"].items()]
    axes = [axis[:1] if axis[0].startswith("seed=") else axis for axis in axes]
    return [[*arm, *job] for arm in sweeper.get("arms") or [[]] for job in itertools.product(*axes)]


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_arm_of_every_sweep_takes_a_step(path: Path, tiny_data: Splits) -> None:
    assert yaml.safe_load(path.read_text())["hydra"]["mode"] == "MULTIRUN"
    jobs = arms(path)
    assert len(jobs) > 1
    depths = [override.partition("=")[2] for job in jobs for override in job if override.startswith("model.depth=")]
    assert all((int(depth) - 2) % 6 == 0 for depth in depths)
    done = set()
    for job in {tuple(o for o in job if not o.startswith("model.depth=")) for job in jobs}:  # here they are all tiny
        config = compose([f"sweep={path.stem}", *job, *TINY])
        if (identity := config.identity("float32")) not in done:
            step(config, tiny_data)
        done.add(identity)


def test_the_default_is_the_papers_recipe() -> None:
    config = compose([])
    assert config.name() == "resnet20-A-cifar10-sgd-paper-crop_flip-seed0"
    assert (config.model.depth, config.model.residual, config.model.width, config.model.init) == (
        20,
        True,
        16,
        "he_fan_in",
    )
    assert (config.schedule.steps, config.schedule.milestones, config.schedule.factor) == (64_000, [0.5, 0.75], 0.1)
    optimizer = {key: config.optimizer[key] for key in ("_target_", "lr", "momentum", "weight_decay")}
    assert optimizer == {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}
    assert (config.data.normalization, config.data.batch_size, config.data.validation) == ("pixel_mean", 128, 0)
    assert (config.augmentation.padding, config.augmentation.flip, config.augmentation.cutout) == (4, True, 0)
    assert (config.selection, config.early_stopping) == ("final", None)
    assert compose(["experiment=paper"]).identity("float32") == config.identity("float32")


def test_the_notebooks_recipe() -> None:
    """Every detail that the notebook is known by; the L2 term is tested with the optimizers, the loss with training."""
    config = compose(["experiment=notebook"])
    model = config.model
    assert (model.depth, model.residual, model.init) == (20, True, "glorot")
    assert (model.batch_norm_momentum, model.batch_norm_eps) == (pytest.approx(1 - 0.99), 1e-3)
    assert config.shortcut["name"] == "avgpool"
    optimizer = {key: config.optimizer[key] for key in ("_target_", "lr", "momentum", "nesterov")}
    assert optimizer == {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9, "nesterov": True}
    assert (config.optimizer["weight_decay"], config.optimizer["weight_decay_scope"]) == (2e-4, "convolutions")
    schedule = config.schedule
    assert (schedule.kind, schedule.patience, schedule.min_delta, schedule.min_lr) == ("plateau", 5, 0.01, 1e-6)
    assert schedule.factor == pytest.approx(0.1**0.5, rel=1e-12)
    assert (config.data.normalization, config.data.batch_size) == ("pixel_standardize", 64)
    assert 50_000 // config.data.batch_size == 781
    assert schedule.steps % 781 == 0
    augmentation = config.augmentation
    assert (augmentation.shift, augmentation.flip, augmentation.padding, augmentation.cutout) == (4.0, True, 0, 0)
    assert (config.selection, config.early_stopping) == ("best_test", 20)


@pytest.mark.parametrize("name", ["resnet110", "resnet1202", "plain110"])
def test_the_deep_nets_bring_their_warm_up_and_a_choice_overrides_it(name: str) -> None:
    assert compose([f"model={name}"]).schedule.name == "paper_warmup"
    assert compose([f"model={name}"]).schedule.warmup_lr == 0.01
    assert compose(["experiment=paper", f"model={name}"]).schedule.name == "paper_warmup"
    assert compose([f"model={name}", "schedule=cosine"]).schedule.name == "cosine"
    assert compose(["schedule=cosine", f"model={name}"]).schedule.warmup_lr is None


def test_a_plain_net_ignores_the_shortcut() -> None:
    plain = [compose(["model=plain20", f"shortcut={name}"]) for name in "ABC"]
    assert len({config.identity("float32") for config in plain}) == 1
    assert len({config.name() for config in plain}) == 1
    residual = [compose([f"shortcut={name}"]).identity("float32") for name in "ABC"]
    assert len(set(residual)) == 3


BASE = ("model=resnet20", "data=cifar10")


@pytest.fixture(scope="module")
def default() -> Config:
    return compose([*BASE])


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("trainer.device=cpu", True),
        ("tracker=disabled", True),
        ("data.root=/elsewhere", True),
        ("results=/elsewhere", True),
        ("overwrite=true", True),
        ("trainer.checkpoint_every=7", True),
        ("trainer.time_limit=3", True),
        ("trainer.progress=false", True),
        ("model.depth=20", True),
        ("optimizer.lr=0.10", True),
        ("seed=1", False),
        ("model.depth=26", False),
        ("model.residual=false", False),
        ("shortcut.zeros=split", False),
        ("optimizer.lr=0.2", False),
        ("optimizer.weight_decay_scope=weights", False),
        ("schedule.steps=100", False),
        ("augmentation=none", False),
        ("data.validation=5000", False),
        ("selection=best_test", False),
    ],
)
def test_identity_is_what_defines_the_result(override: str, same: bool, default: Config) -> None:
    assert (compose([*BASE, override]).identity("float32") == default.identity("float32")) is same
    assert default.identity("bfloat16") != default.identity("float32")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["model.depth=21"], "model.depth=21: must be 6n + 2"),
        (["model=resnet110", "optimizer=adamw"], "schedule.warmup_lr=0.01: must be at most optimizer.lr, 0.001"),
        (["experiment=notebook", "trainer.evaluate_every=10"], "trainer.evaluate_every=10: must be null"),
        (["shortcut.zeros=middle"], "shortcut.zeros=middle: must be one of end, split"),
        (["optimizer._target_=os.system"], "optimizer._target_=os.system: must be a _target_ named in conf/optimizer"),
    ],
)
def test_values_against_the_rules(overrides: list[str], line: str) -> None:
    with pytest.raises(UserError) as raised:
        compose(overrides)
    assert str(raised.value).startswith(line)
