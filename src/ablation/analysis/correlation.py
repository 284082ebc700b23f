"""How alike the gradients at neighbouring inputs are, at initialisation (Balduzzi et al. 2017, arXiv 1702.08591).

In the paper's fully connected plain nets the gradient in the input becomes white noise with depth (L layers): its
correlation falls as 1/2^L, in residual ones with batch norm as 1/sqrt(L). Measured here is the cosine between a logit's
gradients in the pixels of an image and of the same image with a little noise: directions, no sizes. It can show which
net decorrelates faster, not those laws.

Notable: batch norm has the statistics of these images and keeps them, so that a logit depends on its own image alone.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ablation.analysis.layers import float32
from ablation.analysis.lesions import refit_batch_norm
from ablation.data import Images, Normalization
from ablation.networks.resnet import Network

IMAGES = 128
NOISE = 0.1
"""Standard deviation of the noise, as a share of that of the normalised pixels."""


def gradient_correlation(network: Network, train: Images, test: Images, normalization: Normalization) -> dict[str, Any]:
    """Mean cosine over the first IMAGES of `train`; `network` is a fresh one, and its running statistics change."""
    images = train[:IMAGES]
    refit_batch_norm(network, images, normalization)
    x = normalization(images.images.to(normalization.mean.device))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x.device)
    here, there = (input_gradients(network, pixels) for pixels in (x, x + NOISE * x.std() * noise))
    return {"images": len(x), "noise": NOISE, "cosine": float(F.cosine_similarity(here, there, dim=1).mean())}


def input_gradients(network: Network, x: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 3HW): the gradient of each image's first logit in its pixels, in evaluation mode."""
    pixels = x.clone().requires_grad_()
    with float32():
        (gradients,) = torch.autograd.grad(network(pixels)[:, 0].sum(), pixels)
    return gradients.flatten(1).double()  # whose squares may be below float32's smallest number
