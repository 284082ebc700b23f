"""The fused operation with the GPU's kernels in Triton's interpreter, on the CPU, against torch's batch norm.

Not collected by itself, because Triton reads TRITON_INTERPRET when it is imported; test_cuda_path.py runs it, by
`TRITON_INTERPRET=1 python -m pytest tests/interpreted_kernels.py`.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablation.networks import fused
from ablation.networks.gpu_kernels import BatchNormReLU
from ablation.networks.resnet import Network, norm_relu
from ablation.networks.shortcuts import projection, zero_padding


def relative(expected: Tensor, found: Tensor) -> float:
    expected, found = expected.detach().double(), found.detach().double()
    return float((expected - found).norm() / expected.norm().clamp(min=1e-9))


@pytest.mark.parametrize("shape", [(4, 6, 5), (3, 16, 16), (5, 64, 8), (2, 100, 3)], ids=str)
@pytest.mark.parametrize("has_skip", [False, True])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_against_batch_norm_in_float64(
    shape: tuple[int, ...], has_skip: bool, dtype: torch.dtype, bound: float
) -> None:
    """Output, gradients and running statistics; one program and several, blocks of channels full or not."""
    count, channels, side = shape
    generator = torch.Generator().manual_seed(1)
    x, skip, dy = torch.randn(3, count, channels, side, side, generator=generator).to(dtype)
    x = x * 3 + 2  # a mean that the moments must not lose
    results = []
    for kind, operation in ((torch.float64, norm_relu), (dtype, fused.fused_norm_relu)):
        norm = nn.BatchNorm2d(channels, momentum=0.3)
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(0.5, 2, channels))
            norm.bias.copy_(torch.linspace(-1, 1, channels))
        norm = norm.double() if kind is torch.float64 else norm
        inputs = [value.to(kind).requires_grad_() for value in ((x, skip) if has_skip else (x,))]
        y = operation(norm, *inputs)
        y.backward(dy.to(kind))
        assert y.dtype == kind
        results.append([y, *(value.grad for value in (*inputs, *norm.parameters())), *norm.buffers()])
    same = (results[0][0] > 0) == (results[1][0] > 0)  # where rounding moves a value across zero, the gradient jumps
    assert same.float().mean() > 0.99
    for expected, found in zip(*results, strict=True):
        assert relative(expected, found) < (bound if same.all() else 10 * bound)


@pytest.mark.parametrize("shortcut", [None, zero_padding, projection])
def test_a_fused_network_is_the_same_network(shortcut: Any) -> None:
    torch.manual_seed(0)
    network, twin = Network(8, shortcut, width=4), Network(8, shortcut, width=4)
    twin.load_state_dict(network.state_dict())
    fused.fuse(twin)
    x, labels = torch.randn(8, 3, 16, 16), torch.randint(10, (8,))
    for one in (network, twin):
        F.cross_entropy(one(x), labels).backward()
    assert list(twin.state_dict()) == list(network.state_dict())
    for (name, a), b in zip(network.named_parameters(), twin.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert relative(a.grad, b.grad) < 1e-4, name
    for name, value in network.state_dict().items():
        assert torch.allclose(value.float(), twin.state_dict()[name].float(), atol=1e-5), name


def test_nan_stays_nan() -> None:
    x = torch.randn(2, 4, 3, 3)
    x[1, 2, 0, 0] = torch.nan
    assert fused.fused_norm_relu(nn.BatchNorm2d(4), x)[:, 2].isnan().all()


@pytest.mark.parametrize("fault", [None, "forward", "backward", "nan"])
def test_kernels_that_compute_something_else_are_found(monkeypatch: pytest.MonkeyPatch, fault: str | None) -> None:
    """Every run on a GPU compares its kernels with torch's operations first."""
    real_forward, real_backward = BatchNormReLU.forward, BatchNormReLU.backward

    def forward(*arguments: Any) -> Any:
        return real_forward(*arguments) * {"forward": 1.01, "nan": torch.nan}.get(fault or "", 1)

    def backward(*arguments: Any) -> Any:
        dx, *others = real_backward(*arguments)
        dx[0, 3] *= 2 if fault == "backward" else 1  # one channel of one image
        return dx, *others

    monkeypatch.setattr(BatchNormReLU, "forward", staticmethod(forward))
    monkeypatch.setattr(BatchNormReLU, "backward", staticmethod(backward))
    if fault is None:
        fused.check_kernels(torch.device("cpu"))
    else:
        with pytest.raises(RuntimeError, match="differ"):
            fused.check_kernels(torch.device("cpu"))
