"""The networks against torchvision's modules, hand-made tensors and the table of parameter counts."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock

from ablation.config import targets
from ablation.config.schema import ROOT
from ablation.networks import shortcuts
from ablation.networks.resnet import Network, layers_3x3, parameter_count

SHORTCUT_FILES = sorted((ROOT / "conf" / "shortcut").glob("*.yaml"))

PARAMETERS = {  # depth: plain and A, B, C
    20: (269_722, 272_474, 283_962),
    32: (464_154, 466_906, 489_594),
    44: (658_586, 661_338, 695_226),
    56: (853_018, 855_770, 900_858),
    110: (1_727_962, 1_730_714, 1_826_202),
    1202: (19_421_274, 19_424_026, 20_538_714),
}


class TorchvisionNet(nn.Module):
    """The paper's CIFAR network put together from torchvision's BasicBlock; `project` makes a block's downsample."""

    def __init__(self, depth: int, project: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks, before = (depth - 2) // 6, 16
        for number, (channels, stride) in enumerate([(16, 1), (32, 2), (64, 2)], start=1):
            downsample = None
            if project and stride == 2:
                downsample = nn.Sequential(nn.Conv2d(before, channels, 1, 2, bias=False), nn.BatchNorm2d(channels))
            first = BasicBlock(before, channels, stride, downsample)
            rest = [BasicBlock(channels, channels) for _ in range(blocks - 1)]
            setattr(self, f"layer{number}", nn.Sequential(first, *rest))
            before = channels
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights, batch-norm scales, shifts and running statistics: nothing is at its default."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in [
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
            ]:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data.copy_(torch.randn(module.weight.shape, generator=generator) * 0.1)
    return network


def random_images(count: int = 3, height: int = 32, width: int = 32) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("depth", PARAMETERS)
def test_parameter_counts_are_the_tables(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [None, shortcuts.zero_padding, shortcuts.projection, shortcuts.projection_everywhere]
    plain, a, b, c = PARAMETERS[depth][0], *PARAMETERS[depth]
    monkeypatch.setattr(nn.Conv2d, "reset_parameters", lambda self: None)  # counted, not drawn: 1,202 layers take long
    monkeypatch.setattr("ablation.networks.resnet.initialise", lambda module, init: None)
    with torch.device("meta"):
        counts = [parameter_count(Network(depth, kind)) for kind in kinds]
    assert counts == [plain, a, b, c]


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_option_b_is_torchvisions_blocks(mode: str) -> None:
    ours, theirs = Network(20, shortcuts.projection), randomised(TorchvisionNet(20, project=True))
    ours.load_state_dict(theirs.state_dict())  # strict: the names are torchvision's, all of them
    ours.train(mode == "train")
    theirs.train(mode == "train")
    x = random_images()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    for name, value in theirs.state_dict().items():  # in training mode: the running statistics move alike
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("zeros", "expected"),
    [
        ("end", [[[0, 2], [8, 10]], [[20, 22], [28, 30]], [[0, 0], [0, 0]], [[0, 0], [0, 0]]]),
        ("split", [[[0, 0], [0, 0]], [[0, 2], [8, 10]], [[20, 22], [28, 30]], [[0, 0], [0, 0]]]),
    ],
)
def test_option_a_by_hand(zeros: str, expected: list[list[list[int]]]) -> None:
    x = torch.stack([torch.arange(16.0).view(4, 4), torch.arange(20.0, 36.0).view(4, 4)])[None]
    module = shortcuts.zero_padding(2, 4, 2, zeros=zeros)
    assert module is not None
    assert module(x).tolist() == [expected]
    assert shortcuts.zero_padding(4, 4, 1, zeros=zeros) is None


@pytest.mark.parametrize("shortcut", [None, shortcuts.zero_padding], ids=["plain", "A"])
def test_plain_is_residual_without_the_sum(shortcut: shortcuts.Shortcut | None) -> None:
    """The sum before the last ReLU, or none."""
    net = randomised(Network(14, shortcut)).eval()
    expected = by_hand(net, random_images(), residual=shortcut is not None)
    torch.testing.assert_close(net(random_images()), expected, rtol=1e-5, atol=1e-5)


def by_hand(net: nn.Module, x: Tensor, residual: bool) -> Tensor:
    """The network from its state dict alone, in evaluation mode, with functional calls."""
    state = net.state_dict()

    def conv_bn(x: Tensor, conv: str, bn: str, stride: int = 1) -> Tensor:
        x = F.conv2d(x, state[f"{conv}.weight"], stride=stride, padding=1)
        mean, var, weight, bias = (
            state[f"{bn}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    x = conv_bn(x, "conv1", "bn1").clamp(min=0)
    blocks = sorted({name.rsplit(".", 2)[0] for name in state if name.startswith("layer")})
    for block in blocks:
        stride = 2 if block in ("layer2.0", "layer3.0") else 1
        y = conv_bn(x, f"{block}.conv1", f"{block}.bn1", stride).clamp(min=0)
        y = conv_bn(y, f"{block}.conv2", f"{block}.bn2")
        if residual:
            y[:, : x.shape[1]] += x[:, :, ::stride, ::stride]
        x = y.clamp(min=0)
    return x.mean(3).mean(2) @ state["fc.weight"].T + state["fc.bias"]


@pytest.mark.parametrize("path", SHORTCUT_FILES, ids=lambda path: path.stem)
def test_any_shortcut_file_builds_at_any_size(path: Path) -> None:
    shortcut = targets.target("shortcut", yaml.safe_load(path.read_text()), given=3)
    net = Network(14, shortcut, classes=7)
    assert len(layers_3x3(net)) == 13  # every 3x3 layer, none of the shortcut's
    for height, width in [(32, 32), (17, 15), (7, 10), (5, 5)]:
        logits = net(random_images(2, height, width))
        assert logits.shape == (2, 7)
        assert logits.isfinite().all()
    logits.sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_average_pooling_by_hand() -> None:
    """The notebook's shortcut skips no pixel: 2x2 means, then a 1x1 convolution and batch norm; odd edges alone."""
    module = shortcuts.average_pool_projection(1, 2, 2)
    assert [type(part) for part in module] == [nn.AvgPool2d, nn.Conv2d, nn.BatchNorm2d]
    assert (module[1].kernel_size, module[1].stride, module[1].bias) == ((1, 1), (1, 1), None)
    assert module[0](torch.arange(9.0).view(1, 1, 3, 3)).tolist() == [[[[2.0, 3.5], [6.5, 8.0]]]]
    assert shortcuts.average_pool_projection(16, 16, 1) is None


@pytest.mark.parametrize(("channels", "stride"), [(2, 1), (4, 2)])
def test_scaled_and_dropped_shortcuts_by_hand(channels: int, stride: int) -> None:
    """Half of option A; and option A with about half of its values lost, the others doubled, in training only."""
    x = torch.rand(8, 2, 16, 16, generator=torch.Generator().manual_seed(2)) + 1
    whole = torch.zeros(8, channels, 16 // stride, 16 // stride)
    whole[:, :2] = x[:, :, ::stride, ::stride]
    assert torch.equal(shortcuts.scaled(2, channels, stride)(x), whole / 2)
    module = shortcuts.dropout(2, channels, stride, rate=0.5)
    assert torch.equal(module.eval()(x), whole)
    torch.manual_seed(0)
    y = module.train()(x)
    assert torch.equal(y[y > 0], 2 * whole[y > 0])
    assert 0.4 < (y > 0).sum() / (whole > 0).sum() < 0.6  # of at least 1,024 values


@pytest.mark.parametrize("init", ["he_fan_in", "he_fan_out", "glorot"])
def test_initial_statistics(init: str) -> None:
    torch.manual_seed(0)
    net = Network(20, shortcuts.projection, init=init)
    for name, module in net.named_modules():
        if not isinstance(module, nn.Conv2d | nn.Linear) or module.weight.numel() < 500:
            continue
        weight, field = module.weight.data, module.weight[0, 0].numel()
        fan_in, fan_out = weight.shape[1] * field, weight.shape[0] * field
        variance = {"he_fan_in": 2 / fan_in, "he_fan_out": 2 / fan_out, "glorot": 2 / (fan_in + fan_out)}[init]
        n = weight.numel()
        # Mean and variance of n draws stray by about 1/sqrt(n) and sqrt(2/n); 5 of those are never seen in 20 layers.
        assert abs(weight.mean() / math.sqrt(variance)) < 5 / math.sqrt(n), name
        assert abs(weight.var() / variance - 1) < 5 * math.sqrt(2 / n), name
        if init == "glorot":  # uniform: bounded, and flatter than a normal distribution (kurtosis 1.8, not 3)
            assert weight.abs().max() <= math.sqrt(3 * variance)
        kurtosis = float((weight / weight.std()).pow(4).mean())
        assert abs(kurtosis - (1.8 if init == "glorot" else 3)) < 5 * math.sqrt(24 / n), name
    assert net.fc.bias.abs().max() == 0
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms)


def test_dirac_by_hand() -> None:
    """Where the channels agree: the identity, and He's draw of the same seed with every filter at length 0.1."""
    weights = []
    for init in ("he_fan_in", "dirac"):
        torch.manual_seed(0)
        weights.append({name: layer.weight.data for name, layer, _ in layers_3x3(Network(14, None, init=init))})
    for name, drawn in weights[0].items():
        if drawn.shape[0] == drawn.shape[1]:
            drawn = 0.1 * drawn / drawn.square().sum((1, 2, 3), keepdim=True).sqrt()
            drawn[range(len(drawn)), range(len(drawn)), 1, 1] += 1
        torch.testing.assert_close(weights[1][name], drawn, msg=name)


def test_same_seed_same_weights_plain_and_residual() -> None:
    """A has no parameters, so that plain and residual nets of one seed begin at the same point."""
    nets = []
    for shortcut in (None, shortcuts.zero_padding):
        torch.manual_seed(3)
        nets.append(Network(20, shortcut).state_dict())
    assert list(nets[0]) == list(nets[1]) == list(TorchvisionNet(20, project=False).state_dict())
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])


def test_batch_norm_arguments_reach_every_batch_norm() -> None:
    net = Network(8, shortcuts.average_pool_projection, batch_norm_momentum=0.01, batch_norm_eps=1e-3)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 7 + 2
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.01, 1e-3)}


@pytest.mark.parametrize("depth", [2, 7, 18])
def test_other_depths_are_refused(depth: int) -> None:
    with pytest.raises(ValueError, match="6n \\+ 2"):
        Network(depth, None)
