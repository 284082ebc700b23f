"""From a configuration to what is trained: data set, network, optimizer, schedule and loop, from plain arguments."""

from typing import Any

import torch
from hydra.utils import get_object

from ablation import data
from ablation.config import targets
from ablation.config.schema import Config
from ablation.data.augmentation import Augmentation
from ablation.errors import UserError
from ablation.networks.resnet import Network
from ablation.training.cuda_graph import cuda_graph
from ablation.training.optimizers import build_optimizer, fast_arguments
from ablation.training.schedules import build_schedule
from ablation.training.step import Training


def load_data(config: Config) -> data.Splits:
    """The data set of `config`. Raises UserError for one that is absent, damaged or smaller than a batch."""
    splits = data.load(config.data.name, config.data_root, config.data.validation, config.data.split_seed)
    if config.data.batch_size > len(splits.train):
        allowed = f"must be at most the {len(splits.train)} training images"
        raise UserError("data.batch_size", config.data.batch_size, allowed)
    return splits


def build_network(config: Config, classes: int, device: torch.device) -> Network:
    """The network of `config` on `device`, freshly initialised from its seed."""
    arguments = vars(config.model).copy()
    shortcut = targets.target("shortcut", config.shortcut, given=3) if arguments.pop("residual") else None
    with torch.random.fork_rng(devices=[]):  # on the CPU: the same weights for every device, and no other run's draws
        torch.manual_seed(config.seed)
        network = Network(shortcut=shortcut, classes=classes, **arguments)
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def build_training(
    config: Config, splits: data.Splits, normalization: data.Normalization, device: torch.device, precision: str
) -> Training:
    """Network, optimizer, schedule and loop of `config`, freshly initialised from its seed."""
    network = build_network(config, len(splits.classes), device)
    schedule = build_schedule(lr=config.optimizer["lr"], device=device, **without_name(config.schedule))
    fast = fast_arguments(get_object(config.optimizer["_target_"]), device)
    if config.optimizer.get("foreach"):  # torch takes only one of the two
        fast.pop("fused", None)
    factory = targets.target("optimizer", fast | config.optimizer, given=1)
    optimizer = build_optimizer(factory, network, config.optimizer.get("weight_decay_scope", "all"), schedule.rate)
    augmentation = Augmentation(**without_name(config.augmentation))
    capture = cuda_graph if device.type == "cuda" else None
    images = splits.train, normalization, augmentation, config.data.batch_size
    strict, remainder = config.trainer.strict, config.data.remainder
    return Training(network, optimizer, schedule, *images, config.seed, precision, remainder, capture, strict)


def without_name(group: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(group).items() if key != "name"}
