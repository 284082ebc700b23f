"""Every rule close to its threshold, every claim with both verdicts, and the recipes that a claim is asked of."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from records_factory import paper_study, record, study_of, write_all

from ablation.report import evidence, paper
from ablation.report.arms import Arm, Claim
from ablation.report.claims import CLAIMS, Finding, findings, study_findings
from ablation.report.metrics import GRADIENT, RESPONSE, TEST, TRAIN
from ablation.report.rules import MIN_SEEDS, DifferencesWithin, Higher, MeanWithin, Rule
from ablation.report.studies import studies

NOTEBOOK = {
    "schedule": "plateau",
    "shortcut": "avgpool",
    "config__optimizer__name": "nesterov_keras",
    "config__model__padding": "end",
    "config__data__remainder": "repeat",
    "config__augmentation__name": "shift_flip",
    "config__data__normalization": "pixel_standardize",
    "config__data__batch_size": 64,
    "config__selection": "best_test",
}
BY_ID = {claim.id: claim for claim in CLAIMS}
Records = list[dict[str, Any]]


def examined(name: str, records: Records) -> Finding:
    (finding,) = findings(BY_ID[name], study_of(records))
    return finding


def around(center: float, reach: float = 0.1) -> list[float]:
    """Three seeds, whose bootstrap interval runs from the least to the greatest (each has a chance of 1/27)."""
    return [center - reach, center, center + reach]


# Rules

FIVE, LOW, HIGH, OVERLAPPING = around(5.0, 0.0), [1.0, 2.0, 3.0], [3.004, 4.0, 5.0], [2.996, 4.0, 5.0]


@pytest.mark.parametrize(
    ("rule", "samples", "verdict"),
    [
        (Higher(), [HIGH, LOW], "reproduced"),
        (Higher(), [OVERLAPPING, LOW], "inconclusive"),
        (Higher(), [LOW, OVERLAPPING], "inconclusive"),
        (Higher(), [LOW, HIGH], "contradicted"),
        (DifferencesWithin(high=0.5), [around(5.396), FIVE], "reproduced"),
        (DifferencesWithin(high=0.5), [around(5.404), FIVE], "inconclusive"),
        (DifferencesWithin(high=0.5), [around(5.596), FIVE], "inconclusive"),
        (DifferencesWithin(high=0.5), [around(5.604), FIVE], "contradicted"),
        (DifferencesWithin(-1, 1), [FIVE, FIVE, around(5.896)], "reproduced"),
        (DifferencesWithin(-1, 1), [FIVE, FIVE, around(5.904)], "inconclusive"),
        (DifferencesWithin(-1, 1), [around(6.096), FIVE, FIVE], "inconclusive"),
        (DifferencesWithin(-1, 1), [around(6.104), FIVE, FIVE], "contradicted"),
        (MeanWithin(8, 9.5, paper.Quoted(8.75, "")), [around(9.396)], "reproduced"),
        (MeanWithin(8, 9.5, paper.Quoted(8.75, "")), [around(9.404)], "inconclusive"),
        (MeanWithin(8, 9.5, paper.Quoted(8.75, "")), [around(7.904)], "inconclusive"),
        (MeanWithin(8, 9.5, paper.Quoted(8.75, "")), [around(7.896)], "contradicted"),
        (MeanWithin(high=10), [around(10.104)], "contradicted"),
        (MeanWithin(low=60), [around(60.104)], "reproduced"),
    ],
    ids=repr,
)
def test_each_verdict_near_its_threshold(rule: Rule, samples: list[list[float]], verdict: str) -> None:
    found = rule.judge({str(i): np.array(sample) for i, sample in enumerate(samples)}, TEST)
    assert found[0] == verdict, found


def test_thresholds_are_constants() -> None:
    # Written down before the data: whoever changes one has to change it here too, and say why.
    bounds = {claim.id: (claim.test.low, claim.test.high) for claim in CLAIMS if not isinstance(claim.test, Higher)}
    quoted = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.61, 1202: 7.93}
    assert bounds == {
        "plain-20-32": (-0.5, 0.5),
        "no-degradation": (-np.inf, 0.5),
        **{f"table-6-{depth}": (error - 0.75, error + 0.75) for depth, error in quoted.items()},
        "resnet-110-converges": (-np.inf, 10),
        "plain-110-fails": (60, np.inf),
        "1202-trains": (-np.inf, 0.1),
        "no-vanishing-gradients": (0.1, np.inf),
        "shortcuts-close-20": (-1, 1),
        "shortcuts-close-56": (-1, 1),
        "notebook": (8.25, 9.75),
    }
    assert MIN_SEEDS == 3


# Claims


def test_what_is_measured() -> None:
    trained = {"degradation-train", "plain-20-32", "no-degradation", "depth-helps-train"}
    trained |= {"resnet-110-converges", "plain-110-fails", "depth-110-apart", "1202-trains"}
    assert {claim.id for claim in CLAIMS if claim.metric is TRAIN} == trained
    special = {claim.id for claim in CLAIMS if claim.metric not in (TRAIN, TEST)}
    assert special == {name for name in BY_ID if name.startswith(("responses-", "no-vanishing", "notebook"))}


def with_metric(claim: Claim, value: float) -> dict[str, Any]:
    """What gives a record this value of the claim's metric."""
    middle = {"name": "x", "response_std": 1.0, "gradient_norm_start": 1.0, "gradient_norm_end": 1.0}
    if claim.metric is RESPONSE:
        return {"layers": [middle | {"response_std": value + step} for step in (-0.1, 0, 0.1)]}
    if claim.metric is GRADIENT:
        return {"layers": [middle | {"gradient_norm_end": value}, middle, middle]}
    return {{TRAIN: "train_error", TEST: "test_error"}.get(claim.metric, "best_test_error"): value}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
@pytest.mark.parametrize("verdict", ["reproduced", "contradicted"])
def test_each_claim_is_decided_by_its_networks_in_order(claim: Claim, verdict: str) -> None:
    good = verdict == "reproduced"
    arms = [5.0] * len(claim.arms)
    if isinstance(claim.test, MeanWithin):
        arms = [claim.test.high * (0.9 if good else 1.2) if np.isfinite(claim.test.high) else claim.test.low * 1.2]
        arms = [0.5 * claim.test.low] if np.isinf(claim.test.high) and not good else arms
    elif isinstance(claim.test, Higher) or not good:
        arms[0] += 2.0 if isinstance(claim.test, DifferencesWithin) or good else -2.0
    recipe = NOTEBOOK if claim.scope == "notebook" else {}
    made = [
        record(arm.depth, arm.residual, seed, **{"shortcut": arm.shortcut or "A"} | recipe | with_metric(claim, value))
        for arm, value in zip(claim.arms, arms, strict=True)
        for seed in range(3)
    ]
    assert examined(claim.id, made).verdict == verdict


def test_what_others_measured_reproduces_the_paper() -> None:
    ((*found,),) = study_findings(study_of(paper_study()))
    verdicts = {finding.claim.id: finding.verdict for finding in found}
    assert list(verdicts) == [*(claim.id for claim in CLAIMS)]
    untested = {"table-6-1202", "1202-trains", "1202-overfits", "shortcuts-close-20", "shortcuts-close-56", "notebook"}
    assert {name for name, verdict in verdicts.items() if verdict == "untested"} == untested
    assert {name for name, verdict in verdicts.items() if verdict == "inconclusive"} == {"plain-110-fails"}
    assert "contradicted" not in verdicts.values()


def test_too_few_seeds_decide_nothing_and_show_the_difference() -> None:
    finding = examined("degradation-train", [record(d, False, s, train_error=d) for d in (20, 56) for s in (0, 1)])
    assert finding.verdict == "inconclusive"
    for text in ("too few seeds", "plain-56 minus plain-20: +36.00", "plain-20 20.00 ± 0.00 % (n=2)"):
        assert text in finding.evidence


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
    (finding,) = findings(BY_ID["degradation-train"], study)
    assert finding.numbers["n"] == {"plain-56": 2, "plain-20": 2}
    assert finding.verdict == "inconclusive"
    assert len(found.doubles) == 4


def test_a_missing_network_leaves_a_claim_untested() -> None:
    finding = examined("degradation-train", [record(20, residual=False)])
    assert (finding.verdict, finding.headline) == ("untested", "no records of plain-56")
    # Table 6 is about option A.
    assert examined("table-6-20", [record(20, True, seed, shortcut="B") for seed in range(5)]).verdict == "untested"


def test_110_layers_are_compared_with_warm_up_only() -> None:
    cold = [record(110, residual=True, seed=seed, schedule="paper", train_error=90.0) for seed in range(3)]
    warm = [record(110, residual=True, seed=seed, train_error=0.1) for seed in range(3)]
    for name in ("resnet-110-converges", "table-6-110"):
        assert examined(name, cold).verdict == "untested"
        assert examined(name, cold + warm).verdict == "reproduced"


def test_a_diverged_run_without_a_number_does_not_count() -> None:
    made = [record(56, False, seed, train_error=error) for seed, error in enumerate((5.0, 6.0, None))]
    finding = examined("degradation-train", [*made, *(record(20, False, seed) for seed in range(5))])
    assert finding.verdict == "inconclusive"  # 2 against 5 seeds could be significant
    assert "plain-56 5.50 ± 0.71 % (n=2)" in finding.evidence


def test_the_running_error_is_shown_beside_and_never_tested() -> None:
    errors = {56: 50.0, 20: 2.0}
    made = [
        record(d, False, s, train_error=1.0, running_train_error=e + s) for d, e in errors.items() for s in range(3)
    ]
    finding = examined("degradation-train", made)
    assert finding.verdict == "inconclusive"
    assert "running training error 51.00 %, 3.00 %" in finding.evidence


# Arms across settings


def with_rates(depth: int, errors: dict[float, tuple[float, float]], **changes: Any) -> Records:
    """Three seeds at each learning rate, given with its training and its validation error."""
    return [
        record(depth, False, s, train_error=train + s / 100, val_error=val, config__optimizer__lr=rate, **changes)
        for rate, (train, val) in errors.items()
        for s in range(3)
    ]


HE, DIRAC = {0.1: (50.0, 50.0)}, {"config__model__init": "dirac"}
INIT = (Arm(False, 56), Arm(False, 56, keys=(("model.init", "dirac"),)))
RATES = (Arm(False, 56, best_of="optimizer.lr"), Arm(False, 20, best_of="optimizer.lr"))
PLAIN_20 = with_rates(20, {0.1: (3.0, 8.0), 0.03: (2.0, 9.0)})


@pytest.mark.parametrize(
    ("arms", "made", "means"),
    [
        (INIT, with_rates(56, HE) + with_rates(56, {0.1: (9.0, 9.0)}, **DIRAC), [50.01, 9.01]),
        (INIT, with_rates(56, HE) + with_rates(56, {0.3: (9.0, 9.0)}, **DIRAC), None),  # two things differ
        (INIT, with_rates(56, HE), None),
        (RATES, PLAIN_20 + with_rates(56, {0.1: (50.0, 50.0), 0.01: (4.0, 11.0)}), [4.01, 3.01]),
        (RATES, PLAIN_20 + with_rates(56, HE), None),  # the best of one is no choice
    ],
)
def test_arms_that_name_keys_are_compared_across_settings(arms: Any, made: Records, means: Any) -> None:
    claim = Claim("x", "", "", arms, TRAIN, Higher())
    found = findings(claim, study_of(made))
    assert [one.verdict == "untested" for one in found] == [means is None]
    assert means is None or list(found[0].numbers["means"].values()) == pytest.approx(means)


# Recipes


@pytest.mark.parametrize(
    ("departure", "named"),
    [
        ({"config__data__name": "digits"}, "data.name=digits"),
        ({"config__optimizer__lr": 0.05}, "optimizer.lr=0.05"),
        ({"config__schedule__steps": 4000}, "schedule.steps=4000"),
        ({"schedule": "onecycle"}, "schedule.name=onecycle, schedule.steps=180"),
        ({"config__augmentation__name": "none"}, "augmentation.name=none"),
        ({"config__early_stopping": 20}, "early_stopping=20"),
        ({"config__selection": "best_test"}, "selection=best_test"),
    ],
)
def test_the_papers_numbers_are_asked_of_its_recipe_only(departure: dict[str, Any], named: str) -> None:
    (found,) = study_findings(study_of([record(20, residual=True, **departure)]))
    asked = [finding for finding in found if finding.headline != "no records with the paper's recipe"]
    assert "paper" not in {finding.claim.scope for finding in asked}
    assert {finding.label for finding in asked if finding.claim.scope == "any"} == {f"not the paper's recipe: {named}"}


def test_every_claim_of_the_paper_is_listed_once_on_its_data() -> None:
    usual = [record(20, residual=True), record(20, residual=True, seed=1)]
    main, other = study_findings(study_of([*usual, record(20, residual=True, **NOTEBOOK)]))
    assert {finding.label for finding in main} == {""}
    assert sorted(f.claim.id for f in main) == sorted(BY_ID.keys() - {"notebook"})
    assert [(f.claim.id, f.verdict) for f in other] == [("notebook", "inconclusive")]
    (alone,) = study_findings(study_of(usual))
    assert sorted(f.claim.id for f in alone) == sorted(BY_ID)
    assert {f.headline for f in alone if f.claim.id == "notebook"} == {"no records with the notebook's recipe"}
    (digits,) = study_findings(study_of([record(20, residual=True, config__data__name="digits")]))
    assert {f.claim.scope for f in digits} == {"any"}


def test_quoted_numbers_of_plain_nets_and_of_110_layers_say_what_they_are() -> None:
    assert str(paper.RESIDUAL_TEST_ERROR[110]) == "6.61 ± 0.16"
    assert paper.BEST_OF_FIVE_110.value == 6.43
    assert [str(quoted) for quoted in paper.PLAIN_TEST_ERROR.values()] == ["≈9.5", "≈10.0", "≈12.0", "≈13.5"]
