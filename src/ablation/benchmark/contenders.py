"""The contenders that `src/benchmark.py` compares: trainers of the same network, timed in turn in one process.

A machine's speed drifts, and others use it too: only the ratios of contenders that take turns count.
"""

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms
from torchvision.datasets import CIFAR10

from ablation import data
from ablation.config.schema import ROOT, Config
from ablation.data import Images, Splits
from ablation.errors import UserError
from ablation.networks.fused import fuse, fusible
from ablation.runs.build import build_network, build_training
from ablation.training import devices
from ablation.training.cuda_graph import CALLS_BEFORE_CAPTURE

Contender = Callable[[], object]  # takes the optimization steps of a round


class Project:
    """The training loop of this project as `config` says, without a run around it."""

    def __init__(self, config: Config, splits: Splits, device: torch.device) -> None:
        self.deterministic, self.stream = config.trainer.deterministic, devices.own_stream(device)
        normalization = data.fit_normalization(config.data.normalization, splits.train)
        precision = devices.pick_precision(config.trainer.precision, device)
        with self.stream:
            self.fused = fusible(config.trainer.fused, device, config.trainer.strict)
            self.training = build_training(config, splits, normalization, device, precision)
        if self.fused:
            fuse(self.training.network)


def take(projects: list[Project], steps: int, threads: int | None = None) -> None:
    """Take `steps` optimization steps of each in turn (on `threads` threads); the device may be at work at the end."""
    devices.set_deterministic(projects[0].deterministic)
    usual = torch.get_num_threads()
    torch.set_num_threads(threads or usual)
    for project in projects * steps:
        with project.stream:
            project.training.take_step()
    torch.set_num_threads(usual)


class InMemory(CIFAR10):
    """torchvision's CIFAR10 on images that are loaded already: it yields a PIL image, transformed, and its label."""

    def __init__(self, images: Images) -> None:
        self.data, self.targets = images.images.permute(0, 2, 3, 1).numpy(), images.labels.tolist()
        normalize = transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
        crop, flip = transforms.RandomCrop(32, 4), transforms.RandomHorizontalFlip()
        self.transform, self.target_transform = transforms.Compose([crop, flip, transforms.ToTensor(), normalize]), None


def usual_script(config: Config, splits: Splits, device: torch.device, workers: int, steps: int) -> Contender:
    """The script of most public reimplementations, for an "epoch" of `steps`: float32, eager, PIL, `loss.item()`."""
    network = build_network(config, len(splits.classes), device).to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    dataset, size = InMemory(splits.train), config.data.batch_size
    sampler, pin = RandomSampler(dataset, num_samples=steps * size), device.type == "cuda"
    loader: DataLoader[Any] = DataLoader(
        dataset, size, sampler=sampler, num_workers=workers, persistent_workers=workers > 0, pin_memory=pin
    )

    def epoch() -> None:
        devices.set_deterministic(False)
        network.train()
        total = correct = 0.0
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            output = network(images)
            loss = F.cross_entropy(output, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
            correct += (output.argmax(1) == labels).sum().item()

    return epoch


def keras_notebook(python: str, batch: int, steps: int) -> Contender:
    """The notebook's own Keras code, in a process of the interpreter `python`. Raises UserError where it fails."""
    threads = str(torch.get_num_threads())
    environment = os.environ | {"TF_NUM_INTRAOP_THREADS": threads, "TF_NUM_INTEROP_THREADS": threads}
    command = [python, str(ROOT / "tests" / "keras_notebook.py"), str(batch), str(steps)]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    keras: Any = subprocess.Popen(command, env=environment, text=True, **pipes)  # its stdin's end will end it

    def epoch() -> None:
        print(file=keras.stdin, flush=True)
        if not keras.stdout.readline():
            raise UserError("--keras", python, "must be a Python that has what tests/keras_notebook.py needs")

    return epoch


def in_turn(contenders: Mapping[str, Contender], device: torch.device, rounds: int, steps: int) -> pd.DataFrame:
    """Steps a second: a column for each contender, a row for each round of `steps` steps of each in turn."""

    def seconds(take: Contender) -> float:
        start = time.perf_counter()
        take()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter() - start

    for name, take in contenders.items():
        warm_up = sum(seconds(take) for _ in range(0, CALLS_BEFORE_CAPTURE + 2, steps))
        print(f"{name}: ready after {warm_up:.1f} s", flush=True)
    rates = pd.DataFrame(columns=list(contenders), dtype=float)
    for number in range(1, rounds + 1):
        rates.loc[number] = [steps / seconds(take) for take in contenders.values()]
        print(f"round {number} of {rounds}: steps/s {rates.loc[number].round(2).to_dict()}", flush=True)
    return rates


def compared(rates: pd.DataFrame, images: "int | pd.Series[int]", baseline: "pd.Series[float]") -> pd.DataFrame:
    """A row for each contender, of `images` a step: medians, and its ratio to the baseline's images a second."""
    ratios = (rates * images).div(baseline, axis=0)
    medians = {"images_per_second": (rates * images).median(), "ms_per_step": 1000 / rates.median()}
    return pd.DataFrame(medians | {"ratio": ratios.median(), "least": ratios.min(), "greatest": ratios.max()})
