"""What `src/benchmark.py` measures: contenders that train the same network, taken in turn in one process.

A machine's speed drifts, and others use it too: so only ratios of contenders that were measured in alternation count,
and medians over several rounds. The baseline is the usual script, with nothing left out that its public copies have.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset, RandomSampler

from ablation import data
from ablation.config import compose
from ablation.config.schema import Config
from ablation.data import Images, Splits
from ablation.networks.fused import fuse, fusible
from ablation.networks.resnet import Network
from ablation.runs.build import build_training
from ablation.training import devices
from ablation.training.cuda_graph import CALLS_BEFORE_CAPTURE
from ablation.training.step import Training


class Contender(Protocol):
    """Something that trains."""

    def take(self, steps: int) -> None:
        """Take optimisation steps; the device may still be at work when it returns."""


class Ours:
    """The training loop of the project as `config` says, without a run's folder around it."""

    def __init__(self, config: Config, splits: Splits, device: torch.device) -> None:
        self.stream = devices.own_stream(device)
        self.precision = devices.pick_precision(config.trainer.precision, device)
        self.deterministic = config.trainer.deterministic
        devices.set_deterministic(self.deterministic)
        normalization = data.fit_normalization(config.data.normalization, splits.train)
        with self.stream:
            self.compiled = fusible(config.trainer.fused, device)
            self.training: Training = build_training(config, splits, normalization, device, self.precision)
        if self.compiled:
            fuse(self.training.network)

    def take(self, steps: int) -> None:
        """Take optimisation steps."""
        devices.set_deterministic(self.deterministic)
        with self.stream:
            for _ in range(steps):
                self.training.take_step()


class Gang:
    """Several of ours, a step of each in turn; a "step" of the gang is one of every member."""

    def __init__(self, members: list[Ours]) -> None:
        self.members = members

    def take(self, steps: int) -> None:
        """Take optimisation steps."""
        devices.set_deterministic(self.members[0].deterministic)
        for _ in range(steps):
            for member in self.members:
                with member.stream:
                    member.training.take_step()


class Pictures(Dataset[tuple[Tensor, int]]):
    """The training set as torchvision's CIFAR10 hands it out: a PIL picture, transformed, and its label."""

    def __init__(self, images: Images) -> None:
        from torchvision import transforms

        self.pictures = images.images.permute(0, 2, 3, 1).numpy()
        self.labels = images.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(images.images.shape[-1], 4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
            ]
        )

    def __len__(self) -> int:
        """The number of pictures."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """A transformed picture and its label."""
        from PIL import Image

        return self.transform(Image.fromarray(self.pictures[index])), self.labels[index]


class UsualScript:
    """The script of most public reimplementations: float32, eager, PIL transforms in workers, `loss.item()` a step."""

    def __init__(self, network: Network, train: Images, device: torch.device, batch_size: int, workers: int) -> None:
        self.device, self.batch_size, self.workers = device, batch_size, workers
        self.dataset = Pictures(train)
        self.model = network.to(device)
        self.criterion = nn.CrossEntropyLoss().to(device)
        self.optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        self.loaders: dict[int, DataLoader[Any]] = {}

    def take(self, steps: int) -> None:
        """An "epoch" of so many steps; its workers stay, as in an epoch of many."""
        devices.set_deterministic(False)
        if steps not in self.loaders:
            sampler = RandomSampler(self.dataset, num_samples=steps * self.batch_size)
            self.loaders[steps] = DataLoader(
                self.dataset,
                self.batch_size,
                sampler=sampler,
                num_workers=self.workers,
                persistent_workers=self.workers > 0,
                pin_memory=self.device.type == "cuda",
            )
        self.model.train()
        total = correct = 0.0
        for images, labels in self.loaders[steps]:
            images, labels = images.to(self.device), labels.to(self.device)
            output = self.model(images)
            loss = self.criterion(output, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(labels)
            correct += (output.argmax(1) == labels).sum().item()


@dataclass
class Measured:
    """One contender's times."""

    pictures_per_step: int
    warm_up_seconds: float = 0.0
    """Building it and the first steps: compiling, choosing algorithms, capturing the graph."""
    seconds_per_step: list[float] = field(default_factory=list)
    """A round each."""
    held_bytes: int = 0
    """On CUDA, what it keeps: pictures, weights, its graphs' memory."""
    step_bytes: int = 0
    """On CUDA, what a step takes beside that and gives back; a graph's step takes nothing."""

    @property
    def seconds(self) -> float:
        """Median seconds a step."""
        return statistics.median(self.seconds_per_step)

    @property
    def images_per_second(self) -> float:
        """At the median."""
        return self.pictures_per_step / self.seconds

    def ratio(self, baseline: "Measured") -> tuple[float, float, float]:
        """Median, least and greatest ratio to the baseline's speed, round by round."""
        ours = [self.pictures_per_step / seconds for seconds in self.seconds_per_step]
        theirs = [baseline.pictures_per_step / seconds for seconds in baseline.seconds_per_step]
        ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
        return statistics.median(ratios), ratios[0], ratios[-1]


def in_turn(
    builders: dict[str, Callable[[], Contender]],
    device: torch.device,
    pictures: dict[str, int],
    rounds: int,
    steps: int,
    say: Callable[[str], None],
) -> tuple[dict[str, Measured], dict[str, Contender]]:
    """Build and warm up each contender, then time `rounds` rounds of `steps` steps of each in turn."""
    measured, contenders = {}, {}
    for name, build in builders.items():
        before = held_bytes(device)
        start = time.perf_counter()
        contenders[name] = build()
        contenders[name].take(CALLS_BEFORE_CAPTURE + 2)
        synchronize(device)
        measured[name] = Measured(pictures[name], time.perf_counter() - start)
        measured[name].held_bytes = held_bytes(device) - before
        say(f"{name}: ready after {measured[name].warm_up_seconds:.1f} s")
    for number in range(rounds):
        for name, contender in contenders.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
                before = torch.cuda.memory_allocated(device)
            start = time.perf_counter()
            contender.take(steps)
            synchronize(device)
            measured[name].seconds_per_step.append((time.perf_counter() - start) / steps)
            if device.type == "cuda":
                measured[name].step_bytes = torch.cuda.max_memory_allocated(device) - before
        speeds = ", ".join(f"{n} {m.pictures_per_step / m.seconds_per_step[-1]:,.0f}" for n, m in measured.items())
        say(f"round {number + 1} of {rounds}: images/s {speeds}")
    return measured, contenders


def held_bytes(device: torch.device) -> int:
    """Device memory that the process keeps, graphs' own pools included; what is only cached is given back first."""
    if device.type != "cuda":
        return 0
    synchronize(device)
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved(device)


def synchronize(device: torch.device) -> None:
    """Wait until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def composed(model: str, batch_size: int, *overrides: str) -> Config:
    """The configuration of `model` on CIFAR-10 by the paper's recipe. Raises what Hydra raises."""
    return compose.compose([f"model={model}", f"data.batch_size={batch_size}", *overrides])


def random_pictures(count: int = 50_000, size: int = 32) -> Splits:
    """Noise in the shape of CIFAR-10: the speed is the same, the errors mean nothing."""
    generator = torch.Generator().manual_seed(0)

    def noise(many: int) -> Images:
        pictures = torch.randint(256, (many, 3, size, size), dtype=torch.uint8, generator=generator)
        return Images(pictures, torch.randint(10, (many,), generator=generator))

    return Splits(noise(count), None, noise(count // 5), tuple("0123456789"), "random")


# ------------------------------------------------------------------------------------------- where the time goes


def operations(contender: Ours, device: torch.device, steps: int = 3) -> dict[str, float]:
    """Operation -> its share of a step's time in percent, the greatest first; from torch's profiler.

    On the CPU the time within an operation without those it calls; on CUDA kernels' time on the device.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiled:
        contender.take(steps)
        synchronize(device)
    times: dict[str, float] = {}
    for event in profiled.key_averages():
        if on_gpu and (event.device_type != DeviceType.CUDA or event.is_user_annotation):
            continue  # an operation of the host, whose kernels are events of their own
        spent = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if spent > 0:
            times[event.key] = times.get(event.key, 0.0) + spent
    total = sum(times.values())
    return {key: 100 * spent / total for key, spent in sorted(times.items(), key=lambda item: -item[1])}


def kernels_per_step(contender: Ours, device: torch.device) -> int:
    """Kernels that one step launches on the GPU, counted outside of its graph, which runs the same ones."""
    with contender.stream, profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiled:
        contender.training.device_step()
        synchronize(device)
    on_device = [e for e in profiled.events() if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    return sum(not event.name.startswith(("Memcpy", "Memset")) for event in on_device)


PASSES = 16
"""How often a step must read or write the output of a convolution, once each unless said otherwise.

forward: convolution in, out; batch norm's moments in; normalisation in, out. backward: batch norm's sums in (3: input,
output, gradient), its gradient in (3), out; the convolution's gradient in the input in, out, in the weights in (2).
"""


def bytes_per_step(network: nn.Module, images: Tensor, itemsize: int) -> int:
    """The bytes that a step cannot avoid to move if nothing stays in a cache; weights and pictures count for little."""
    values = 0

    def note(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal values
        values += output.numel()

    hooks = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    training = network.training
    with torch.no_grad():
        network.eval()(images)
    network.train(training)
    for hook in hooks:
        hook.remove()
    weights = sum(p.numel() for p in network.parameters())
    return PASSES * values * itemsize + 6 * 4 * weights  # weight, momentum and gradient, in and out


def copy_bandwidth(device: torch.device, size: int = 1 << 32) -> float:
    """Bytes a second that a large copy on the device reads and writes, best of ten."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(10):
        synchronize(device)
        start = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size / best


def restored(root: Path) -> bool:
    """Whether CIFAR-10 lies below `root`."""
    return (root / "cifar-10-batches-py").is_dir()
