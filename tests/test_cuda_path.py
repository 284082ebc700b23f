"""What a GPU would be asked to do, on a machine without one: torch's fake tensors have a device and a shape, no values.

As on a GPU, an operation on tensors of two devices is an error, and so is asking for a value. What kernels compute, and
what a capture refuses beyond that, only a GPU can show.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from inspect import signature
from typing import Any

import pytest
import torch
from hydra.utils import get_object
from test_speed import small, splits, training_of
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ablation.config.schema import ROOT
from ablation.networks import fused
from ablation.networks.resnet import Network
from ablation.training.optimizers import fast_arguments

CUDA = torch.device("cuda:0")
CHOICES = {
    group: [f"{group}={path.stem}" for path in sorted((ROOT / "conf" / group).glob("*.yaml"))]
    for group in ("optimizer", "schedule", "augmentation", "shortcut")
}
EVERYTHING = [choice for group in CHOICES.values() for choice in group]


def move(network: Network, device: torch.device, **_: object) -> Network:
    """`nn.Module.to`, which cannot swap fake parameters."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            module._parameters[name] = torch.nn.Parameter(parameter.detach().to(device))
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)
    return network


def one_device(*arguments: Any, **named: Any) -> None:
    """Replaces a fused optimizer, which has no fake: all that it is given is on the GPU."""
    for value in (*arguments, *named.values()):
        for tensor in value if isinstance(value, list) else [value]:
            assert not isinstance(tensor, Tensor) or tensor.device == CUDA


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(Network, "to", move)
    # autocast asks for the driver
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    for name in ("_fused_sgd_", "_fused_adam_", "_fused_adamw_"):
        monkeypatch.setattr(torch, name, one_device)
    with FakeTensorMode(allow_non_fake_inputs=True):
        try:
            torch.zeros(2, device=CUDA)[0].clone()
        except RuntimeError as error:  # torch 2.6
            pytest.skip(f"fake tensors of this torch need a driver: {str(error).splitlines()[0]}")
        yield


@pytest.mark.parametrize(
    "choice",
    # trivial_augment groups its operations by their values, on the CPU, where fake tensors have none either
    [*(choice for choice in EVERYTHING if choice != "augmentation=trivial_augment"), "model.residual=false"],
)
def test_steps_and_an_evaluation_stay_on_the_gpu(fake: None, monkeypatch: pytest.MonkeyPatch, choice: str) -> None:
    training = training_of(small(choice), "bfloat16", CUDA)

    def backward(_loss: Tensor) -> None:  # autograd's engine wants the driver
        for parameter in training.network.parameters():
            parameter.grad = torch.zeros_like(parameter)

    monkeypatch.setattr(Tensor, "backward", backward)
    dtypes: list[torch.dtype] = []
    training.network.conv1.register_forward_hook(lambda _module, _inputs, output: dtypes.append(output.dtype))
    training.begin_epoch()
    for _ in range(2):  # an optimizer makes its state in the first
        training.device_step()
    training.begin_evaluation(splits().test)
    assert set(dtypes) == {torch.bfloat16}
    assert {parameter.device for parameter in training.network.parameters()} == {CUDA}
    state = training.optimizer.state_dict()["state"]
    assert {value.device for one in state.values() for value in one.values() if value is not None} <= {CUDA}


def test_a_fake_gpu_finds_both_mistakes(fake: None) -> None:
    """The check itself: a tensor on another device, and a question to the device."""
    there = torch.zeros(4, device=CUDA)
    with pytest.raises(RuntimeError, match="devices"):
        there + torch.zeros(4)
    with pytest.raises(DataDependentOutputException):
        there.sum().item()


# From torch's documentation of use_deterministic_algorithms (2.6 to 2.15): what has no deterministic form on CUDA.
NEVER_DETERMINISTIC = re.compile(
    r"avg_pool3d_backward|_?adaptive_avg_pool[23]d_backward|adaptive_max_pool[23]d_backward|max_unpool.*"
    r"|fractional_max_pool.*|_?upsample_.*linear.*_backward|_?upsample_bicubic.*_backward|reflection_pad.*_backward"
    r"|replication_pad.*_backward|max_pool3d.*_backward|nll_loss2d.*|_ctc_loss.*|_cudnn_ctc_loss.*|_embedding_bag.*"
    r"|put_?|histc|bincount|median|kthvalue|grid_sampler_.*_backward|scatter_reduce_?"
)


class Operations(TorchDispatchMode):
    """Collects the name of each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("choice", EVERYTHING)
def test_the_reference_asks_for_nothing_that_cuda_cannot_repeat(choice: str) -> None:
    """Else a GPU would refuse the step, or not resume bit-identically. Traced on the CPU, backward as well."""
    training = training_of(small("trainer=reference", choice))
    with Operations() as operations:
        training.take_step()
        training.evaluate(splits().test)
    assert {"convolution_backward", "nll_loss_backward"} <= operations.names
    assert [name for name in sorted(operations.names) if NEVER_DETERMINISTIC.fullmatch(name)] == []


@pytest.mark.parametrize("optimizer", CHOICES["optimizer"])
def test_an_optimizer_is_asked_to_be_capturable(optimizer: str) -> None:
    """torch refuses to capture the step of an optimizer that has `capturable` and was not asked for it."""
    constructor = get_object(small(optimizer).optimizer["_target_"])
    asked = fast_arguments(constructor, CUDA)
    assert asked.get("capturable", False) == ("capturable" in signature(constructor).parameters)


# ------------------------------------------------------------------------------------------------ Triton's kernels


def test_kernels_in_tritons_interpreter() -> None:
    pytest.importorskip("triton", minversion="3.3", reason="before, its interpreter does not know NumPy 2")
    command = [sys.executable, "-m", "pytest", "-q", "-x", str(ROOT / "tests" / "interpreted_kernels.py")]
    done = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize(("fault", "message"), [(None, ""), ("ptxas died\nof it", "RuntimeError: ptxas died\n")])
def test_a_gpu_whose_kernels_fail_goes_on_without_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: str | None, message: str
) -> None:
    def check(_device: torch.device) -> None:
        if fault:
            raise RuntimeError(fault)

    monkeypatch.setattr(fused, "check_kernels", check)
    for asked in (None, True):
        assert fused.fusible(asked, CUDA) is (fault is None)
        assert capsys.readouterr().out.endswith(message)
    assert fused.fusible(False, CUDA) is False
    if fault:
        with pytest.raises(RuntimeError, match="ptxas"):
            fused.fusible(None, CUDA, strict=True)


POINTERS = {"batches": "*i64"} | dict.fromkeys(("x", "y", "dy", "dx", "skip", "dskip"), "*bf16")
NUMBERS = {"rows": "i32", "rows_each": "i32", "momentum": "fp32", "eps": "fp32"}


@pytest.mark.parametrize("kernel", ["moments", "normalise", "gradient_sums", "gradient"])
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_are_compiled_for_a_gpu_that_is_not_here(kernel: str, capability: int) -> None:
    """Down to the machine code of an A100 and an H100, for the first stage of ResNet-20 at batch 128."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget

    from ablation.networks import gpu_kernels

    function = getattr(gpu_kernels, f"{kernel}_kernel")
    plan = gpu_kernels.Plan(torch.empty(128, 16, 32, 32, device="meta"))
    assert (plan.rows, plan.first * 16) == (128 * 32 * 32, gpu_kernels.PARTIAL_VALUES)
    values = {**plan.block, **plan.partials, "HAS_SKIP": True, "MASKED": False}
    constants = {name: values[name] for name in function.arg_names if name.isupper() or name.startswith("BLOCK")}
    types = {
        name: "constexpr" if name in constants else NUMBERS.get(name) or POINTERS.get(name, "*fp32")
        for name in function.arg_names
    }
    given: dict[str, Any] = {"signature": types, "constexprs": constants}
    if "constexprs" not in signature(triton.compiler.ASTSource).parameters:  # Triton 3.2, of torch 2.6
        given = {"signature": {k: v for k, v in types.items() if k not in constants}, "constants": constants}
    source = triton.compiler.ASTSource(fn=function, **given)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert len(compiled.asm["cubin"]) > 0
