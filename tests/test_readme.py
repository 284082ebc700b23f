"""The examples of README.md as they stand there: written into a copy of the project and run as a user would.

An example is a fenced block behind a comment that names its file: `<!-- example: src/my_shortcuts.py -->`.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from ablation.config.schema import ROOT

README = ROOT / "README.md"
EXAMPLE = re.compile(r"^<!-- example: (\S+) -->\s*^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)

TINY = "data=digits schedule=onecycle schedule.steps=1 augmentation=none model.depth=8 model.width=4 tracker=disabled"


def the_one(pattern: str, files: dict[str, str]) -> str:
    (path,) = (path for path in files if re.fullmatch(pattern, path))
    return path


def test_the_readmes_examples_train(tmp_path: Path) -> None:
    """The shortcut and the optimizer in one run of one step, each chosen by the name of its YAML."""
    found = dict(EXAMPLE.findall(README.read_text()))
    recipes = {group: the_one(rf"conf/{group}/\w+\.yaml", found) for group in ("shortcut", "optimizer")}
    modules = {group: the_one(rf"src/\w*{group}s?\w*\.py", found) for group in recipes}
    copy = tmp_path / "project"
    for part in ("conf", "src", "sweeps"):
        shutil.copytree(ROOT / part, copy / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*recipes.values(), *modules.values()):
        (copy / path).write_text(found[path])
    chosen = {group: Path(path).stem for group, path in recipes.items()}
    command = [sys.executable, str(copy / "src" / "train.py"), *(f"{group}={name}" for group, name in chosen.items())]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *TINY.split()], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (copy / "results" / "runs").iterdir()
    record = json.loads((folder / "record.json").read_text())
    assert record["step"] == 1
    for group, name in chosen.items():
        node = record["config"][group]
        assert node["name"] == name
        assert node["_target_"].split(".")[0] == Path(modules[group]).stem
        assert name in folder.name
