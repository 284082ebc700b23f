"""What a comparison takes as varied, as baseline and as winner, and how it is told: on fixture records."""

from pathlib import Path
from typing import Any

import pytest
from records_factory import paper_study, record, study_of, write_all
from scipy import stats

from ablation.report.comparisons import comparison_of
from ablation.report.evidence import read
from ablation.report.studies import studies
from ablation.report.tables import comparison_table, difference, verdict_on

ADAMW = {"name": "adamw", "_target_": "torch.optim.AdamW", "lr": 0.001, "weight_decay": 0.01, "betas": [0.9, 0.999]}
SGD = {"name": "sgd", "_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}


def rates(*values: float, **changes: Any) -> list[dict[str, Any]]:
    return [record(20, True, s, config__optimizer=SGD | {"lr": v}, **changes) for v in values for s in (0, 1)]


def optimizers(depths: tuple[int, ...] = (20,)) -> list[dict[str, Any]]:
    return [record(depth, True, config__optimizer=one) for depth in depths for one in (ADAMW, SGD)]


def changed(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    return [record(20, True, **change) for change in changes]


CASES: dict[str, tuple[list[dict[str, Any]], dict[str, Any], list[str], str]] = {
    # records, the baseline asked for, the rows in order, which of them is the baseline
    "rates": (rates(1.0, 0.01, 0.1), {}, ["lr=0.01", "lr=0.1", "lr=1"], "lr=0.1"),
    "the user's baseline": (rates(1.0, 0.01, 0.1), {"optimizer.lr": 0.01}, ["lr=0.01", "lr=0.1", "lr=1"], "lr=0.01"),
    "the nearest to a default that was not run": (rates(0.3, 0.01), {}, ["lr=0.01", "lr=0.3"], "lr=0.3"),
    "a member's own keys go without saying": (optimizers(), {}, ["adamw", "sgd"], "sgd"),
    "unless one has several values": (
        [*optimizers(), *rates(0.3)],
        {},
        ["adamw, lr=0.001", "sgd, lr=0.1", "sgd, lr=0.3"],
        "sgd, lr=0.1",
    ),
    "an unnamed member of the user's": (changed({"shortcut": "maxpool"}, {"shortcut": "A"}), {}, ["A", "maxpool"], "A"),
    "networks": (
        optimizers((20, 56)),
        {},
        ["ResNet-20, adamw", "ResNet-20, sgd", "ResNet-56, adamw", "ResNet-56, sgd"],
        "ResNet-20, sgd",
    ),
    "one change at a time": (
        changed({}, {"config__model__init": "glorot"}, {"config__data__batch_size": 64}, {"shortcut": "B"}),
        {},
        ["baseline", "init=glorot", "batch_size=64", "B"],
        "baseline",
    ),
    "null is a value": (
        changed({"config__early_stopping": 9}, {}),
        {},
        ["early_stopping=9", "early_stopping=null"],
        "early_stopping=null",
    ),
    "validation changes the checksum": (
        changed({"config__data__validation": 5000, "data__checksum": "c2"}, {}),
        {},
        ["validation=0", "validation=5000"],
        "validation=0",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_differs_names_the_rows_and_the_defaults_are_the_baseline(case: str) -> None:
    records, asked, rows, baseline = CASES[case]
    found = comparison_of(study_of(records), asked)
    assert found is not None
    assert sorted(map(found.label, found.cells)) == sorted(rows)
    assert case == "one change at a time" or [found.label(cell) for cell in found.cells] == rows
    assert found.label(found.baseline) == baseline


@pytest.mark.parametrize(
    "records",
    [paper_study(1), [record(d, True, shortcut=s) for d in (20, 56) for s in "ABC"], rates(0.1)],
    ids=["depths", "depths and options", "one network"],
)
def test_the_papers_own_question_is_no_comparison(records: list[dict[str, Any]]) -> None:
    assert comparison_of(study_of(records)) is None


@pytest.mark.parametrize(
    ("records", "numeric", "log"),
    [
        (rates(0.05, 0.1), "optimizer.lr", True),
        (changed({"config__data__batch_size": 64}, {}), "data.batch_size", False),
        (changed({"config__data__batch_size": 8}, {}), "data.batch_size", True),
        (optimizers(), "", None),
    ],
    ids=["a rate", "numbers", "numbers far apart", "names"],
)
def test_only_numbers_have_an_axis(records: list[dict[str, Any]], numeric: str, log: bool | None) -> None:
    found = comparison_of(study_of(records))
    assert found is not None
    assert found.numeric == numeric
    assert log is None or found.log is log


def test_each_network_is_compared_with_its_own_baseline_and_the_winner_is_the_one_on_validation() -> None:
    errors = {0.1: ([8.0, 8.4, 8.6], 7.5), 0.3: ([9.0, 9.4, 8.5], 7.0)}
    made = [
        record(depth, True, seed, config__optimizer=SGD | {"lr": rate}, test_error=test + depth, val_error=val + depth)
        for depth in (20, 56)
        for rate, (tests, val) in errors.items()
        for seed, test in enumerate(tests)
    ]
    for one in made:
        one["config"]["data"]["validation"] = 5000
    found = comparison_of(study_of(made))
    assert found is not None
    by_label = {found.label(cell): cell for cell in found.cells}
    assert found.winner is by_label["ResNet-20, lr=0.3"]
    assert verdict_on(found).startswith(
        "Least validation error: ResNet-20, lr=0.3, 27.00 % (n = 3); its test error is 28.97 %"
    )
    reference = stats.ttest_ind(errors[0.3][0], errors[0.1][0], equal_var=False)
    interval = reference.confidence_interval()
    for depth in (20, 56):
        numbers = difference(found, by_label[f"ResNet-{depth}, lr=0.3"])
        expected = {"difference": 0.6333, "difference_low": interval.low, "difference_high": interval.high}
        expected |= {"p": reference.pvalue, "probability_of_improvement": 1 / 9}
        assert numbers == pytest.approx(expected, abs=1e-3)
    assert list(comparison_table(found)["Difference to baseline"]).count("baseline") == 2


def test_without_a_validation_set_no_value_wins() -> None:
    found = comparison_of(study_of(rates(0.1, 0.01)))
    assert found is not None
    assert found.winner is None
    assert "selected on the test set" in verdict_on(found)


def test_image_folders_are_data_sets_of_their_own(tmp_path: Path) -> None:
    def folder(root: str, checksum: str, **changes: Any) -> dict[str, Any]:
        made = {"config__data__name": "image_folder", "config__data__root": root, "data__checksum": checksum}
        return record(20, True, **made, **changes)

    write_all(
        tmp_path,
        [folder("/a/cats", "c1"), folder("/b/dogs", "c2"), folder("/b/dogs", "c3", config__data__validation=9)],
    )
    found = studies(read([tmp_path]).runs)
    assert [study.name for study in found] == ["runs-image_folder cats", "runs-image_folder dogs"]
    compared = [comparison_of(study) for study in found]
    assert compared[0] is None
    assert compared[1] is not None
    assert compared[1].keys == ("data.validation",)
    write_all(tmp_path, [folder("/c/cats", "c4", seed=1)])
    assert [study.data for study in studies(read([tmp_path]).runs)][:2] == [
        "image_folder cats c1",
        "image_folder cats c4",
    ]
