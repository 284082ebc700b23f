"""What a GPU would be asked to do, on a machine without one: torch's fake tensors know a device and a shape, no values.

As on a GPU, an operation on tensors of two devices is an error, and so is asking for a value; and a fake tensor is
never moved in silence. What kernels compute, and what a capture refuses beyond that, only a GPU can tell.
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
from conftest import needs_compiler
from hydra.utils import get_object
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from ablation import data
from ablation.config import compose
from ablation.config.schema import ROOT
from ablation.data import Images, Splits
from ablation.networks import cpu_kernels
from ablation.networks import fused as fusing
from ablation.networks.resnet import Network
from ablation.runs.build import build_training
from ablation.training.optimizers import fast_arguments
from ablation.training.step import Training

CUDA = torch.device("cuda:0")
SMALL = ("model.depth=8", "model.width=4", "data.batch_size=8", "schedule.steps=20")
FUSED = ("_fused_sgd_", "_fused_adam_", "_fused_adamw_")


def splits() -> Splits:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8, generator=generator)
    both = Images(images, torch.randint(4, (40,), generator=generator))
    return Splits(both, None, both, tuple("abcd"), "made up")


def move(network: Network, device: torch.device, **_: object) -> Network:
    """`nn.Module.to`, which cannot swap fake parameters."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            module._parameters[name] = torch.nn.Parameter(parameter.detach().to(device))
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)
    return network


def one_device(*arguments: Any, **named: Any) -> None:
    """Stands in for a fused optimizer, which has no fake: all that it is given is on the GPU."""
    for value in (*arguments, *named.values()):
        for tensor in value if isinstance(value, list) else [value]:
            assert not isinstance(tensor, Tensor) or tensor.device == CUDA


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    monkeypatch.setattr(Network, "to", move)
    # autocast asks for the driver
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    for name in FUSED:
        monkeypatch.setattr(torch, name, one_device)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        try:
            torch.zeros(2, device=CUDA)[0].clone()
        except RuntimeError as error:  # torch 2.6
            pytest.skip(f"fake tensors of this torch need a driver: {str(error).splitlines()[0]}")
        yield mode


def training_of(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Training:
    made = splits()
    normalization = data.fit_normalization("pixel_mean", made.train)
    training = build_training(compose.compose([*SMALL, *overrides]), made, normalization, CUDA, "bfloat16")

    def backward(_loss: Tensor) -> None:  # autograd's engine wants the driver
        for parameter in training.network.parameters():
            parameter.grad = torch.zeros_like(parameter)

    monkeypatch.setattr(Tensor, "backward", backward)
    return training


OPTIMIZERS = sorted(path.stem for path in (ROOT / "conf" / "optimizer").glob("*.yaml"))
OTHERS = {
    "plateau": ("schedule=plateau",),
    "warm-up": ("schedule=paper_warmup",),
    "cutout": ("augmentation=cutout",),
    "shift": ("augmentation=shift_flip",),
    "plain": ("model.residual=false",),
    **{f"shortcut {name}": (f"shortcut={name}",) for name in ("A", "B", "C", "avgpool")},
}


@pytest.mark.parametrize(
    "overrides", [*((f"optimizer={o}",) for o in OPTIMIZERS), *OTHERS.values()], ids=[*OPTIMIZERS, *OTHERS]
)
def test_steps_and_an_evaluation_stay_on_the_gpu(
    fake: FakeTensorMode, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    training = training_of(monkeypatch, *overrides)
    assert {parameter.device for parameter in training.network.parameters()} == {CUDA}
    dtypes: list[torch.dtype] = []
    training.network.conv1.register_forward_hook(lambda _module, _inputs, output: dtypes.append(output.dtype))
    training.begin_epoch()
    for _ in range(2):  # an optimizer makes its state in the first
        training.device_step()
    images = training.originals, training.labels
    training.begin_evaluation(Images(*images))
    assert set(dtypes) == {torch.bfloat16}
    state = training.optimizer.state_dict()["state"]
    assert {value.device for one in state.values() for value in one.values() if value is not None} <= {CUDA}


def test_a_fake_gpu_tells_a_stray_tensor_and_a_question(fake: FakeTensorMode) -> None:
    """The check itself: both mistakes that it is to find are found."""
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
    """Notes the name of each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


EVERYTHING = [
    f"{group}={path.stem}"
    for group in ("optimizer", "schedule", "augmentation", "shortcut")
    for path in sorted((ROOT / "conf" / group).glob("*.yaml"))
]


@pytest.mark.parametrize("choice", EVERYTHING)
def test_the_reference_asks_for_nothing_that_cuda_cannot_repeat(choice: str) -> None:
    """Else a GPU would refuse the step, or not resume bit-identically. Traced on the CPU, backward as well."""
    made = splits()
    normalization = data.fit_normalization("pixel_mean", made.train)
    config = compose.compose([*SMALL, "trainer=reference", choice])
    training = build_training(config, made, normalization, torch.device("cpu"), "float32")
    with Operations() as operations:
        training.take_step()
        training.evaluate(made.test)
    assert {"convolution_backward", "nll_loss_backward"} <= operations.names
    assert [name for name in sorted(operations.names) if NEVER_DETERMINISTIC.fullmatch(name)] == []


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_an_optimizer_is_asked_for_lets_it_be_captured(optimizer: str) -> None:
    """torch refuses to capture the step of an optimizer that knows `capturable` and was not asked for it."""

    names = set(signature(get_object(compose.compose([f"optimizer={optimizer}"]).optimizer["_target_"])).parameters)
    assert fast_arguments(names, CUDA).get("capturable", False) == ("capturable" in names)


# ------------------------------------------------------------------------------------------------ Triton's kernels


@needs_compiler
def test_interpreted_kernels_agree_with_those_of_the_cpu() -> None:
    """Which agree with torch's batch norm (test_speed.py). bfloat16: the interpreter cuts off where a GPU rounds."""
    pytest.importorskip("triton", minversion="3.3", reason="before, its interpreter does not know NumPy 2")
    program = ROOT / "tests" / "interpreted_kernels.py"
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, program], env=environment, check=True, capture_output=True, text=True)
    differences = dict(line.split() for line in done.stdout.splitlines())
    assert float(differences["float32"]) < 1e-6
    assert float(differences["bfloat16"]) < 1e-2


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


@needs_compiler
@pytest.mark.parametrize("fault", [None, "forward", "backward", "nan"])
def test_a_gpu_whose_kernels_are_wrong_goes_on_without_them(monkeypatch: pytest.MonkeyPatch, fault: str | None) -> None:
    """Every run compares its kernels with torch's own first; here the CPU's stand in for the GPU's."""

    def forward(*arguments: Any) -> Any:
        y, mean, inverse = cpu_kernels.forward_pass(*arguments)
        return y * {"forward": 1.01, "nan": torch.nan}.get(fault or "", 1), mean, inverse

    def backward(*arguments: Any) -> Any:
        dx, *others = cpu_kernels.backward_pass(*arguments)
        dx[0, 3] *= 2 if fault == "backward" else 1  # one channel of one picture
        return dx, *others

    monkeypatch.setattr(fusing, "passes", lambda _device: (forward, backward))
    if fault is None:
        fusing.try_kernels(torch.device("cpu"))
    else:
        with pytest.raises(RuntimeError, match="differ"):
            fusing.try_kernels(torch.device("cpu"))
