"""Every claim: each verdict close to its threshold, on both sides; and the recipes that it is asked of."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from records_factory import record, write_all

from ablation.report import claims, evidence, paper
from ablation.report.claims import CLAIMS, Claim, Finding, examine, findings, study_findings
from ablation.report.rules import (
    BEST_TEST,
    GRADIENT,
    MIN_SEEDS,
    RESPONSE,
    TEST,
    TRAIN,
    Between,
    Close,
    Higher,
    NotHigher,
)
from ablation.report.studies import Setting, Study, studies

NOTEBOOK = {
    "schedule": "plateau",
    "shortcut": "avgpool",
    "config__optimizer__name": "nesterov",
    "config__augmentation__name": "shift_flip",
    "config__data__normalization": "pixel_standardize",
    "config__data__batch_size": 64,
    "config__selection": "best_test",
}
ALL = pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)


def layer(response: float = 1.0, start: float = 1.0, end: float = 1.0) -> dict[str, Any]:
    return {"name": "x", "response_std": response, "gradient_norm_start": start, "gradient_norm_end": end}


def changes(claim: Claim, value: float) -> dict[str, Any]:
    """What gives a record this value of the claim's metric."""
    if claim.metric is RESPONSE:
        return {"layers": [layer(value - 0.1), layer(value), layer(value + 0.1)]}
    if claim.metric is GRADIENT:
        return {"layers": [layer(end=value), layer(), layer()]}
    key = {TRAIN.name: "train_error", TEST.name: "test_error", BEST_TEST.name: "best_test_error"}[claim.metric.name]
    return {key: value, "layers": []}


def study_of(folder: Path, records: list[dict[str, Any]]) -> Study:
    write_all(folder, records)
    (study,) = studies(evidence.read([folder]).runs)
    return study


def setting_of(folder: Path, records: list[dict[str, Any]]) -> Setting:
    (setting,) = study_of(folder, records).settings
    return setting


def judged(claim: Claim, folder: Path, *arms: list[float]) -> Finding:
    """The claim on records whose metric has these values, a list an arm and a value a seed."""
    recipe = NOTEBOOK if claim.scope == "notebook" else {}
    made = [
        record(arm.depth, arm.residual, seed, **{"shortcut": arm.shortcut or "A"} | recipe | changes(claim, value))
        for arm, values in zip(claim.arms, arms, strict=True)
        for seed, value in enumerate(values)
    ]
    return examine(claim, setting_of(folder, made))


def around(center: float, reach: float) -> list[float]:
    """Three seeds, whose bootstrap interval runs from the least to the greatest (each has a chance of 1/27)."""
    return [center - reach, center, center + reach]


def cases(claim: Claim, step: float = 0.004) -> dict[str, tuple[list[float], ...]]:
    """Values just on either side of what decides, under the verdict that they must get."""
    flat = around(5.0, 0.0)
    if isinstance(claim.test, Higher):
        low, high = [1.0, 2.0, 3.0], [3.0 + step, 4.0, 5.0]
        overlapping = [3.0 - step, 4.0, 5.0]
        return {
            "reproduced": (high, low),
            "inconclusive above": (overlapping, low),
            "inconclusive below": (low, overlapping),
            "contradicted": (low, high),
        }
    if isinstance(claim.test, NotHigher):
        bound = 5.0 + claim.test.margin
        return {
            "reproduced": (around(bound - 0.1 - step, 0.1), flat),
            "inconclusive below": (around(bound - 0.1 + step, 0.1), flat),
            "inconclusive above": (around(bound + 0.1 - step, 0.1), flat),
            "contradicted": (around(bound + 0.1 + step, 0.1), flat),
        }
    if isinstance(claim.test, Close):
        bound, rest = 5.0 + claim.test.margin, [flat] * (len(claim.arms) - 2)
        return {
            "reproduced": (flat, *rest, around(bound - 0.1 - step, 0.1)),
            "inconclusive below": (flat, *rest, around(bound - 0.1 + step, 0.1)),
            "inconclusive above": (flat, *rest, around(bound + 0.1 - step, 0.1)),
            "contradicted": (around(bound + 0.1 + step, 0.1), *rest, flat),
        }
    assert isinstance(claim.test, Between)
    inside, bound = (-1, claim.test.high) if np.isfinite(claim.test.high) else (1, claim.test.low)
    return {
        "reproduced": (around(bound + inside * (0.03 + step), 0.03),),
        "inconclusive below": (around(bound + inside * (0.03 - step), 0.03),),
        "inconclusive above": (around(bound - inside * (0.03 - step), 0.03),),
        "contradicted": (around(bound - inside * (0.03 + step), 0.03),),
    }


@ALL
@pytest.mark.parametrize("case", ["reproduced", "inconclusive below", "inconclusive above", "contradicted"])
def test_each_verdict_near_its_threshold(claim: Claim, case: str, tmp_path: Path) -> None:
    finding = judged(claim, tmp_path, *cases(claim)[case])
    assert finding.verdict == case.split()[0], finding.evidence


@ALL
def test_too_few_seeds_decide_nothing_and_show_the_difference(claim: Claim, tmp_path: Path) -> None:
    for seeds in (1, MIN_SEEDS - 1):
        values = [arm[:seeds] for arm in cases(claim)["contradicted"]]
        finding = judged(claim, tmp_path / str(seeds), *values)
        assert finding.verdict == "inconclusive"
        assert "too few seeds" in finding.evidence
        assert f"(n={seeds})" in finding.evidence
    if not isinstance(claim.test, Between):
        assert " minus " in finding.evidence


@ALL
def test_a_missing_arm_leaves_a_claim_untested(claim: Claim, tmp_path: Path) -> None:
    other = record(26, residual=True, **(NOTEBOOK if claim.scope == "notebook" else {}))
    finding = examine(claim, setting_of(tmp_path, [other]))
    assert finding.verdict == "untested"
    assert all(arm.name in finding.evidence for arm in claim.arms)


@ALL
def test_claims_state_everything(claim: Claim) -> None:
    texts = (claim.statement, claim.source, claim.comparison, claim.test.rule, claim.test.threshold)
    assert all(texts)
    assert claim.id not in [other.id for other in CLAIMS if other is not claim]


def test_thresholds_are_constants() -> None:
    # Written down before the data: whoever changes one has to change it here too, and say why.
    assert claims.TABLE_6_TOLERANCE == 0.75
    assert claims.NO_DEGRADATION_MARGIN == 0.5
    assert claims.HARDLY_DIFFERENT == 0.5
    assert claims.SHORTCUTS_CLOSE == 1.0
    assert claims.CONVERGED == 10.0
    assert claims.NOT_VANISHING == 0.1
    assert MIN_SEEDS == 3


@pytest.mark.parametrize(
    "departure",
    [
        {"config__data__name": "digits"},
        {"config__optimizer__lr": 0.05},
        {"config__schedule__steps": 4000},
        {"schedule": "onecycle"},
        {"config__augmentation__name": "none"},
        {"config__early_stopping": 20},
        {"config__selection": "best_test"},
        {"config__data__batch_size": 64},
    ],
    ids=lambda departure: next(iter(departure)),
)
def test_the_papers_numbers_are_asked_of_its_recipe_only(departure: dict[str, Any], tmp_path: Path) -> None:
    setting = setting_of(tmp_path, [record(20, residual=True, seed=seed, **departure) for seed in range(5)])
    found = findings(setting, main=True)
    assert not [finding for finding in found if finding.claim.scope == "paper"]
    key, value = next(iter(departure.items()))
    named = (
        f"{key.removeprefix('config__').replace('__', '.')}={value}" if key != "schedule" else "schedule.name=onecycle"
    )
    assert all(finding.label.startswith("not the paper's recipe") and named in finding.label for finding in found)


def test_the_papers_recipe_has_no_label(tmp_path: Path) -> None:
    found = findings(setting_of(tmp_path, [record(20, residual=True)]), main=True)
    assert {finding.label for finding in found} == {""}
    assert {finding.claim.scope for finding in found} == {"any", "paper"}
    assert "notebook" not in [finding.claim.id for finding in found]


def test_table_6_is_about_option_a(tmp_path: Path) -> None:
    setting = setting_of(tmp_path, [record(20, residual=True, seed=seed, shortcut="B") for seed in range(5)])
    (finding,) = [finding for finding in findings(setting, main=True) if finding.claim.id == "table-6-20"]
    assert finding.verdict == "untested"


def test_110_layers_are_compared_with_warm_up_only(tmp_path: Path) -> None:
    cold = [record(110, residual=True, seed=seed, schedule="paper", train_error=90.0) for seed in range(3)]
    warm = [record(110, residual=True, seed=seed, train_error=0.1) for seed in range(3)]
    for name in ("resnet-110-converges", "table-6-110"):
        (claim,) = [claim for claim in CLAIMS if claim.id == name]
        assert examine(claim, setting_of(tmp_path / "cold", cold)).verdict == "untested"
        assert examine(claim, setting_of(tmp_path / "both", cold + warm)).verdict == "reproduced"


def test_a_diverged_run_without_a_number_does_not_count(tmp_path: Path) -> None:
    (claim,) = [claim for claim in CLAIMS if claim.id == "degradation-train"]
    finding = judged(claim, tmp_path, [5.0, 6.0, float("nan")], [1.0, 2.0, 3.0])
    assert finding.verdict == "inconclusive"
    assert "plain-56 5.50 ± 0.71 % (n=2)" in finding.evidence


def test_the_running_error_is_shown_beside_and_never_tested(tmp_path: Path) -> None:
    made = [record(56, residual=False, seed=s, train_error=1.0, running_train_error=50.0 + s) for s in range(3)]
    made += [record(20, residual=False, seed=s, train_error=1.0, running_train_error=2.0 + s) for s in range(3)]
    (claim,) = [claim for claim in CLAIMS if claim.id == "degradation-train"]
    finding = examine(claim, setting_of(tmp_path, made))
    assert finding.verdict == "inconclusive"
    assert "running training error 51.00 %, 3.00 %" in finding.evidence


def test_other_settings_do_not_repeat_untested_claims(tmp_path: Path) -> None:
    assert findings(setting_of(tmp_path, [record(26, residual=True)]), main=False) == []


def test_every_claim_of_the_paper_is_listed_once_on_its_data(tmp_path: Path) -> None:
    both = [record(20, residual=True), record(20, residual=True, seed=1), record(20, residual=True, **NOTEBOOK)]
    short = [record(20, residual=True, schedule="onecycle")]
    for name, made in {"both": both, "paper": both[:2], "short": short}.items():
        found = [finding for part in study_findings(study_of(tmp_path / name, made)) for finding in part]
        once = [finding.claim.id for finding in found if finding.claim.scope != "any" or finding.setting.from_paper]
        assert sorted(once) == sorted(c.id for c in CLAIMS if c.scope != "any" or name != "short")
        verdicts = {finding.claim.id: finding for finding in found if finding.claim.scope != "any"}
        if name != "both":
            assert verdicts["notebook"].evidence == "no records with the notebook's recipe"
        if name == "short":
            assert verdicts["table-6-20"].evidence == "no records with the paper's recipe"
    (found,) = study_findings(study_of(tmp_path / "digits", [record(20, residual=True, config__data__name="digits")]))
    assert {finding.claim.scope for finding in found} == {"any"}


def test_quoted_numbers() -> None:
    assert [quoted.value for quoted in paper.RESIDUAL_TEST_ERROR.values()] == [8.75, 7.51, 7.17, 6.97, 6.61, 7.93]
    assert paper.RESIDUAL_TEST_ERROR[110].std == 0.16
    assert paper.BEST_OF_FIVE_110.value == 6.43
    assert all(quoted.read_off and quoted.source.startswith("Figure 6") for quoted in paper.PLAIN_TEST_ERROR.values())


def test_a_seed_counts_once_however_often_it_was_evaluated(tmp_path: Path) -> None:
    made = [
        record(depth, residual=False, seed=seed, train_error=error + seed, config__trainer__evaluate_every=every)
        for depth, error in ((56, 5.0), (20, 1.0))
        for seed in (0, 1)
        for every in (None, 500)
    ]
    write_all(tmp_path, made)
    found = evidence.read([tmp_path])
    (study,) = studies(found.runs)
    (setting,) = study.settings
    (claim,) = [claim for claim in CLAIMS if claim.id == "degradation-train"]
    finding = examine(claim, setting)
    assert finding.numbers["n"] == {"plain-56": 2, "plain-20": 2}
    assert finding.verdict == "inconclusive"
    assert len(found.doubles) == 4
