"""From a configuration to what is trained, by plain arguments: data set, network, optimizer, schedule, loop."""

import inspect

import torch
from hydra.utils import get_object

from ablation import data
from ablation.config import targets
from ablation.config.schema import Config
from ablation.data.augmentation import Augmentation
from ablation.errors import UserError
from ablation.networks.resnet import Network
from ablation.training import cuda_graph
from ablation.training.optimizers import build_optimizer, fast_arguments
from ablation.training.schedules import build_schedule
from ablation.training.step import Training


def load_data(config: Config) -> data.Splits:
    """The data set of `config`. Raises UserError if it cannot be had or is smaller than a batch."""
    splits = data.load(config.data.name, config.data_root, config.data.validation, config.data.split_seed)
    if config.data.batch_size > len(splits.train):
        allowed = f"must be at most the {len(splits.train)} training pictures"
        raise UserError("data.batch_size", config.data.batch_size, allowed)
    return splits


def build_network(config: Config, classes: int, device: torch.device) -> Network:
    """The network of `config` on `device`, freshly initialised from its seed."""
    model = config.model
    shortcut = targets.target("shortcut", config.shortcut, given=3) if model.residual else None
    with torch.random.fork_rng(devices=[]):  # on the CPU: the same weights for every device, and no other run's draws
        torch.manual_seed(config.seed)
        network = Network(
            model.depth,
            shortcut,
            classes=classes,
            width=model.width,
            init=model.init,  # type: ignore[arg-type]  # checked by config.problems
            batch_norm_momentum=model.batch_norm_momentum,
            batch_norm_eps=model.batch_norm_eps,
        )
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def build_training(
    config: Config, splits: data.Splits, normalization: data.Normalization, device: torch.device, precision: str
) -> Training:
    """Network, optimizer, schedule and loop of `config`, from plain arguments, freshly initialised from its seed."""
    optimizer = config.optimizer
    network = build_network(config, len(splits.classes), device)
    plan = {key: value for key, value in vars(config.schedule).items() if key not in ("name", "kind", "steps")}
    schedule = build_schedule(config.schedule.kind, optimizer["lr"], config.schedule.steps, device, **plan)
    names = set(inspect.signature(get_object(optimizer["_target_"])).parameters)
    factory = targets.target("optimizer", optimizer | fast_arguments(names, device), given=1)
    scope = optimizer.get("weight_decay_scope", "all")
    augmentation = Augmentation(**{key: v for key, v in vars(config.augmentation).items() if key != "name"})
    return Training(
        network,
        build_optimizer(factory, network, scope, schedule.rate),
        schedule,
        splits.train,
        normalization,
        augmentation,
        config.data.batch_size,
        config.seed,
        precision,
        cuda_graph.cuda_graph if device.type == "cuda" and not config.trainer.deterministic else None,
    )
