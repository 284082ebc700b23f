"""SGD in which every layer takes a step in proportion to its weights, however large its gradient is."""

from collections.abc import Callable
from typing import Any

import torch


class LARS(torch.optim.SGD):
    """Layer-wise scaling (You et al. 2017, arXiv 1708.03888): a weight tensor's gradient gets the norm of the weights.

    So `lr` is a step's relative length, the same in all layers. Weight decay is added unscaled; vectors (batch norm and
    biases) have no norm of note at the start and keep their gradients.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        fused: bool | None = None,
    ) -> None:
        super().__init__(params, lr, momentum, weight_decay=weight_decay, fused=fused)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        for p in (p for group in self.param_groups for p in group["params"]):
            if p.grad is not None and p.ndim > 1:
                p.grad.mul_(p.norm() / p.grad.norm().clamp(min=1e-12))  # no value is asked of the device
        return super().step(closure)
