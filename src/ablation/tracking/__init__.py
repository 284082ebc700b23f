"""Weights & Biases: a view of the runs' own files, uploaded by a process beside the training."""
