"""Response and gradient sizes against a computation without hooks, from the state dict."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ablation.analysis import layers as diagnostics
from ablation.analysis.layers import gradient_norms, response_stds
from ablation.data import Images, Normalization
from ablation.networks import shortcuts
from ablation.networks.resnet import Network

NORMALIZATION = Normalization(torch.full((3, 1, 1), 0.4), torch.full((3, 1, 1), 0.3))


def some_images(count: int) -> Images:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(images, torch.randint(0, 10, (count,), generator=generator))


def some_network(residual: bool) -> Network:
    torch.manual_seed(1)
    net = Network(8, shortcuts.zero_padding if residual else None)
    for name, value in net.state_dict().items():
        if "bn" in name and value.is_floating_point():
            value.add_(torch.rand(value.shape) * 0.3)
    return net.train()


def walk(state: dict[str, Tensor], x: Tensor, residual: bool, training: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and each layer's response (after batch norm, before ReLU and sum), with functional calls alone."""
    responses = {}

    def layer(x: Tensor, conv: str, stride: int = 1) -> Tensor:
        bn = conv.replace("conv", "bn")
        y = F.conv2d(x, state[f"{conv}.weight"], stride=stride, padding=1)
        mean, var = state[f"{bn}.running_mean"], state[f"{bn}.running_var"]
        if training:
            mean, var = y.mean((0, 2, 3)), y.var((0, 2, 3), correction=0)
        scale = state[f"{bn}.weight"] / torch.sqrt(var + 1e-5)
        responses[conv] = (y - mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + state[f"{bn}.bias"].view(-1, 1, 1)
        return responses[conv]

    x = layer(x, "conv1").relu()
    for stage in (1, 2, 3):
        stride = 1 if stage == 1 else 2
        y = layer(layer(x, f"layer{stage}.0.conv1", stride).relu(), f"layer{stage}.0.conv2")
        if residual:
            padded = torch.zeros_like(y)
            padded[:, : x.shape[1]] = x[:, :, ::stride, ::stride]
            y = y + padded
        x = y.relu()
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"], responses


@pytest.mark.parametrize("residual", [True, False])
def test_response_stds(residual: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablation.training.evaluation.BATCH_ELSEWHERE", 7)  # several batches, the last one short
    monkeypatch.setattr(diagnostics, "RESPONSE_IMAGES", 17)
    net, images = some_network(residual), some_images(30)
    x = (images.images[:17].float() / 255 - 0.4) / 0.3
    _, responses = walk(net.state_dict(), x, residual, training=False)
    expected = {name: float(y.detach().std(correction=0)) for name, y in responses.items()}
    found = response_stds(net, images, NORMALIZATION)
    assert list(found) == list(expected)  # in network order
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("residual", [True, False])
def test_gradient_norms(residual: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "GRADIENT_IMAGES", 16)
    net, images = some_network(residual), some_images(30)
    state = {name: value.detach().clone() for name, value in net.state_dict().items()}
    convolutions = [name for name in state if "conv" in name]
    for name in convolutions:
        state[name].requires_grad_()
    x = (images.images[:16].float() / 255 - 0.4) / 0.3
    logits, _ = walk(state, x, residual, training=True)
    loss = -logits.log_softmax(1)[torch.arange(16), images.labels[:16]].mean()
    gradients = torch.autograd.grad(loss, [state[name] for name in convolutions])
    expected = {name[: -len(".weight")]: float(g.norm()) for name, g in zip(convolutions, gradients, strict=True)}
    found = gradient_norms(net, images, NORMALIZATION)
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, rel=1e-3)


def test_measuring_changes_nothing() -> None:
    net = some_network(True)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    random_state = torch.get_rng_state()
    response_stds(net, some_images(20), NORMALIZATION)
    gradient_norms(net, some_images(20), NORMALIZATION)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert net.training
    assert torch.equal(random_state, torch.get_rng_state())
    assert not any(module._forward_hooks for module in net.modules())
