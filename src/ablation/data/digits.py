"""The 1,797 handwritten digits that come with scikit-learn: the embedded data set."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ablation.data.images import Images, Source, split_off_test


def digits(root: Path) -> Source:
    """1,438 training and 359 test images, enlarged bilinearly from 8x8 to 16x16, grey in all three channels.

    16x16 because the network halves its input twice. Values go from 0..16 to 0..255. `root` is unused.
    """
    sklearn = find_spec("sklearn")  # read its file where it lies: importing the package takes seconds
    assert sklearn is not None
    assert sklearn.submodule_search_locations is not None
    table = np.loadtxt(Path(sklearn.submodule_search_locations[0], "datasets", "data", "digits.csv.gz"), delimiter=",")
    grey = torch.from_numpy(table[:, :64]).to(torch.float32).view(-1, 1, 8, 8)  # (1797, 1, 8, 8)
    # Bilinear weights are sixteenths here, so every value is exact and the checksum the same on every machine.
    grey = F.interpolate(grey, scale_factor=2, mode="bilinear", align_corners=False)
    images = (grey * 255 / 16).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    return *split_off_test(Images(images, torch.from_numpy(table[:, 64]).to(torch.int64))), tuple("0123456789")
