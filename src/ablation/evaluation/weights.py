"""Weights from a file into a network: a run's own, or the state dict of another project with the same network.

Other projects' names are translated to torchvision's: `module.` of DataParallel, `linear` and `shortcut` of
akamaster/pytorch_resnet_cifar10. Only tensors are read (`weights_only=True`): a downloaded file runs no code.
"""

import os
import re
from pathlib import Path

import torch
from torch import Tensor, nn

from ablation.errors import UserError
from ablation.runs.record import checkpoints

Weights = dict[str, Tensor]


def read_weights(path: Path) -> Weights:
    """The state dict in `path`, a run's weights.pt or checkpoint or another project's. Raises UserError."""
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        raise UserError("path", path, "no such file or folder; the runs are under results/runs")
    try:
        try:
            content = checkpoints.read(path)["training"]["network"]
        except ValueError:  # no checkpoint of a run
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises a dozen kinds, with pages of advice on how to let the file run code
        allowed = "cannot be read: it is damaged, not a PyTorch file, or holds code; torch.save a state dict alone"
        raise UserError("path", path, allowed) from None
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    tensors = content.items() if isinstance(content, dict) else ()
    if not tensors or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors):
        raise UserError("path", path, "is not the state dict of a network: names, and a tensor for each")
    return {
        re.sub(r"^linear\.", "fc.", name.removeprefix("module.")).replace(".shortcut.", ".downsample."): value
        for name, value in tensors
    }


def load_weights(network: nn.Module, weights: Weights, path: Path) -> None:
    """Put `weights`, read from `path`, into `network`. Raises UserError naming the first entry that does not fit."""
    try:
        missing, unexpected = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # a line for each tensor of another shape, below a headline
        fault = str(error).splitlines()[1].strip()
    else:  # files from before torch 0.4.1 have no num_batches_tracked, and nothing here uses it
        missing = [name for name in missing if not name.endswith("num_batches_tracked")]
        if not missing and not unexpected:
            return
        fault = f"lacks {missing[0]}" if missing else f"has {unexpected[0]}, which the network lacks"
    raise UserError("path", path, f"{fault}{hint(network.state_dict(), weights)}")


def hint(own: Weights, weights: Weights) -> str:
    """What to change in the overrides, as far as the names in the network's `own` state dict and in the file show."""
    first_stage = re.compile(r"layer1\.\d+\.conv1\.weight")  # of n blocks, and the depth is 6n + 2
    depth, own_depth = (6 * sum(bool(first_stage.match(name)) for name in names) + 2 for names in (weights, own))
    if depth not in (own_depth, 2):
        return f"; it looks like model.depth={depth}, not {own_depth}"
    projects, own_projects = (any("downsample" in name for name in names) for names in (weights, own))
    if projects == own_projects:
        return ""
    kind = "weights: shortcut=B, C or avgpool" if projects else "no weights: shortcut=A, or model.residual=false"
    return f"; its shortcuts have {kind}"
