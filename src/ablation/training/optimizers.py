"""Optimizers: the scope of weight decay, and a learning rate that lives on the device.

The optimizer itself is any class that `conf/optimizer` names: `factory(parameter_groups, **arguments)`.
"""

import warnings
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
    # The steps before the capture are meant to be run uncaptured.
    warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
    use_rate(optimizer, rate)
    return optimizer


def use_rate(optimizer: Optimizer, rate: Tensor) -> None:
    """Make every group read `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def go_on_from(optimizer: Optimizer, state: dict[str, Any], rate: Tensor) -> None:
    """`load_state_dict`, by which the optimizer keeps its `rate`, and the implementation that its device asks for:
    a run that began on a GPU may go on without one, and the other way about.
    """
    kept = ("fused", "capturable", "foreach")
    groups = [
        saved | {name: own[name] for name in kept if name in own}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict(state | {"param_groups": groups})
    use_rate(optimizer, rate)


def fast_arguments(names: set[str], device: torch.device) -> dict[str, bool]:
    """Which of the optimizer's implementations to ask for, out of what its constructor (with arguments `names`) offers.

    Fused: one kernel for all parameters, its rate read from the device. Capturable: no host in the step either, without
    which torch refuses to capture it, fused or not; it is kept only by the implementation for many parameters at once
    (`foreach`), since the one for single parameters reads the rate's value.
    """
    wanted = ["fused"] if device.type in ("cpu", "cuda") else []
    if device.type == "cuda" and "capturable" in names:
        wanted += ["capturable"] if "fused" in names else ["capturable", "foreach"]
    return {name: True for name in wanted if name in names}


def l2_penalty(optimizer: Optimizer) -> Tensor:
    """1/2 weight_decay sum(w^2) over the decayed parameters: the loss term whose gradient is coupled weight decay.

    Zero for an optimizer without weight decay.
    """
    group = optimizer.param_groups[0]
    squares = [norm.square() for norm in torch._foreach_norm(group["params"])]
    return torch.stack(squares).sum() * (group.get("weight_decay", 0.0) / 2)
