"""Mean loss, error and confusion of a network on a whole set, in evaluation mode."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablation.data import Images, Normalization
from ablation.training.cuda_graph import Capture, Replayed

EVALUATION_BATCH = 500
"""Images. From 1000 on, a layer's output is above glibc's 32 MiB, and its memory is fetched anew each time."""


@dataclass(frozen=True)
class Evaluation:
    """A network's mean loss (nats), error (percent) and confusion (row: true class, column: predicted)."""

    loss: float
    error: float
    confusion: Tensor


class Evaluator:
    """Evaluates a network on one set, which is kept on the device; `result` waits for what `run` has started."""

    def __init__(
        self,
        network: nn.Module,
        images: Images,
        normalization: Normalization,
        autocast: torch.autocast,
        capture: Capture | None = None,
    ) -> None:
        self.network, self.normalization, self.autocast = network, normalization, autocast
        self.source = images  # kept alive, because `Training` finds the evaluator by the set's id
        device = normalization.mean.device
        self.images = Images(images.images.to(device), images.labels.to(device))
        self.loss = torch.zeros((), device=device)
        self.confusion: Tensor | None = None  # made when the logits show the number of classes
        self.replayed = Replayed(capture)

    def run(self) -> None:
        """Start the evaluation on the device."""
        self.replayed(self.device_run)

    def device_run(self) -> None:
        """Sum loss and confusion over the set, in evaluation mode; the network's mode is restored."""
        training = self.network.training
        self.network.eval()
        self.loss.zero_()
        if self.confusion is not None:
            self.confusion.zero_()
        for batch, labels in batches(self.images, self.loss.device):
            with torch.no_grad(), self.autocast:
                logits = self.network(self.normalization(batch).contiguous(memory_format=torch.channels_last)).float()
            classes = logits.shape[1]
            if self.confusion is None:
                self.confusion = torch.zeros(classes * classes, dtype=torch.int64, device=logits.device)
            self.loss += F.cross_entropy(logits, labels, reduction="sum")
            # index_add and not bincount, which asks the host for its length
            self.confusion.index_add_(0, labels * classes + logits.argmax(1), torch.ones_like(labels))
        self.network.train(training)

    def result(self) -> Evaluation:
        """What the last `run` measured."""
        assert self.confusion is not None, "an empty set cannot be evaluated"
        classes, count = math.isqrt(len(self.confusion)), len(self.images)
        table = self.confusion.view(classes, classes).cpu()
        wrong = count - int(table.diagonal().sum())
        return Evaluation(float(self.loss) / count, 100 * wrong / count, table)


def evaluate(network: nn.Module, images: Images, normalization: Normalization, autocast: torch.autocast) -> Evaluation:
    """Evaluate `network` on `images` once."""
    evaluator = Evaluator(network, images, normalization, autocast)
    evaluator.run()
    return evaluator.result()


def batches(images: Images, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """The set in its order, EVALUATION_BATCH at a time, on `device`."""
    for start in range(0, len(images), EVALUATION_BATCH):
        part = slice(start, start + EVALUATION_BATCH)
        yield images.images[part].to(device, non_blocking=True), images.labels[part].to(device, non_blocking=True)
