"""The training loop: one run on one device, a step at a time.

All that a step needs lives on the device, and the random numbers of an epoch are drawn before it, from (seed, epoch).
So a step can be one CUDA graph, resuming needs no generator's state, and the result is the same when other runs train
beside it. Batches have one size: the remainder of an epoch's permutation is dropped, or repeated to fill a batch.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from ablation.data import Images, Normalization
from ablation.data.augmentation import Augmentation
from ablation.networks.resnet import Network
from ablation.training.cuda_graph import Capture, Replayed
from ablation.training.evaluation import Evaluation, Evaluator
from ablation.training.optimizers import l2_penalty, load_state
from ablation.training.schedules import Plateau, Schedule

MOST_IN_FLIGHT = 4  # steps that the host may be ahead of a GPU: enough to keep it busy, too few to fill a launch queue


@dataclass(frozen=True)
class Sums:
    """Running averages over some training steps, in training mode on augmented images; errors in percent."""

    steps: int
    loss: float
    error: float
    objective: float  # the loss with its L2 term, where the schedule watches it; else the loss


@dataclass(eq=False, repr=False)
class Training:
    """A network, its optimizer and schedule, and the training set on their device; `step` counts the steps taken."""

    network: Network
    optimizer: Optimizer
    schedule: Schedule
    train: Images
    normalization: Normalization
    augmentation: Augmentation
    batch_size: int
    seed: int
    precision: str
    remainder: str  # "drop" or "repeat": what becomes of the images that do not fill a batch
    capture: Capture | None  # makes step and evaluation a CUDA graph; without it every operation is launched
    strict: bool = False  # a capture that fails ends the run

    def __post_init__(self) -> None:
        self.device = device = self.schedule.rate.device
        self.normalization = self.normalization.to(device)
        self.autocast = torch.autocast(device.type, torch.bfloat16, self.precision == "bfloat16", cache_enabled=False)
        self.random_state = torch.Generator().manual_seed(self.seed).get_state()
        self.steps_per_epoch = len(self.train) // self.batch_size
        self.images = self.train.images.to(device, copy=self.augmentation.policy is not None)
        self.labels = self.train.labels.to(device)
        self.order = torch.zeros(self.steps_per_epoch * self.batch_size, dtype=torch.int64, device=device)
        self.draws: dict[str, Tensor] = {}
        self.positions = torch.arange(self.batch_size, device=device)
        self.epoch_begun, self.step, self.steps_summed = -1, 0, 0
        self.loss_sum, self.objective_sum = (torch.zeros((), device=device) for _ in range(2))
        self.wrong, self.first_bad_step = (torch.tensor(start, device=device) for start in (0, -1))
        self.sums = [self.loss_sum, self.objective_sum, self.wrong, self.first_bad_step]
        self.replayed = Replayed(self.capture, self.strict)
        self.evaluators: dict[Images, Evaluator] = {}
        self.in_flight: deque[torch.cuda.Event] = deque()
        self.draws_on_device = False

    @property
    def epoch(self) -> float:
        """Passes over the training set so far."""
        return self.step / self.steps_per_epoch

    def begin_epoch(self) -> None:
        """Draw the epoch's order and augmentation from (seed, epoch) on the CPU, the same for every device."""
        self.epoch_begun = epoch = self.step // self.steps_per_epoch
        seed = np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0] >> 1
        generator = torch.Generator().manual_seed(int(seed))
        order = torch.randperm(len(self.labels), generator=generator)
        places = self.places(generator)  # of the order, (steps_per_epoch * batch_size,)
        self.fill(self.order, order[places])
        height, width = self.images.shape[-2:]
        count = len(places) if self.remainder == "drop" else len(order)
        for name, values in self.augmentation.draw(count, (height, width), generator).items():
            if name not in self.draws:  # a CUDA graph reads them where they were first
                self.draws[name] = torch.empty(len(places), dtype=values.dtype, device=self.device)
            self.fill(self.draws[name], values[places])
        if self.augmentation.policy is not None:
            self.images.copy_(self.augmentation.policy_epoch(self.train.images.to(self.device), generator))

    def places(self, generator: torch.Generator) -> Tensor:
        """Which images of the epoch's order fill its batches, one batch after the other: (order's length,)."""
        places = torch.arange(len(self.order))
        rest = len(self.labels) - len(places)
        if self.remainder == "drop" or not rest:
            return places
        # Keras makes one batch more, a smaller one, and takes steps_per_epoch of them at random. Repeated, its images
        # have the same mean loss, gradient and batch statistics, and the step needs no second size.
        batches = torch.cat([places, len(places) + torch.arange(self.batch_size) % rest]).view(-1, self.batch_size)
        return batches[torch.randperm(len(batches), generator=generator)[: self.steps_per_epoch]].flatten()

    def fill(self, target: Tensor, values: Tensor) -> None:
        """Copy to the device behind the steps already launched, without waiting for them (from pinned memory)."""
        target.copy_(values.pin_memory() if self.device.type == "cuda" else values, non_blocking=True)

    def take_step(self) -> None:
        """Take one optimisation step; begin an epoch first if one is due."""
        if self.epoch_begun != self.step // self.steps_per_epoch:
            self.begin_epoch()
        eager = self.replayed.replay is None
        if eager:  # the loop draws nothing from torch's global generator, but dropout in a user's shortcut does
            torch.set_rng_state(self.random_state)
        on_gpu, drawn = self.device.type == "cuda", self.drawn_on_device() if eager else b""
        self.replayed(self.device_step)
        if eager:
            self.random_state = torch.get_rng_state()
            self.draws_on_device |= drawn != self.drawn_on_device()
        if on_gpu:
            self.in_flight.append(torch.cuda.current_stream(self.device).record_event())
        self.step += 1
        self.steps_summed += 1

    def drawn_on_device(self) -> bytes:
        """The state of the GPU's generator, which all runs of the process share."""
        return torch.cuda.get_rng_state(self.device).numpy().tobytes() if self.device.type == "cuda" else b""

    def far_ahead(self) -> bool:
        """Whether so many steps wait for the device that the next should wait, too: a gang's others come first."""
        while self.in_flight and self.in_flight[0].query():
            self.in_flight.popleft()
        return len(self.in_flight) > MOST_IN_FLIGHT

    def device_step(self) -> None:
        """Batch, augmentation, forward, backward, update, sums: all on the device, with nothing from the host."""
        self.schedule.begin()
        at = self.schedule.step % self.steps_per_epoch * self.batch_size + self.positions  # (batch,)
        chosen = self.order[at]
        images = self.normalization(self.images[chosen])
        images = self.augmentation(images, {name: values[at] for name, values in self.draws.items()})
        labels = self.labels[chosen]
        with self.autocast:
            logits = self.network(images.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits.float(), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        loss = loss.detach()
        with torch.no_grad():
            self.objective_sum += loss + (l2_penalty(self.optimizer) if isinstance(self.schedule, Plateau) else 0.0)
        self.optimizer.step()

        wrong = (logits.argmax(1) != labels).sum()
        self.loss_sum += loss
        self.wrong += wrong
        bad = ~torch.isfinite(loss) & (self.first_bad_step < 0)
        self.first_bad_step.copy_(torch.where(bad, self.schedule.step, self.first_bad_step))
        self.schedule.end(wrong / self.batch_size)

    def read_sums(self) -> Sums:
        """The averages over the steps since the last call (or the start); waits for the device."""
        steps = max(self.steps_summed, 1)
        error = 100 * int(self.wrong) / (steps * self.batch_size)
        sums = Sums(self.steps_summed, float(self.loss_sum) / steps, error, float(self.objective_sum) / steps)
        for total in (self.loss_sum, self.objective_sum, self.wrong):
            total.zero_()
        self.steps_summed = 0
        return sums

    def evaluate(self, images: Images) -> Evaluation:
        self.begin_evaluation(images)
        return self.evaluation(images)

    def begin_evaluation(self, images: Images) -> None:
        """Start on the device what `evaluate` does, without waiting for it; `evaluation` then gives the result."""
        if images not in self.evaluators:
            about = self.network, images, self.normalization, self.autocast, self.capture, self.strict
            self.evaluators[images] = Evaluator(*about)
        self.evaluators[images].run()

    def evaluation(self, images: Images) -> Evaluation:
        """The result of the last evaluation begun on these images; waits for the device."""
        return self.evaluators[images].result()

    def idle(self) -> bool:
        """Whether the device has finished the run's work, so that reading a result does not wait."""
        return self.device.type != "cuda" or torch.cuda.current_stream(self.device).query()

    def state_dict(self) -> dict[str, Any]:
        """Everything that training has changed: with it, training goes on elsewhere, bit for bit."""
        return {
            "step": self.step,
            "steps_summed": self.steps_summed,
            "sums": self.sums,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "rng": self.random_state,
            "device_rng": torch.get_device_module(self.device).get_rng_state() if self.device.type != "cpu" else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.steps_summed = state["step"], state["steps_summed"]
        for total, saved in zip(self.sums, state["sums"], strict=True):
            total.copy_(saved)
        self.network.load_state_dict(state["network"])
        self.schedule.load_state_dict(state["schedule"])
        load_state(self.optimizer, state["optimizer"], self.schedule.rate)
        self.random_state = state["rng"]
        if state.get("device_rng") is not None and self.device.type != "cpu":
            torch.get_device_module(self.device).set_rng_state(state["device_rng"])
        self.epoch_begun = -1  # its order and draws follow from (seed, epoch)
        self.replayed = Replayed(self.capture, self.strict)  # the optimizer has new tensors
