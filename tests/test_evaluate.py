"""`src/evaluate.py`: a run gives its record's numbers, another project's names the same network, bad input one line."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from runs import TRAIN, cut_off, finish, folder_of, in_process, small
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from ablation import data
from ablation.config.schema import ROOT
from ablation.evaluation.confusion import by_class, confused_pairs, show_confusion
from ablation.evaluation.evaluate import remark

NETWORK = ("data=digits", "model.depth=8", "model.width=4")

Evaluate = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    results = tmp_path_factory.mktemp("results")
    finish(small(results, "optimizer.lr=0.03"))
    return folder_of(results)


@pytest.fixture(scope="module")
def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "record.json").read_text())


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Evaluate:
    """`python src/evaluate.py ARGUMENTS` without a new process -> what it writes as JSON."""

    def evaluate(*arguments: object) -> dict[str, Any]:
        output = tmp_path / "evaluated.json"
        given = [str(argument) for argument in (*arguments, "--output", output)]
        assert in_process(monkeypatch, *given, program="evaluate.py") == 0
        return json.loads(output.read_text())

    return evaluate


def test_a_finished_run_gives_its_record(
    run: Path, record: dict[str, Any], evaluated: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    found, out = evaluated(run), capsys.readouterr().out
    assert found["test_error"] == record["metrics"]["test_error"]
    assert found["test_loss"] == record["metrics"]["test_loss"]
    assert found["confusion"] == record["confusion"]
    assert "the same as in its record" in out
    assert f"test error {found['test_error']:.2f} %, loss {found['test_loss']:.4f} (final iterate, step 12)" in out
    for i, row in enumerate(record["confusion"]):
        wrong = sum(row) - row[i]
        assert re.search(rf"│ {i} +│ +{sum(row)} │ +{wrong} │ +{100 * wrong / sum(row):.2f} │", out), out
        one = found["classes"][i]
        assert (one["class"], one["images"], one["wrong"]) == (str(i), sum(row), wrong)
        assert one["error"] == pytest.approx(100 * wrong / sum(row))


def test_its_weights_as_a_file_and_the_matrix_as_csv(
    run: Path, record: dict[str, Any], tmp_path: Path, evaluated: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "matrix.csv"
    evaluated("--matrix", run / "weights.pt", *NETWORK)
    out = capsys.readouterr().out
    assert f"test error {record['metrics']['test_error']:.2f} %" in out
    assert re.search(rf"│ 0 │ +{record['confusion'][0][0]} │", out), "the matrix"
    with pytest.MonkeyPatch.context() as patch:
        assert in_process(patch, str(run), "--output", str(output), program="evaluate.py") == 0
    rows = list(csv.reader(output.open()))
    assert rows[0] == ["true", *"0123456789"]
    assert [[int(cell) for cell in row[1:]] for row in rows[1:]] == record["confusion"]


def save(weights: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    save_file({name: value.contiguous() for name, value in weights.items()}, path, metadata)


def test_weights_are_written_with_their_record(
    run: Path, record: dict[str, Any], tmp_path: Path, evaluated: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    """Read by safetensors alone, they are the run's; evaluated without the run's folder, they give its record."""
    path = tmp_path / "w.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        assert in_process(patch, str(run), "--output", str(path), program="evaluate.py") == 0
    own = torch.load(run / "weights.pt", weights_only=True)
    with safe_open(path, "pt") as file:
        metadata = {key: json.loads(text) for key, text in file.metadata().items()}
        assert all(file.get_tensor(name).equal(value) for name, value in own.items())
    train = data.load("digits", Path(), 0, 0).train.images
    assert np.allclose(metadata["normalization"]["mean"], train.double().mean(0) / 255, atol=1e-6)
    assert str(run.parent) not in str(metadata["record"])
    found, out = evaluated(path), capsys.readouterr().out
    assert (found["confusion"], found["note"]) == (record["confusion"], "final iterate, step 12")
    assert "the same as in its record" in out
    save(own, path)  # no record beside them: as of any file
    assert evaluated(path, *NETWORK)["confusion"] == record["confusion"]


PUBLISHED = sorted((ROOT / "results" / "weights").glob("*.safetensors"))


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_weights_give_the_published_number(path: Path, cifar10_root: Path, evaluated: Evaluate) -> None:
    with safe_open(path, "pt") as file:
        expected = json.loads(file.metadata()["record"])
    for published in (ROOT / "results" / "reference").glob(f"*/{path.stem}/record.json"):
        assert json.loads(published.read_text())["metrics"] == expected["metrics"]
    found = evaluated(path, f"data.root={cifar10_root}")
    as_there = found["environment"]["device_name"] == expected["environment"]["device_name"]
    tolerance = 0 if as_there else 0.2  # bfloat16 rounds in another order on another processor
    assert found["test_error"] == pytest.approx(expected["metrics"]["test_error"], abs=tolerance)
    assert sum(path.stat().st_size for path in PUBLISHED) < 4e6


def test_selected_on_test_is_said(tmp_path: Path, evaluated: Evaluate, capsys: pytest.CaptureFixture[str]) -> None:
    finish(small(tmp_path, "selection=best_test", "seed=2"))
    folder = folder_of(tmp_path)
    metrics = json.loads((folder / "record.json").read_text())["metrics"]
    assert evaluated(folder)["test_error"] == metrics["selected_test_error"]
    assert f"(step {metrics['selected_step']}, the best on the test set: selected on test)" in capsys.readouterr().out


def test_an_unfinished_run_is_evaluated_at_its_checkpoint(
    tmp_path: Path, evaluated: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    cut_off(small(tmp_path, "trainer.checkpoint_every=5"), after=8)
    folder = folder_of(tmp_path)
    of_run = evaluated(folder)
    assert "not finished: checkpoint at step 5 of 12" in capsys.readouterr().out
    row = json.loads((folder / "history.jsonl").read_text().splitlines()[0])
    assert (row["step"], row["test_error"]) == (5, of_run["test_error"])
    assert evaluated(folder / "checkpoint.pt", *NETWORK)["confusion"] == of_run["confusion"]


def akamaster(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the names of akamaster/pytorch_resnet_cifar10, as its published files have them."""
    renamed = {}
    for name, value in state.items():
        theirs = re.sub(r"^fc\.", "linear.", name).replace("downsample", "shortcut")
        if "num_batches_tracked" not in name:  # they were written by an older torch
            renamed[f"module.{theirs}"] = value
    return renamed


def test_another_projects_names(run: Path, tmp_path: Path, evaluated: Evaluate) -> None:
    """With shortcuts A and B, within a "state_dict" and alone, in the zip format of torch.save and the one before."""
    finish(small(tmp_path, "shortcut=B"))
    for folder, wrapped, shortcut in ((run, True, "A"), (folder_of(tmp_path), False, "B")):
        theirs: dict[str, Any] = akamaster(torch.load(folder / "weights.pt", weights_only=True))
        theirs = {"state_dict": theirs, "best_prec1": 91.7, "epoch": 200} if wrapped else theirs
        path = tmp_path / "resnet8-12ab34cd.th"
        torch.save(theirs, path, _use_new_zipfile_serialization=wrapped)
        confusion = json.loads((folder / "record.json").read_text())["confusion"]
        assert evaluated(path, *NETWORK, f"shortcut={shortcut}")["confusion"] == confusion


def test_unknown_names_in_the_networks_order(
    run: Path, record: dict[str, Any], tmp_path: Path, evaluated: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a-martyn/resnet names them; what is known and incomplete, or in another order, is not guessed."""
    state = torch.load(run / "weights.pt", weights_only=True)
    names = {"conv1.": "convIn.", "bn1.": "bnIn.", "fc.": "fcOut."}
    theirs = {re.sub("^(conv1|bn1|fc)[.]", lambda m: names[m[0]], n).replace("layer", "stack"): state[n] for n in state}
    torch.save(theirs, tmp_path / "theirs.pt")
    assert evaluated(tmp_path / "theirs.pt", *NETWORK)["confusion"] == record["confusion"]
    assert "(unknown names, taken in their order: another network may" in capsys.readouterr().out
    torch.save(dict(reversed(theirs.items())), tmp_path / "reversed.pt")
    assert in_process(pytest.MonkeyPatch(), str(tmp_path / "reversed.pt"), *NETWORK, program="evaluate.py") == 2
    assert "lacks conv1.weight; its names are fcOut.bias, fcOut.weight, " in capsys.readouterr().err


@pytest.mark.parametrize("zeros", ["end", "split"])
def test_zeros_and_normalization_are_as_given(run: Path, zeros: str, evaluated: Evaluate) -> None:
    """Against the network in functional calls, with the zeros and the mean and std of the command line."""
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    found = evaluated(run / "weights.pt", *NETWORK, f"shortcut.zeros={zeros}", "--mean", *mean, "--std", *std)
    test = data.load("digits", Path(), 0, 0).test
    x = (test.images / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    logits = by_hand(torch.load(run / "weights.pt", weights_only=True), x, zeros)
    assert found["test_error"] == pytest.approx(100 * float((logits.argmax(1) != test.labels).double().mean()))
    assert found["test_loss"] == pytest.approx(float(F.cross_entropy(logits, test.labels)), rel=1e-4)


def by_hand(state: dict[str, Tensor], x: Tensor, zeros: str) -> Tensor:
    """ResNet-8 with option A from its state dict, in evaluation mode."""

    def layer(x: Tensor, conv: str, stride: int = 1) -> Tensor:
        y, bn = F.conv2d(x, state[f"{conv}.weight"], stride=stride, padding=1), conv.replace("conv", "bn")
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(y, *(state[f"{bn}.{name}"] for name in names), training=False)

    x = layer(x, "conv1").relu()
    for stage in (1, 2, 3):
        stride = 1 if stage == 1 else 2
        y = layer(layer(x, f"layer{stage}.0.conv1", stride).relu(), f"layer{stage}.0.conv2")
        at = (y.shape[1] - x.shape[1]) // 2 if zeros == "split" else 0
        y[:, at : at + x.shape[1]] += x[:, :, ::stride, ::stride]
        x = y.relu()
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


def test_a_file_is_in_float32_and_a_run_in_its_own_precision(run: Path, tmp_path: Path, evaluated: Evaluate) -> None:
    finish(small(tmp_path, "trainer.precision=bfloat16"))
    folder = folder_of(tmp_path)
    precisions = {"float32": [folder / "weights.pt", *NETWORK], "bfloat16": [folder]}
    for precision, arguments in precisions.items():
        assert evaluated(*arguments)["environment"]["precision"] == precision
    assert evaluated(*precisions["float32"], "trainer.precision=bfloat16")["environment"]["precision"] == "bfloat16"


def test_what_is_near_chance_is_pointed_out(
    run: Path, tmp_path: Path, evaluated: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    """One class for every image, because of the bias here; akamaster's files do that with another normalization."""
    weights = torch.load(run / "weights.pt", weights_only=True)
    weights["fc.bias"][3] += 1000
    torch.save(weights, tmp_path / "w.th")
    evaluated(tmp_path / "w.th", *NETWORK)
    out = capsys.readouterr().out
    assert re.search(r"(?m)^suspicious: chance .* 90 %, and 100 % of .* taken for 3: check --mean .*zeros=$", out)
    good = pd.DataFrame([[60, 40], [20, 80]], index=list("ab"), columns=list("ab"))
    assert remark(None, good, 30.0) == ""


class Bomb:
    """Pickled, it makes a folder in the working directory of whoever loads it without care."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


def files(folder: Path, run: Path) -> dict[str, Path]:
    """Files and folders that cannot be evaluated, by name."""
    weights = torch.load(run / "weights.pt", weights_only=True)
    names = (
        "list.th code.th cut.th nested.th deep.th nan.th int8.th complex.th empty folder.json damaged bare other "
        "cut.safetensors newer.safetensors other.safetensors"
    )
    paths = {name: folder / name for name in names.split()}
    torch.save([1, 2], paths["list.th"])
    bias = weights["fc.bias"]
    for name, odd in (("nan.th", bias / 0), ("int8.th", bias.to(torch.int8)), ("complex.th", bias * 1j)):
        torch.save(weights | {"fc.bias": odd}, paths[name])
    torch.save({"net": weights, "epoch": 3}, paths["nested.th"])
    torch.save(weights | {"fc.weight": Bomb()}, paths["code.th"])
    paths["cut.th"].write_bytes((run / "weights.pt").read_bytes()[:-4000])
    deep = {re.sub(r"(layer.)\.0", r"\1.1", name): value for name, value in weights.items() if "layer" in name}
    torch.save(weights | deep, paths["deep.th"])
    for name in ("empty", "folder.json"):
        paths[name].mkdir()
    for name in ("damaged", "bare", "other"):
        shutil.copytree(run, paths[name])
    (paths["damaged"] / "record.json").write_text('{"metrics": {}}')
    (paths["bare"] / "weights.pt").unlink()
    weights["fc.bias"][0] += 1
    torch.save(weights, paths["other"] / "weights.pt")
    record = (run / "record.json").read_text()
    save(weights, paths["other.safetensors"], {"record": record})
    save(weights, paths["newer.safetensors"], {"record": record.replace('"schema": 1', '"schema": 9')})
    paths["cut.safetensors"].write_bytes(paths["other.safetensors"].read_bytes()[:-4000])
    return paths | {"weights": run / "weights.pt", "run": run}


WRONG = (
    ([], "arguments=: the following arguments are required: path"),
    (["{run}", "--matrixx"], "arguments={run} --matrixx: unrecognized arguments: --matrixx"),
    (["nowhere.th"], "path=nowhere.th: no such file or folder"),
    (["a" * 300], "path=aaa"),
    (["{damaged}"], "path={damaged}: its record.json is damaged"),
    (["{bare}"], "path={bare}: has a record but no weights.pt"),
    (["{other}"], "path={other}: its weights are not those that its record was written with"),
    (["{other.safetensors}"], "path={other.safetensors}: its weights are not those that its record was written with"),
    (["{other.safetensors}", "model.depth=14"], "model.depth=14: is the run's own"),
    (["{other.safetensors}", "--mean", *"000", "--std", *"111"], "--mean=[0.0, 0.0, 0.0]: is for a file of weights"),
    (
        ["{newer.safetensors}"],
        "path={newer.safetensors}: cannot be read: it is damaged, not a PyTorch file, of another",
    ),
    (["{cut.safetensors}"], "path={cut.safetensors}: cannot be read: it is damaged"),
    (["{weights}", "--output", "x.safetensors"], "--output=x.safetensors: weights are written with the record of a"),
    (["{empty}"], "path={empty}: is no run's folder"),
    (["{nan.th}"], "path={nan.th}: fc.bias (torch.float32) must be finite real numbers"),
    (["{int8.th}"], "path={int8.th}: fc.bias (torch.int8) must be"),
    (["{complex.th}"], "path={complex.th}: fc.bias (torch.complex64) must be"),
    (["{run}", "--output", "a" * 300 + ".csv"], "--output=aaa"),
    (["{run}", "model.depth=14"], "model.depth=14: is the run's own"),
    (["{cut.th}"], "path={cut.th}: cannot be read: it is damaged"),
    (["{code.th}"], "path={code.th}: cannot be read: it is damaged, not a"),
    (["{list.th}"], "path={list.th}: is not the state dict of a network"),
    (["{nested.th}"], "path={nested.th}: is not the state dict of a network"),
    (["{weights}", "model.dept=8"], "model.dept=8: no such key; did you mean depth?"),
    (["{weights}", *NETWORK, "model.depth=14"], "{weights}: lacks layer1.1.conv1.weight; it looks like model.depth=8"),
    (
        ["{deep.th}", *NETWORK],
        "{deep.th}: has layer1.1.conv1.weight, which the network lacks; it looks like model",
    ),
    (["{weights}", *NETWORK, "model.width=16"], "{weights}: size mismatch for conv1.weight: copying a param with"),
    (["{weights}", *NETWORK, "shortcut=C"], "{weights}: lacks layer1.0.downsample.0.weight; its shortcuts have no"),
    (["{weights}", "--mean", *"000"], "--mean=[0.0, 0.0, 0.0]: --mean and --std go together"),
    (["{weights}", "--mean", *"999", "--std", *"111"], "--mean and --std=[9.0, 9.0, 9.0], [1.0, 1.0, 1.0]: must be"),
    (["{weights}", "--mean", *"000", "--std", *"011"], "--mean and --std=[0.0, 0.0, 0.0], [0.0, 1.0, 1.0]: must be"),
    (["{run}", "--mean", *"000", "--std", *"111"], "--mean=[0.0, 0.0, 0.0]: is for a file"),
    (["{run}", "--output", "x.txt"], "--output=x.txt: must be a file that ends with .json, .csv or .saf"),
    (["{run}", "--output", "{folder.json}"], "--output={folder.json}: must be a file"),
    (["{run}", "--output", "/proc/x.json"], "--output=/proc/x.json: cannot be written"),
)


@pytest.mark.parametrize(("arguments", "line"), WRONG)
def test_wrong_input_is_one_line_and_status_2(
    arguments: list[str], line: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, path in files(tmp_path, run).items():
        arguments = [argument.replace(f"{{{name}}}", str(path)) for argument in arguments]
        line = line.replace(f"{{{name}}}", str(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert in_process(patch, *arguments, program="evaluate.py") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert line in err
    assert err.count("\n") == 1
    assert not (tmp_path / "exploded").exists()


def test_a_record_is_data_and_nothing_in_it_is_resolved(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a foreign record.json or config.yaml, ${oc.env:...} would show what nobody meant to show."""
    monkeypatch.setenv("SECRET", "leaked")
    folder = tmp_path / "foreign"
    shutil.copytree(run, folder)
    record = json.loads((folder / "record.json").read_text())
    record["config"]["model"]["init"] = "${oc.env:SECRET}"
    (folder / "record.json").write_text(json.dumps(record))
    assert in_process(monkeypatch, str(folder), program="evaluate.py") == 2
    (folder / "record.json").unlink()
    (folder / "config.yaml").write_text(json.dumps(record["config"]))
    assert in_process(monkeypatch, str(folder), program="evaluate.py") == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("}")[0] for line in lines] == ["model.init=${oc.env:SECRET"] * 2
    assert "leaked" not in str(lines)


def test_the_help_is_there_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", str(TRAIN.with_name("evaluate.py")), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not re.search(r"(?m)\| +(torch|pandas)$", done.stderr), "what is slow to import"
    assert "resnet20.th model=resnet20" in done.stdout


def test_many_classes_are_shown_by_error(capsys: pytest.CaptureFixture[str]) -> None:
    counts = torch.eye(100, dtype=torch.int64) * 10
    counts[7] = 0
    counts[7, 3], counts[7, 7] = 9, 1
    counts[50] = 0  # no image of this class
    names = [f"class[{i}]" for i in range(100)]  # rich gives brackets a meaning
    confusion = pd.DataFrame(counts.numpy(), names, names)
    assert by_class(confusion)["error"].isna().sum() == 1
    assert confused_pairs(confusion).reset_index().values.tolist() == [["class[7]", "class[3]", 9]]
    show_confusion(confusion, matrix=False)
    text = capsys.readouterr().out
    assert "Error by class, percent: the 20 highest of 100" in text
    first = next(line for line in text.splitlines() if "class" in line and "│" in line)
    assert [cell.strip() for cell in first.strip("│").split("│")] == ["class[7]", "10", "9", "90.00", "class[3] (9)"]
    assert len(re.findall("│ class.*│", text)) == 20 + 1, "and the most confused pair"
