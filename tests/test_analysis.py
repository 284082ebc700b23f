"""src/analyze.py: what each analysis measures, against networks worked out by hand; its file, its mistakes, its figures."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from records_factory import paper_study, write_all
from runs import cut_off, finish, folder_of, in_process, small
from torch import Tensor, nn

from ablation.analysis.correlation import gradient_correlation, input_gradients
from ablation.analysis.lesions import lesions, refit_batch_norm
from ablation.analysis.slices import ALPHAS, loss_slice, moves
from ablation.data import Images, Normalization
from ablation.networks.resnet import Network
from ablation.networks.shortcuts import zero_padding
from ablation.report import reporting
from ablation.report.evidence import read
from ablation.runs.record import analysis

AS_IT_IS = Normalization(torch.zeros(3, 1, 1), torch.ones(3, 1, 1))


def random_images(count: int) -> Images:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(images, torch.randint(10, (count,), generator=generator))


def by_hand(network: Network, without: str, x: Tensor) -> Tensor:
    """The logits of the network without a block, written down layer by layer."""
    x = network.bn1(network.conv1(x)).relu()
    for name, block in network.named_modules():
        if hasattr(block, "conv2"):
            y = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu())) if name != without else 0
            skip = 0 if not block.residual else x if block.downsample is None else block.downsample(x)
            x = x if name == without and not block.residual else (y + skip).relu()
    return network.fc(x.mean((2, 3)))
...
