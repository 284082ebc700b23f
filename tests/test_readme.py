"""The examples of the documents as they stand there: written into a copy of the project and run as a user would.

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

PAGES = (ROOT / "README.md", ROOT / "docs" / "optimizers.md")
EXAMPLE = re.compile(r"^<!-- example: (\S+) -->\s*^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)

TINY = "schedule.steps=1 augmentation=none model.depth=8 model.width=4 tracker=disabled"


def the_one(pattern: str, files: dict[str, str]) -> str:
    (path,) = (path for path in files if re.fullmatch(pattern, path))
    return path


def test_the_examples_train(tmp_path: Path) -> None:
    """The sweep with the experiment, the shortcut and the optimizer of the examples, a step a run."""
    found = dict(EXAMPLE.findall("".join(page.read_text() for page in PAGES)))
    groups = ("shortcut", "optimizer", "experiment")
    recipes = {group: the_one(rf"conf/{group}/\w+\.yaml", found) for group in groups}
    modules = {group: the_one(rf"src/\w*{group}s?\w*\.py", found) for group in groups[:2]}
    sweep = the_one(r"sweeps/\w+\.yaml", found)
    copy = tmp_path / "project"
    for part in ("conf", "src", "sweeps"):
        shutil.copytree(ROOT / part, copy / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in found.items():
        (copy / path).write_text(text)
    shortcut, optimizer, experiment = (Path(recipes[group]).stem for group in groups)
    assert f"override /experiment: {experiment}" in found[sweep]
    chosen = [f"sweep={Path(sweep).stem}", f"optimizer={optimizer}", "seed=0"]
    command = [sys.executable, str(copy / "src" / "train.py"), *chosen, *TINY.split()]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text()) for path in (copy / "results" / "runs").glob("*/record.json")]
    names = [record["config"]["shortcut"]["name"] for record in records if record["config"]["model"]["residual"]]
    assert sorted(names) == sorted(["B", shortcut])  # the experiment's own, and the arm's
    assert [record["step"] for record in records] == [1, 1, 1]
    assert {record["config"]["optimizer"]["name"] for record in records} == {optimizer}
    targets = {record["config"][group]["_target_"].split(".")[0] for record in records for group in modules}
    assert {Path(path).stem for path in modules.values()} <= targets
