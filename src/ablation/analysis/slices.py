"""A slice of the training loss along a random, filter-normalised direction (Li et al. 2018, arXiv 1712.09913, Sec. 4).

The direction is Gaussian, and each of its filters (an output channel of a convolution, a row of the linear layer) is
scaled to the norm of the network's filter. As in the paper's code (`--xnorm filter --xignore biasbn`), batch norm's
weights and all biases stay where they are, in evaluation mode: the running statistics are the trained weights' all
along. Notable: nets with the same layers get the same Gaussian draws, plain and residual (option A) ones too.
"""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.linalg import vector_norm

from ablation.analysis.lesions import evaluate
from ablation.data import Images, Normalization
from ablation.networks.resnet import Network

SEED = 0
ALPHAS = np.linspace(-1, 1, 21).round(2).tolist()
"""Steps along the direction; one of 1 is as long as the weights."""


def loss_slice(network: Network, train: Images, test: Images, normalization: Normalization) -> dict[str, Any]:
    """Loss (nats; None if not finite) on `train` at each of `alphas`."""
    twin = copy.deepcopy(network)
    losses = [evaluate(twin, train, normalization).loss for _ in moves(twin)]
    finite = [loss if np.isfinite(loss) else None for loss in losses]
    return {"images": len(train), "seed": SEED, "alphas": ALPHAS, "losses": finite}


@torch.no_grad()
def moves(network: nn.Module) -> Iterator[float]:
    """Move the weights, in place, to each of ALPHAS along the direction."""
    generator = torch.Generator().manual_seed(SEED)
    lines = []  # each weight, where it starts, and where it goes
    for weight in (weight for weight in network.parameters() if weight.dim() > 1):
        drawn = torch.randn(weight.shape, generator=generator).to(weight.device)
        own, of_drawn = (vector_norm(one, dim=tuple(range(1, one.dim())), keepdim=True) for one in (weight, drawn))
        lines.append((weight, weight.clone(), drawn * own / of_drawn))
    for alpha in ALPHAS:
        for weight, origin, direction in lines:
            weight.copy_(origin + alpha * direction)
        yield alpha
