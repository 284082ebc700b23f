"""The verdicts on all claims: each is asked wherever a study has its networks, tested, and corrected for the others.

Notable: nothing is left out silently. A claim without records is untested, one with few seeds or without a clear answer
inconclusive, and both say why; only of an intervention that a study does not try nothing is said.
"""

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ablation.report import interventions, metrics, paper
from ablation.report.arms import Arm, Claim
from ablation.report.claims import PAPERS
from ablation.report.metrics import TEST, Metric
from ablation.report.rules import MIN_SEEDS, Judgement, Verdict, verdicts
from ablation.report.statistics import Values
from ablation.report.studies import Cell, Setting, Study

CLAIMS = PAPERS + interventions.CLAIMS


@dataclass(frozen=True)
class Finding:
    """A claim's verdict in one setting."""

    claim: Claim
    setting: Setting
    headline: str
    """The number that decides, or why none does."""
    verdict: Verdict = "untested"
    """Corrected for the number of claims that are tested in the study."""
    details: str = ""
    """The networks' own numbers."""
    numbers: dict[str, Any] = field(default_factory=dict)
    judged: Judgement | None = None
    """None if the claim is untested or has too few seeds; only the others count in the correction."""

    @property
    def uncorrected(self) -> Verdict:
        return self.judged.verdict if self.judged else self.verdict

    @property
    def evidence(self) -> str:
        return "; ".join(filter(None, (self.headline, self.details)))

    @property
    def label(self) -> str:
        """What keeps this from being the paper's own claim; empty if nothing does."""
        if self.claim.scope == "notebook" or self.setting.from_paper:
            return ""
        return f"not the paper's recipe: {', '.join(self.setting.deviations)}"

    def as_dict(self, study: Study) -> dict[str, Any]:
        claim, test = self.claim, self.claim.test
        found: dict[str, Any] = {"id": claim.id, "study": study.name, "setting": self.setting.title}
        found |= {"label": self.label, "verdict": self.verdict, "uncorrected": self.uncorrected}
        found |= {"statement": claim.statement, "source": claim.source, "comparison": claim.comparison}
        found |= {"arms": [asdict(arm) for arm in claim.arms], "test": test.rule, "threshold": test.threshold}
        return found | {"evidence": self.evidence, "numbers": self.numbers}


def study_findings(study: Study) -> list[list[Finding]]:
    """The verdicts in each setting of a study; a claim that is tested nowhere stands once, in the main setting."""
    found = corrected([finding for claim in CLAIMS for finding in findings(claim, study)])
    return [[finding for finding in found if finding.setting is setting] for setting in study.settings]


def corrected(found: list[Finding]) -> list[Finding]:
    """The findings of a study with their final verdicts."""
    judged = [finding.judged for finding in found if finding.judged]
    seeds = [min(finding.numbers["n"].values()) for finding in found if finding.judged]
    final = iter(verdicts(judged, seeds))
    return [with_verdict(finding, *next(final), len(judged)) if finding.judged else finding for finding in found]


def with_verdict(finding: Finding, verdict: Verdict, made: Judgement, claims: int) -> Finding:
    assert finding.judged
    p_values = {"p": finding.judged.p, "p_corrected": made.p, "p_contradicted": finding.judged.p_contradicted}
    numbers = finding.numbers | p_values | {"p_contradicted_corrected": made.p_contradicted, "claims": claims}
    headline = f"{finding.headline}, corrected p = {made.p:.2g}"
    return replace(finding, verdict=verdict, headline=headline, numbers=numbers)


def findings(claim: Claim, study: Study) -> list[Finding]:
    """The claim wherever it can be tested in the study, by itself, uncorrected; else once, untested."""
    found = [examine(claim, setting, cells) for setting, cells in claim.cells(study)]
    tested = [one for one in found if one.verdict != "untested"]
    main = study.settings[0]
    if tested or claim in interventions.CLAIMS:  # of an intervention that a study does not try there is nothing to say
        return tested
    if found:
        return [replace(max(found, key=lambda finding: len(finding.numbers["n"])), setting=main)]
    wanted = "paper's initial weights" if claim.scope == "any" else f"{claim.scope}'s recipe"
    asked = main.keys["data.name"] == paper.RECIPE["data"]["name"]
    return [Finding(claim, main, f"no records with the {wanted}")] if asked else []


def examine(claim: Claim, setting: Setting, found: dict[Arm, Cell | None]) -> Finding:
    """What the cells of a claim's arms say of it, uncorrected."""
    metric, cells = claim.metric, {arm.label(cell): cell for arm, cell in found.items() if cell}
    samples = {label: metric.of(cell) for label, cell in cells.items()}
    counts = {label: len(values) for label, values in samples.items()}
    means = {label: float(values.mean()) for label, values in samples.items() if len(values)}
    lost = {label: cell.failed + len(cell.runs) - counts[label] for label, cell in cells.items()}
    numbers: dict[str, Any] = {"n": counts, "means": means, "without_number": lost}
    plain = Finding(claim, setting, "", details=details(metric, samples, cells), numbers=numbers)
    if claim.every_run and any(lost.values()):
        runs = sum(lost.values()) + sum(counts.values())
        text = f"{sum(lost.values())} of {runs} runs failed or diverged; the claim is about every run"
        return replace(plain, verdict="inconclusive", headline=text)
    lacking = [arm.label() for arm, cell in found.items() if not cell] + [one for one in cells if one not in means]
    if lacking:
        return replace(plain, headline=f"no records of {', '.join(lacking)}")
    judged = claim.test.judge(samples, metric)
    shown = replace(plain, verdict=judged.verdict, headline=judged.text, numbers=numbers | judged.numbers)
    if min(counts.values()) >= MIN_SEEDS:
        return replace(shown, judged=judged)
    return replace(shown, verdict="inconclusive", headline=f"{judged.text}; too few seeds, {MIN_SEEDS} are needed")


def details(metric: Metric, samples: dict[str, Values], cells: dict[str, Cell]) -> str:
    """The networks' own numbers, and those that the metric has beside it."""
    texts = [sample_text(label, samples[label], metric, cell) for label, cell in cells.items()]
    if other := metric.beside:
        found = [values.mean() for values in map(other.of, cells.values()) if len(values)]
        means = ", ".join(f"{mean:.{metric.decimals}f}{metric.unit}" for mean in found)
        texts += [f"{other.name} {means}"] if means else []
    return "; ".join(texts)


def sample_text(label: str, values: Values, metric: Metric, cell: Cell) -> str:
    """A network's mean, spread and n, with the runs that have no number, and what the test set's own sampling gives."""
    lost = f", {cell.failed} more failed or diverged" if cell.failed else ""
    lost += f", {without} without a number" if (without := len(cell.runs) - len(values)) else ""
    if not len(values):
        return f"{label}: no number{lost}"
    sampling = metrics.sampling_std(cell) if metric is TEST else math.nan
    beside = f", sampling of the test set ± {sampling:.2f}" if math.isfinite(sampling) else ""
    return f"{label} {metric.text(values)} (n={len(values)}{lost}{beside})"
