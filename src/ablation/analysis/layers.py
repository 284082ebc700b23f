"""What Figure 7 and Section 4.1 of He et al. 2015 look at: the size of each layer's response and of its gradient.

Both are measured in float32 (no TF32 on a GPU), on a copy of the network, so that measuring changes nothing.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablation.data import Images, Normalization
from ablation.networks.fused import plain_copy
from ablation.networks.resnet import layers_3x3
from ablation.training.evaluation import batches

RESPONSE_IMAGES = 2000
GRADIENT_IMAGES = 256

float32 = partial(torch.backends.cudnn.flags, enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
"""A context with convolutions as exact as float32 allows, and the same at every call."""


def response_stds(network: nn.Module, train: Images, normalization: Normalization) -> dict[str, float]:
    """Layer name -> standard deviation of its response: after batch norm, before ReLU and addition (Figure 7).

    In evaluation mode, on the first RESPONSE_IMAGES training images, not augmented.
    """
    twin = plain_copy(network).eval()
    moments: dict[str, Tensor] = {}  # count, sum and sum of squares

    def add_to(name: str, output: Tensor) -> None:
        # torch adds up in pairs, so float32 is exact to 1e-7; in float64 this took as long as the forward pass
        added = [output.numel(), float(output.sum()), float(output.square().sum())]
        moments[name] = moments.get(name, 0) + torch.tensor(added, dtype=torch.float64)

    for name, _, norm in layers_3x3(twin):
        norm.register_forward_hook(lambda _module, _inputs, output, name=name: add_to(name, output))
    with torch.no_grad(), float32():
        for batch, _ in batches(train[:RESPONSE_IMAGES], normalization.mean.device):
            twin(normalization(batch))
    return {
        name: float((squares / count - (total / count) ** 2).clamp(min=0).sqrt())
        for name, (count, total, squares) in moments.items()
    }


def gradient_norms(network: nn.Module, train: Images, normalization: Normalization) -> dict[str, float]:
    """Layer name -> L2 norm of the loss's gradient in its weights, on the first GRADIENT_IMAGES training images.

    In training mode, as the optimizer sees it. Section 4.1: with batch norm the gradients of plain nets do not vanish.
    """
    twin = plain_copy(network).train()
    twin.zero_grad()
    (images, labels), *_ = batches(train[:GRADIENT_IMAGES], normalization.mean.device)
    with torch.random.fork_rng(devices=[]), float32():
        torch.default_generator.manual_seed(0)  # for dropout in a user's own shortcut: the same at start and end
        F.cross_entropy(twin(normalization(images)), labels).backward()
    layers = [(name, convolution.weight.grad) for name, convolution, _ in layers_3x3(twin)]
    return {name: float(gradient.norm()) for name, gradient in layers if gradient is not None}
