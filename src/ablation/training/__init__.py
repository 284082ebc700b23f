"""The training step, evaluation, optimizers, schedules, devices and the CUDA graph."""
