"""The claims about what removes degradation: each with both verdicts, and silent where a study does not try it."""

from typing import Any

import pytest
from records_factory import record, study_of

from ablation.report.arms import Arm, Claim
from ablation.report.findings import findings, study_findings
from ablation.report.interventions import CLAIMS
from ablation.report.metrics import GROWTH
from ablation.report.rules import Higher


def runs(arm: Arm, claim: Claim, value: float) -> list[dict[str, Any]]:
    """Five seeds with this value of the claim's metric; beside the best rate one that is best in training only."""
    changes: dict[str, Any] = {f"config__{key.replace('.', '__')}": given for key, given in arm.keys}
    changes |= {"schedule": "onecycle", "shortcut": arm.shortcut or "A", "train_error": value}
    if claim.metric is GROWTH[1]:
        other = {"response_std": 1.0, "gradient_norm_end": 1.0}
        changes["layers"] = [other | {"name": f"layer1.{i}", "gradient_norm_start": value**-i} for i in range(6)]
    made = [record(arm.depth, arm.residual, seed, val_error=9.0, **changes) for seed in range(5)]
    if arm.best_of:
        other = changes | {"config__optimizer__lr": 0.3, "train_error": 0.0}
        made += [record(arm.depth, arm.residual, seed, val_error=9.1, **other) for seed in range(5)]
    return made


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
@pytest.mark.parametrize("verdict", ["reproduced", "contradicted"])
def test_each_claim_is_decided_by_its_arms_in_order(claim: Claim, verdict: str) -> None:
    good = verdict == "reproduced"
    higher = isinstance(claim.test, Higher) == good  # for the other rules to be high is bad
    values = [1.2 if higher else 1.0, 1.1] if claim.metric is GROWTH[1] else [1.4 if higher else 0.2, 0.8]
    made = [one for arm, v in zip(claim.arms, values, strict=False) for one in runs(arm, claim, v)]
    (finding,) = findings(claim, study_of(made))
    assert finding.verdict == verdict, finding.evidence


def test_a_study_says_nothing_of_interventions_that_it_does_not_try() -> None:
    found = study_findings(study_of([record(56, False, seed) for seed in range(5)]))
    assert not {finding.claim for part in found for finding in part} & {*CLAIMS}


def test_the_papers_claims_are_not_asked_of_other_initial_weights() -> None:
    made = [record(d, False, seed, config__model__init="dirac") for d in (20, 56) for seed in range(5)]
    (found,) = study_findings(study_of(made))
    assert not {finding.claim for finding in found if finding.verdict == "untested"} & {*CLAIMS}
    assert {finding.claim.id for finding in found if finding.verdict != "untested"} == {
        "dirac-growth",
        "dirac-ends-degradation",
    }
