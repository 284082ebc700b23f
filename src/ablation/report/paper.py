"""Every number quoted from the literature, with its table, figure or section: the report compares with nothing else.

Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015, arXiv 1512.03385, and the Keras
notebook that this project grew from. Errors are in percent. Notable: the paper prints test errors of its residual
nets only (Table 6); those of the plain nets are read off Figure 6 and say so.
"""

from dataclasses import dataclass
from typing import Any

CITATION = "He et al. 2015, arXiv 1512.03385"


@dataclass(frozen=True)
class Quoted:
    """One number as it was published."""

    value: float
    source: str
    std: float | None = None
    """Standard deviation over runs, where the source gives one; the value is their mean."""
    read_off: bool = False
    """Read off a figure by eye, good to about half a point."""

    def __str__(self) -> str:
        shown = f"≈{self.value:.1f}" if self.read_off else f"{self.value:.2f}"
        return f"{shown} ± {self.std:.2f}" if self.std is not None else shown


RESIDUAL_TEST_ERROR = {
    20: Quoted(8.75, "Table 6"),
    32: Quoted(7.51, "Table 6"),
    44: Quoted(7.17, "Table 6"),
    56: Quoted(6.97, "Table 6"),
    # The table prints the best of five runs, 6.43, with this mean and deviation: our means compare with the mean.
    110: Quoted(6.61, "Table 6, mean of 5 runs", std=0.16),
    1202: Quoted(7.93, "Table 6"),
}
PLAIN_TEST_ERROR = {
    depth: Quoted(error, "Figure 6 (left)", read_off=True)
    for depth, error in {20: 9.5, 32: 10.0, 44: 12.0, 56: 13.5}.items()
}
BEST_OF_FIVE_110 = Quoted(6.43, "Table 6")
PLAIN_110 = Quoted(60.0, "Figure 6 (left), caption")
RESIDUAL_1202 = Quoted(0.1, "Section 4.2")
WARMUP_RATE = Quoted(0.01, "Section 4.2")
WARMUP_ERROR = Quoted(80.0, "Section 4.2")  # the warm-up ends when the training error is below
WARMUP_DEPTH = 110  # and deeper: the paper warms these up and the others not (Section 4.2), so both are one setting
SCHEDULES = ("paper", "paper_warmup")  # a setting calls both "paper"
NOTEBOOK = Quoted(9.0, "the Keras notebook: 91.0 % best test accuracy")  # selected on the test set

RECIPE: dict[str, Any] = {
    "data": {"name": "cifar10", "normalization": "pixel_mean", "batch_size": 128},
    "model": {"width": 16},
    "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4},
    "schedule": {"name": "paper", "steps": 64_000, "milestones": [0.5, 0.75], "factor": 0.1},
    "augmentation": {"name": "crop_flip", "padding": 4, "flip": True},
    "selection": "final",
    "early_stopping": None,
}
"""What a setting must have to be compared with the paper's numbers (Section 4.2). Keys that are not here are left open
by the paper: scope of the weight decay, fan-in or fan-out, 45k or 50k images, precision, hardware."""
NOTEBOOK_RECIPE: dict[str, Any] = {
    "data": {"name": "cifar10", "normalization": "pixel_standardize", "batch_size": 64, "remainder": "repeat"},
    "model": {"padding": "end"},
    "optimizer": {"name": "nesterov_keras"},
    "schedule": {"name": "plateau"},
    "augmentation": {"name": "shift_flip"},
    "selection": "best_test",
}
