"""Optimizers: the scope of weight decay, and a learning rate that lives on the device.

The optimizer itself is any class that `conf/optimizer` names: `factory(parameter_groups, **arguments)`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def decayed(network: nn.Module, scope: str) -> list[nn.Parameter]:
    """The parameters that weight decay acts on.

    "all": every one, as Caffe's solver does unless told otherwise; "weights": those of convolutions and linear layers,
    no biases and no batch norm; "convolutions": convolution kernels only, as the notebook's kernel_regularizer.
    """
    kinds: dict[str, tuple[type[nn.Module], ...]] = {"weights": (nn.Conv2d, nn.Linear), "convolutions": (nn.Conv2d,)}
    if scope == "all":
        return list(network.parameters())
    chosen = [module for module in network.modules() if isinstance(module, kinds[scope])]
    return [parameter for module in chosen for name, parameter in module.named_parameters() if name == "weight"]


def build_optimizer(factory: Callable[..., Optimizer], network: nn.Module, scope: str, rate: Tensor) -> Optimizer:
    """`factory` over two groups, one without decay; both read their learning rate from the tensor `rate`."""
    chosen = decayed(network, scope)
    ids = {id(p) for p in chosen}
    groups: list[dict[str, Any]] = [{"params": chosen}]
    if rest := [p for p in network.parameters() if id(p) not in ids]:
        groups.append({"params": rest, "weight_decay": 0.0})
    optimizer = factory(groups)
    use_rate(optimizer, rate)
    return optimizer


def use_rate(optimizer: Optimizer, rate: Tensor) -> None:
    """Make every group read `rate`; needed again after `load_state_dict`, which puts copies in its place."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def fast_arguments(names: set[str], device: torch.device) -> dict[str, bool]:
    """Which of the optimizer's implementations to ask for, out of what its constructor (with arguments `names`) offers.

    Fused: one kernel for all parameters, its rate read from the device. Capturable: no host in the step either.
    """
    if "fused" in names and device.type in ("cpu", "cuda"):
        return {"fused": True}
    return {"capturable": True} if "capturable" in names and device.type == "cuda" else {}


def l2_penalty(optimizer: Optimizer) -> Tensor:
    """1/2 weight_decay sum(w^2) over the decayed parameters: the loss term whose gradient is coupled weight decay.

    Zero for an optimizer without weight decay.
    """
    group = optimizer.param_groups[0]
    squares = [norm.square() for norm in torch._foreach_norm(group["params"])]
    return torch.stack(squares).sum() * (group.get("weight_decay", 0.0) / 2)
