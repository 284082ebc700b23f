"""What `import ablation` offers: its page, signals in a session, a notebook's own code, the tour, an installed copy."""

import json
import linecache
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import runs

import ablation
from ablation.config import targets
from ablation.config.schema import ROOT
from ablation.interrupts import Interrupts
from ablation.training.step import Training


def python(*arguments: str, cwd: Path, path: Path = ROOT / "src") -> str:
    environment = os.environ | {"PYTHONPATH": str(path), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.mark.slow
def test_the_examples_of_the_page(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "python.md").read_text()
    (tmp_path / "page.py").write_text("\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)))
    shown = python("page.py", cwd=tmp_path)
    ((error, right),) = re.findall(r"^done \S+ (\S+)$.*^tensor\(([\d.]+)\)$", shown, re.MULTILINE | re.DOTALL)
    assert 100 * (1 - float(right)) == pytest.approx(float(error), abs=3)  # the run's own may be in bfloat16
    made = [json.loads(path.read_text())["config"] for path in tmp_path.glob("my_results/runs/*/record.json")]
    (own,) = (config for config in made if config["optimizer"]["name"] == "Adam")
    found = own["shortcut"]["_target_"], own["shortcut"]["factor"], own["optimizer"]["lr"]
    assert found == ("__main__.faded", 0.2, 0.003)
    shutil.copytree(
        tmp_path / "my_results" / "runs", tmp_path / "my_results" / "replaced"
    )  # as overwrite=true leaves them
    records = ablation.records(tmp_path / "my_results")
    assert {Path(folder).parent.name for folder in records["folder"]} == {"runs"}
    assert len(records) == len(made) == 3


@pytest.mark.parametrize("numbers", [[signal.SIGINT], [signal.SIGINT] * 2, [signal.SIGTERM]])
def test_a_session_outlives_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, numbers: list[int]) -> None:
    """Its own handler gets the signal, after a checkpoint; in a thread, where none can be set, the run goes on."""
    config, handled, take_step = runs.small(tmp_path, "trainer.time_limit=10"), list[int](), Training.take_step

    def interrupted(training: Training) -> None:
        take_step(training)
        for number in numbers if training.step == 7 else ():
            os.kill(os.getpid(), number)

    monkeypatch.setattr("ablation.interrupts.PROCESS_STARTED", -1e9)  # the time limit is not the session's
    old = signal.signal(signal.SIGTERM, lambda number, _: handled.append(number))
    with monkeypatch.context() as patch:
        patch.setattr(runs.TAKE_STEP, interrupted)
        if numbers[0] == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                ablation.run(config)
        else:
            assert ablation.run(config).state == "interrupted"
    signal.signal(signal.SIGTERM, old)
    assert handled == [number for number in numbers if number == signal.SIGTERM]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    status = runs.status_of(runs.folder_of(tmp_path))
    assert (status["status"], "left at step 7" in status["message"]) == ("interrupted", len(numbers) == 1)
    undisturbed = runs.small(tmp_path / "undisturbed", "trainer.time_limit=10")
    with ThreadPoolExecutor() as threads:
        assert [one.state for one in threads.map(ablation.run, (config, undisturbed))] == ["resumed", "done"]
    assert Interrupts.current is None
    assert runs.essence(runs.folder_of(tmp_path)) == runs.essence(runs.folder_of(tmp_path / "undisturbed"))


def test_a_failed_run_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs.TAKE_STEP, lambda training: 1 / 0)
    with pytest.raises(RuntimeError, match="division by zero; traceback in"):
        ablation.run(runs.small(tmp_path))


CELL = """
import math, beside
from beside import f
class Base:
    def forward(self, x): return x
class Module(Base):
    scale = 1
    @property
    def twice(self): return 2
    def forward(self, x): return helper(x)
def helper(x): return [FACTOR for _ in x]
FACTOR, OTHER, DEFAULT = 3, 4, 5
def mine(i, o, s, *, d=DEFAULT): return Module() if f(i, o, s) else math.pi
"""
USED = {
    "self, x): return x": "self, x): return 0",
    "(Base)": "(dict)",
    "scale = 1": "scale = 2",
    "return 2": "return 3",
}
USED |= {"return helper(x)": "return x", "for _ in": "for y in", "= 3, 4": "= 5, 4", ", 5": ", 6", "f(i, o": "f(o, i"}


def test_the_source_of_a_notebooks_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that it uses counts, and nothing else; of a file, what Python imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "beside.py").write_text("value = 1\ndef f(i, o, s): return None\n")

    def source(old: str, new: str) -> str:
        name, text, module = f"<cell {old}{new}>", CELL.replace(old, new), ModuleType("__main__")
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)  # as IPython does
        monkeypatch.setitem(sys.modules, "__main__", module)
        exec(compile(text, name, "exec"), vars(module))
        return str(targets.source_of(str(targets.given("shortcut", module.mine)["_target_"])))

    sources = [source(*change) for change in ({"": ""} | USED).items()]
    assert len(set(sources)) == len(sources)
    assert source("3, 4", "3, 7") == sources[0]
    function = sys.modules["beside"].f
    (tmp_path / "beside.py").write_text("value = 2\n")
    with pytest.raises(ablation.UserError, match=r"^shortcut._target_=beside.f: its file has changed"):
        ablation.compose(shortcut=function)
    targets.files_of.cache_clear()
    assert source("", "") != sources[0]
    with pytest.raises(ablation.UserError, match=r"^shortcut=.*<lambda>: must be a function or class"):
        ablation.compose(shortcut=lambda i, o, s: None)


def shown(notebook: Any) -> list[list[str]]:
    """The kinds of each cell's outputs, but for streams, which come in pieces."""
    return [
        [one.output_type for one in cell.get("outputs", []) if one.output_type != "stream"] for cell in notebook.cells
    ]


@pytest.mark.slow
def test_the_tour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs as it stands, with as much output as is committed, and is small."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    text = (ROOT / "docs" / "tour.ipynb").read_text()
    assert len(text) < 400_000
    notebook = nbformat.reads(text, as_version=4)
    committed = shown(notebook)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": tmp_path}}).execute()
    assert shown(notebook) == committed


@pytest.mark.slow
def test_an_installed_copy(tmp_path: Path) -> None:
    """Away from the checkout it trains, reports and finds every file, and writes where it is called."""
    source, target, here = (tmp_path / name for name in ("source", "site-packages", "here"))
    here.mkdir()
    for part in ("conf", "sweeps", "src"):
        shutil.copytree(ROOT / part, source / part, symlinks=True, ignore=shutil.ignore_patterns("*.egg-info"))
    for name in ("pyproject.toml", "setup.py", "LICENSE"):
        shutil.copy(ROOT / name, source)
    python("-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(source), cwd=here)
    shutil.rmtree(source)
    python("-m", "ablation", "train", *runs.SMALL, cwd=here, path=target)
    files = python("-m", "ablation", "train", "--check", cwd=here, path=target)
    assert files.split(" of ")[0] == str(len([*ROOT.glob("conf/*/*.yaml"), *ROOT.glob("conf/hydra/*/*.yaml")]))
    assert "resnet8" in python("-m", "ablation", "report", "--runs", cwd=here, path=target)
    code = "import ablation; print(ablation.__file__, ablation.records('results')['environment.git_commit'][0])"
    assert python("-c", code, cwd=here, path=target).split() == [str(target / "ablation" / "__init__.py"), "None"]
    assert [path.name for path in here.iterdir()] == ["results"]
    assert (target / "ablation" / "py.typed").exists()
