"""The 1,797 handwritten digits that come with scikit-learn: the embedded data set."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from ablation.data.images import Images, split_off_test


def digits(root: Path) -> tuple[Images, Images, tuple[str, ...]]:
    """The 1,797 digits inside scikit-learn, enlarged bilinearly from 8x8 to 16x16, grey in all three channels.

    16x16 because the network halves its input twice. Values go from 0..16 to 0..255. 1,438 pictures are for training
    and 359 for testing (`split_off_test`). `root` is unused.
    """
    sklearn = find_spec("sklearn")  # its file is read as it lies there: importing the package takes seconds
    assert sklearn is not None, "a dependency"
    assert sklearn.submodule_search_locations is not None, "a package"
    table = np.loadtxt(Path(sklearn.submodule_search_locations[0], "datasets", "data", "digits.csv.gz"), delimiter=",")
    grey = torch.from_numpy(table[:, :64]).to(torch.float32).view(-1, 1, 8, 8)  # (1797, 1, 8, 8)
    # Bilinear weights are sixteenths here, so every value is exact and the checksum the same on every machine.
    grey = torch.nn.functional.interpolate(grey, scale_factor=2, mode="bilinear", align_corners=False)
    pictures = (grey * 255 / 16).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    train, test = split_off_test(Images(pictures, torch.from_numpy(table[:, 64]).to(torch.int64)))
    return train, test, tuple("0123456789")
