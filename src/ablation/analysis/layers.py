"""What Figure 7 and Section 4.1 of He et al. 2015 look at: the size of each layer's response and of its gradient.

All of it is measured in float32 (no TF32 on a GPU) on a copy of the network, so that measuring changes nothing.
"""

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablation.data import Images, Normalization
from ablation.networks.fused import plain_copy
from ablation.networks.resnet import layers_3x3
from ablation.training.evaluation import batches

RESPONSE_IMAGES = 2000
"""The first training pictures, over which the responses' standard deviations are taken."""

GRADIENT_IMAGES = 256
"""The first training pictures: the fixed batch on which the gradients are taken."""


def response_stds(network: nn.Module, train: Images, normalization: Normalization) -> dict[str, float]:
    """Layer name -> standard deviation of its response: after batch norm, before ReLU and addition (Figure 7).

    In evaluation mode, on the first 2,000 un-augmented training pictures.
    """
    twin = plain_copy(network).eval()
    totals: dict[str, list[Tensor]] = {}
    nothing = [torch.tensor(0)] * 3

    def note(name: str) -> None:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            # torch adds up in pairs, so float32 is exact to 1e-7; in float64 this took as long as the forward pass
            moments = [torch.tensor(output.numel()), *(one.sum().cpu().double() for one in (output, output.square()))]
            totals[name] = [a + b for a, b in zip(totals.get(name, nothing), moments, strict=True)]

        norms[name].register_forward_hook(hook)

    norms = {name: norm for name, _, norm in layers_3x3(twin)}
    for name in norms:
        note(name)
    with torch.no_grad(), float32():
        for batch, _ in batches(train[:RESPONSE_IMAGES], normalization.mean.device):
            twin(normalization(batch))
    stds = {}
    for name, (count, total, squares) in totals.items():
        stds[name] = float((squares / count - (total / count) ** 2).clamp(min=0).sqrt())
    return stds


def gradient_norms(network: nn.Module, train: Images, normalization: Normalization) -> dict[str, float]:
    """Layer name -> L2 norm of the loss's gradient in its weights, on the first 256 un-augmented training pictures.

    In training mode, as the optimizer sees it. Section 4.1: with batch norm the gradients of plain nets do not vanish.
    """
    twin = plain_copy(network).train()
    twin.zero_grad()
    (images, labels), *_ = batches(train[:GRADIENT_IMAGES], normalization.mean.device)
    with torch.random.fork_rng(devices=[]), float32():
        torch.default_generator.manual_seed(0)  # for dropout in a user's own shortcut: the same at start and end
        F.cross_entropy(twin(normalization(images)), labels).backward()
    norms = {}
    for name, convolution, _ in layers_3x3(twin):
        assert convolution.weight.grad is not None
        norms[name] = float(convolution.weight.grad.norm())
    return norms


def float32() -> AbstractContextManager[None]:
    """Convolutions as exact as the format, and the same at every call."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
