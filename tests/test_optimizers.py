"""Weight decay's scopes, and the rate that every optimizer reads."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import get_object
from torch import nn
from torch.nn import functional as F

from ablation.config import targets
from ablation.config.schema import ROOT
from ablation.errors import UserError
from ablation.networks import shortcuts
from ablation.networks.resnet import Network
from ablation.training.lars import LARS
from ablation.training.optimizers import build_optimizer, decayed, fast_arguments, l2_penalty, load_state

CPU = torch.device("cpu")
OPTIMIZERS = sorted(path.stem for path in (ROOT / "conf" / "optimizer").glob("*.yaml"))


def network() -> Network:
    torch.manual_seed(0)
    return Network(8, shortcuts.projection)


def node(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "conf" / "optimizer" / f"{name}.yaml").read_text())


def backward(net: nn.Module, step: int = 0) -> None:
    """Leave the gradients of one batch in `net`."""
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(step))
    net.zero_grad()
    F.cross_entropy(net(images), torch.arange(8)).backward()


def assert_same_weights(one: nn.Module, other: nn.Module, rtol: float, atol: float) -> None:
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=rtol, atol=atol, msg=name)


@pytest.mark.parametrize("scope", ["all", "weights", "convolutions"])
def test_only_the_scope_decays(scope: str) -> None:
    """Without a gradient, a step of SGD moves what decays by lr * weight_decay * w, and nothing else."""
    net = network()
    every = {name for name, _ in net.named_parameters()}
    convolutions = {name for name in every if "conv" in name or name.endswith("downsample.0.weight")}
    assert len(convolutions) == 7 + 2
    decaying = {"all": every, "weights": convolutions | {"fc.weight"}, "convolutions": convolutions}[scope]
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    rate = torch.tensor(0.5)
    optimizer = build_optimizer(lambda groups: torch.optim.SGD(groups, lr=9.0, weight_decay=0.1), net, scope, rate)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in net.named_parameters():
        expected = before[name] * (1 - 0.5 * 0.1) if name in decaying else before[name]
        torch.testing.assert_close(p.detach(), expected, msg=name)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_reads_the_rate_from_the_tensor(name: str) -> None:
    """As built here, with a rate that changes between the steps, and as torch loops over parameters with a number."""
    given = node(name)
    constructor: Callable[..., torch.optim.Optimizer] = get_object(given["_target_"])
    ours, theirs, rate = network(), network(), torch.tensor(7.0)
    factory = targets.target("optimizer", given | fast_arguments(constructor, CPU), given=1)
    scope = given.get("weight_decay_scope", "all")
    optimizer = build_optimizer(factory, ours, scope, rate)

    plain = {k: v for k, v in given.items() if k not in ("name", "_target_", "weight_decay_scope")}
    if "foreach" in inspect.signature(constructor).parameters:
        plain["foreach"] = False
    decaying = decayed(theirs, scope)
    kept = [p for p in theirs.parameters() if all(p is not q for q in decaying)]
    groups = [{"params": decaying}, *([{"params": kept, "weight_decay": 0.0}] if kept else [])]
    reference = constructor(groups, **plain)

    for step, factor in enumerate([0.1, 0.1, 0.01, 0.05]):
        rate.fill_(factor * given["lr"])
        for group in reference.param_groups:
            group["lr"] = factor * given["lr"]
        for net, one in ((ours, optimizer), (theirs, reference)):
            backward(net, step)
            start = [p.detach().clone() for p in net.parameters()]
            one.step()
            assert any(not torch.equal(a, b) for a, b in zip(start, net.parameters(), strict=True))
        assert_same_weights(ours, theirs, rtol=1e-4, atol=1e-6)


def test_lars_steps_are_the_same_fraction_of_every_layers_weights() -> None:
    net, rate = network(), torch.tensor(0.02)
    optimizer = build_optimizer(lambda groups: LARS(groups, momentum=0.0), net, "all", rate)
    backward(net)
    gradients = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer.step()
    for name, p in net.named_parameters():
        length = 0.02 * before[name].norm() / gradients[name].norm() if p.ndim > 1 else 0.02
        torch.testing.assert_close(p.detach(), before[name] - length * gradients[name], msg=name)


def test_no_penalty_without_weight_decay() -> None:
    class Bare(torch.optim.Optimizer):
        def __init__(self, params: object, lr: float = 0.1) -> None:
            super().__init__(params, {"lr": lr})  # type: ignore[arg-type]

    assert l2_penalty(build_optimizer(Bare, network(), "all", torch.tensor(0.1))) == 0
    assert fast_arguments(Bare, torch.device("cuda")) == {}


def test_the_implementation_asked_for_on_each_device() -> None:
    sgd, adam, rmsprop = torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop
    cuda, mps = torch.device("cuda"), torch.device("mps")
    assert fast_arguments(sgd, CPU) == fast_arguments(adam, CPU) == fast_arguments(sgd, cuda) == {"fused": True}
    assert fast_arguments(adam, cuda) == {"fused": True, "capturable": True}
    assert fast_arguments(rmsprop, cuda) == {"capturable": True, "foreach": True}
    assert fast_arguments(rmsprop, CPU) == fast_arguments(adam, mps) == {}


@pytest.mark.parametrize("kind", ["Adam", "RMSprop"])
def test_a_run_of_a_gpu_goes_on_without_one(kind: str) -> None:
    """torch saves what a GPU's optimizer was asked for with its state, and refuses it elsewhere."""
    net, rate = network(), torch.tensor(0.1)
    optimizer = build_optimizer(getattr(torch.optim, kind), net, "all", rate)
    backward(net, 0)
    optimizer.step()
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        group |= {"capturable": True, "foreach": True}
    load_state(optimizer, saved, rate)
    backward(net, 1)
    optimizer.step()
    assert all(group["lr"] is rate and not group["capturable"] for group in optimizer.param_groups)


def test_a_target_inside_an_argument_is_not_built(tmp_path: Path) -> None:
    """A record's configuration may come from anywhere; only the target at the top is checked against conf/."""
    witness = tmp_path / "built"
    with pytest.raises(UserError, match=r"optimizer\.betas"):
        targets.target("optimizer", node("adam") | {"betas": {"_target_": "os.mkdir", "path": str(witness)}}, given=1)
    assert not witness.exists()
