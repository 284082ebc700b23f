"""Shared fixtures: the real CIFAR-10, for the tests that need it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the networks are tiny, and the tests run on all cores as it is

REPOSITORY = Path(__file__).resolve().parent.parent
RESTORE = REPOSITORY.parent / "shared" / "cifar10" / "restore.py"  # writes the official files from a local copy


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked `cuda` where there is none."""
    if item.get_closest_marker("cuda"):
        import torch  # not above: it reads OMP_NUM_THREADS when it is imported

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def cifar10_root() -> Path:
    """A `data.root` that holds the official CIFAR-10: CIFAR10_ROOT if set, else restored once into tests/.cache/."""
    if given := os.environ.get("CIFAR10_ROOT"):
        return Path(given).resolve()
    if not RESTORE.exists():
        pytest.skip(f"needs the real CIFAR-10: set CIFAR10_ROOT to its folder ({RESTORE} is not there)")
    root = REPOSITORY / "tests" / ".cache" / "cifar10"
    subprocess.run([sys.executable, str(RESTORE), str(root)], check=True, stdout=subprocess.DEVNULL)
    return root
