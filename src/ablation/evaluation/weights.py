"""Weights from a file into a network: a run's own, or the state dict of another project with the same network.

Other projects' names are brought to torchvision's: `module.` of DataParallel, `linear` and `shortcut` of
akamaster/pytorch_resnet_cifar10. Only tensors are read
(`weights_only=True`): a downloaded file runs no code.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ablation.errors import UserError
from ablation.runs.record import checkpoints
from ablation.runs.record.files import SEAL

Weights = dict[str, Tensor]

PICKLES = (b"PK\x03\x04", b"\x80")
"""How the files of torch.save begin, since version 1.6 and before."""


def read_weights(path: Path) -> Weights:
    """The state dict in `path`, with this project's names: a run's weights.pt or checkpoint, or another project's file.

    Raises UserError if the file is not there, is no PyTorch file, or holds something else than tensors.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(len(SEAL))
    except IsADirectoryError:
        raise UserError("checkpoint", path, "is a folder; a run's folder is evaluated with run=FOLDER") from None
    except OSError as error:
        raise UserError("checkpoint", path, f"cannot be read: {error.strerror}") from None
    content = read_checkpoint(path) if head == SEAL.encode() else read_foreign(path, head)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not content:
        raise UserError("checkpoint", path, f"holds {type(content).__name__}, not the state dict of a network")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError("checkpoint", path, f"{name} is no tensor: this is not the state dict of a network")
    return {own_name(name): value for name, value in content.items()}


def read_checkpoint(path: Path) -> Any:
    """The network in a checkpoint of an unfinished run."""
    try:
        return checkpoints.read(path)["training"]["network"]
    except ValueError as error:
        raise UserError("checkpoint", path, f"is damaged: {error}") from None


def read_foreign(path: Path, head: bytes) -> Any:
    """What torch.save wrote into `path`, which begins with `head`, if it is tensors in plain containers."""
    if not head.startswith(PICKLES):
        raise UserError("checkpoint", path, "is not a PyTorch file; a state dict saved with torch.save is needed")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises a dozen kinds, with pages of advice on how to let the file run code
        allowed = "is damaged or holds more than tensors; the state dict alone, saved with torch.save, is needed"
        raise UserError("checkpoint", path, allowed) from None


def own_name(name: str) -> str:
    """The name that this project has for another's parameter or buffer."""
    name = re.sub(r"^module\.", "", name)
    name = re.sub(r"^linear\.", "fc.", name)
    return name.replace(".shortcut.", ".downsample.")


def load_weights(network: nn.Module, weights: Weights, path: Path) -> None:
    """Put `weights`, read from `path`, into `network`. Raises UserError naming the first entry that does not fit."""
    own = network.state_dict()
    for name, value in own.items():
        if name not in weights:
            if name.endswith("num_batches_tracked"):  # files from before torch 0.4.1 lack it, and nothing here uses it
                continue
            raise UserError("checkpoint", path, f"has no {name}, which this network has{hint(network, weights)}")
        if weights[name].shape != value.shape:
            shapes = f"{shape(weights[name])}, this network's has {shape(value)}"
            raise UserError("checkpoint", path, f"{name} has the shape {shapes}{hint(network, weights)}")
    for name in weights:
        if name not in own:
            raise UserError("checkpoint", path, f"has {name}, which this network has not{hint(network, weights)}")
    network.load_state_dict(own | weights)


def shape(tensor: Tensor) -> str:
    """The size of a tensor, as 64x32x3x3."""
    return "x".join(map(str, tensor.shape)) or "()"


def hint(network: nn.Module, weights: Weights) -> str:
    """What to change, as far as the names tell."""
    depth, own_depth = depth_of(weights), depth_of(network.state_dict())
    if depth not in (own_depth, 2):
        return f"; it looks like model.depth={depth}, not {own_depth}"
    projects, own_projects = (any("downsample" in name for name in names) for names in (weights, network.state_dict()))
    if projects and not own_projects:
        return "; its shortcuts have weights: shortcut=B, C or avgpool"
    if own_projects and not projects:
        return "; its shortcuts have no weights: shortcut=A, or model.residual=false"
    return ""


def depth_of(weights: Weights) -> int:
    """6n + 2, from the n blocks of the first stage."""
    return 6 * sum(bool(re.fullmatch(r"layer1\.\d+\.conv1\.weight", name)) for name in weights) + 2
