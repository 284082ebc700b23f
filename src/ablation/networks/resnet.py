"""The CIFAR-10 networks of He et al. 2015 (arXiv 1512.03385, Sec. 4.2): plain and residual, of any depth 6n + 2.

A 3x3 convolution with `width` (16) channels; three stages of 2n layers with width, 2 width and 4 width channels, the
first layer of stages 2 and 3 with stride 2; global average pooling; a linear layer. Batch norm after every convolution,
ReLU after it; in a residual block the sum comes before the last ReLU. The plain net is the same net without the sum.

The names in the state dict are those of torchvision's ResNet (`conv1`, `bn1`, `layer1.0.conv1`, ...,
`layer2.0.downsample.0`, ..., `fc`). Images may have any size.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablation.networks.shortcuts import Shortcut

Init = Literal["he_fan_in", "he_fan_out", "glorot", "dirac"]
Padding = Literal["both", "end"]


def norm_relu(norm: nn.BatchNorm2d, x: Tensor, skip: Tensor | None = None) -> Tensor:
    """ReLU of the batch norm of `x`, plus a shortcut's output; `networks.fused` replaces it on a GPU."""
    y = norm(x)
    return F.relu(y if skip is None else y + skip, inplace=True)  # nothing else reads its input; `norm` keeps its own


class EndPadded(nn.Conv2d):
    """A 3x3 convolution of stride 2 with Keras' `same` padding: one pixel of zeros, at an even side's end alone."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return super().forward(F.pad(x, (width % 2, 1, height % 2, 1)))


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm, and around them a shortcut unless `shortcut` is None (a plain block)."""

    norm_relu = staticmethod(norm_relu)

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, shortcut: Shortcut | None, padding: Padding = "both"
    ) -> None:
        super().__init__()
        at_end = stride == 2 and padding == "end"
        first = EndPadded if at_end else nn.Conv2d
        self.conv1 = first(in_channels, out_channels, 3, stride, padding=0 if at_end else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.residual = shortcut is not None
        self.downsample = shortcut(in_channels, out_channels, stride) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        y = self.norm_relu(self.bn1, self.conv1(x))
        skip = None if not self.residual else x if self.downsample is None else self.downsample(x)
        return self.norm_relu(self.bn2, self.conv2(y), skip)


class Network(nn.Module):
    """A plain net (`shortcut=None`) or a residual net of `depth` layers with weights: 6n + 2.

    `init` draws convolution and linear weights from torch's global generator: "he_fan_in" is the paper's (He et al.
    2015b, arXiv 1502.01852, eq. 10), "he_fan_out" its equally good backward form (eq. 14), "glorot" Keras' default,
    uniform, "dirac" DiracNets' (`make_dirac`). Biases are zero. `padding` "end" is Keras' at stride 2. Raises
    ValueError for a depth that is not 6n + 2.
    """

    norm_relu = staticmethod(norm_relu)

    def __init__(
        self,
        depth: int,
        shortcut: Shortcut | None,
        classes: int = 10,
        width: int = 16,
        init: Init = "he_fan_in",
        batch_norm_momentum: float = 0.1,
        batch_norm_eps: float = 1e-5,
        padding: Padding = "both",
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6n + 2 and at least 8, not {depth}")
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks = (depth - 2) // 6
        self.layer1 = stage(width, width, 1, blocks, shortcut, padding)
        self.layer2 = stage(width, 2 * width, 2, blocks, shortcut, padding)
        self.layer3 = stage(2 * width, 4 * width, 2, blocks, shortcut, padding)
        self.fc = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                initialise(module, init)
            elif isinstance(module, nn.BatchNorm2d):
                module.momentum, module.eps = batch_norm_momentum, batch_norm_eps

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) normalised images -> (N, classes) logits."""
        x = self.norm_relu(self.bn1, self.conv1(x))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean(dim=(2, 3)))


def stage(
    in_channels: int, out_channels: int, stride: int, blocks: int, shortcut: Shortcut | None, padding: Padding
) -> nn.Sequential:
    first = Block(in_channels, out_channels, stride, shortcut, padding)
    return nn.Sequential(first, *(Block(out_channels, out_channels, 1, shortcut) for _ in range(1, blocks)))


def initialise(module: nn.Conv2d | nn.Linear, init: Init) -> None:
    if init == "glorot":
        nn.init.xavier_uniform_(module.weight)
    else:
        nn.init.kaiming_normal_(module.weight, mode="fan_out" if init == "he_fan_out" else "fan_in")
    if init == "dirac" and isinstance(module, nn.Conv2d) and module.in_channels == module.out_channels:
        make_dirac(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


@torch.no_grad()
def make_dirac(kernel: Tensor) -> None:
    """Replace a drawn kernel by the identity plus 0.1 times itself with every filter at length 1: almost a shortcut.

    What DiracNets start with (Zagoruyko & Komodakis 2017, arXiv 1706.00388, Sec. 3: a = 1, b = 0.1), though a and b are
    no parameters here. Layers that change the number of channels have no identity and keep He's draw.
    """
    drawn = F.normalize(kernel.flatten(1)).view_as(kernel)
    nn.init.dirac_(kernel).add_(drawn, alpha=0.1)


def layers_3x3(network: nn.Module) -> list[tuple[str, nn.Conv2d, nn.BatchNorm2d]]:
    """The 3x3 convolutions in network order, each with the batch norm behind it: the layers of the paper's Figure 7."""
    modules: dict[str, nn.Module] = dict(network.named_modules())
    return [
        (name, module, modules[name.replace("conv", "bn")])  # type: ignore[misc]  # `bn` names batch norms
        for name, module in modules.items()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and "downsample" not in name
    ]


def parameter_count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
