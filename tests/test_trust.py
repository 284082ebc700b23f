"""Nothing that a checkpoint or a record holds is executed, and no name leads out of results/."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import runs
import torch

from ablation.config import compose, targets
from ablation.errors import UserError
from ablation.runs.record import checkpoints
from ablation.runs.record.files import sealed

MARK = "executed"


class Malicious:
    """Unpickled, it would make a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place / MARK),)


def pickled(place: Path, way: str) -> bytes:
    if way == "torch.save":
        buffer = io.BytesIO()
        torch.save({"schema": 1, "training": Malicious(place)}, buffer)
        return buffer.getvalue()
    return pickle.dumps(Malicious(place))


@pytest.mark.parametrize("way", ["torch.save", "pickle"])
@pytest.mark.parametrize("seal", [True, False])
def test_malicious_checkpoint(way: str, seal: bool, tmp_path: Path) -> None:
    """Also with a checksum that agrees: anybody can compute one."""
    data = pickled(tmp_path, way)
    (tmp_path / checkpoints.NEWEST).write_bytes(sealed(data) if seal else data)
    with pytest.raises(UserError, match="no checkpoint is whole"):
        checkpoints.load(tmp_path, print)
    assert not (tmp_path / MARK).exists()
    if way == "torch.save":  # the file is a working weapon
        torch.load(io.BytesIO(data), weights_only=False)
        assert (tmp_path / MARK).exists()


@pytest.mark.parametrize(
    ("group", "node"),
    [
        ("optimizer", {"_target_": "os.system", "command": "false"}),
        ("optimizer", {"_target_": "torch.optim.SGD", "lr": 0.1, "foreach": {"_target_": "os.mkdir", "path": MARK}}),
        ("shortcut", {"_target_": "subprocess.run"}),
        ("shortcut", {"_target_": ["os.system"]}),
    ],
)
def test_record_with_a_foreign_target(
    group: str, node: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved = runs.small(tmp_path).to_dict() | {group: {"name": "x"} | node}
    with pytest.raises(UserError, match=group):
        compose.from_dict(saved)
    assert not list(tmp_path.iterdir())


def test_every_target_in_conf_is_allowed() -> None:
    for group in ("shortcut", "optimizer"):
        assert all(name.startswith(("ablation.", "torch.optim.")) for name in targets.allowed_targets(group))


@pytest.mark.parametrize("name", ["../x", "/x", "..", ".x", "a/b", "a\\b", "a\nb", "a b", "", "x" * 65, "é", "~"])
@pytest.mark.parametrize("key", ["shortcut", "optimizer", "schedule", "augmentation"])
def test_names_stay_inside(key: str, name: str, tmp_path: Path, base: dict[str, Any]) -> None:
    saved = base | {key: base[key] | {"name": name}}
    with pytest.raises(UserError, match=rf"{key}.name=.*part of a folder's name"):
        compose.from_dict(saved)


@pytest.fixture(scope="module")
def base() -> dict[str, Any]:
    return runs.small(Path("/tmp/results")).to_dict()
