"""The report as a whole: golden tables, every format, the command line, bad days, and a browser's look at the page."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from records_factory import digits_quickstart, paper_study, record, write, write_all

import report
from ablation.report.content import Text
from ablation.report.documents import csv as csv_text
from ablation.report.documents import latex, markdown_table
from ablation.report.error_figures import band_of
from ablation.report.evidence import read
from ablation.report.figures import draw
from ablation.report.reporting import gather, make_report, show_tables
from ablation.report.rules import VERDICTS
from ablation.report.studies import studies
from ablation.report.tables import duration, main_table

ROOT = Path(__file__).resolve().parents[1]


def small_study(folder: Path) -> Path:
    """Plain and residual at 20 and 56 layers with round numbers; plain-56 has one seed, plain-44 is missing."""
    for seed, step in enumerate((-0.1, 0.0, 0.1)):
        write(folder, fixed(20, residual=False, seed=seed, train=1.0 + step, test=9.5 + step))
        write(folder, fixed(20, residual=True, seed=seed, train=0.5 + step, test=8.75 + 2 * step))
        write(folder, fixed(44, residual=True, seed=seed, train=0.1, test=7.0 + step))
    write(folder, fixed(56, residual=False, seed=0, train=3.0, test=13.0))
    write(folder, fixed(56, residual=True, seed=0, train=0.05, test=7.0))
    return folder


def quick(folder: Path, records: list[dict[str, Any]] | None = None) -> None:
    """Runs that give one figure instead of four."""
    for made in records or digits_quickstart():
        write(folder, made | {"layers": []}, points=0)


def fixed(depth: int, residual: bool, seed: int, train: float, test: float) -> dict[str, Any]:
    errors = {"train_error": train, "running_train_error": 2 * train, "test_error": test}
    timing = {"timing__wall_seconds": 200.0, "timing__images_per_second": 20_000.0}
    return record(depth, residual, seed, **errors, **timing, parameters=270_000)


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    status = report.main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_the_main_table_is_golden(tmp_path: Path) -> None:
    (study,) = studies(read([small_study(tmp_path)]).runs)
    (setting,) = study.settings
    assert markdown_table(main_table(setting)).splitlines() == [
        "| Network | Parameters | n | Train error % | running | Test error % | 95% interval | Paper | Difference "
        "| Time | Images/s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| plain-20 | 270,000 | 3 | 1.00 ± 0.10 | 2.00 ± 0.20 | 9.50 ± 0.10 | 9.25 to 9.75 | ≈9.7 | -0.20 "
        "| 3 min 20 s | 20,000 |",
        "| plain-44 | – | 0 | missing | – | missing | – | – | – | – | – |",
        "| plain-56 | 270,000 | 1 | 3.00 | 6.00 | 13.00 | – | ≈13.25 | -0.25 | 3 min 20 s | 20,000 |",
        "| ResNet-20 | 270,000 | 3 | 0.50 ± 0.10 | 1.00 ± 0.20 | 8.75 ± 0.20 | 8.25 to 9.25 | 8.75 | +0.00 "
        "| 3 min 20 s | 20,000 |",
        "| ResNet-44 | 270,000 | 3 | 0.10 ± 0.00 | 0.20 ± 0.00 | 7.00 ± 0.10 | 6.75 to 7.25 | 7.17 | -0.17 "
        "| 3 min 20 s | 20,000 |",
        "| ResNet-56 | 270,000 | 1 | 0.05 | 0.10 | 7.00 | – | 6.97 | +0.03 | 3 min 20 s | 20,000 |",
    ]


def test_the_numbers_are_golden(tmp_path: Path) -> None:
    rows = list(csv.DictReader(csv_text(gather([small_study(tmp_path)])).splitlines()))
    assert [row["network"] for row in rows] == ["plain-20", "plain-56", "ResNet-20", "ResNet-44", "ResNet-56"]
    expected = {
        "study": "runs-cifar10",
        "n": "3",
        "seeds": "0 1 2",
        "parameters": "270000.0",
        "paper_test_error": "9.7",
        "paper_source": "Figure 6 (left)",
        "precision": "bfloat16",
        "device_name": "NVIDIA H200",
        "torch": "2.15.0",
        "git_commit": "a" * 40,
    }
    assert {key: rows[0][key] for key in expected} == expected
    numbers = {key: float(rows[0][f"test_error_{key}"]) for key in ("mean", "std", "low", "high")}
    assert numbers == pytest.approx({"mean": 9.5, "std": 0.1, "low": 9.2516, "high": 9.7484}, abs=1e-3)
    assert rows[1]["test_error_std"] == ""


def test_latex_is_golden(tmp_path: Path) -> None:
    write(tmp_path, fixed(20, residual=True, seed=0, train=0.5, test=8.75))
    assert latex(gather([tmp_path])).splitlines() == [
        r"% Needs \usepackage{booktabs,graphicx}.",
        r"\begin{table}",
        r"\centering",
        r"\caption{cifar10 $\cdot$ sgd lr 0.1 $\cdot$ paper schedule, 64,000 steps}",
        r"\label{tab:runs-cifar10}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        r"\begin{tabular}{lrrrrrrrr}",
        r"\toprule",
        r"Network & Parameters & n & Train error \% & running & Test error \% & 95\% interval & Paper & Difference \\",
        r"\midrule",
        r"ResNet-20 & 270,000 & 1 & 0.50 & 1.00 & 8.75 & -- & 8.75 & +0.00 \\",
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
    ]


def test_other_data_shows_no_number_of_the_paper(tmp_path: Path) -> None:
    write_all(tmp_path, digits_quickstart())
    (section,) = gather([tmp_path]).sections
    (part,) = section.parts
    assert "Paper" not in part.table.frame
    departures = "data.name=digits, schedule.name=onecycle, schedule.steps=180, augmentation.name=none"
    (label,) = (block.text for block in part.blocks() if isinstance(block, Text) and block.kind == "label")
    assert label.startswith(f"Not the paper's recipe ({departures})")
    assert all("8.75" not in finding.evidence + finding.claim.statement for finding in part.findings)


def test_selected_on_test_is_labelled(tmp_path: Path) -> None:
    write(tmp_path, record(20, residual=True, config__selection="best_test", test_error=9.0, best_test_error=8.5))
    (section,) = gather([tmp_path]).sections
    row = section.parts[0].table.frame.iloc[0]
    assert (row["Test error %"], row["selected on test"]) == ("9.00", "8.50")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.24, "4.2 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (3660, "1 h 01 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_tables_alone_can_be_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    show_tables([small_study(tmp_path)])
    printed = capsys.readouterr().out
    assert re.search(r"ResNet-20 .*3 +0.50 ± 0.10 .*8.75 ± 0.20 +8.25 to 9.25 +8.75 +\+0.00 +3 min 20 s", printed)
    assert re.search(r"plain-44 +– +0 +missing +– +missing", printed)
    assert "Degradation" not in printed


def test_every_format_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_study(tmp_path / "runs")
    status, printed, _ = run(capsys, tmp_path / "runs", "--output", tmp_path / "out")
    assert status == 0
    assert "plain-56" in printed
    assert "degradation" in printed.lower()
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    kinds = ("curves", "depth", "gradients", "responses")
    figures = [f"figures/runs-cifar10-{name}.{kind}" for name in kinds for kind in ("pdf", "png", "svg")]
    assert names == sorted(["claims.json", "report.html", "report.md", "runs.csv", "table.csv", "table.tex", *figures])
    for row in json.loads((tmp_path / "out" / "claims.json").read_text()):
        assert row["verdict"] in VERDICTS
        assert {"statement", "source", "comparison", "test", "threshold", "evidence", "numbers"} <= set(row)
    for path in re.findall(r"\]\((.+?)\)", (tmp_path / "out" / "report.md").read_text()):
        with Image.open(tmp_path / "out" / path) as image:
            colours = image.convert("RGB").getcolors(2**24)
        assert colours is not None
        assert len(colours) > 20, f"{path} is blank"


def test_only_the_asked_formats_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick(tmp_path / "runs")
    status, printed, _ = run(capsys, tmp_path / "runs", "--format", "terminal", "--output", tmp_path / "out")
    assert status == 0
    assert "52.30" in printed
    assert not (tmp_path / "out").exists()
    status, printed, _ = run(capsys, tmp_path / "runs", "--format", "csv,html", "--output", tmp_path / "out")
    assert (status, set(printed.split())) == (0, {str(path) for path in (tmp_path / "out").iterdir()})
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"table.csv", "runs.csv", "report.html"}


def test_figures_are_the_same_twice(tmp_path: Path) -> None:
    quick(tmp_path / "runs")
    for folder in ("a", "b"):
        page = make_report([tmp_path / "runs"], tmp_path / folder)
    files = sorted(path.name for path in (tmp_path / "a" / "figures").iterdir())
    assert files == [f"runs-digits-depth.{kind}" for kind in ("pdf", "png", "svg")]
    for name in files:
        assert (tmp_path / "a" / "figures" / name).read_bytes() == (tmp_path / "b" / "figures" / name).read_bytes()
    assert page.read_text().count("<img") == 1


def test_a_setting_title_in_brackets_does_not_vanish_in_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, record(20, residual=True, environment__device_name="[red]GPU[/]"))
    _, printed, _ = run(capsys, tmp_path, "--format", "terminal")
    assert "[red]GPU[/]" in printed


def test_no_records_say_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").mkdir()
    status, printed, _ = run(capsys, tmp_path / "runs", "--output", tmp_path / "out")
    assert status == 0
    for text in (printed, *((tmp_path / "out" / name).read_text() for name in ("report.html", "report.md"))):
        assert "python src/train.py model=resnet20" in text


def test_a_multirun_in_which_jobs_failed_still_gets_its_report(tmp_path: Path) -> None:
    quick(tmp_path / "runs", digits_quickstart()[:3])
    failed = tmp_path / "runs" / "resnet56"
    failed.mkdir()
    (failed / "status.json").write_text(json.dumps({"status": "failed", "message": "it broke", "step": 3, "steps": 9}))
    (tmp_path / "runs" / "bad").mkdir()
    (tmp_path / "runs" / "bad" / "record.json").write_text("{")
    page = make_report([tmp_path / "runs", tmp_path / "not there yet"], tmp_path / "deep" / "out")
    text = page.read_text()
    assert page == tmp_path / "deep" / "out" / "report.html"
    for expected in ("it broke", "3 of 9 steps", "Unreadable files", "ResNet-56", "missing"):
        assert expected in text


def test_records_without_layers_histories_or_numbers_make_a_page(tmp_path: Path) -> None:
    nothing = {"train_error": None, "test_error": None, "running_train_error": None, "best_test_error": None}
    for folder, made in enumerate(
        [record(20, residual=True, layers=[], **nothing), record(56, residual=False, layers=[])]
    ):
        (write(tmp_path / str(folder), made) / "history.jsonl").unlink()
    text = make_report([tmp_path], tmp_path / "out").read_text()
    assert "ResNet-20" in text
    assert "nan" not in text.replace("finance", "")


def test_a_seed_that_ends_early_does_not_bend_the_mean() -> None:
    import pandas as pd

    whole = pd.DataFrame({"step": [10, 20, 30, 40], "test_error": [40.0, 30.0, 20.0, 10.0]})
    short = pd.DataFrame({"step": [10, 30], "test_error": [60.0, 40.0]})
    band = band_of([whole, short], "test_error")
    assert list(band.index) == [10, 20, 30]
    assert list(band["mean"]) == [50.0, 40.0, 30.0]
    assert list(band["low"]) == [40.0, 30.0, 20.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "pdf"], "--format=pdf: must be some of terminal, html"),
        (["nowhere"], "path=nowhere: no such file or folder"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["--output"], "expected one argument"),
        (["--output", "pyproject.toml"], "--output=pyproject.toml: must be a folder"),
        (["--output", "pyproject.toml/sub"], "--output=pyproject.toml/sub: cannot be written"),
        (["--output", "/proc/nope"], "--output=/proc/nope: cannot be written"),
        ([f"{'x' * 300}=1"], f"filter={'x' * 300}: no such key"),
        (["--runs", "--check"], "not allowed with argument --runs"),
        (["--publish", "digits"], "--publish=digits: needs a PATH"),
        (["RUNS", "data=imagenet"], "data=imagenet: no run has it; there are digits"),
        (["RUNS", "dta=digits"], "filter=dta: no such key"),
        (["RUNS", "--baseline", "seed"], "--baseline=seed: must be KEY=VALUE"),
        (["RUNS", "--baseline", "model.depth=8"], "model.depth=8: no run has it; there are 20, 56"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_status_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    quick(tmp_path)
    status, printed, complaint = run(capsys, *[str(tmp_path) if text == "RUNS" else text for text in arguments])
    assert (status, printed) == (2, "")
    assert message in complaint
    assert complaint.count("\n") == 1


def test_filters_and_options_in_any_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_all(tmp_path, [*digits_quickstart(), *paper_study(seeds=1, depths=[20])])
    status, printed, _ = run(capsys, "data=digits", "--format", "terminal", tmp_path, "model.residual=false")
    assert status == 0
    assert "Your runs on digits" in printed
    assert "cifar10" not in printed
    assert "no records of ResNet-20" not in printed


def test_check_fails_on_a_contradicted_claim_with_a_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_all(tmp_path, [made | {"layers": []} for made in paper_study(seeds=5, depths=[20, 56])])
    assert run(capsys, tmp_path, "--format", "terminal", "--check")[0] == 0
    for seed in range(5):
        write(tmp_path, record(110, residual=False, seed=seed, train_error=1.0))
    status, printed, _ = run(capsys, tmp_path, "--format", "terminal", "--check")
    assert status == 1
    assert "contradicted: runs-cifar10: plain-110-fails: " in printed


def rates(folder: Path, validation: int = 0) -> list[Path]:
    """Runs at two rates, the higher one better on validation and worse on test."""
    made = []
    for rate, val, test in ((0.1, 5.0, 6.0), (0.3, 4.0, 7.0)):
        errors = {"test_error": test, "val_error": val if validation else None}
        made.append(record(20, True, **errors, config__optimizer__lr=rate, config__data__validation=validation))
    return write_all(folder, made)


def test_two_runs_side_by_side_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = rates(tmp_path / "runs")
    before = sorted(tmp_path.rglob("*"))
    status, printed, _ = run(capsys, first, second)
    assert status == 0
    assert re.search(r"optimizer.lr +0.1 +0.3", printed)
    assert re.search(r"test_error +6 +7", printed)
    assert re.search(r"64000 +\S+ +\S+ +6.00 +7.00", printed)
    assert "weight_decay" not in printed
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("validation", "best", "label"), [(5000, "0.3", ""), (0, "0.1", "selected on test")])
def test_the_best_run_is_the_one_on_validation_else_it_says_so(
    validation: int, best: str, label: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates(tmp_path / "runs", validation)
    _, printed, _ = run(capsys, tmp_path / "runs", "--best", "1")
    assert len(re.findall("^resnet20-seed0", printed, re.MULTILINE)) == 1
    assert re.findall(r"ResNet-20 +(\S+)", printed)[0] == best
    assert label in printed
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_the_end_of_a_sweep_has_no_heads_without_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_all(tmp_path / "runs", [record(56, False, config__optimizer__lr=rate) for rate in (0.1, 0.3)])
    show_tables([tmp_path / "runs"])
    printed = capsys.readouterr().out
    assert ("Compared: optimizer.lr" in printed, "Not the paper's recipe" in printed) == (True, False)


def test_a_comparison_is_in_every_format_beside_the_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rates(tmp_path / "runs", validation=5000)
    _, printed, _ = run(
        capsys, tmp_path / "runs", "--baseline", "optimizer.lr=0.3", "--format", "terminal,csv,md,latex"
    )
    assert re.search(r"lr=0.1 +1 .* -1.00", printed)
    assert re.search(r"lr=0.3 +1 .* baseline", printed)
    with open(tmp_path / "report" / "table.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["optimizer.lr"], row["difference"]) for row in rows] == [("0.1", "-1.0"), ("0.3", "")]
    with open(tmp_path / "report" / "runs.csv") as file:
        assert [row["metrics.test_error"] for row in csv.DictReader(file)] == ["6.0", "7.0"]
    assert "| lr=0.1 | 1 | 5.00 |" in (tmp_path / "report" / "report.md").read_text()
    assert r"\label{tab:runs-cifar10}" in (tmp_path / "report" / "table.tex").read_text()


def test_figures_cope_with_any_choice_of_networks(tmp_path: Path) -> None:
    bad = {"response_std": float("nan"), "gradient_norm_start": None, "gradient_norm_end": float("inf")}
    choices: dict[str, list[dict[str, Any]]] = {
        "one": [record(20, residual=True)],
        "plain only": [record(20, residual=False), record(110, residual=False)],
        "odd depths": [record(depth, residual=True) for depth in (8, 14, 26, 38, 50, 62)],
        "failed 110": paper_study(seeds=2),
        "diverged": [record(20, residual=True, layers=[{**bad, "name": "x"}] * 3), record(56, residual=True)],
        "all zero": [record(20, residual=True, train_error=0.0, test_error=0.0, running_train_error=0.0)],
        "all wrong": [record(20, residual=True, train_error=100.0, test_error=100.0, running_train_error=100.0)],
    }
    for name, made in choices.items():
        write_all(tmp_path / name, made)
        (study,) = studies(read([tmp_path / name]).runs)
        found = draw(study.settings[0], "x", ["png"])
        depth = ["depth"] if len({row["config"]["model"]["depth"] for row in made}) > 1 else []
        assert [illustration.kind for illustration in found] == ["curves", *depth, "responses", "gradients"]
