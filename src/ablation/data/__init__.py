"""Data sets as tensors in memory, their normalization and augmentation."""

from ablation.data.images import Images, Splits
from ablation.data.loading import load
from ablation.data.normalization import Normalization, fit_normalization

__all__ = ["Images", "Normalization", "Splits", "fit_normalization", "load"]
