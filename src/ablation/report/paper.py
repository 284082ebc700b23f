"""Every number quoted from the literature, with its table, figure or section: the report compares with nothing else.

Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015, arXiv 1512.03385, and the Keras
notebook that this project grew from. Errors are in percent. Notable: the paper prints test errors of its residual
nets only (Table 6); those of the plain nets are measured in Figure 6 and say so.
"""

import math
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
    """Measured in a figure, good to about a tenth of a point."""

    def __str__(self) -> str:
        shown = f"≈{self.value:g}" if self.read_off else f"{self.value:.2f}"
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
    for depth, error in {20: 9.7, 32: 10.1, 44: 11.4, 56: 13.25}.items()
}
# Training errors of the last iterate, which the paper does not print.
OTHERS = "a-martyn's public reproduction"
PLAIN_TRAIN_ERROR = {depth: Quoted(error, OTHERS) for depth, error in {20: 0.74, 32: 0.79, 44: 2.76, 56: 3.33}.items()}
RESIDUAL_TRAIN_ERROR = {
    depth: Quoted(error, OTHERS) for depth, error in {20: 0.40, 32: 0.12, 44: 0.05, 56: 0.04}.items()
}
BEST_OF_FIVE_110 = Quoted(6.43, "Table 6")
PLAIN_110 = Quoted(60.0, "Figure 6 (left), caption")
RESIDUAL_1202 = Quoted(0.1, "Section 4.2")
WARMUP_RATE = Quoted(0.01, "Section 4.2")
WARMUP_ERROR = Quoted(80.0, "Section 4.2")  # the warm-up ends when the training error is below
WARMUP_DEPTH = 110  # and deeper: the paper warms these up and the others not (Section 4.2), so both are one setting
SCHEDULES = ("paper", "paper_warmup")  # a setting calls both "paper"
NOTEBOOK = Quoted(9.0, "the Keras notebook: 91.0 % best test accuracy")  # selected on the test set

MEAN_FIELD = "Yang et al. 2019, arXiv 1902.08129"
GRADIENT_GROWTH = Quoted(math.sqrt(math.pi / (math.pi - 1)), MEAN_FIELD)
"""A layer, towards the input, in a wide plain ReLU net with batch norm at its start: batch norm is what causes it."""

BATCH_NORM = {"batch_norm_momentum": 0.1, "batch_norm_eps": 1e-5}  # the paper is silent: torch's
RECIPE: dict[str, Any] = {
    "data": {"name": "cifar10", "validation": {0, 5000}, "normalization": "pixel_mean", "batch_size": 128},
    "model": {"width": 16, "init": {"he_fan_in", "he_fan_out"}} | BATCH_NORM,
    "optimizer": {"name": "sgd", "_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4},
    "schedule": {"name": "paper", "kind": "multistep", "steps": 64_000, "milestones": [0.5, 0.75], "factor": 0.1},
    "augmentation": {"name": "crop_flip", "padding": 4, "shift": 0.0, "flip": True, "cutout": 0},
    "selection": "final",
}
"""What a setting must have to be compared with the paper's numbers (Section 4.2); a set holds what the paper leaves
open. A key that is neither here nor in OPEN_IN_PAPER must not be there at all."""
NOTEBOOK_RECIPE: dict[str, Any] = {
    "data": {"name": "cifar10", "validation": 0, "normalization": "pixel_standardize", "batch_size": 64}
    | {"remainder": "repeat"},
    "model": {"width": 16, "init": "glorot", "batch_norm_momentum": 0.01, "batch_norm_eps": 1e-3, "padding": "end"},
    "optimizer": {"name": "nesterov_keras", "_target_": "ablation.training.optimizers.KerasSGD"}
    | {"lr": 0.1, "momentum": 0.9, "weight_decay": 2e-4, "weight_decay_scope": "convolutions"},
    "schedule": {"name": "plateau", "kind": "plateau", "steps": 156_200, "factor": 0.31622776601683794}
    | {"patience": 5, "min_delta": 0.01, "min_lr": 1e-6},
    "augmentation": {"name": "shift_flip", "padding": 0, "shift": 4.0, "flip": True, "cutout": 0},
    "selection": "best_test",
    "early_stopping": 20,
}
OPEN = ["optimizer.weight_decay_scope", "data.split_seed", "data.checksum", "environment.", "trainer.evaluate_every"]
OPEN += ["schedule.warmup_error", "schedule.peak"]
OPEN_IN_PAPER = (*OPEN, "schedule.patience", "schedule.min_delta", "schedule.min_lr")
OPEN_IN_NOTEBOOK = (*OPEN, "schedule.milestones")
"""What a recipe leaves open, by how its key begins: what its source does not tell, and what its schedule ignores."""
