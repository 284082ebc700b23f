"""A run's identity: everything that defines its result, and nothing of how it is executed."""

import os
from pathlib import Path

import pytest
import runs

from ablation.config import compose
from ablation.config.identity import folder_digest
from ablation.config.schema import Config

SAME = {
    "evaluations": {"trainer.evaluate_every": "2"},  # the final iterate is the result
    "device": {"trainer.device": "cuda"},
    "fused": {"trainer.fused": "true"},
    "checkpoints": {"trainer.checkpoint_every": "7"},
    "progress": {"trainer.progress": "true"},
    "time limit": {"trainer.time_limit": "5"},
    "tracker": {"tracker.mode": "online", "tracker.project": "x"},
    "results": {"results": "/elsewhere"},
    "data folder": {"data.root": "/elsewhere"},
    "overwrite": {"overwrite": "true"},
    "a whole number for a float": {"optimizer.momentum": "0", "optimizer.lr": "1"},
}
DIFFERENT = {
    "depth": {"model.depth": "14"},
    "width": {"model.width": "8"},
    "residual": {"model.residual": "false"},
    "init": {"model.init": "glorot"},
    "shortcut": {"shortcut.zeros": "split"},
    "learning rate": {"optimizer.lr": "0.2"},
    "decay scope": {"optimizer.weight_decay_scope": "weights"},
    "steps": {"schedule.steps": "13"},
    "peak": {"schedule.peak": "0.5"},
    "augmentation": {"augmentation.flip": "true"},
    "validation": {"data.validation": "100"},
    "normalisation": {"data.normalization": "channel_standardize"},
    "batch": {"data.batch_size": "64"},
    "seed": {"seed": "1"},
    "early stopping": {"early_stopping": "3"},
    "selection": {"selection": "best_test"},
    "when it is evaluated": {"selection": "best_test", "trainer.evaluate_every": "2"},  # the best iterate depends on it
}


@pytest.fixture(scope="module")
def base() -> Config:
    return runs.small(Path("/tmp/results"), "optimizer.momentum=0.0", "optimizer.lr=1.0")


def identity(base: Config, changes: dict[str, str]) -> str:
    return compose.from_dict(base.to_dict(), changes).identity("float32")


def test_execution_is_left_out(base: Config) -> None:
    for what, changes in SAME.items():
        assert identity(base, changes) == base.identity("float32"), what


def test_each_part_of_the_recipe_counts(base: Config) -> None:
    identities = {what: identity(base, changes) for what, changes in DIFFERENT.items()}
    identities["precision"] = base.identity("bfloat16")
    assert base.identity("float32") not in identities.values()
    assert len(set(identities.values())) == len(identities)


def test_a_plain_net_has_no_shortcut(base: Config) -> None:
    plain, other = {"model.residual": "false"}, {"model.residual": "false", "shortcut.zeros": "split"}
    assert identity(base, plain) == identity(base, other)


def test_identity_is_the_same_in_every_process(base: Config) -> None:
    """Pinned: a change of this number orphans every run there is."""
    assert base.identity("float32") == "cb5493c2579f"
    assert base.name() == "resnet8-A-digits-sgd-onecycle-none-seed0"


def test_an_image_folder_is_its_content(tmp_path: Path) -> None:
    for place in ("here", "there"):
        (tmp_path / place / "cat").mkdir(parents=True)
        (tmp_path / place / "cat" / "1.ppm").write_bytes(b"one")
    here, there = (tmp_path / place for place in ("here", "there"))
    first = folder_digest(here)
    assert folder_digest(there) == first
    (here / ".DS_Store").write_bytes(b"hidden")
    assert folder_digest(here) == first
    (there / "cat" / "1.ppm").write_bytes(b"two")  # as many bytes as before
    assert folder_digest(there) != first
    before = folder_digest(here)
    os.rename(here / "cat" / "1.ppm", os.fsencode(here / "cat") + b"/caf\xe9.ppm")  # a name that is not UTF-8
    assert folder_digest(here) != before
