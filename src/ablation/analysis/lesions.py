"""The test error of a trained network without one of its blocks (Veit et al. 2016, arXiv 1605.06431, Sec. 4.1).

Deleting a residual block leaves its shortcut and the ReLU behind the sum. A plain block is convolution, batch norm and
ReLU, twice; deleting it hands its input on to the next block, so only a block that keeps the shape can be deleted.

Notable: behind a deleted block the running statistics of the batch norms no longer fit. The error is therefore measured
again with statistics measured anew on training images, the weights as they are: what remains is the block's own loss.
"""

import copy
from typing import Any

import torch
from torch import nn

from ablation.analysis.layers import float32
from ablation.data import Images, Normalization
from ablation.networks.resnet import Block, Network
from ablation.training.evaluation import Evaluation, Evaluator, batches


def lesions(network: Network, train: Images, test: Images, normalization: Normalization) -> dict[str, Any]:
    """Test error (percent) without each of the blocks `deleted`, of which the first, "", is none.

    `errors` have batch norm's statistics as they are, `refitted` those of `train`; None: the block cannot be deleted.
    """
    names = ["", *(name for name, module in network.named_modules() if isinstance(module, Block))]
    found: list[tuple[float | None, float | None]] = []
    for name in names:
        twin = copy.deepcopy(network)
        if name and not delete(twin, name):
            found.append((None, None))
            continue
        error = evaluate(twin, test, normalization).error
        refit_batch_norm(twin, train, normalization)
        found.append((error, evaluate(twin, test, normalization).error))
    errors, refitted = map(list, zip(*found, strict=True))
    return {"images": len(test), "deleted": names, "errors": errors, "refitted": refitted}


def delete(network: Network, name: str) -> bool:
    """Delete the block of this name, in place; False, with nothing done, for a plain block that changes the shape."""
    block = network.get_submodule(name)
    assert isinstance(block, Block)
    if not block.residual and block.conv1.weight.shape != block.conv2.weight.shape:
        return False
    rest = nn.Sequential(block.downsample or nn.Identity(), nn.ReLU()) if block.residual else nn.Identity()
    network.set_submodule(name, rest)
    return True


def refit_batch_norm(network: nn.Module, images: Images, normalization: Normalization) -> None:
    """Give the batch norms the statistics of these images, the mean over batches; leaves evaluation mode behind."""
    for norm in (module for module in network.eval().modules() if isinstance(module, nn.BatchNorm2d)):
        norm.reset_running_stats()
        norm.momentum = None  # for torch, the mean over all batches since
        norm.train()
    with torch.no_grad(), float32():
        for batch, _ in batches(images, normalization.mean.device):
            network(normalization(batch))
    network.eval()


def evaluate(network: Network, images: Images, normalization: Normalization) -> Evaluation:
    """Loss and error in float32 and evaluation mode."""
    evaluator = Evaluator(network, images, normalization, torch.autocast("cpu", enabled=False))
    with float32():
        evaluator.run()
    return evaluator.result()
