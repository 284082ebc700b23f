"""Nothing that a checkpoint or a record holds is executed, and no name leads out of results/."""

import io
import os
from pathlib import Path
from typing import Any

import pytest
import runs
import torch

from ablation.config import compose
from ablation.errors import UserError
from ablation.runs.record import checkpoints
from ablation.runs.record.checkpoints import sealed

MARK = "executed"


class Malicious:
    """Unpickled, it would make a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place / MARK),)


@pytest.mark.parametrize("seal", [True, False])
def test_malicious_checkpoint(seal: bool, tmp_path: Path) -> None:
    """Also with a checksum that agrees: anybody can compute one."""
    buffer = io.BytesIO()
    torch.save({"schema": 1, "training": Malicious(tmp_path)}, buffer)
    data = buffer.getvalue()
    (tmp_path / checkpoints.NEWEST).write_bytes(sealed(data) if seal else data)
    with pytest.raises(UserError, match="no checkpoint is whole"):
        checkpoints.load(tmp_path, print)
    assert not (tmp_path / MARK).exists()
    torch.load(io.BytesIO(data), weights_only=False)  # where code is allowed, it does run
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


@pytest.mark.parametrize("name", ["../x", "/x", "..", ".x", "a\\b", "a\n", "a b", "", "x" * 65, "é", "~"])
def test_names_stay_inside(name: str, tmp_path: Path) -> None:
    saved = runs.small(tmp_path).to_dict()
    for group in ("shortcut", "optimizer", "schedule", "augmentation"):
        with pytest.raises(UserError, match=rf"{group}.name=.*part of a folder's name"):
            compose.from_dict(saved | {group: saved[group] | {"name": name}})
