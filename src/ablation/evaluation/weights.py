"""Weights from a file into a network, whoever wrote it, and into a file that others can read.

A .safetensors file of a finished run holds its weights and, as metadata, its record: enough to evaluate it.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ablation.data import Normalization
from ablation.errors import UserError
from ablation.runs.finish import digest
from ablation.runs.record import checkpoints
from ablation.runs.record.record import parse, published

COUNTER = "num_batches_tracked"  # of batch norm

Weights = dict[str, Tensor]
Record = dict[str, Any]


def packed(weights: Weights, record: Record, normalization: Normalization) -> bytes:
    """A .safetensors file: the weights and, as metadata, the run's record and what its images are normalised with."""
    statistics = {name: value.tolist() for name, value in vars(normalization).items()}
    metadata = {"record": json.dumps(published(record)), "normalization": json.dumps(statistics)}
    return safetensors.torch.save({name: value.contiguous() for name, value in weights.items()}, metadata)


def read_file(path: Path) -> tuple[Weights, Record | None]:
    """The state dict in `path`, and the record that a .safetensors file may hold. Raises UserError.

    It is a run's weights.pt or checkpoint, or another project's of the same network. No code in it is run.
    """
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        raise UserError("path", path, "no such file or folder; the runs are under results/runs")
    try:
        content, record = unpack(path) if path.suffix == ".safetensors" else (unpickle(path), None)
    except Exception:  # torch raises a dozen kinds, with pages of advice on how to let the file run code
        allowed = "is damaged, not a PyTorch file, of another version, or holds code; torch.save a state dict alone"
        raise UserError("path", path, f"cannot be read: it {allowed}") from None
    return state_dict(content, path), record


def unpack(path: Path) -> tuple[Weights, Record | None]:
    with safetensors.safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get("record")
        return {name: file.get_tensor(name) for name in file.keys()}, parse(text) if text else None  # noqa: SIM118


def unpickle(path: Path) -> Any:
    """What stands for a state dict; `weights_only=True` reads tensors and plain values alone."""
    try:
        return checkpoints.read(path)["training"]["network"]
    except ValueError:  # no checkpoint of a run
        content = torch.load(path, map_location="cpu", weights_only=True)
    return content.get("state_dict", content) if isinstance(content, dict) else content


def state_dict(content: Any, path: Path) -> Weights:
    """`content` as weights under torchvision's names. Raises UserError unless it is names with finite real tensors.

    In others' names, `module.` is DataParallel's, `linear` and `shortcut` are akamaster's.
    """
    tensors = content.items() if isinstance(content, dict) else ()
    if not tensors or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors):
        raise UserError("path", path, "is not the state dict of a network: names, and a tensor for each")
    weights = {}
    for name, value in tensors:
        if not name.endswith(COUNTER):  # a whole number
            if not (value.is_floating_point() and value.float().isfinite().all()):
                raise UserError("path", path, f"{name} ({value.dtype}) must be finite real numbers")
            value = value.float()
        weights[re.sub(r"^linear\.", "fc.", name.removeprefix("module.")).replace(".shortcut.", ".downsample.")] = value
    return weights


def load_weights(network: nn.Module, weights: Weights, record: Record | None, path: Path) -> str | None:
    """Put `weights`, read from `path`, into `network`; returns what must be said beside the result.

    Raises UserError naming the first entry that does not fit, or if the weights are not those of the run's `record`.
    """
    if record and not weights:
        raise UserError("path", path, "has a record but no weights.pt: published records come without their weights")
    own, note = network.state_dict(), None
    if 2 * len(own.keys() & weights.keys()) < len(own) and (renamed := by_order(own, weights)):
        weights, note = renamed, "unknown names, taken in their order: another network may have the same shapes"
    try:
        missing, unexpected = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # a line for each tensor of another shape, below a headline
        fault = str(error).splitlines()[1].strip()
    else:  # files from before torch 0.4.1 have no num_batches_tracked, and nothing here uses it
        missing = [name for name in missing if not name.endswith(COUNTER)]
        if not missing and not unexpected:
            if record and digest(network.state_dict()) != record.get("weights_sha256"):
                raise UserError("path", path, "its weights are not those that its record was written with")
            return note
        fault = f"lacks {missing[0]}" if missing else f"has {unexpected[0]}, which the network lacks"
    raise UserError("path", path, f"{fault}{hint(own, weights)}")


def by_order(own: Weights, weights: Weights) -> Weights | None:
    """`weights` under the names of `own`, if in their order all shapes and kinds (weight, bias, ...) are the same."""
    names, theirs = ([name for name in state if not name.endswith(COUNTER)] for state in (own, weights))
    kinds = [(name.rpartition(".")[2], own[name].shape) for name in names]
    if kinds != [(name.rpartition(".")[2], weights[name].shape) for name in theirs]:
        return None
    return {name: weights[other] for name, other in zip(names, theirs, strict=True)}


def hint(own: Weights, weights: Weights) -> str:
    """What to change in the overrides, as far as the network's `own` state dict and the file's show."""
    depth, own_depth = (sum(value.shape[2:] == (3, 3) for value in state.values()) + 1 for state in (weights, own))
    if depth != own_depth and depth % 6 == 2:
        return f"; it looks like model.depth={depth}, not {own_depth}"
    if not own.keys() & weights.keys():
        known = "conv1.weight, bn1.bias, layer1.0.conv1.weight, ..., fc.bias"
        return f"; its names are {', '.join([*weights][:3])}, ...; known are torchvision's: {known}"
    projects, own_projects = (any("downsample" in name for name in names) for names in (weights, own))
    if projects == own_projects:
        return ""
    kind = "weights: shortcut=B, C or avgpool" if projects else "no weights: shortcut=A, or model.residual=false"
    return f"; its shortcuts have {kind}"
