"""Weight decay's scopes, the rate that every optimizer reads, and the notebook's L2 term."""

import inspect
from pathlib import Path

import pytest
import torch
import yaml
from hydra.utils import get_object
from torch import Tensor, nn
from torch.nn import functional as F

from ablation.config import targets
from ablation.config.schema import ROOT
from ablation.errors import UserError
from ablation.networks import shortcuts
from ablation.networks.resnet import Network
from ablation.training.optimizers import build_optimizer, decayed, fast_arguments, go_on_from, l2_penalty, use_rate

CPU = torch.device("cpu")
OPTIMIZERS = sorted(path.stem for path in (ROOT / "conf" / "optimizer").glob("*.yaml"))


def network() -> Network:
    torch.manual_seed(0)
    return Network(8, shortcuts.projection)


def node(name: str) -> dict[str, object]:
    return yaml.safe_load((ROOT / "conf" / "optimizer" / f"{name}.yaml").read_text())


def backward(net: nn.Module, step: int = 0) -> Tensor:
    """Leave the gradients of one batch in `net`, with a loss that does not depend on chance."""
    generator = torch.Generator().manual_seed(step)
    images, labels = torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8)
    net.zero_grad()
    loss = F.cross_entropy(net(images), labels)
    loss.backward()
    return loss.detach()


def names(net: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    ids = {id(p) for p in parameters}
    return {name for name, p in net.named_parameters() if id(p) in ids}


def test_scopes() -> None:
    net = network()
    every = {name for name, _ in net.named_parameters()}
    convolutions = {n for n in every if "conv" in n or n.endswith("downsample.0.weight")}
    assert len(convolutions) == 7 + 2
    assert names(net, decayed(net, "all")) == every
    assert names(net, decayed(net, "weights")) == convolutions | {"fc.weight"}
    assert names(net, decayed(net, "convolutions")) == convolutions
    for parameters in (decayed(net, scope) for scope in ("all", "weights", "convolutions")):
        assert len({id(p) for p in parameters}) == len(parameters)


@pytest.mark.parametrize("scope", ["all", "weights", "convolutions"])
def test_only_the_scope_decays(scope: str) -> None:
    """Without a gradient, a step of SGD moves what decays by lr * weight_decay * w, and nothing else."""
    net = network()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    rate = torch.tensor(0.5)
    optimizer = build_optimizer(lambda groups: torch.optim.SGD(groups, lr=9.0, weight_decay=0.1), net, scope, rate)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    chosen = names(net, decayed(net, scope))
    for name, p in net.named_parameters():
        expected = before[name] * (1 - 0.5 * 0.1) if name in chosen else before[name]
        torch.testing.assert_close(p.detach(), expected, msg=name)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_reads_the_rate_and_steps_as_torchs_plain_loop(name: str) -> None:
    """Fused or not, with the rate in a tensor that changes between the steps, against torch's loop over parameters."""
    given = node(name)
    constructor = get_object(str(given["_target_"]))
    accepted = set(inspect.signature(constructor).parameters)
    ours, theirs, rate = network(), network(), torch.tensor(7.0)
    fast = fast_arguments(accepted, CPU)
    factory = targets.target("optimizer", given | fast, given=1)
    scope = str(given["weight_decay_scope"])
    optimizer = build_optimizer(factory, ours, scope, rate)

    plain = {k: v for k, v in given.items() if k not in ("name", "_target_", "weight_decay_scope")}
    decaying = decayed(theirs, scope)
    kept = [p for p in theirs.parameters() if all(p is not q for q in decaying)]
    groups = [{"params": decaying}] + ([{"params": kept, "weight_decay": 0.0}] if kept else [])
    reference = constructor(groups, **plain, foreach=False)

    for step, lr in enumerate([0.1, 0.1, 0.01, 0.05]):
        rate.fill_(lr * float(given["lr"]))  # type: ignore[arg-type]
        for group in reference.param_groups:
            group["lr"] = lr * float(given["lr"])  # type: ignore[arg-type]
        backward(ours, step)
        backward(theirs, step)
        start = [p.detach().clone() for p in ours.parameters()]
        optimizer.step()
        reference.step()
        assert any(not torch.equal(a, b) for a, b in zip(start, ours.parameters(), strict=True))
        for (label, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6, msg=f"step {step}, {label}")

    rate.zero_()
    start = [p.detach().clone() for p in ours.parameters()]
    backward(ours)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(start, ours.parameters(), strict=True)), "a rate of zero moves nothing"


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
def test_the_rate_survives_a_state_dict(name: str) -> None:
    """load_state_dict puts a copy in the rate's place; use_rate mends that."""
    given, rate = node(name), torch.tensor(0.1)
    factory = targets.target("optimizer", given, given=1)
    net = network()
    optimizer = build_optimizer(factory, net, "all", rate)
    backward(net)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    use_rate(optimizer, rate)
    assert all(group["lr"] is rate for group in optimizer.param_groups)


def test_the_notebooks_l2_is_a_loss_term() -> None:
    """1e-4 sum(w^2) on convolution kernels in the loss, as Keras adds it, is torch's weight_decay of 2e-4 there."""
    given = node("nesterov")
    ours, theirs, rate = network(), network(), torch.tensor(0.1)
    factory = targets.target("optimizer", given, given=1)
    optimizer = build_optimizer(factory, ours, str(given["weight_decay_scope"]), rate)
    reference = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, nesterov=True, foreach=False)
    for step in range(3):
        kernels = [m.weight for m in theirs.modules() if isinstance(m, nn.Conv2d)]
        term = 1e-4 * sum((w**2).sum() for w in kernels)
        torch.testing.assert_close(l2_penalty(optimizer), term.detach(), rtol=1e-5, atol=0)
        backward(ours, step)
        backward(theirs, step)
        term.backward()  # adds its gradient to the one of the loss
        optimizer.step()
        reference.step()
        for (label, p), q in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
            torch.testing.assert_close(p, q[1], rtol=1e-5, atol=1e-7, msg=f"step {step}, {label}")


def test_no_penalty_without_weight_decay() -> None:
    class Bare(torch.optim.Optimizer):
        def __init__(self, params: object, lr: float = 0.1) -> None:
            super().__init__(params, {"lr": lr})  # type: ignore[arg-type]

    assert l2_penalty(build_optimizer(Bare, network(), "all", torch.tensor(0.1))) == 0


def test_what_is_asked_of_each_device() -> None:
    sgd, adam, rmsprop = ({*inspect.signature(getattr(torch.optim, kind)).parameters} for kind in KINDS)
    cuda, mps = torch.device("cuda"), torch.device("mps")
    assert fast_arguments(sgd, CPU) == fast_arguments(adam, CPU) == fast_arguments(sgd, cuda) == {"fused": True}
    assert fast_arguments(adam, cuda) == {"fused": True, "capturable": True}
    assert fast_arguments(rmsprop, cuda) == {"capturable": True, "foreach": True}
    assert fast_arguments(rmsprop, CPU) == fast_arguments({"lr"}, cuda) == fast_arguments(adam, mps) == {}


@pytest.mark.parametrize("kind", ["Adam", "RMSprop"])
def test_a_run_of_a_gpu_goes_on_without_one(kind: str) -> None:
    """What a GPU's optimizer was asked for is saved with its state, and torch refuses it elsewhere."""
    ours, rate = network(), torch.tensor(0.1)
    optimizer = build_optimizer(getattr(torch.optim, kind), ours, "all", rate)
    backward(ours, 0)
    optimizer.step()
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        group |= {"capturable": True, "foreach": True}
    go_on_from(optimizer, saved, rate)
    backward(ours, 1)
    optimizer.step()
    assert all(group["lr"] is rate and not group["capturable"] for group in optimizer.param_groups)


KINDS = ("SGD", "Adam", "RMSprop")


def test_a_target_inside_an_argument_is_not_built(tmp_path: Path) -> None:
    """A record's configuration may come from anywhere; only the target at the top is checked against conf/."""
    witness = tmp_path / "built"
    inner = {"_target_": "pathlib.Path.touch", "self": str(witness)}
    nested = node("adam") | {"betas": {"_target_": "os.mkdir", "path": str(witness)}}
    for betas in (nested["betas"], inner):
        with pytest.raises(UserError, match=r"optimizer\.betas"):
            targets.target("optimizer", node("adam") | {"betas": betas}, given=1)
    assert not witness.exists()
