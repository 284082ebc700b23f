"""Mean loss, error and confusion of a network on a whole set, in evaluation mode."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ablation.data import Images, Normalization
from ablation.networks.resnet import Network
from ablation.training.cuda_graph import Capture, Replayed

BATCH = {"cuda": 2000}  # images an evaluation batch, by device; a GPU is not full with fewer
BATCH_ELSEWHERE = 500  # from 1000 on, a layer's output exceeds glibc's 32 MiB and its memory is fetched anew


@dataclass(frozen=True)
class Evaluation:
    """A network's mean loss (nats), error (percent) and confusion (row: true class, column: predicted)."""

    loss: float
    error: float
    confusion: Tensor


@dataclass(eq=False, repr=False)
class Evaluator:
    """Evaluates a network on one set, which is kept on the device; `result` waits for what `run` has started."""

    network: Network
    images: Images
    normalization: Normalization
    autocast: torch.autocast
    capture: Capture | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        device, classes = self.normalization.mean.device, self.network.fc.out_features
        self.images = Images(self.images.images.to(device), self.images.labels.to(device))
        self.loss = torch.zeros((), device=device)
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64, device=device)
        self.replayed = Replayed(self.capture, self.strict)

    def run(self) -> None:
        self.replayed(self.device_run)

    def device_run(self) -> None:
        """Sum loss and confusion over the set, in evaluation mode; the network's mode is restored."""
        training = self.network.training
        self.network.eval()
        self.loss.zero_()
        self.confusion.zero_()
        for batch, labels in batches(self.images, self.loss.device):
            with torch.no_grad(), self.autocast:
                logits = self.network(self.normalization(batch).contiguous(memory_format=torch.channels_last)).float()
            self.loss += F.cross_entropy(logits, labels, reduction="sum")
            cells = labels * len(self.confusion) + logits.argmax(1)
            self.confusion.view(-1).index_add_(0, cells, torch.ones_like(labels))  # bincount would ask the host
        self.network.train(training)

    def result(self) -> Evaluation:
        count, confusion = len(self.images), self.confusion.to("cpu", copy=True)
        wrong = count - int(confusion.diagonal().sum())
        return Evaluation(float(self.loss) / count, 100 * wrong / count, confusion)


def batches(images: Images, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """The set in its order, a batch at a time, on `device`."""
    size = BATCH.get(device.type, BATCH_ELSEWHERE)
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        yield images.images[part].to(device, non_blocking=True), images.labels[part].to(device, non_blocking=True)
