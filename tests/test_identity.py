"""A run's identity: everything that defines its result, and nothing of how it is executed."""

import os
from pathlib import Path

import pytest
import runs

from ablation.config import compose
from ablation.config.identity import folder_digest
from ablation.config.schema import Config

SAME = (
    "trainer.evaluate_every=2",  # the final iterate is the result
    "optimizer.lr=1",  # a whole number for a float
    *("trainer.device=cuda", "trainer.fused=true", "trainer.checkpoint_every=7", "trainer.progress=true"),
    *("trainer.time_limit=5", "tracker.mode=online", "results=/elsewhere", "data.root=/elsewhere", "overwrite=true"),
)
DIFFERENT = (
    "selection=best_test",
    "selection=best_test trainer.evaluate_every=2",  # the best iterate depends on when the run evaluates
    *("model.depth=14", "model.width=8", "model.residual=false", "model.init=glorot", "shortcut.zeros=split"),
    *("optimizer.lr=0.2", "optimizer.weight_decay_scope=weights", "schedule.steps=13", "schedule.peak=0.5"),
    *("augmentation.flip=true", "data.validation=100", "data.normalization=channel_standardize"),
    *("data.batch_size=64", "seed=1", "early_stopping=3", "model.padding=end", "data.remainder=repeat"),
)


@pytest.fixture(scope="module")
def base() -> Config:
    return runs.small(Path("/tmp/results"), "optimizer.momentum=0.0", "optimizer.lr=1.0")


def identity(base: Config, changes: str) -> str:
    given = {key: value for key, _, value in (change.partition("=") for change in changes.split())}
    return compose.from_dict(base.to_dict(), given).identity("float32")


def test_execution_is_left_out(base: Config) -> None:
    assert {identity(base, changes) for changes in SAME} == {base.identity("float32")}


def test_each_part_of_the_recipe_counts(base: Config) -> None:
    identities = [identity(base, changes) for changes in DIFFERENT]
    identities += [base.identity("float32"), base.identity("bfloat16")]
    assert len(set(identities)) == len(identities)


def test_a_plain_net_has_no_shortcut(base: Config) -> None:
    plain = "model.residual=false"
    assert identity(base, plain) == identity(base, f"{plain} shortcut.zeros=split")


def test_identity_is_the_same_in_every_process(base: Config) -> None:
    """Pinned: a change of this number orphans every run there is."""
    assert base.identity("float32") == "cb5493c2579f"
    assert base.name() == "resnet8-A-digits-sgd-onecycle-none-seed0"


def test_an_image_folder_is_its_content(tmp_path: Path) -> None:
    here, there = (tmp_path / place for place in ("here", "there"))
    for root in (here, there):
        (root / "cat").mkdir(parents=True)
        (root / "cat" / "1.ppm").write_bytes(b"one")
    first = folder_digest(here)
    assert folder_digest(there) == first
    (here / ".DS_Store").write_bytes(b"hidden")
    assert folder_digest(here) == first
    (there / "cat" / "1.ppm").write_bytes(b"two")  # as many bytes as before
    assert folder_digest(there) != first
    (here / "cat").rename(tmp_path / "cats")
    (here / "cat").symlink_to(tmp_path / "cats")  # a class that is a link
    assert folder_digest(here) == first
    os.rename(here / "cat" / "1.ppm", os.fsencode(here / "cat") + b"/caf\xe9.ppm")  # a name that is not UTF-8
    assert folder_digest(here) != first
