"""Speed costs no truth: replayed and device-driven steps do what eager ones do."""

import gc
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ablation import data
from ablation.config import compose
from ablation.config.schema import ROOT, Config
from ablation.data import Images, Splits
from ablation.networks import fused
from ablation.runs.build import build_training
from ablation.training import cuda_graph, devices
from ablation.training.step import Training

CPU = torch.device("cpu")
AUGMENTATIONS = sorted(path.stem for path in (ROOT / "conf" / "augmentation").glob("*.yaml"))


def splits(count: int = 40) -> Splits:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    both = Images(images, torch.randint(4, (count,), generator=generator))
    return Splits(both, None, both, tuple("abcd"), "made up")


def small(*overrides: str) -> Config:
    base = ("model.depth=8", "model.width=4", "data.batch_size=8", "schedule.steps=20", "trainer.device=cpu")
    return compose.compose([*base, *overrides])


def training_of(config: Config, precision: str = "float32", device: torch.device = CPU) -> Training:
    made = splits()
    return build_training(config, made, data.fit_normalization("pixel_mean", made.train), device, precision)


def take(training: Training, steps: int) -> None:
    for _ in range(steps):
        training.take_step()


def assert_same_weights(one: Training, other: Training) -> None:
    for name, value in one.network.state_dict().items():
        assert torch.equal(value, other.network.state_dict()[name]), name


@pytest.mark.parametrize("asked", [None, False, True])
def test_on_a_cpu_nothing_is_fused(asked: bool | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert fused.fusible(asked, CPU) is False
    printed = capsys.readouterr().out
    assert printed.count("\n") == (asked is True)
    assert ("for a CUDA GPU" in printed) == (asked is True)


CORES = [(4, 3.6, "", 4), (4, 2.4, "", 2), (4, 0.1, "", 1), (4, 0.1, "4", 4), (2, 7.9, "", 2), (1, 0.0, "", 1)]


@pytest.mark.parametrize(("threads", "idle", "asked", "taken"), CORES)  # idle: of the seconds that pass, one a core
def test_threads_leave_busy_cores(threads: int, idle: float, asked: str, taken: int, monkeypatch: Any) -> None:
    clock, idled, now = iter((10.0, 11.0)), iter((50.0, 50.0 + idle)), [threads]
    monkeypatch.setattr(devices, "time", SimpleNamespace(perf_counter=lambda: next(clock), sleep=lambda _: None))
    monkeypatch.setattr(devices, "idle_seconds", lambda: next(idled))
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[-1])
    monkeypatch.setattr(torch, "set_num_threads", now.append)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    if not asked:
        monkeypatch.delenv("OMP_NUM_THREADS")
    devices.leave_busy_cores.__wrapped__()
    assert now[-1] == taken


# ------------------------------------------------------------------------------------------------------- replaying


class Captures:
    """Replaces `cuda_graph`: as there, capturing does none of the work and a replay does all of it."""

    def __init__(self) -> None:
        self.calls = self.replays = 0

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        self.calls += 1

        def replay() -> None:
            self.replays += 1
            function()

        return replay


def replayed(training: Training, capture: cuda_graph.Capture) -> Training:
    training.capture = capture
    training.replayed = cuda_graph.Replayed(capture)
    return training


@pytest.mark.parametrize("schedule", ["paper", "cosine", "onecycle", "paper_warmup"])
def test_the_captured_rate_follows_the_schedule_to_the_last_step(schedule: str) -> None:
    config, captures = small(f"schedule={schedule}", "schedule.steps=20", "augmentation=crop_flip"), Captures()
    training, alone = replayed(training_of(config), captures), training_of(config)
    rates, table = [], training.schedule.table.tolist()
    for step in range(20):
        training.take_step()
        rates.append(float(training.schedule.rate))
        assert training.optimizer.param_groups[0]["lr"] is training.schedule.rate, step
    expected = table if schedule != "paper_warmup" else [config.schedule.warmup_lr] * 20  # it never warms up here
    assert rates == pytest.approx(expected)
    assert (captures.calls, captures.replays) == (1, 20 - cuda_graph.CALLS_BEFORE_CAPTURE)
    take(alone, 20)
    assert_same_weights(training, alone)


@pytest.mark.parametrize("kind", [RuntimeError, AssertionError, ValueError])  # torch, Inductor, Triton's compilers
def test_what_cannot_be_captured_goes_on_without(kind: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(_function: Callable[[], None]) -> Callable[[], None]:
        raise kind("operation not permitted when stream is capturing\nmore")

    training, plain = replayed(training_of(small()), refuse), training_of(small())
    take(training, 6)
    take(plain, 6)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1, "one line, once"
    assert "operation not permitted" in printed
    assert_same_weights(training, plain)
    training.replayed = cuda_graph.Replayed(refuse, strict=True)
    with pytest.raises(kind):
        take(training, 4)


class Event:
    """A step on a GPU that has ended or not."""

    def __init__(self, done: bool) -> None:
        self.done = done

    def query(self) -> bool:
        return self.done


@pytest.mark.parametrize(("done", "waiting", "far"), [(0, 4, False), (0, 5, True), (3, 4, False), (3, 5, True)])
def test_the_host_is_a_few_steps_ahead_at_most(done: int, waiting: int, far: bool) -> None:
    training = training_of(small())
    training.in_flight.extend([Event(True)] * done + [Event(False)] * waiting)
    assert training.far_ahead() is far


def test_a_checkpoint_is_captured_anew() -> None:
    captures = Captures()
    training = replayed(training_of(small()), captures)
    take(training, 5)
    training.load_state_dict(training.state_dict())
    take(training, 5)
    assert captures.calls == 2, "the optimizer has other tensors after load_state_dict"


@pytest.mark.cuda
@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_on_a_gpu_a_step_is_a_graph_that_does_what_eager_steps_do(augmentation: str) -> None:
    """20 steps each way from the same weights; kernels that add up in another order differ in the last bits."""
    device, images = torch.device("cuda", 0), splits().test
    with devices.own_stream(device):
        graph, eager = (training_of(small(f"augmentation={augmentation}"), device=device) for _ in range(2))
        eager.replayed = cuda_graph.Replayed(None)
        take(graph, 20)
        take(eager, 20)
        assert graph.replayed.replay is not None
        for _ in range(5):
            graph.begin_evaluation(images)
        assert all(one.replayed.replay is not None for one in graph.evaluators.values())
        assert graph.read_sums().loss == pytest.approx(eager.read_sums().loss, rel=1e-3)


def test_a_run_that_has_ended_leaves_nothing_on_the_device() -> None:
    """No cycle of references holds it, so that its memory is free for the next run at once."""
    training = training_of(small())
    training.take_step()
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


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
@pytest.mark.parametrize("schedule", ["paper", "paper_warmup", "plateau"])
def test_a_step_and_an_evaluation_ask_nothing_of_the_host(augmentation: str, schedule: str) -> None:
    images = splits().test
    training = training_of(small(f"augmentation={augmentation}", f"schedule={schedule}"), "bfloat16")
    training.take_step()  # begins the epoch, which asks
    first = training.evaluate(images)
    with NothingFromTheHost():
        training.begin_evaluation(images)
        training.device_step()
    again = training.evaluation(images)
    assert (first.loss, first.error) == (again.loss, again.error)
    assert int(first.confusion.sum()) == 40


def test_fast_and_reference_steps_agree() -> None:
    """From the same weights and batch: losses within bfloat16's rounding, gradients nearly parallel."""
    config = small("data.batch_size=32")
    reference, fast = (training_of(config, precision) for precision in ("float32", "bfloat16"))
    for training in (reference, fast):
        training.take_step()
    assert float(fast.loss_sum) == pytest.approx(float(reference.loss_sum), rel=0.01)
    gradients = [torch.cat([p.grad.flatten() for p in t.network.parameters()]) for t in (reference, fast)]
    assert float(F.cosine_similarity(*gradients, dim=0)) > 0.995
    assert float(gradients[1].norm() / gradients[0].norm()) == pytest.approx(1, abs=0.02)
