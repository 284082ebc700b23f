"""Every rule close to its threshold, every claim with both verdicts, and the recipes that a claim is asked of."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from records_factory import paper_study, record, study_of, write_all

from ablation.config.compose import compose
from ablation.report import evidence, interventions, paper
from ablation.report.arms import Arm, Claim, plain
from ablation.report.claims import PAPERS
from ablation.report.comparisons import comparison_of
from ablation.report.filters import select
from ablation.report.findings import CLAIMS, Finding, findings, study_findings
from ablation.report.metrics import BEST_TEST, EVENED, GROWTH, RATIO, RESPONSE, TEST, TRAIN, Metric
from ablation.report.rules import ENOUGH_SEEDS, MIN_SEEDS, DifferencesWithin, Higher, MeanWithin, Rule
from ablation.report.studies import studies

MADE = compose(["experiment=notebook"]).to_dict()
NOTEBOOK = {
    "schedule": "plateau",
    "shortcut": "avgpool",
    **{f"config__{group}": MADE[group] for group in ("optimizer", "schedule", "augmentation", "data")},
    **{f"config__model__{key}": value for key, value in MADE["model"].items() if key not in ("depth", "residual")},
    **{f"config__{key}": MADE[key] for key in ("selection", "early_stopping")},
}
BY_ID = {claim.id: claim for claim in CLAIMS}
Records = list[dict[str, Any]]


def examined(name: str, records: Records) -> Finding:
    (finding,) = findings(BY_ID[name], study_of(records))
    return finding


def around(center: float, reach: float = 0.1) -> list[float]:
    """Three seeds with a standard deviation of `reach`; the t interval of their mean reaches 2.484 of it each way."""
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
        (Higher(1.0), [HIGH, LOW], "inconclusive"),  # 2.0 apart, but not surely more than the minimum
        (Higher(1.0), [LOW, HIGH], "contradicted"),
        (DifferencesWithin(high=0.5), [around(5.250), FIVE], "reproduced"),
        (DifferencesWithin(high=0.5), [around(5.253), FIVE], "inconclusive"),
        (DifferencesWithin(high=0.5), [around(5.747), FIVE], "inconclusive"),
        (DifferencesWithin(high=0.5), [around(5.750), FIVE], "contradicted"),
        (DifferencesWithin(-1, 1), [FIVE, FIVE, around(5.750)], "reproduced"),
        (DifferencesWithin(-1, 1), [FIVE, FIVE, around(5.753)], "inconclusive"),
        (DifferencesWithin(-1, 1), [around(6.438), FIVE, FIVE], "inconclusive"),  # one of three pairs: t at 0.05 / 3
        (DifferencesWithin(-1, 1), [around(6.445), FIVE, FIVE], "contradicted"),
        (MeanWithin(8, 9.5, paper.Quoted(8.75, "")), [around(9.250)], "reproduced"),
        (MeanWithin(8, 9.5, paper.Quoted(8.75, "")), [around(9.253)], "inconclusive"),
        (MeanWithin(8, 9.5, paper.Quoted(8.75, "")), [around(7.753)], "inconclusive"),
        (MeanWithin(8, 9.5, paper.Quoted(8.75, "")), [around(7.750)], "contradicted"),
        (MeanWithin(high=10), [around(10.250)], "contradicted"),
        (MeanWithin(low=60), [around(60.250)], "reproduced"),
    ],
    ids=repr,
)
def test_each_verdict_near_its_threshold(rule: Rule, samples: list[list[float]], verdict: str) -> None:
    found = rule.judge({str(i): np.array(sample) for i, sample in enumerate(samples)}, TEST)
    assert found.verdict == verdict, found


def test_thresholds_are_constants() -> None:
    """Whoever changes one has to change it here too, and say why in the log."""
    bounds = {c.id: (round(c.test.low, 3), round(c.test.high, 3)) for c in PAPERS if not isinstance(c.test, Higher)}
    quoted = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.61, 1202: 7.93}
    assert bounds == {
        "plain-20-32": (-0.259, 0.259),
        "no-degradation": (-np.inf, 0.1),
        **{f"table-6-{depth}": (round(error - 0.32, 3), round(error + 0.32, 3)) for depth, error in quoted.items()},
        "resnet-110-converges": (-np.inf, 10),
        "plain-110-fails": (60, np.inf),
        "1202-trains": (-np.inf, 0.1),
        **dict.fromkeys(("explosion-20", "explosion-56"), (1.158, 1.264)),
        **dict.fromkeys(("explosion-56-stage-2", "explosion-56-stage-3"), (1.053, np.inf)),
        **dict.fromkeys(("no-explosion-56-stage-2", "no-explosion-56-stage-3"), (0.947, 1.053)),
        "ratio-start": (1, np.inf),
        "ratio-end": (-1, np.inf),
        "ratio-training": (1, np.inf),
        "shortcuts-close-20": (-0.475, 0.475),
        "shortcuts-close-56": (-0.475, 0.475),
        "notebook": (8.68, 9.32),
    }
    assert [quoted.value for quoted in paper.PLAIN_TEST_ERROR.values()] == [9.7, 10.1, 11.4, 13.25]  # read off Figure 6
    least = {c.id: round(c.test.least, 3) for c in PAPERS if isinstance(c.test, Higher)}
    assert least["degradation-train"] == 0.647  # a quarter of 3.33 - 0.74
    assert least["depth-helps-test"] == 0.445  # and of 8.75 - 6.97
    assert all(value > 0 for value in least.values())
    assert (MIN_SEEDS, ENOUGH_SEEDS) == (3, 5)


# Claims

ERRORS = {TRAIN: "train_error", TEST: "test_error", BEST_TEST: "best_test_error"}
STAGES = {metric: stage for stage, metric in GROWTH.items()}


def with_metric(metric: Metric, value: float) -> dict[str, Any]:
    """What gives a record this value of a metric."""
    if metric in ERRORS:
        return {ERRORS[metric]: value}
    middle = {"name": f"layer{STAGES.get(metric, 1)}.x", "response_std": 1.0}
    middle |= {"gradient_norm_start": 1.0, "gradient_norm_end": 1.0}
    if metric is RESPONSE:
        return {"layers": [middle | {"response_std": value + step} for step in (-0.1, 0, 0.1)]}
    if metric in STAGES:  # the first layer of a stage does not count
        return {"layers": [middle | {"gradient_norm_start": 5.0 if k == 0 else value**-k} for k in range(6)]}
    keys = {RATIO["start"]: "gradient_norm_start", RATIO["end"]: "gradient_norm_end", EVENED: "gradient_norm_start"}
    return {"layers": [middle | {keys[metric]: 10.0**value}, middle, middle]}


def runs_of(arm: Arm, metric: Metric, value: float, recipe: dict[str, Any]) -> Records:
    """Three seeds with this value of the metric; beside the best rate another one that is best in training only."""
    changes = {"shortcut": arm.shortcut or "A", "val_error": 9.0} | recipe | with_metric(metric, value)
    changes |= {f"config__{key.replace('.', '__')}": given for key, given in arm.keys}
    other = changes | {"config__optimizer__lr": 0.3, "train_error": 0.0, "val_error": 9.1}
    both = [changes, other] if arm.best_of else [changes]
    return [record(arm.depth, arm.residual, seed, **one) for one in both for seed in range(3)]


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
@pytest.mark.parametrize("verdict", ["reproduced", "contradicted"])
def test_each_claim_is_decided_by_its_networks_in_order(claim: Claim, verdict: str) -> None:
    good, test = verdict == "reproduced", claim.test
    arms = [5.0] * len(claim.arms)
    if isinstance(test, Higher):
        arms[0] += 2 * test.least + 2 if good else -2
    elif isinstance(test, DifferencesWithin):
        arms[0] += 0 if good else 2
    else:
        inside = (test.low + test.high) / 2 if np.isfinite(test.low + test.high) else None
        one_sided = 0.8 * test.high if np.isinf(test.low) else test.low + 0.2 * abs(test.low)
        outside = 1.5 * test.high if np.isfinite(test.high) else test.low - 0.5 * abs(test.low)
        arms = [(one_sided if inside is None else inside) if good else outside]
    recipe = NOTEBOOK if claim.scope == "notebook" else {}
    pairs = zip(claim.arms, arms, strict=True)
    made = [run for arm, value in pairs for run in runs_of(arm, claim.metric, value, recipe)]
    assert examined(claim.id, made).verdict == verdict


def test_what_others_measured_reproduces_the_paper() -> None:
    ((*found,),) = study_findings(study_of(paper_study()))
    verdicts = {finding.claim.id: finding.verdict for finding in found}
    assert list(verdicts) == [claim.id for claim in PAPERS]
    assert "contradicted" not in verdicts.values()
    untested = {"table-6-1202", "1202-trains", "1202-overfits", "shortcuts-close-20", "shortcuts-close-56", "notebook"}
    assert {name for name, verdict in verdicts.items() if verdict == "untested"} == untested
    for name in ("degradation-train", "degradation-test", "depth-helps-test", "depth-110-apart", "explosion-56"):
        assert verdicts[name] == "reproduced", name


# Rules that can be fooled


def seeds(depth: int, residual: bool, error: float, n: int = 5, spread: float = 0.05, **changes: Any) -> Records:
    """`n` runs whose training and test error is `error`, evenly spread."""
    errors = error + spread * np.linspace(-1, 1, n)
    return [
        record(depth, residual, seed, train_error=float(one), test_error=float(one), **changes)
        for seed, one in enumerate(errors)
    ]


@pytest.mark.parametrize(
    ("claim", "made", "allowed"),
    [
        ("no-degradation", seeds(56, True, 0.83) + seeds(20, True, 0.40), {"contradicted", "inconclusive"}),
        ("no-degradation", seeds(56, True, 0.04, spread=0.01) + seeds(20, True, 0.40), {"reproduced"}),
        (  # plain-20's error in C's place
            "shortcuts-close-20",
            seeds(20, True, 8.75) + seeds(20, True, 8.8, shortcut="B") + seeds(20, True, 9.7, shortcut="C"),
            {"contradicted", "inconclusive"},
        ),
        ("table-6-20", seeds(20, True, 7.17), {"contradicted"}),
        ("table-6-32", seeds(32, True, 7.17), {"contradicted", "inconclusive"}),
        ("degradation-train", seeds(56, False, 1.2) + seeds(20, False, 0.74), {"inconclusive"}),  # sure, but too small
        (  # means apart, by one outlier
            "degradation-train",
            [record(56, False, s, train_error=e) for s, e in enumerate((1.0, 1.0, 1.0, 1.0, 60.0))]
            + seeds(20, False, 0.9),
            {"inconclusive"},
        ),
    ],
)
def test_margins_are_smaller_than_the_effects(claim: str, made: Records, allowed: set[str]) -> None:
    assert examined(claim, made).verdict in allowed


@pytest.mark.parametrize(
    ("finished", "failed", "verdict"), [(3, 0, "reproduced"), (3, 1, "inconclusive"), (0, 5, "inconclusive")]
)
def test_runs_that_failed_count_against_convergence(tmp_path: Path, finished: int, failed: int, verdict: str) -> None:
    made = [record(110, residual=True, seed=seed, train_error=0.1 + seed / 100) for seed in range(finished + failed)]
    for place in write_all(tmp_path, [record(20, True), *made]):
        config = json.loads((place / "record.json").read_text())["config"]
        if config["model"]["depth"] == 110 and config["seed"] >= finished:
            (place / "record.json").unlink()
            (place / "config.yaml").write_text(yaml.safe_dump(config))
            (place / "status.json").write_text(json.dumps({"status": "failed", "message": "the loss is not finite"}))
    found = evidence.read([tmp_path])
    assert (len(found.failed), len(select(found, ["model.depth=20"]).failed)) == (failed, 0)
    (study,) = studies(found.runs, found.failed)
    (finding,) = findings(BY_ID["resnet-110-converges"], study)
    assert finding.verdict == verdict
    assert (f"{failed} of {finished + failed} runs failed" in finding.headline) == (failed > 0)
    assert comparison_of(study) is None  # failed runs do not tell their machine, and yet differ in depth only


@pytest.mark.parametrize(("n", "verdict"), [(3, "suggestive"), (4, "suggestive"), (5, "reproduced")])
def test_a_few_seeds_are_at_most_suggestive(n: int, verdict: str) -> None:
    study = study_of(seeds(56, False, 30.0, n) + seeds(20, False, 3.0, n))
    found = {one.claim.id: one for part in study_findings(study) for one in part}["degradation-train"]
    assert (found.uncorrected, found.verdict) == ("reproduced", verdict)


def test_shuffled_labels_reproduce_nothing() -> None:
    """The errors of ten plain nets, dealt to both depths at random: of 40 deals hardly one may be a reproduction."""
    draws, errors, wrong = np.random.default_rng(0), [3.0, 3.1, 3.2, 2.9, 2.8, 30.0, 31.0, 29.0, 33.0, 28.0], 0
    for _ in range(40):
        dealt = draws.permutation(errors)
        made = [record(56 if k < 5 else 20, False, k % 5, train_error=float(e)) for k, e in enumerate(dealt)]
        wrong += examined("degradation-train", made).verdict == "reproduced"
    assert wrong <= 2


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
    assert "plain-56 5.50 ± 0.71 % (n=2, 1 without a number)" in finding.evidence


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
INIT = (plain(56), plain(56, "model.init", "dirac"))
RATES = (plain(56, best_of="optimizer.lr"), plain(20, best_of="optimizer.lr"))
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


def test_a_study_says_nothing_of_interventions_that_it_does_not_try() -> None:
    for init in ("he_fan_in", "glorot"):
        found = study_findings(study_of([record(56, False, seed, config__model__init=init) for seed in range(5)]))
        assert not {finding.claim for part in found for finding in part} & {*interventions.CLAIMS}


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
        ({"config__augmentation__cutout": 16}, "augmentation.cutout=16"),
        ({"config__augmentation__policy": "trivial_augment"}, "augmentation.policy=trivial_augment"),
        ({"config__augmentation__shift": 4.0}, "augmentation.shift=4.0"),
        ({"config__optimizer__nesterov": True}, "optimizer.nesterov=True"),
        ({"config__schedule__kind": "cosine"}, "schedule.kind=cosine"),
        ({"config__model__init": "glorot"}, "model.init=glorot"),
        ({"config__model__batch_norm_momentum": 0.9}, "model.batch_norm_momentum=0.9"),
    ],
)
def test_the_papers_numbers_are_asked_of_its_recipe_only(departure: dict[str, Any], named: str) -> None:
    (found,) = study_findings(study_of([record(20, residual=True, **departure)]))
    asked = [finding for finding in found if finding.headline != "no records with the paper's recipe"]
    assert "paper" not in {finding.claim.scope for finding in asked}
    assert {finding.label for finding in asked if finding.claim.scope == "any"} == {f"not the paper's recipe: {named}"}


def test_the_papers_claims_are_not_asked_of_other_initial_weights() -> None:
    made = [record(d, False, seed, config__model__init="dirac") for d in (20, 56) for seed in range(5)]
    (found,) = study_findings(study_of(made))
    tested = {finding.claim.id for finding in found if finding.verdict != "untested"}
    assert tested == {"dirac-growth", "dirac-ends-degradation"}


@pytest.mark.parametrize(
    "departure",
    [{"optimizer__lr": 0.01}, {"model__width": 64}, {"optimizer__weight_decay": 0.0}, {"data__remainder": "drop"}],
)
def test_the_notebooks_number_is_asked_of_its_recipe_only(departure: dict[str, Any]) -> None:
    changes = {f"config__{key}": value for key, value in departure.items()}
    assert [f.verdict for f in findings(BY_ID["notebook"], study_of([record(20, True, **NOTEBOOK)]))] == [
        "inconclusive"
    ]
    made = copy.deepcopy(record(20, True, **copy.deepcopy(NOTEBOOK) | changes))
    assert [f.verdict for f in findings(BY_ID["notebook"], study_of([made]))] == ["untested"]


def test_every_claim_of_the_paper_is_listed_once_on_its_data() -> None:
    usual = [record(20, residual=True), record(20, residual=True, seed=1)]
    main, other = study_findings(study_of([*usual, record(20, residual=True, **NOTEBOOK)]))
    assert {finding.label for finding in main} == {""}
    assert sorted(f.claim.id for f in main) == sorted({claim.id for claim in PAPERS} - {"notebook"})
    assert [(f.claim.id, f.verdict) for f in other] == [("notebook", "inconclusive")]
    (alone,) = study_findings(study_of(usual))
    assert sorted(f.claim.id for f in alone) == sorted(claim.id for claim in PAPERS)
    assert {f.headline for f in alone if f.claim.id == "notebook"} == {"no records with the notebook's recipe"}
    (digits,) = study_findings(study_of([record(20, residual=True, config__data__name="digits")]))
    assert {f.claim.scope for f in digits} == {"any"}
