"""Data sets as tensors in memory, their normalization and augmentation."""

from ablation.data.images import Images, Normalization, Splits, fit_normalization
from ablation.data.loading import load

__all__ = ["Images", "Normalization", "Splits", "fit_normalization", "load"]
