"""Weights & Biases: a view of the runs' own files, made by a process beside the training."""
