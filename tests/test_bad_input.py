"""Wrong input, as a user types it: one line that names the key, the value and what is allowed; exit status 2.

The table goes through the program's entry point in this process; one line of its kind also runs as a process.
Nothing may be written: neither under results/ nor in the working directory.
"""

import importlib
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from yaml import YAMLError

from ablation.config import command_line, compose, targets
from ablation.config.schema import ROOT
from ablation.errors import UserError

CASES = {
    # keys and choices
    "model.dept=20": ("model.dept=20", "did you mean depth?"),
    "-m +model.dept=20,32": ("model.dept=20,32", "did you mean depth?"),
    "+modle=resnet20": ("modle=resnet20", "did you mean model?"),
    "model=resnet21": ("model=resnet21", "resnet20, resnet32"),
    "model=": ("model=", "resnet20, resnet32"),
    "model=null": ("model=null", "must be the name of one choice"),
    "shortcut=[A,B]": ("shortcut=[A,B]", "must be the name of one choice"),
    "~model": ("model=", "must be the name of one choice"),
    "~model=resnet20": ("model=resnet20", "must be the name of one choice"),
    "model={depth:20,residul:true}": ("model.residul", "did you mean residual?"),
    "+experiment=paper": ("experiment=paper", "leave out the +"),
    "optimizer@x=adam": ("optimizer=adam", "leave out @x"),
    "hydra/launcher=nope": ("hydra/launcher=nope", "basic"),
    "hydra.foo=1": ("hydra.foo=1", "no such key"),
    "hydra.run.dir=/dev/null/x": ("hydra.run.dir=/dev/null/x", "results=FOLDER"),
    "-m hydra.sweep.dir=/dev/null/x seed=0,1": ("hydra.sweep.dir=/dev/null/x", "results=FOLDER"),
    "hydra.job.env_copy=[NOPE]": ("hydra.job.env_copy=[NOPE]", "not used"),
    "~seed": ("seed=", "cannot be removed"),
    "+seed=1": ("seed=1", "leave out the +"),
    "+=": ("=", "no such key"),
    # grammar
    "model.depth=[20": ("model.depth=[20", "cannot be read"),
    "model.depth": ("model.depth", "cannot be read"),
    "model.depth=20=3": ("model.depth=20=3", "cannot be read"),
    "model.depth=${nope}": ("model.depth=${nope}", "nope"),
    "--foo": ("--foo", "unrecognized"),
    "--config-name nope": ("nope", "primary config"),
    "--cfg job --info": ("--cfg job --info", "Only one of"),
    # types
    "model.depth=abc": ("model.depth=abc", "a whole number"),
    "model.depth=20.5": ("model.depth=20.5", "a whole number"),
    "schedule.milestones=[a]": ("schedule.milestones=[a]", "a list of numbers"),
    "trainer.progress=loud": ("trainer.progress=loud", "true or false or null"),
    "data.root=[]": ("data.root=[]", "text or null"),
    "overwrite=2": ("overwrite=2", "true or false"),
    # values
    "model.depth=21": ("model.depth=21", "6n + 2"),
    "schedule.milestones=[0.9,0.1]": ("schedule.milestones=[0.9, 0.1]", "growing fractions"),
    "schedule.milestones=[[0.5]]": ("schedule.milestones=[[0.5]]", "growing fractions"),
    "model=resnet110 optimizer=adamw": ("schedule.warmup_lr=0.01", "at most optimizer.lr, 0.001"),
    "data.batch_size=5000": ("data.batch_size=5000", "at most the 1438"),
    "data.validation=60000": ("data.validation=60000", "below the 1438"),
    "trainer.device=tpu": ("trainer.device=tpu", "auto, cpu, cuda"),
    "trainer.device=cuda:99999999999999999999": ("trainer.device=cuda:999", "no such device here; allowed: auto"),
    "trainer.time_limit=-1": ("trainer.time_limit=-1", "positive or null"),
    "selection=best": ("selection=best", "final, best_test"),
    "seed=9223372036854775808": ("seed=9223372036854775808", "at most 9,223,372,036,854,775,807"),
    "augmentation.shift=1e300": ("augmentation.shift=1e+300", "from 0 to 512"),
    "experiment=notebook trainer.evaluate_every=10": ("trainer.evaluate_every=10", "count epochs"),
    "schedule.name=/etc/x": ("schedule.name=/etc/x", "part of a folder's name"),
    # open groups
    "optimizer=adam optimizer.alpha=0.5": ("optimizer.alpha=0.5", "allowed: _target_, betas, lr, name, weight_decay"),
    "+optimizer.lrr=0.1": ("optimizer.lrr=0.1", "did you mean lr?"),
    "optimizer.lr=nan": ("optimizer.lr=nan", "positive"),
    "~optimizer.lr": ("optimizer.lr=null", "positive"),
    "optimizer.weight_decay_scope=x": ("optimizer.weight_decay_scope=x", "all, weights, convolutions"),
    "optimizer.name=5": ("optimizer.name=5", "part of a folder's name"),
    "optimizer=adam optimizer.betas=[2,3]": ("optimizer=adam", "Invalid beta"),
    "+optimizer.fused=3": ("optimizer.fused=3", "true or false or null"),
    "optimizer=adam +optimizer.foreach=true": ("optimizer=adam", "fails at a step", "foreach=True"),
    "+optimizer.nesterov=maybe": ("optimizer.nesterov=maybe", "true or false"),
    "+optimizer.dampening=abc": ("optimizer.dampening=abc", "must be a number"),
    "shortcut.zeros=left": ("shortcut.zeros=left", "end, split"),
    "shortcut=dropout shortcut.rate=2": ("shortcut=dropout", "between 0 and 1"),
    "optimizer._target_=os.system": ("optimizer._target_=os.system", "named in conf/optimizer"),
    # sweeps; the first job of each would be fine
    "-m model.depth=8,abc": ("model.depth=abc", "a whole number"),
    "-m model=resnet20,resnet21": ("model=resnet21", "resnet20"),
    "-m optimizer=sgd,adam optimizer.momentum=0.5": ("optimizer.momentum=0.5", "no such key"),
    "-m sweep=quickstart,short": ("sweep=quickstart,short", "one name, with no -m before it; allowed: aug"),
    "sweep=[quickstart,short]": ("sweep=[quickstart,short]", "a sweep is one name"),
    "-m seed=range(0)": ("seed=range(0)", "no values"),
    "-m seed=range(0,1e12)": ("seed=range(0,1e12)", "at most 10,000 jobs"),
    "-m results=a,b": ("results=a,b", "cannot differ between the jobs"),
    "-m hydra.sweeper.params=5": ("hydra.sweeper.params=5", "a mapping"),
    "-m hydra.launcher.module=nope": ("hydra.launcher.module=nope", "gang, processes, slurm"),
    "-m hydra.sweeper.arms=5": ("hydra.sweeper.arms=5", "a list of lists"),
    "-m hydra.sweeper.arms=[[null]]": ("hydra.sweeper.arms=[[None]]", "a list of lists"),
    "-m hydra.sweeper.arms=[[seed]]": ("seed=", "cannot be read"),
    "model.depth=8,14": ("model.depth=8,14", "put -m before"),
    "seed=0 -m model.depth=8,21": ("model.depth=21", "6n + 2"),
}


def base(results: Path) -> list[str]:
    """What makes each case quick, should it be let through by mistake."""
    return ["data=digits", "tracker=disabled", "schedule.steps=1", "model.depth=8", f"results={results}"]


@pytest.fixture
def mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs train.py with a mistake in its arguments: the one line that it prints. Nothing may be written."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    monkeypatch.chdir(cwd)

    def run(*arguments: str) -> str:
        status = runs.in_process(monkeypatch, *base(tmp_path / "results"), *arguments)
        shown = capfd.readouterr()
        assert (status, shown.out) == (2, ""), shown
        (line,) = shown.err.splitlines()
        assert not (tmp_path / "results").is_dir()
        assert not list(cwd.iterdir())
        return line

    return run


@pytest.mark.parametrize("case", CASES)
def test_one_line(case: str, mistake: Callable[..., str]) -> None:
    line = mistake(*case.split(" "))
    for part in CASES[case]:
        assert part in line


def test_one_line_from_a_process(tmp_path: Path) -> None:
    process = runs.train(*base(tmp_path / "results"), "-m", "model.depth=8,21", cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, len(err.splitlines())) == (2, "", 1)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------- a user's own files and code

SGD, GLOBAL = b"name: bad\n_target_: torch.optim.SGD\nlr: 0.1\n", b"# @package _global_\n"
SWEEP = GLOBAL + b"hydra: {mode: MULTIRUN, sweeper: {%s}}\n"
FILES = [
    ("optimizer", b"name: x: y\n", "line 1, column 8"),
    ("sweep", b"name:\n\tx: 1\n", "sweeps/bad.yaml", "line 2, column 1"),
    ("sweep", b"name: x\n---\nname: y\n", "expected a single document"),
    ("experiment", b"name: x\0\n", "special characters are not allowed"),
    ("optimizer", "name: x\n".encode("utf-16"), "can't decode byte"),
    ("schedule", b"name: caf\xe9\n", "can't decode byte"),
    ("sweep", b"name: !!python/object:os.system x\n", "could not determine a constructor"),
    ("sweep", b"name: &a [*a]\n", "sweep=bad", "it contains itself"),
    ("experiment", b"defaults:\n  - bad\n", "experiment=bad", "it contains itself"),
    ("optimizer", b"defaults: 5\n", "optimizer=bad", "must be a list"),
    ("optimizer", b"- 1\n", "optimizer=bad", "ListConfig"),
    ("optimizer", b"", "optimizer.name="),
    ("optimizer", b"name: yes\n", "optimizer.name=true", "letters, digits"),
    ("schedule", b"kind: cosine\n", "schedule.name="),
    ("schedule", b"name: yes\n", "schedule.name=true", "letters, digits"),
    ("augmentation", b"name: 1.5\n", "augmentation.name=1.5", "one of them a letter"),
    ("data", b"batch_size: 8\n", "data.name="),
    ("sweep", b"seed: 1\n", "needs `# @package _global_`"),
    ("sweep", GLOBAL + b"schedule: {steps: abc}\n", "schedule.steps=abc: must be a whole", "/bad.yaml)"),
    ("sweep", GLOBAL + b"shortcut: {_target_: os.system}\n", "named in conf/shortcut"),
    ("sweep", SWEEP % b"arms: [[5]]", "hydra.sweeper.arms=[[5]]", "a list of lists"),
    ("sweep", SWEEP % b"arms: [[~seed]]", "seed=", "cannot be removed"),
    ("sweep", SWEEP % b"params: {model.dept: 20}", "model.dept=", "did you mean depth?"),
    ("sweep", SWEEP % b"params: {model.depth: '20,21'}", "model.depth=21", "6n + 2"),
    ("sweep", SWEEP % b"params: {sweep: short}", "sweep=short", "cannot differ between the jobs"),
    ("sweep", SWEEP % b"parms: {seed: 1}", "hydra.sweeper.parms", "allowed: arms, params, zip"),
    ("sweep", SWEEP % b"zip: {seed: '0,1', model.depth: '8,14,20'}", "hydra.sweeper.zip=", "as many values"),
    ("optimizer", SGD + b"fused: 3\n", "optimizer.fused=3", "true or false or null"),
    *(("optimizer", SGD.replace(b"torch.optim.SGD", target), "optimizer._target_=" + target.decode(), "cannot be used")
      for target in (b"5", b"torch.optim", b"torch.__version__", b"torch.optimm.SGD", b"my_optimzers.SGD")),
    ("optimizer", SGD.replace(b"SGD", b"LBFGS"), "optimizer=bad: torch.optim.LBFGS fails", "closure"),
    ("optimizer", SGD.replace(b"SGD", b"SparseAdam"), "optimizer=bad: torch.optim.SparseAdam fails", "dense gradients"),
]  # fmt: skip


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of conf/ that a test may spoil, of which everything is composed."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf", symlinks=True)
    shutil.copytree(ROOT / "sweeps", tmp_path / "sweeps")
    for module in ("compose", "command_line", "targets"):
        monkeypatch.setattr(f"ablation.config.{module}.CONF", tmp_path / "conf")
    monkeypatch.syspath_prepend(tmp_path)
    targets.files_of.cache_clear()
    yield tmp_path / "conf"
    targets.allowed_targets.cache_clear()


def line_about(group: str) -> str:
    """The one line about the file bad.yaml of a group; who does not ask for it is not stopped by it."""
    assert compose.compose(["optimizer=adam"]).optimizer["name"] == "adam"
    with pytest.raises(
        (UserError, YAMLError, ValueError, RecursionError, HydraException, OmegaConfBaseException)
    ) as bad:
        compose.check_file(group, "bad")
    assert isinstance(bad.value, UserError) or command_line.is_hydras(bad.value)
    (line,) = str(command_line.translate(bad.value)).splitlines()
    return line


@pytest.mark.parametrize("case", FILES, ids=lambda case: f"{case[0]} {case[1]!r}")
def test_a_broken_file_stops_only_who_asks_for_it(case: tuple[str, bytes, str], conf: Path) -> None:
    group, content, *says = case
    (conf / group / "bad.yaml").write_bytes(content)
    line = line_about(group)
    for part in says:
        assert part in line


CODE = {  # a user's own module, whose `f` is a shortcut or an optimizer
    "def f(i, o, s): return None": "(16, 32, 2) (channels in and out, stride): ValueError: from (2, 16, 8, 8) it makes "
    "(2, 16, 8, 8), and the block needs (2, 32, 4, 4)",
    "def f(i, o, s): return nn.Conv2d(i, o + 1, 1, s)": "it makes (2, 17, 8, 8), and the block needs (2, 16, 8, 8)",
    "def f(i, o, s): return lambda x: x": "function is neither a torch.nn.Module nor None",
    "def f(i, o, s): raise KeyError('x')": "mine9.f fails at (16, 16, 1) (channels in and out, stride): KeyError: 'x'",
    "def f(i, o): return None": "takes 2 positional arguments but 3 were given",
    "raise SystemExit(3)": "cannot be used: 3",
    "f = 5": "cannot be used: 5 is not a callable object",
    "def f(params, lr): return 5": "optimizer=bad: mine9.f fails at a step on a tiny network: AttributeError",
}  # fmt: skip


@pytest.mark.parametrize("code", CODE)
def test_own_code_that_does_not_fit(code: str, conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group = "optimizer" if "params" in code else "shortcut"
    (conf.parent / "mine9.py").write_text(f"from torch import nn\n{code}\n")
    lr = "lr: 0.1\n" if group == "optimizer" else ""
    (conf / group / "bad.yaml").write_text(f"name: bad\n_target_: mine9.f\n{lr}")
    monkeypatch.delitem(sys.modules, "mine9", raising=False)
    importlib.invalidate_caches()
    assert CODE[code] in line_about(group)


def test_trying_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    compose.compose(["shortcut=C"])
    assert torch.equal(torch.get_rng_state(), before)


def test_check_names_each_broken_file(
    conf: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep whose optimiser is not installed is named too, but is not wrong."""
    monkeypatch.delitem(ConfigStore.instance().repo["hydra"]["sweeper"], "optuna.yaml", raising=False)
    used = (conf / "config.yaml").read_text() + "sweep: quickstart, sweep: tuning, data: digits"
    used += "schedule: onecycle, augmentation: none, model: plain56"
    for path in conf.glob("*/*.yaml"):
        if f"{path.parent.name}: {path.stem}" not in used:
            path.unlink()
    assert compose.check_files() == 0
    assert capsys.readouterr().err.startswith(f"{conf}/sweep/tuning.yaml: hydra/sweeper=optuna: is not installed")
    for name in ("model/bad.yaml", "sweep/bad.yaml"):
        (conf / name).write_text("depth: 21\n")
    assert compose.check_files() == 2
    first, second, _ = capsys.readouterr().err.splitlines()
    assert first.startswith(f"{conf}/model/bad.yaml: model.depth=21: must be 6n + 2")
    assert second.startswith(f"{conf}/sweep/bad.yaml: sweep=")


# ------------------------------------------------------------------------------------- data and folders that are wrong


def write(root: Path, files: dict[str, int | bytes]) -> None:
    """Files below `root`: a number is the side of an image, bytes are the content. "" is a link to itself."""
    for name, content in files.items():
        path = root / name
        if path == root:
            root.symlink_to(root.name)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            Image.fromarray(np.zeros((content, content, 3), np.uint8)).save(path)


DATA: dict[str, tuple[str, dict[str, int | bytes], str]] = {
    "missing image folder": ("image_folder", {}, "no such folder"),
    "no folders": ("image_folder", {"1.png": 8}, "no folders in it"),
    "one class": ("image_folder", {"cat/1.png": 8, "cat/2.png": 8}, "only one class"),
    "mixed sizes": ("image_folder", {"a/1.png": 8, "a/2.png": 8, "b/1.png": 8, "b/2.png": 9}, "all must have one size"),
    "a broken image": ("image_folder", {"a/1.png": 8, "a/2.png": 8, "b/1.png": 8, "b/2.png": b""}, "cannot be read as"),
    "links in a circle": ("cifar10", {"": b""}, "cannot be a folder: Too many levels of symbolic links"),
    "missing data, no network": ("cifar10", {}, "by hand"),
    "damaged batch": ("cifar10", {"cifar-10-batches-py/data_batch_1": b"\x80\x02half of it"}, "damaged"),
    "half a download": ("cifar10", {"cifar-10-python.tar.gz": b"\x1f\x8bhalf of it"}, "cifar-10-python.tar.gz"),
}


@pytest.mark.parametrize("case", DATA)
def test_data(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: Callable[..., str]) -> None:
    name, files, says = DATA[case]
    root = tmp_path / "data"
    write(root, files)
    before = sorted(root.rglob("*"))

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    line = mistake(f"data={name}", f"data.root={root}")
    assert line.startswith(f"data.root={root}")
    assert says in line
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("results=LOOP/x", "cannot be a folder: Too many levels of symbolic links"),
        ("results=FILE", "cannot be written"),
        ("results='a\nsweep b'", "without control characters"),
        ("results=" + "a" * 300, "File name too long"),
        ("data.root=" + "a" * 300, "File name too long"),
        ('data.root="~nosuchuser/x"', "there is no such user"),
    ],
)
def test_a_folder_that_cannot_be(argument: str, says: str, tmp_path: Path, mistake: Callable[..., str]) -> None:
    write(tmp_path / "LOOP", {"": b""})
    (tmp_path / "FILE").write_text("mine")
    for name in ("LOOP", "FILE"):
        argument = argument.replace(name, str(tmp_path / name))
    line = mistake(argument)
    assert line.startswith(argument.partition("=")[0] + "=")
    assert says in line
    assert (tmp_path / "FILE").read_text() == "mine"
