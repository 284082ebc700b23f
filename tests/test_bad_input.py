"""Wrong input, as a user types it: one line that names the key, the value and what is allowed; exit status 2.

Most of the table goes through the program's entry point in this process; one case of each sort also runs as a process.
Nothing may be written: neither under results/ nor in the working directory.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import runs
from PIL import Image

from ablation.config.identity import folder_digest

KINDS = {
    "keys and choices": {
        "model.dept=20": ("model.dept=20", "did you mean depth?"),
        "+model.dept=20": ("model.dept=20", "did you mean depth?"),
        "++model.dept=20": ("model.dept=20", "did you mean depth?"),
        "modle=resnet20": ("modle=resnet20", "did you mean model?"),
        "+modle=resnet20": ("modle=resnet20", "did you mean model?"),
        "-m modle.depth=20,32": ("modle", "did you mean model?"),
        "sweeps=quickstart": ("sweeps=quickstart", "did you mean sweep?"),
        "sweep=quickstrat": ("sweep=quickstrat", "did you mean quickstart?"),
        "model=resnet21": ("model=resnet21", "resnet20, resnet32"),
        "model=": ("model=", "resnet20, resnet32"),
        "model=null": ("model=null", "must be the name of a choice"),
        "optimizer=5": ("optimizer=5", "must be the name of a choice"),
        "model={depth:20,residul:true}": ("model.residul", "did you mean residual?"),
        "experiment=papr": ("experiment=papr", "did you mean paper?"),
        "+experiment=paper": ("experiment=paper", "leave out the +"),
        "shortcut=D": ("shortcut=D", "A, B, C, avgpool"),
        "tracker=mlflow": ("tracker=mlflow", "disabled, offline, online"),
        "hydra/launcher=nope": ("hydra/launcher=nope", "basic"),
        "hydra.foo=1": ("hydra.foo=1", "no such key"),
        "~model.depth": ("model.depth", "cannot be removed"),
    },
    "grammar": {
        "model.depth=[20": ("model.depth=[20", "cannot be read"),
        "model.depth": ("model.depth", "cannot be read"),
        "a b": ("a=", "cannot be read"),
        "model.depth=20=3": ("model.depth=20=3", "cannot be read"),
        "model.depth=${nope}": ("model.depth=${nope}", "nope"),
        "--foo": ("--foo", "unrecognized"),
        "--config-name nope": ("nope", "primary config"),
        "--cfg job --info": ("--cfg job --info", "Only one of"),
    },
    "types": {
        "model.depth=abc": ("model.depth=abc", "a whole number"),
        "model.depth=": ("model.depth=", "a whole number"),
        "model.depth=null": ("model.depth=null", "a whole number"),
        "model.depth=20.5": ("model.depth=20.5", "a whole number"),
        "model.depth=[20,32]": ("model.depth=[20, 32]", "a whole number"),
        "schedule.milestones=0.5": ("schedule.milestones=0.5", "a list of numbers"),
        "augmentation.flip=maybe": ("augmentation.flip=maybe", "true or false"),
        "trainer.progress=loud": ("trainer.progress=loud", "true or false or null"),
        "data.root=[]": ("data.root=[]", "a word or null"),
    },
    "values": {
        "model.depth=21": ("model.depth=21", "6n + 2"),
        "model.depth=0": ("model.depth=0", "6n + 2"),
        "model.depth=-20": ("model.depth=-20", "6n + 2"),
        "optimizer.lr=-1": ("optimizer.lr=-1", "positive"),
        "optimizer.lr=nan": ("optimizer.lr=nan", "positive"),
        "optimizer.lr=inf": ("optimizer.lr=inf", "positive"),
        "~optimizer.lr": ("optimizer.lr=null", "positive"),
        "optimizer.momentum=1.5": ("optimizer.momentum=1.5", "from 0 to below 1"),
        "optimizer.weight_decay=-1": ("optimizer.weight_decay=-1", "zero or a positive number"),
        "optimizer.lrr=0.1": ("optimizer.lrr=0.1", "did you mean lr?"),
        "+optimizer.lrr=0.1": ("optimizer.lrr=0.1", "did you mean lr?"),
        "optimizer=adam optimizer.betas=[2,3]": ("optimizer=adam", "Invalid beta"),
        "+optimizer.nesterov=true optimizer.momentum=0": ("optimizer=sgd", "Nesterov momentum requires"),
        "+optimizer.nesterov=maybe": ("optimizer.nesterov=maybe", "true or false"),
        "+optimizer.maximize=1": ("optimizer.maximize=1", "true or false"),
        "+optimizer.foreach=some": ("optimizer.foreach=some", "true or false or null"),
        "+optimizer.dampening=abc": ("optimizer.dampening=abc", "a number"),
        "shortcut.zeros=left": ("shortcut.zeros=left", "end, split"),
        "schedule.steps=0": ("schedule.steps=0", "from 1"),
        "schedule.steps=-5": ("schedule.steps=-5", "from 1"),
        "schedule.milestones=[0.9,0.1]": ("schedule.milestones=[0.9, 0.1]", "growing fractions"),
        "data.batch_size=5000": ("data.batch_size=5000", "at most the 1438"),
        "data.validation=60000": ("data.validation=60000", "below the 1438"),
        "data=cifar10 data.validation=60000": ("data.validation=60000", "below the 50000"),
        "trainer.device=tpu": ("trainer.device=tpu", "auto, cpu, cuda"),
        "trainer.device=cuda:99": ("trainer.device=cuda:99", "no such device here"),
        "trainer.device=cuda:99999999999999999999": ("trainer.device=cuda:999", "no such device here; allowed: auto"),
        "trainer.time_limit=-1": ("trainer.time_limit=-1", "positive or null"),
        "selection=best": ("selection=best", "final, best_test"),
        "seed=-1": ("seed=-1", "zero or positive"),
        "seed=9223372036854775808": ("seed=9223372036854775808", "at most 9223372036854775807"),
        "data.split_seed=4294967296": ("data.split_seed=4294967296", "at most 4294967295"),
        "augmentation.cutout=1000000000": ("augmentation.cutout=1000000000", "at most 512"),
        "augmentation.padding=1000000000": ("augmentation.padding=1000000000", "at most 512"),
        "augmentation.shift=1e300": ("augmentation.shift=1e+300", "at most 512"),
        "model.width=1000000000": ("model.width=1000000000", "at most 1,024"),
        "model.depth=6000000002": ("model.depth=6000000002", "at most 10,000"),
        "experiment=notebook trainer.evaluate_every=10": ("trainer.evaluate_every=10", "count epochs"),
    },
    "trust": {
        "optimizer._target_=os.system": ("optimizer._target_=os.system", "named in conf/optimizer"),
        "shortcut._target_=os.system": ("shortcut._target_=os.system", "named in conf/shortcut"),
        "optimizer.name=../../x": ("optimizer.name=../../x", "part of a folder's name"),
        "schedule.name=/etc/x": ("schedule.name=/etc/x", "part of a folder's name"),
    },
    "sweeps": {  # the first job of each would be fine
        "-m model.depth=8,21": ("model.depth=21", "6n + 2"),
        "-m model.depth=8,abc": ("model.depth=abc", "a whole number"),
        "-m model=resnet20,resnet21": ("model=resnet21", "resnet20"),
        "-m optimizer=sgd,adam optimizer.momentum=0.5": ("optimizer.momentum", ""),
        "-m data.validation=0,60000": ("data.validation=60000", "below the 1438"),
        "sweep=quickstart,short": ("sweep=quickstart,short", "a sweep is one name"),
        "-m sweep=quickstart,short": ("sweep=quickstart,short", "one name, with no -m before it; allowed: aug"),
        "-m sweep=choice(quickstart,short)": ("sweep=choice(quickstart,short)", "a sweep is one name"),
        "-m optimizer=sgd,5": ("optimizer=sgd,5", "must be the name of a choice"),
        "-m seed=range(0)": ("seed=range(0)", "no values"),
        "-m seed=range(x)": ("seed=range(x)", "cannot be read"),
        "-m hydra.sweeper.params=5": ("hydra.sweeper.params=5", "a mapping"),
        "model.depth=8,14": ("model.depth=8,14", "put -m before"),
        "seed=0 -m model.depth=8,21": ("model.depth=21", "6n + 2"),
    },
}
CASES = {f"{kind}: {line}": (line, *says) for kind, table in KINDS.items() for line, says in table.items()}


def base(results: Path) -> list[str]:
    """What makes each case quick, should it be let through by mistake."""
    return ["data=digits", "tracker=disabled", "schedule.steps=1", "model.depth=8", f"results={results}"]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with no results beside it."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_table_is_long_enough() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize("case", CASES)
def test_one_line(
    case: str, empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    line, names, allowed = CASES[case]
    results = tmp_path / "results"
    status = runs.in_process(monkeypatch, *base(results), *line.split(" "))
    shown = capfd.readouterr()
    assert (status, shown.out) == (2, ""), shown
    (only,) = shown.err.splitlines()
    assert names in only
    assert allowed in only
    assert not results.exists()
    assert not list(empty.iterdir())


@pytest.mark.parametrize("line", ["model.dept=20", "model.depth=21", "-m model.depth=8,21"])
def test_one_line_from_a_process(line: str, empty: Path, tmp_path: Path) -> None:
    process = runs.train(*base(tmp_path / "results"), *line.split(" "), cwd=empty)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "results").exists()
    assert not list(empty.iterdir())


# ------------------------------------------------------------------------------------- data and folders that are wrong


def picture(path: Path, size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((size, size, 3), np.uint8)).save(path)


def no_folder(root: Path) -> None:
    pass


def empty_folder(root: Path) -> None:
    root.mkdir()


def one_class(root: Path) -> None:
    picture(root / "cat" / "1.png")
    picture(root / "cat" / "2.png")


def mixed_sizes(root: Path) -> None:
    for name, size in (("cat/1", 8), ("cat/2", 8), ("dog/1", 8), ("dog/2", 9)):
        picture(root / f"{name}.png", size)


def no_picture(root: Path) -> None:
    one_class(root)
    picture(root / "dog" / "1.png")
    (root / "dog" / "2.png").write_text("not a picture")


def loop(root: Path) -> None:
    root.symlink_to(root.name)


def truncated_batch(root: Path) -> None:
    (root / "cifar-10-batches-py").mkdir(parents=True)
    (root / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"\x80\x02half of it")


def truncated_archive(root: Path) -> None:
    root.mkdir()
    (root / "cifar-10-python.tar.gz").write_bytes(b"\x1f\x8bhalf of it")


DATA: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "missing image folder": ("image_folder", no_folder, "no such folder"),
    "empty image folder": ("image_folder", empty_folder, "no folders in it"),
    "one class": ("image_folder", one_class, "only one class"),
    "links in a circle": ("image_folder", loop, "its links lead in a circle"),
    "links in a circle, CIFAR-10": ("cifar10", loop, "its links lead in a circle"),
    "mixed sizes": ("image_folder", mixed_sizes, "all must have one size"),
    "a broken picture": ("image_folder", no_picture, "cannot be read as a picture"),
    "missing data, no network": ("cifar10", no_folder, "by hand"),
    "corrupt batch file": ("cifar10", truncated_batch, "damaged"),
    "truncated download": ("cifar10", truncated_archive, "cifar-10-python.tar.gz"),
}


@pytest.mark.parametrize("case", DATA)
def test_data(
    case: str, empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    name, make, says = DATA[case]
    root = tmp_path / "data"
    make(root)
    before = sorted(root.rglob("*"))

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    status = runs.in_process(monkeypatch, *base(tmp_path / "results"), f"data={name}", f"data.root={root}")
    shown = capfd.readouterr()
    assert status == 2, shown
    (only,) = shown.err.splitlines()
    assert only.startswith(f"data.root={root}")
    assert says in only
    assert sorted(root.rglob("*")) == before
    assert not (tmp_path / "results").exists()
    assert not list(empty.iterdir())


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("results=LOOP", "its links lead in a circle"),
        ("results=LOOP/x", "its links lead in a circle"),
        ("results=" + "a" * 300, "File name too long"),
        ("data.root=" + "a" * 300, "File name too long"),
        ('data.root="~nosuchuser/x"', "there is no such user"),
    ],
)
def test_a_folder_that_cannot_be(
    argument: str,
    says: str,
    empty: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    loop(tmp_path / "loop")
    argument = argument.replace("LOOP", str(tmp_path / "loop"))
    status = runs.in_process(monkeypatch, *base(tmp_path / "results"), "data=image_folder", argument)
    shown = capfd.readouterr()
    assert status == 2, shown
    (only,) = shown.err.splitlines()
    assert only.startswith(argument.partition("=")[0] + "=")
    assert says in only
    assert not (tmp_path / "results").exists()
    assert not list(empty.iterdir())


def test_names_that_are_not_utf8_are_read(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    picture(tmp_path / "cat" / "1.ppm")
    os.rename(folder + b"/cat/1.ppm", folder + b"/cat/caf\xe9.ppm")
    before = folder_digest(tmp_path)
    os.rename(folder + b"/cat/caf\xe9.ppm", folder + b"/cat/caf\xe8.ppm")
    assert folder_digest(tmp_path) != before


def test_results_is_a_file(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As root no folder is read-only; a file in the folder's place is met by the same error."""
    results = tmp_path / "results"
    results.write_text("mine")
    assert runs.in_process(monkeypatch, *base(results)) == 2
    (only,) = capfd.readouterr().err.splitlines()
    assert only.startswith(f"results={results}")
    assert "cannot be written" in only
    assert results.read_text() == "mine"


def test_checkpoint_is_a_text_file(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    text = empty / "notes.txt"
    text.write_text("not a checkpoint")
    assert runs.in_process(monkeypatch, str(text), "model=resnet20", program="evaluate.py") == 2
    (only,) = capfd.readouterr().err.splitlines()
    assert only.startswith(f"path={text}")
    assert "not a PyTorch file" in only
