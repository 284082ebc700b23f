"""SGD in which every layer takes a step in proportion to its weights, however large its gradient is."""

from collections.abc import Callable

import torch


class LARS(torch.optim.SGD):
    """Layer-wise scaling (You et al. 2017, arXiv 1708.03888): a weight tensor's gradient gets the norm of the weights.

    So `lr` is a step's relative length, the same in all layers. Weight decay is added unscaled; vectors (batch norm and
    biases) have no norm of note at the start and keep their gradients.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        for p in (p for group in self.param_groups for p in group["params"]):
            if p.grad is not None and p.ndim > 1:
                p.grad.mul_(p.norm() / p.grad.norm().clamp(min=1e-12))  # no value is asked of the device
        return super().step(closure)
