"""Reading: broken, truncated, foreign and future records, unfinished runs, doubles, filters; and what is averaged."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from records_factory import digits_quickstart, paper_study, record, study_of, write, write_all

from ablation.errors import UserError
from ablation.report.evidence import read, read_history
from ablation.report.filters import select
from ablation.report.studies import main_shortcut, studies

# Broken files

WHOLE = json.dumps(record(20, residual=True))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (WHOLE[:-100], "not complete JSON"),
        ('{"accuracy": 0.9}', "not a record of this project"),
        (WHOLE.replace('"schema": 1', '"schema": 2'), "schema 2 is not this version's"),
        (WHOLE.replace('"depth"', '"layers"'), "no key config.model.depth"),
        (WHOLE.replace('"depth": 20', '"depth": "20"'), "config.model.depth is '20'"),
        ("[" * 100_000, ""),
    ],
    ids=["truncated", "foreign", "future", "no depth", "text for depth", "bottomless"],
)
def test_a_bad_record_is_listed_and_the_others_count(content: str, reason: str, tmp_path: Path) -> None:
    write(tmp_path, record(20, residual=True))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "record.json").write_text(content)
    evidence = read([tmp_path])
    assert len(evidence.runs) == 1
    (row,) = evidence.unreadable.to_dict("records")
    assert row["file"].endswith("bad/record.json")
    assert reason in row["reason"]


def test_a_record_of_an_older_version_without_optional_keys_counts(tmp_path: Path) -> None:
    made = record(20, residual=True)
    for key in ("environment", "timing", "data", "layers", "confusion", "parameters"):
        del made[key]
    write(tmp_path, made)
    (study,) = studies(read([tmp_path]).runs)
    assert [cell.label for cell in study.settings[0].cells] == ["ResNet-20"]


def test_a_history_cut_in_two_is_read_up_to_there(tmp_path: Path) -> None:
    folder = write(tmp_path, record(20, residual=True), points=10)
    file = folder / "history.jsonl"
    file.write_bytes(file.read_bytes()[:-20] + b"\xff")
    history, unreadable = read_history(folder)
    assert (len(history), unreadable) == (9, 1)
    file.write_text('{"step": 1, "test_error": 5}\n[]\n{"step": "a"}\n{"step": 1, "test_error": null}\n{"step": 0}\n')
    history, unreadable = read_history(folder)
    assert (list(history["step"]), unreadable) == ([0, 1], 2)
    assert history["test_error"].isna().all()
    file.unlink()
    assert len(read_history(folder)[0]) == 0


# Unfinished runs


def test_unfinished_runs_are_listed_with_what_they_say(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = socket.gethostname()
    written = {
        "failed": {"status": "failed", "message": "OutOfMemoryError:\nno memory"},
        "cut off (its process is gone)": {"status": "running", "pid": gone.pid, "host": here},
        "running": {"status": "running", "pid": os.getpid(), "host": here},
        "running elsewhere": {"status": "running", "pid": gone.pid, "host": "elsewhere"},
        "done, but record.json is missing": {"status": "done"},
    }
    for place, status in enumerate(written.values()):
        (tmp_path / f"{place}").mkdir()
        progress = {"step": 10, "steps": 100, "updated": "2026-01-01T10:00:00"}
        (tmp_path / f"{place}" / "status.json").write_text(json.dumps(progress | status))
    (tmp_path / "9").mkdir()
    (tmp_path / "9" / "config.yaml").write_text("seed: 0")
    evidence = read([tmp_path])
    expected = [name.removesuffix(" elsewhere") for name in written]
    assert list(evidence.unfinished["status"]) == [*expected, "unknown: no readable status.json"]
    first = evidence.unfinished.iloc[0]
    assert list(first[2:]) == ["10 of 100 steps", "2026-01-01 10:00:00", "OutOfMemoryError: no memory"]


def test_what_lies_inside_a_run_is_not_a_run(tmp_path: Path) -> None:
    folder = write(tmp_path, record(20, residual=True))
    (folder / "wandb" / "run").mkdir(parents=True)
    (folder / "wandb" / "run" / "config.yaml").write_text("x: 1")
    evidence = read([tmp_path])
    assert (len(evidence.runs), len(evidence.unfinished)) == (1, 0)


def test_a_path_may_be_a_run_a_record_or_given_twice(tmp_path: Path) -> None:
    folder = write(tmp_path, record(20, residual=True))
    for paths in ([folder], [folder / "record.json"], [tmp_path, folder, tmp_path]):
        assert len(read(paths).runs) == 1


# Doubles


def test_an_identity_in_two_folders_counts_once(tmp_path: Path) -> None:
    made = record(20, residual=True)
    first = write(tmp_path / "machine1", made)
    shutil.copytree(first, tmp_path / "machine2" / first.name)
    other = made | {"metrics": made["metrics"] | {"test_error": 50.0}}
    other["timing"] = made["timing"] | {"finished": "2027"}
    write(tmp_path / "machine0", other)  # finished later, found first
    evidence = read([tmp_path])
    assert list(evidence.runs["metrics.test_error"]) == [made["metrics"]["test_error"]]
    assert sorted(evidence.doubles["numbers"]) == ["different", "identical"]


def test_the_same_run_on_other_hardware_or_in_another_study_is_no_double(tmp_path: Path) -> None:
    made = record(20, residual=True)
    other = made | {"environment": made["environment"] | {"device_name": "NVIDIA H100"}}
    write(tmp_path / "a", made)
    write(tmp_path / "b", other)
    write(tmp_path / "results" / "reference" / "shortcuts", made)
    evidence = read([tmp_path])
    assert (len(evidence.runs), len(evidence.doubles)) == (3, 0)


# What is averaged


def test_only_seeds_are_averaged_and_what_steers_the_execution_does_not_count() -> None:
    steering = {"config__trainer": {"name": "other", "device": "cuda:1"}, "config__tracker": {"name": "online"}}
    steering |= {"config__data__root": "/elsewhere", "config__overwrite": True, "config__results": "/other"}
    moved = {"config__shortcut___target_": "ablation.shortcuts.A"}  # the module's name when the schema began
    (setting,) = study_of([record(20, True, seed=0), record(20, True, seed=1, **steering, **moved)]).settings
    (cell,) = setting.cells
    assert cell.seeds == [0, 1]


@pytest.mark.parametrize(
    "change",
    [
        {"environment__precision": "float32"},
        {"environment__device_name": "NVIDIA H100"},
        {"data__checksum": "c2"},
        {"config__optimizer__weight_decay_scope": "weights"},
        {"config__data__validation": 5000},
        {"config__trainer__evaluate_every": 500},  # which iterates can be selected
    ],
    ids=lambda change: next(iter(change)),
)
def test_runs_that_differ_in_more_than_the_seed_are_kept_apart(change: dict[str, Any]) -> None:
    made = [record(20, True, seed, config__selection="best_test") for seed in (0, 1)]
    first, second = study_of([*made, record(20, True, 2, config__selection="best_test", **change)]).settings
    assert [len(cell.runs) for cell in first.cells + second.cells] == [2, 1]
    assert first.title != second.title


def test_shortcuts_and_schedules_out_of_line_are_named_and_a_plain_net_has_no_shortcut() -> None:
    made = [record(20, False, seed=seed, shortcut="AB"[seed]) for seed in (0, 1)]
    made += [record(20, True), record(20, True, seed=1), record(20, True, shortcut="B")]
    made += [record(20, True, config__shortcut__zeros="both"), record(110, True, schedule="paper")]
    (setting,) = study_of(made).settings
    labels = ["plain-20", "ResNet-20", "ResNet-20 (A, zeros=both)", "ResNet-20 (B)", "ResNet-110 (paper schedule)"]
    assert [cell.label for cell in setting.cells] == labels


def test_option_a_is_the_usual_one_with_its_zeros_at_the_end_whatever_came_first() -> None:
    first, last = ({"shortcut.name": "A", "shortcut.zeros": zeros} for zeros in ("split", "end"))
    runs = [{"model.residual": True} | shortcut for shortcut in (*[{"shortcut.name": "B"}] * 3, first, first, last)]
    assert main_shortcut(runs) == last


def test_mixes_and_gaps_are_pointed_out() -> None:
    made = [record(20, True, seed=seed) for seed in (0, 1, 2)] + [record(20, False, seed=seed) for seed in (0, 1)]
    made += [record(20, True, seed=3, environment__git_commit="b" * 40, environment__torch="2.14.0")]
    made += [record(20, True, environment__device_name="NVIDIA H100", environment__git_dirty=True)]
    notes = " ".join(study_of(made).notes)
    assert "seeds of ResNet-20 mix 2 commits: aaaaaaaaaa, bbbbbbbbbb" in notes
    assert "mix 2 versions of torch: 2.14.0, 2.15.0" in notes
    assert "Seeds that others have: plain-20 lacks 2, 3 (cifar10" in notes
    assert "ResNet-20 also ran with environment.device_name=NVIDIA H100: kept apart" in notes
    assert "changed working tree" in notes


def test_studies_are_never_mixed(tmp_path: Path) -> None:
    reference = tmp_path / "results" / "reference"
    write_all(reference / "degradation", paper_study(seeds=1, depths=[20]))
    write_all(reference / "digits", digits_quickstart())
    write_all(tmp_path / "results" / "runs", [*paper_study(seeds=2, depths=[20]), *digits_quickstart()])
    found = studies(read([tmp_path]).runs)
    assert [study.name for study in found] == ["runs-cifar10", "runs-digits", "degradation", "digits"]
    assert [sum(len(c.runs) for s in study.settings for c in s.cells) for study in found] == [4, 4, 2, 4]


# Filters


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ("data=digits model.depth=20", 2),
        ("model.depth=20,56 model.residual=true", 4),
        ("seed=1", 2),
        ("environment.device_name=CPU", 4),
        ("optimizer.lr=1e-1", 8),
        ("model=plain20", 3),
        ("early_stopping=null", 8),
    ],
)
def test_filters(filters: str, count: int, tmp_path: Path) -> None:
    write_all(tmp_path, [*digits_quickstart(), *paper_study(seeds=2, depths=[20])])
    assert len(select(read([tmp_path]), filters.split()).runs) == count


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ("data=cifar", "data=cifar: no run has it; there are cifar10, digits"),
        ("depth=20", "filter=depth: no such key; use study, model"),
        ("layers=1", "filter=layers: no such key"),
        ("model.residual=1", "there are false, true"),
        ("data=digits seed=1", "seed=1: no run has it; there are 0"),
        ("model=resnet8", "model=resnet8: no run has it; there are plain20, plain56, resnet20, resnet56"),
    ],
)
def test_a_filter_that_fits_nothing_says_what_there_is(filters: str, message: str, tmp_path: Path) -> None:
    write_all(tmp_path, [*digits_quickstart(), *paper_study(seeds=2, depths=[20])])
    with pytest.raises(UserError) as caught:
        select(read([tmp_path]), filters.split())
    assert message in str(caught.value)
