"""The training loop: one run on one device, advanced a step at a time.

Data set, augmentation draws, learning rate, counters and sums live on the device, and all randomness of an epoch is
drawn before it begins, from (seed, epoch): a step is a function of what is on the device and asks nothing of the host.
That makes it fast (it can be one CUDA graph), resumable (there is no generator's state to lose) and the same when it is
trained beside others. Batches have one size: the remainder of an epoch's permutation is dropped.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn import functional as F
from torch.optim import Optimizer

from ablation.data import Images, Normalization
from ablation.data.augmentation import Augmentation
from ablation.training.cuda_graph import Capture, Replayed
from ablation.training.devices import idle
from ablation.training.evaluation import Evaluation, Evaluator
from ablation.training.optimizers import go_on_from, l2_penalty
from ablation.training.schedules import Plateau, Schedule


@dataclass(frozen=True)
class Sums:
    """Running averages over some training steps, in training mode on augmented pictures; errors in percent."""

    steps: int
    loss: float
    error: float
    objective: float
    """The loss with its L2 term, where the schedule watches it; else the loss."""
    first_bad_step: int | None
    """The step at which the loss was first not finite."""


class Training:
    """A network, its optimizer and schedule, and the training set on their device.

    `step` counts the optimisation steps taken. `advance` takes one; `read_sums` waits for the device and gives the
    averages since it was last called; `state_dict` is all that is needed to go on elsewhere, bit for bit.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        schedule: Schedule,
        train: Images,
        normalization: Normalization,
        augmentation: Augmentation,
        batch_size: int,
        seed: int,
        precision: str,
        capture: Capture | None = None,
    ) -> None:
        """`capture`: what makes the step, and the evaluation, a CUDA graph; None where they are not to be one."""
        self.network, self.optimizer, self.schedule = network, optimizer, schedule
        self.device = schedule.rate.device
        self.normalization, self.augmentation = normalization.to(self.device), augmentation
        self.batch_size, self.seed = batch_size, seed
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, precision == "bfloat16", cache_enabled=False)
        self.converted = [
            f"{path}.{name}"
            for path, module in network.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear)
            for name, _ in module.named_parameters(recurse=False)
        ]
        self.random_state = torch.Generator().manual_seed(seed).get_state()
        self.steps_per_epoch = len(train) // batch_size
        self.originals = train.images
        self.images = train.images.to(self.device, copy=augmentation.policy is not None)
        self.labels = train.labels.to(self.device)
        self.order = torch.zeros(self.steps_per_epoch * batch_size, dtype=torch.int64, device=self.device)
        self.draws: dict[str, Tensor] = {}
        self.epoch_begun = -1
        self.positions = torch.arange(batch_size, device=self.device)
        self.step = 0
        self.loss_sum, self.objective_sum = (torch.zeros((), device=self.device) for _ in range(2))
        self.wrong = torch.zeros((), dtype=torch.int64, device=self.device)
        self.first_bad_step = torch.full((), -1, dtype=torch.int64, device=self.device)
        self.steps_summed = 0
        self.capture = capture
        self.replayed = Replayed(capture)
        self.evaluators: dict[int, Evaluator] = {}

    @property
    def device_module(self) -> Any:
        """torch.cuda, torch.mps, ..."""
        return torch.get_device_module(self.device)

    @property
    def epoch(self) -> float:
        """Passes over the training set so far."""
        return self.step / self.steps_per_epoch

    def begin_epoch(self) -> None:
        """Draw the epoch's order and augmentation from (seed, epoch) on the CPU, the same for every device."""
        self.epoch_begun = epoch = self.step // self.steps_per_epoch
        generator = torch.Generator()
        generator.manual_seed(int(np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0] >> 1))
        count = len(self.order)
        self.order.copy_(torch.randperm(len(self.labels), generator=generator)[:count])
        fresh = self.augmentation.draw(count, tuple(self.images.shape[-2:]), generator)
        if not self.draws:
            self.draws = {name: values.to(self.device) for name, values in fresh.items()}
        for name, values in fresh.items():
            self.draws[name].copy_(values)
        if self.augmentation.policy is not None:
            self.images.copy_(self.augmentation.policy_epoch(self.originals.to(self.device), generator))

    def advance(self) -> None:
        """Take one optimisation step; begin an epoch first if one is due."""
        if self.epoch_begun != self.step // self.steps_per_epoch:
            self.begin_epoch()
        replays = self.replayed.replay is not None
        if not replays:  # the loop draws nothing from torch's global generator, but dropout in a user's shortcut does
            torch.set_rng_state(self.random_state)
        self.replayed(self.device_step)
        if not replays:
            self.random_state = torch.get_rng_state()
        self.step += 1
        self.steps_summed += 1

    def device_step(self) -> None:
        """Batch, augmentation, forward, backward, update, sums: all on the device, with nothing from the host."""
        self.schedule.begin()
        at = self.schedule.step % self.steps_per_epoch * self.batch_size + self.positions  # (batch,)
        chosen = self.order[at]
        images = self.normalization(self.images[chosen])
        images = self.augmentation(images, {name: values[at] for name, values in self.draws.items()})
        labels = self.labels[chosen]
        with self.autocast:
            images = images.contiguous(memory_format=torch.channels_last)
            logits = functional_call(self.network, self.cast_weights(), (images,))
            loss = F.cross_entropy(logits.float(), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.objective_sum += loss.detach() + self.penalty()
        self.optimizer.step()

        wrong = (logits.argmax(1) != labels).sum()
        self.loss_sum += loss.detach()
        self.wrong += wrong
        bad = ~torch.isfinite(loss.detach()) & (self.first_bad_step < 0)
        self.first_bad_step.copy_(torch.where(bad, self.schedule.step, self.first_bad_step))
        self.schedule.end(wrong / self.batch_size)

    def cast_weights(self) -> dict[str, Tensor]:
        """What autocast would convert layer by layer, all at once: two kernels in place of two a layer."""
        if not self.converted or not torch.is_autocast_enabled(self.device.type):
            return {}
        weights = [self.network.get_parameter(name) for name in self.converted]
        return dict(zip(self.converted, ToBFloat16.apply(*weights), strict=True))

    def penalty(self) -> Tensor | float:
        """The loss's L2 term at this step, if the schedule watches it."""
        with torch.no_grad():
            return l2_penalty(self.optimizer) if isinstance(self.schedule, Plateau) else 0.0

    def read_sums(self) -> Sums:
        """The averages over the steps since the last call (or the start); waits for the device."""
        steps = max(self.steps_summed, 1)
        bad = int(self.first_bad_step)
        sums = Sums(
            steps=self.steps_summed,
            loss=float(self.loss_sum) / steps,
            error=100 * int(self.wrong) / (steps * self.batch_size),
            objective=float(self.objective_sum) / steps,
            first_bad_step=bad if bad >= 0 else None,
        )
        for total in (self.loss_sum, self.objective_sum, self.wrong):
            total.zero_()
        self.steps_summed = 0
        return sums

    def evaluate(self, images: Images) -> Evaluation:
        """Mean loss, error and confusion of the network as it is, on un-augmented pictures, in evaluation mode."""
        self.begin_evaluation(images)
        return self.evaluation(images)

    def begin_evaluation(self, images: Images) -> None:
        """Have the device do what `evaluate` does, without waiting for it; `evaluation` then gives the result."""
        if id(images) not in self.evaluators:
            self.evaluators[id(images)] = Evaluator(
                self.network, images, self.normalization, self.autocast, self.capture
            )
        self.evaluators[id(images)].run()

    def evaluation(self, images: Images) -> Evaluation:
        """The result of the evaluation begun last on these pictures; waits for the device."""
        return self.evaluators[id(images)].result()

    def idle(self) -> bool:
        """Whether the device has done all that it was given, so that reading from it does not wait."""
        return idle(self.device)

    def state_dict(self) -> dict[str, Any]:
        """Everything that training has changed, for `load_state_dict`."""
        return {
            "step": self.step,
            "steps_summed": self.steps_summed,
            "sums": [self.loss_sum, self.objective_sum, self.wrong, self.first_bad_step],
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "rng": self.random_state,
            "device_rng": None if self.device.type == "cpu" else self.device_module.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken."""
        self.step, self.steps_summed = state["step"], state["steps_summed"]
        own = [self.loss_sum, self.objective_sum, self.wrong, self.first_bad_step]
        for total, saved in zip(own, state["sums"], strict=True):
            total.copy_(saved)
        self.network.load_state_dict(state["network"])
        self.schedule.load_state_dict(state["schedule"])
        go_on_from(self.optimizer, state["optimizer"], self.schedule.rate)
        self.random_state = state["rng"]
        if state.get("device_rng") is not None and self.device.type != "cpu":
            self.device_module.set_rng_state(state["device_rng"])
        self.epoch_begun = -1  # its order and draws follow from (seed, epoch)
        self.replayed = Replayed(self.capture)  # the optimizer's tensors are others now


class ToBFloat16(torch.autograd.Function):
    """Tensors in float32 -> the same in bfloat16, and their gradients back."""

    @staticmethod
    def forward(ctx: Any, *weights: Tensor) -> tuple[Tensor, ...]:
        results = [torch.empty_like(weight, dtype=torch.bfloat16) for weight in weights]
        torch._foreach_copy_(results, weights)
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        results = [torch.empty_like(gradient, dtype=torch.float32) for gradient in gradients]
        torch._foreach_copy_(results, gradients)
        return tuple(results)
