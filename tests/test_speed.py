"""Speed costs no truth: fused, replayed and device-driven steps do what the plain ones do."""

import gc
import re
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import needs_compiler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ablation import data
from ablation.config import compose
from ablation.config.schema import Config
from ablation.data import Images, Splits
from ablation.networks import cpu_kernels
from ablation.networks import fused as fusing
from ablation.networks.resnet import Network, norm_relu
from ablation.networks.shortcuts import projection, zero_padding
from ablation.runs.build import build_training
from ablation.training import cuda_graph, devices
from ablation.training.evaluation import Evaluator
from ablation.training.step import Training

CPU = torch.device("cpu")


# ------------------------------------------------------------------------------- batch norm, sum and ReLU in one


@needs_compiler
@pytest.mark.parametrize("skipped", [False, True])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_fused_agrees_with_torchs_own(skipped: bool, dtype: torch.dtype, bound: float) -> None:
    """Against batch norm in float64, from the same inputs: output, gradients and running statistics."""
    generator = torch.Generator().manual_seed(1)
    x, skip, dy = (torch.randn(16, 8, 6, 6, generator=generator).to(dtype) for _ in range(3))
    x = x * 3 + 2  # a mean that the moments must not lose
    results = []
    for kind, operation in ((torch.float64, norm_relu), (dtype, fusing.fused_norm_relu)):
        norm = nn.BatchNorm2d(8, momentum=0.3)
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(0.5, 2, 8))
            norm.bias.copy_(torch.linspace(-1, 1, 8))
        norm = norm.double() if kind is torch.float64 else norm
        inputs = [x.to(kind).requires_grad_(), *([skip.to(kind).requires_grad_()] if skipped else [])]
        y = operation(norm, *inputs)
        y.backward(dy.to(kind))
        assert y.dtype == kind
        grads = [one.grad for one in (*inputs, norm.weight, norm.bias)]
        results.append([y, *grads, norm.running_mean, norm.running_var, norm.num_batches_tracked])
    mask = (results[0][0] > 0) == (results[1][0] > 0)  # where rounding puts a sum beside zero, the gradient jumps
    assert mask.float().mean() > 0.99
    for exact, ours in zip(*results, strict=True):
        assert relative(exact, ours) < (bound if mask.all() else 10 * bound)


def relative(exact: Tensor, ours: Tensor) -> float:
    exact, ours = exact.detach().double(), ours.detach().double()
    return float((exact - ours).norm() / exact.norm().clamp(min=1e-9))


@needs_compiler
@pytest.mark.parametrize("shortcut", [None, zero_padding, projection])
def test_a_fused_network_is_the_same_network(shortcut: Any) -> None:
    torch.manual_seed(0)
    plain = Network(14, shortcut, width=4)
    fused = Network(14, shortcut, width=4)
    fused.load_state_dict(plain.state_dict())
    fusing.fuse(fused)
    x, labels = torch.randn(16, 3, 16, 16), torch.randint(10, (16,))
    for network in (plain, fused):
        F.cross_entropy(network(x), labels).backward()
    assert list(fused.state_dict()) == list(plain.state_dict())
    for (name, a), b in zip(plain.named_parameters(), fused.parameters(), strict=True):
        assert relative(a.grad, b.grad) < 1e-4, name
    for name, value in plain.state_dict().items():
        assert torch.allclose(value.float(), fused.state_dict()[name].float(), atol=1e-5), name
    fused.load_state_dict(plain.state_dict())
    assert torch.equal(plain.eval()(x), fused.eval()(x))
    twin = fusing.plain_copy(fused)
    assert all("norm_relu" not in vars(module) for module in twin.modules())
    assert fused.norm_relu is fusing.fused_norm_relu, "only the copy is made plain"


@needs_compiler
@pytest.mark.parametrize("shape", [(16, 8, 6), (3, 16, 16), (2, 100, 3), (64, 16, 32)])
def test_kernels_of_a_cpu_take_any_shape_and_any_number_of_threads(shape: tuple[int, int, int]) -> None:
    """Whole groups of values and parts of them; more threads give the same, and the same number the same bits."""
    count, channels, side = shape
    generator = torch.Generator().manual_seed(2)
    x, dy = torch.randn(2, count, channels, side, side, generator=generator).double() + 1
    norm = nn.BatchNorm2d(channels).double()
    y = norm_relu(norm, x.requires_grad_())
    expected = [y, *torch.autograd.grad(y, [x, norm.weight, norm.bias], dy), norm.running_mean, norm.running_var]
    results = []
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 2):
            torch.set_num_threads(number)
            ours = nn.BatchNorm2d(channels)
            given = x.detach().float().requires_grad_()
            y = fusing.fused_norm_relu(ours, given)
            gradients = torch.autograd.grad(y, [given, ours.weight, ours.bias], dy.float())
            results.append([y, *gradients, ours.running_mean, ours.running_var])
    finally:
        torch.set_num_threads(threads)
    for result in results:
        assert all(relative(exact, got) < 1e-5 for exact, got in zip(expected, result, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(results[1], results[2], strict=True))


@needs_compiler
def test_kernels_of_a_cpu_hide_no_fault() -> None:
    x = torch.randn(2, 4, 3, 3)
    x[1, 2, 0, 0] = torch.nan
    assert fusing.fused_norm_relu(nn.BatchNorm2d(4), x)[:, 2].isnan().all()


@pytest.fixture
def nothing_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home without kernels."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpu_kernels.library.cache_clear()
    yield tmp_path
    cpu_kernels.library.cache_clear()


@needs_compiler
def test_kernels_are_built_once(nothing_built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fusing.kernel_fault(CPU) is None
    (library,) = (nothing_built / "ablation").iterdir()
    cpu_kernels.library.cache_clear()
    monkeypatch.setattr(cpu_kernels, "build", None)
    assert fusing.kernel_fault(CPU) is None
    library.unlink()
    cpu_kernels.library.cache_clear()
    assert "not callable" in str(fusing.kernel_fault(CPU)), "the check itself: without it, it would be built"


@needs_compiler
@pytest.mark.parametrize("part", [0, 0.5, 0.999])
def test_kernels_that_a_full_disk_cut_short_are_built_again(nothing_built: Path, part: float) -> None:
    """The loader would die of a library that ends in the middle, without a word."""
    assert fusing.kernel_fault(CPU) is None
    (library,) = (nothing_built / "ablation").iterdir()
    data = library.read_bytes()
    library.unlink()  # this process has it loaded
    library.write_bytes(data[: int(part * len(data))])
    cpu_kernels.library.cache_clear()
    assert fusing.kernel_fault(CPU) is None
    assert cpu_kernels.whole(library)
    assert len(library.read_bytes()) == len(data)


@needs_compiler
def test_a_home_that_cannot_be_written_is_no_hindrance(nothing_built: Path) -> None:
    (nothing_built / "ablation").write_text("a file in the folder's place")
    assert fusing.kernel_fault(CPU) is None


@pytest.mark.parametrize(
    ("compiler", "told"),
    [("no-such-compiler", "no C++ compiler"), ("false", "no C++ compiler"), ("{home}/c++", "x.cpp:1: error: no omp.h")],
)
def test_without_a_compiler_it_goes_on_and_says_so(
    nothing_built: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    compiler: str,
    told: str,
) -> None:
    script = '#!/bin/sh\n[ "$1" = --version ] && exit 0\nprintf "in x.cpp\\nx.cpp:1: error: no omp.h\\n" >&2\nexit 1\n'
    (nothing_built / "c++").write_text(script)
    (nothing_built / "c++").chmod(0o755)
    monkeypatch.setenv("CXX", compiler.format(home=nothing_built))
    assert fusing.fusible(False, CPU) is False
    assert capsys.readouterr().out == "", "nothing was wanted that is missing"
    for asked in (True, None):
        assert fusing.fusible(asked, CPU) is False
        said = capsys.readouterr().out
        assert re.fullmatch(rf"no fused batch norm, going on without it: .*{re.escape(told)}.*\n", said)


# --------------------------------------------------------------------------------------------- steps and their host


def splits(count: int = 40) -> Splits:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    both = Images(images, torch.randint(4, (count,), generator=generator))
    return Splits(both, None, both, tuple("abcd"), "made up")


def small(*overrides: str) -> Config:
    base = ("model.depth=8", "model.width=4", "data.batch_size=8", "schedule.steps=20", "trainer.device=cpu")
    return compose.compose([*base, *overrides])


def training_of(config: Config, precision: str = "float32") -> Training:
    made = splits()
    return build_training(config, made, data.fit_normalization("pixel_mean", made.train), CPU, precision)


def replayed(training: Training, capture: cuda_graph.Capture) -> Training:
    training.capture = capture
    training.replayed = cuda_graph.Replayed(capture)
    return training


class Captures:
    """Stands in for `cuda_graph`: as there, capturing does none of the work and a replay does all of it."""

    def __init__(self) -> None:
        self.calls = self.replays = 0

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        self.calls += 1

        def replay() -> None:
            self.replays += 1
            function()

        return replay


SCHEDULES = ("paper", "cosine", "onecycle", "paper_warmup")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_captured_rate_follows_the_schedule_to_the_last_step(schedule: str) -> None:
    config = small(f"schedule={schedule}", "schedule.steps=20", "augmentation=crop_flip")
    training = training_of(config)
    captures = Captures()
    replayed(training, captures)
    rates, table = [], training.schedule.table.tolist()
    for step in range(20):
        training.advance()
        rates.append(float(training.schedule.rate))
        assert training.optimizer.param_groups[0]["lr"] is training.schedule.rate, step
    expected = table if schedule != "paper_warmup" else [config.schedule.warmup_lr] * 20  # it never warms up here
    assert rates == pytest.approx(expected)
    assert (captures.calls, captures.replays) == (1, 20 - cuda_graph.CALLS_BEFORE_CAPTURE)
    alone = training_of(config)
    for _ in range(20):
        alone.advance()
    for name, value in alone.network.state_dict().items():
        assert torch.equal(value, training.network.state_dict()[name]), name


def test_what_cannot_be_captured_goes_on_without(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(_function: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    training, plain = replayed(training_of(small()), refuse), training_of(small())
    for _ in range(6):
        training.advance()
        plain.advance()
    said = capsys.readouterr().out
    assert said.count("\n") == 1, "one line, once"
    assert "operation not permitted" in said
    for name, value in plain.network.state_dict().items():
        assert torch.equal(value, training.network.state_dict()[name]), name


def test_a_checkpoint_is_captured_anew() -> None:
    training = training_of(small())
    captures = Captures()
    replayed(training, captures)
    for _ in range(5):
        training.advance()
    training.load_state_dict(training.state_dict())
    for _ in range(5):
        training.advance()
    assert captures.calls == 2, "the optimizer has other tensors after load_state_dict"


@pytest.mark.cuda
def test_on_a_gpu_a_step_is_a_graph_that_does_what_eager_steps_do() -> None:
    """20 steps each way from the same weights; kernels that add up in another order differ in the last bits."""
    made, device = splits(), torch.device("cuda", 0)
    with devices.own_stream(device):
        normalization = data.fit_normalization("pixel_mean", made.train)
        graph, eager = (build_training(small(), made, normalization, device, "float32") for _ in range(2))
        eager.replayed = cuda_graph.Replayed(None)
        for _ in range(20):
            graph.advance()
            eager.advance()
        assert graph.replayed.replay is not None
        for _ in range(5):
            graph.begin_evaluation(made.test)
        assert all(one.replayed.replay is not None for one in graph.evaluators.values())
        assert graph.read_sums().loss == pytest.approx(eager.read_sums().loss, rel=1e-3)


def test_a_run_that_has_ended_leaves_nothing_on_the_device() -> None:
    """No cycle holds it, so that its memory is free for the next one at once."""
    training = training_of(small())
    training.advance()
    training.evaluate(splits().test)
    left = weakref.ref(training)
    gc.disable()
    try:
        del training
        assert left() is None
    finally:
        gc.enable()


class NothingFromTheHost(TorchDispatchMode):
    """Refuses what waits for the device or needs a size that only the host can know: all that a CUDA graph refuses."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "_unique2", "equal.default")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        assert not any(word in name for word in self.FORBIDDEN), f"{name} asks the host"
        return func(*args, **(kwargs or {}))


AUGMENTATIONS = ("none", "crop_flip", "shift_flip", "cutout", "trivial_augment")


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("schedule", ["paper", "paper_warmup", "plateau"])
def test_a_step_asks_nothing_of_the_host(augmentation: str, schedule: str) -> None:
    training = training_of(small(f"augmentation={augmentation}", f"schedule={schedule}"), "bfloat16")
    training.advance()  # begins the epoch, which does
    with NothingFromTheHost():
        training.device_step()


def test_an_evaluation_asks_nothing_of_the_host() -> None:
    training = training_of(small())
    evaluator = Evaluator(training.network, splits().test, training.normalization, training.autocast)
    evaluator.run()
    with NothingFromTheHost():
        evaluator.run()
    first, again = evaluator.result(), training.evaluate(splits().test)
    assert (first.loss, first.error) == (again.loss, again.error)
    assert torch.equal(first.confusion, again.confusion)
    assert int(first.confusion.sum()) == 40


@pytest.mark.parametrize("overrides", [(), ("shortcut=B", "optimizer=adam"), ("model.residual=false",)])
def test_weights_that_are_converted_at_once_are_those_of_autocast(overrides: tuple[str, ...]) -> None:
    """Bit for bit, over some steps."""
    at_once, by_layer = (training_of(small(*overrides), "bfloat16") for _ in range(2))
    by_layer.converted = []
    for _ in range(6):
        at_once.advance()
        by_layer.advance()
    assert len(at_once.converted) > 7
    for name, value in by_layer.network.state_dict().items():
        assert torch.equal(value, at_once.network.state_dict()[name]), name


def test_fast_and_reference_steps_agree() -> None:
    """From the same weights and batch: losses within bfloat16's rounding, gradients nearly parallel."""
    config = small("data.batch_size=32")
    steps = {precision: training_of(config, precision) for precision in ("float32", "bfloat16")}
    for training in steps.values():
        training.begin_epoch()
        training.device_step()
    reference, fast = steps["float32"], steps["bfloat16"]
    assert float(fast.loss_sum) == pytest.approx(float(reference.loss_sum), rel=0.01)
    gradients = [torch.cat([p.grad.flatten() for p in t.network.parameters()]) for t in (reference, fast)]
    assert float(F.cosine_similarity(*gradients, dim=0)) > 0.995
    assert float(gradients[1].norm() / gradients[0].norm()) == pytest.approx(1, abs=0.02)


def test_augmentation_on_the_device_has_the_right_distribution() -> None:
    """Every crop of the padded picture, mirrored or not, equally often, as a step sees it: 9 x 9 x 2."""
    count = 16_200
    made = splits(count)
    number = torch.arange(64, dtype=torch.uint8).view(8, 8) + 1  # a pixel tells by its value where it comes from
    made = replace(made, train=Images(number.expand(count, 3, 8, 8).contiguous(), made.train.labels))
    nothing = data.Normalization(torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
    training = build_training(
        small("augmentation=crop_flip", f"data.batch_size={count}"), made, nothing, CPU, "float32"
    )
    training.begin_epoch()
    shown = training.augmentation(nothing(training.images[training.order]), training.draws)[:, 0]
    shown = (shown * 255).round().long()
    value, at = shown.flatten(1).max(1)  # the last pixel in view
    row, column = at // 8, at % 8
    source_row, source_column = (value - 1) // 8, (value - 1) % 8
    # to its left is its left neighbour, unless the picture is mirrored or it is the first in its row
    left = shown[torch.arange(count), row, (column - 1).clamp(min=0)]
    mirrored = ~((column > 0) & (left == value - 1))
    down = source_row - row + 4
    along = source_column - torch.where(mirrored, 7 - column, column) + 4
    cells = torch.bincount((down * 9 + along) * 2 + mirrored.long(), minlength=162).double()
    assert len(cells) == 162
    chi_squared = float(((cells - count / 162) ** 2 / (count / 162)).sum())
    assert chi_squared < 250, "161 degrees of freedom: one in 10,000 is above 234"
