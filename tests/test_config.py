"""conf/ and sweeps/: every file composes and leads to a network that takes a step; the recipes are those they claim.

The files are found by listing the folders, a user's own among them.
"""

import itertools
from pathlib import Path

import pytest
import torch
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from ablation import data
from ablation.config.compose import compose
from ablation.config.schema import OPEN_GROUPS, ROOT, Config
from ablation.data import Images, Splits
from ablation.runs.build import build_training

CONF = ROOT / "conf"
GROUPS = ("model", "shortcut", "optimizer", "schedule", "augmentation", "data", "trainer", "tracker", "experiment")
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
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
    assert int(training.first_bad_step) == -1
    moved = {name for name, p in training.network.named_parameters() if not torch.equal(p, before[name])}
    assert {"conv1.weight", "fc.weight"} <= moved


@pytest.mark.parametrize(("group", "name"), OPTIONS, ids=lambda value: value)
def test_every_option_composes_and_takes_a_step(group: str, name: str, tiny_data: Splits) -> None:
    config = compose([f"{group}={name}", *TINY])
    if group in OPEN_GROUPS:
        assert getattr(config, group)["name"] == name
    elif group not in ("model", "experiment"):
        assert getattr(config, group).name == name
    step(config, tiny_data)


def test_a_models_name_is_its_network() -> None:
    for residual, depths in ((True, (20, 32, 44, 56, 110, 1202)), (False, (20, 32, 44, 56, 110))):
        for depth in depths:
            model = compose([f"model={'resnet' if residual else 'plain'}{depth}"]).model
            assert (model.depth, model.residual) == (depth, residual)


def arms(path: Path) -> list[list[str]]:
    """The overrides of every job of a sweep, with the first seed and the ends of intervals alone."""
    sweeper = yaml.safe_load(path.read_text())["hydra"]["sweeper"]
    axes = []
    for key, values in (sweeper.get("params") or {}).items():
        axis = OverridesParser.create().parse_override(f"{key}={values}")
        ends = [[str(axis.value().start), str(axis.value().end)]] if axis.is_interval_sweep() else []
        values = [*ends, [*axis.sweep_string_iterator()] if axis.is_discrete_sweep() else [values]][0]
        axes.append([f"{key}={value}" for value in (values[:1] if key == "seed" else values)])
    return [[*arm, *job] for arm in sweeper.get("arms") or [[]] for job in itertools.product(*axes)]


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_arm_of_every_sweep_takes_a_step(path: Path, tiny_data: Splits) -> None:
    """With every depth in place of its own: here they are all tiny."""
    if "/hydra/sweeper: optuna" in path.read_text():
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra: pip install -e '.[optuna]'")
    depths = {o.partition("=")[2] for job in arms(path) for o in job if o.startswith("model.depth=")}
    assert all((int(depth) - 2) % 6 == 0 for depth in depths)
    done = set()
    for job in {tuple(o for o in job if not o.startswith("model.depth=")) for job in arms(path)}:
        config = compose([f"sweep={path.stem}", *job, *TINY])
        if config.identity("float32") not in done:
            step(config, tiny_data)
        done.add(config.identity("float32"))


def test_the_default_is_the_papers_recipe() -> None:
    config = compose([])
    assert config.name() == "resnet20-A-cifar10-sgd-paper-crop_flip-seed0"
    model = config.model
    assert (model.depth, model.residual, model.width, model.init) == (20, True, 16, "he_fan_in")
    assert (config.schedule.steps, config.schedule.milestones, config.schedule.factor) == (64_000, [0.5, 0.75], 0.1)
    optimizer = {key: config.optimizer[key] for key in ("_target_", "lr", "momentum", "weight_decay")}
    assert optimizer == {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}
    assert (config.data.normalization, config.data.batch_size, config.data.validation) == ("pixel_mean", 128, 0)
    assert (config.augmentation.padding, config.augmentation.flip, config.augmentation.cutout) == (4, True, 0)
    assert (config.selection, config.early_stopping) == ("final", None)
    assert compose(["experiment=paper"]).identity("float32") == config.identity("float32")


def test_the_notebooks_recipe() -> None:
    """What test_notebook.py does not hold against Keras itself."""
    config = compose(["experiment=notebook"])
    assert (config.model.init, config.trainer.precision) == ("glorot", "float32")
    assert (config.optimizer["lr"], config.optimizer["momentum"]) == (0.1, 0.9)
    assert (config.data.normalization, config.data.batch_size) == ("pixel_standardize", 64)
    assert 50_000 // config.data.batch_size == 781
    assert config.schedule.steps % 781 == 0
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
