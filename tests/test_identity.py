"""A run's identity: everything that defines its result, and nothing of how it is executed."""

import json
import os
from pathlib import Path

import pytest
import runs
import torch

from ablation.config import compose, targets
from ablation.config.identity import folder_digest
from ablation.config.schema import Config
from ablation.errors import UserError
from ablation.runs.build import build_network

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


def test_a_users_own_code_is_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what it imports beside it; the project's own code and torch's are a commit and a version."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_shortcut.py").write_text("from own_helper import pool\n\ndef f(i, o, s): ...\n")
    (tmp_path / "own_helper.py").write_text("pool = 1\n")
    (tmp_path / "train.py").write_text("")
    seen = [targets.source_of("own_shortcut.f")]
    for name, text in (("own_shortcut", "from own_helper import pool\n"), ("own_helper", "pool = 2\n"), ("train", "1")):
        (tmp_path / f"{name}.py").write_text(text)
        targets.files_of.cache_clear()
        seen.append(targets.source_of("own_shortcut.f"))
    assert str(seen[0]).startswith("own_helper.py own_shortcut.py ")
    assert len(set(seen)) == 3
    assert seen[2] == seen[3], "what it does not import does not count"
    package = tmp_path / "own_package"
    package.mkdir()
    for name in ("__init__", "deep"):
        (package / f"{name}.py").write_text("")
    assert str(targets.source_of("own_package.deep.f")).startswith("own_package/__init__.py own_package/deep.py ")
    for target in ("ablation.networks.shortcuts.projection", "torch.optim.SGD", "builtins.print", "no_such.f", ""):
        assert targets.source_of(target) is None


def test_own_code_enters_identity_and_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that waited in a queue, or a record, does not take another code for its own."""

    def written(digest: str) -> Config:
        for module in ("targets", "compose"):
            monkeypatch.setattr(f"ablation.config.{module}.source_of", lambda target: f"{target}.py {digest}")
        return runs.small(tmp_path)

    config = written("12ab")
    assert compose.from_dict(config.to_dict()).identity("float32") == config.identity("float32")
    runs.finish(config)
    record = json.loads((runs.folder_of(tmp_path) / "record.json").read_text())
    assert record["config"]["shortcut"]["_source_"] == "ablation.networks.shortcuts.zero_padding.py 12ab"
    assert written("34cd").identity("float32") != config.identity("float32")
    with pytest.raises(UserError, match=r"^shortcut\._source_=.* 12ab: is another code now: .* 34cd"):
        build_network(config, 10, torch.device("cpu"))


def test_code_that_has_changed_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A record says which code made it, in each of its parts; one of an earlier version does not, and nor do we."""
    config = runs.small(tmp_path)
    monkeypatch.setattr("ablation.runs.trainer.CODE", "before")
    runs.cut_off(config, after=4)
    monkeypatch.undo()
    runs.finish(config)
    path = runs.folder_of(tmp_path) / "record.json"
    record = json.loads(path.read_text())
    environment = record["environment"]
    parts = [(part["from_step"], part["code"]) for part in environment["parts"]]
    assert parts == [(0, "before"), (3, environment["code"])]  # its last checkpoint is of step 3
    says = "the code that trains has changed since: overwrite=true trains again"
    for code, said in ((environment["code"], False), ("another", True), (None, False)):
        record["environment"] = environment | {"code": code} if code else {"git_commit": None}
        path.write_text(json.dumps(record))
        capsys.readouterr()
        assert runs.finish(config).state == "skipped"
        (line,) = capsys.readouterr().out.splitlines()
        assert (says in line) == said
        assert json.loads(path.read_text()) == record
