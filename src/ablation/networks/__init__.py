"""The networks, their shortcuts, and faster forms of their parts."""

from ablation.networks.resnet import Network

__all__ = ["Network"]
