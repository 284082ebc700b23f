"""Optimizers (any class that `conf/optimizer` names): the scope of weight decay, a learning rate on the device."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT


class KerasSGD(Optimizer):
    """Nesterov SGD as in Keras 2.15: v = momentum v - lr g, w += momentum v - lr g, with g = gradient + weight_decay w.

    The velocity holds lr g, where that of torch's SGD holds g. They differ after a change of the learning rate, for
    some 1 / (1 - momentum) steps: here the earlier gradients still move w at their old rate.
    """

    def __init__(self, params: ParamsT, lr: float, momentum: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step with the gradients that are there."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            velocity = [self.state[p].setdefault("velocity", torch.zeros_like(p)) for p in params]
            moves = torch._foreach_add([p.grad for p in params], params, alpha=group["weight_decay"])
            torch._foreach_mul_(moves, -group["lr"])  # a tensor, which torch's fused kernels read alike
            torch._foreach_mul_(velocity, group["momentum"])
            torch._foreach_add_(velocity, moves)
            torch._foreach_add_(params, moves)
            torch._foreach_add_(params, velocity, alpha=group["momentum"])


def decayed(network: nn.Module, scope: str) -> list[Tensor]:
    """The parameters that weight decay acts on.

    "all": every one, Caffe's default; "weights": those of convolutions and linear layers, no biases and no batch norm;
    "convolutions": convolution kernels only, as the notebook's kernel_regularizer.
    """
    if scope == "all":
        return list(network.parameters())
    kinds = nn.Conv2d if scope == "convolutions" else nn.Conv2d | nn.Linear
    return [module.weight for module in network.modules() if isinstance(module, kinds)]


def build_optimizer(factory: Callable[..., Optimizer], network: nn.Module, scope: str, rate: Tensor) -> Optimizer:
    """`factory` over two groups, one without decay; both read their learning rate from the tensor `rate`."""
    chosen = decayed(network, scope)
    ids = {id(p) for p in chosen}
    groups: list[dict[str, Any]] = [{"params": chosen}]
    if rest := [p for p in network.parameters() if id(p) not in ids]:
        groups.append({"params": rest, "weight_decay": 0.0})
    optimizer = factory(groups)
    # the first steps run uncaptured on purpose (`cuda_graph.Replayed`)
    warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")
    for group in optimizer.param_groups:
        group["lr"] = rate
    return optimizer


def load_state(optimizer: Optimizer, state: dict[str, Any], rate: Tensor) -> None:
    """`load_state_dict`, but keep `rate` and the implementation chosen for this device, which may be another one."""
    groups = [
        saved | {name: own[name] for name in ("fused", "capturable", "foreach") if name in own}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict(state | {"param_groups": groups})
    for group in optimizer.param_groups:
        group["lr"] = rate


def fast_arguments(constructor: Callable[..., Optimizer], device: torch.device) -> dict[str, bool]:
    """The arguments that choose the fastest implementation an optimizer has on `device`.

    `fused`: one kernel for all parameters, which reads the rate from the device. `capturable`: without it torch refuses
    to capture the step, fused or not. Unfused optimizers need `foreach` with it: the loop over single parameters reads
    the rate's value.
    """
    names = inspect.signature(constructor).parameters
    wanted = ["fused"] if device.type in ("cpu", "cuda") else []
    if device.type == "cuda" and "capturable" in names:
        wanted += ["capturable"] if "fused" in names else ["capturable", "foreach"]
    return {name: True for name in wanted if name in names}


def l2_penalty(optimizer: Optimizer) -> Tensor:
    """1/2 weight_decay sum(w^2) over the decayed parameters: the loss term whose gradient is coupled weight decay."""
    group = optimizer.param_groups[0]
    squares = [norm.square() for norm in torch._foreach_norm(group["params"])]
    return torch.stack(squares).sum() * (group.get("weight_decay", 0.0) / 2)
