"""The claims of the paper, and of what is known since, as a table; and the verdicts on them from records.

Source: He et al. 2015, Sections 3.3, 4.1 and 4.2, and Yang et al. 2019 for the gradients; the quoted numbers stand in
`paper`, the rules in `rules`. Notable: everything that decides is a constant, and each margin and each minimum effect
is derived from the size of the effects that others measured. They, and the correction for the number of claims, were
set on 2026-11-24, before any run with the paper's recipe but after the records of results/reference were seen
(docs/log.md lists the verdicts that changed). A claim about a number of the paper is only asked of its own recipe.
"""

import math
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from ablation.report import interventions, metrics, paper
from ablation.report.arms import Arm, Claim
from ablation.report.metrics import GROWTH, GROWTH_2, GROWTH_3, RATIO, TEST, TRAIN, Metric
from ablation.report.paper import PLAIN_TEST_ERROR, PLAIN_TRAIN_ERROR, RESIDUAL_TEST_ERROR, RESIDUAL_TRAIN_ERROR
from ablation.report.rules import MIN_SEEDS, DifferencesWithin, Higher, Judgement, MeanWithin, Rule, Verdict, verdicts
from ablation.report.statistics import Values
from ablation.report.studies import Cell, Setting, Study


def quarter(higher: paper.Quoted, lower: paper.Quoted) -> Rule:
    """The minimum effect: a quarter of the published one. A smaller one is another finding than the paper's."""
    return Higher((higher.value - lower.value) / 4)


DEGRADATION = PLAIN_TRAIN_ERROR[56].value - PLAIN_TRAIN_ERROR[20].value  # 2.59 points of training error
HARDLY_DIFFERENT = DEGRADATION / 10  # plain-20 and plain-32 are 0.05 apart there, a fiftieth of it
NO_DEGRADATION = RESIDUAL_TRAIN_ERROR[20].value / 4  # what ResNet-56 may be worse: a quarter of ResNet-20's whole error
# Options A, B and C may be apart by half of what any shortcut brings at 20 layers (0.95): nearer to each other than to
# half of the way to a plain net.
OPTIONS_CLOSE = (PLAIN_TEST_ERROR[20].value - RESIDUAL_TEST_ERROR[20].value) / 2
# The paper's numbers are of one run each, and its own five runs of ResNet-110 have a spread of 0.16. Twice that is less
# than the step from 20 to 32 layers (1.24) or from 32 to 56 (0.54).
QUOTED_TOLERANCE = 2 * (RESIDUAL_TEST_ERROR[110].std or math.nan)
CONVERGED = 10.0  # far from both ends: others' ResNets have below 0.5 %, plain-110 stays above 60 %
RESPONSES_APART = 0.05  # a twentieth of the responses of a fresh net, which have a spread of 1
NO_GROWTH = (paper.GRADIENT_GROWTH.value - 1) / 4  # a layer; a quarter of the way from no growth to the theory's 1.21
TENFOLD = 1.0  # on the scale of log10; a gradient that vanishes or explodes does so by powers of ten


plain, resnet = partial(Arm, False), partial(Arm, True)


def near(quoted: paper.Quoted) -> Rule:
    return MeanWithin(quoted.value - QUOTED_TOLERANCE, quoted.value + QUOTED_TOLERANCE, quoted)


FIGURE_6, LEFT, MIDDLE = "Sec. 4.2, Fig. 6", "Sec. 4.2, Fig. 6 (left)", "Sec. 4.2, Fig. 6 (middle), Table 6"
FIGURE_7, TABLE_3 = "Sec. 4.2, Fig. 7", "Sec. 4.1, Table 3 (ImageNet)"
NOT_VANISHING = f"Sec. 4.1 (argued of ImageNet's plain-34); {paper.MEAN_FIELD}"
RESPONSES = Higher(RESPONSES_APART)
AS_THEORY = MeanWithin(paper.GRADIENT_GROWTH.value - NO_GROWTH, paper.GRADIENT_GROWTH.value + NO_GROWTH)
FLAT = MeanWithin(1 - NO_GROWTH, 1 + NO_GROWTH)

# fmt: off
PAPERS: tuple[Claim, ...] = (
    # slug, claim, source, networks, metric, rule, scope
    Claim("degradation-train", "Degradation: plain-56 has a higher training error than plain-20",
          LEFT, (plain(56), plain(20)), TRAIN, quarter(PLAIN_TRAIN_ERROR[56], PLAIN_TRAIN_ERROR[20])),
    Claim("degradation-test", "Degradation: plain-56 has a higher test error than plain-20",
          LEFT, (plain(56), plain(20)), TEST, quarter(PLAIN_TEST_ERROR[56], PLAIN_TEST_ERROR[20])),
    Claim("plain-20-32", "Plain-20 and plain-32 have nearly the same training error: only deeper plain nets degrade",
          LEFT, (plain(20), plain(32)), TRAIN, DifferencesWithin(-HARDLY_DIFFERENT, HARDLY_DIFFERENT)),
    Claim("no-degradation", "Shortcuts end degradation: ResNet-56 has no higher training error than ResNet-20",
          MIDDLE, (resnet(56), resnet(20)), TRAIN, DifferencesWithin(high=NO_DEGRADATION)),
    Claim("depth-helps-train", "With shortcuts depth helps: ResNet-56 has a lower training error than ResNet-20",
          MIDDLE, (resnet(20), resnet(56)), TRAIN, quarter(RESIDUAL_TRAIN_ERROR[20], RESIDUAL_TRAIN_ERROR[56])),
    Claim("depth-helps-test", "With shortcuts depth helps: ResNet-56 has a lower test error than ResNet-20",
          MIDDLE, (resnet(20), resnet(56)), TEST, quarter(RESIDUAL_TEST_ERROR[20], RESIDUAL_TEST_ERROR[56])),
    *(Claim(f"residual-beats-plain-{depth}", f"ResNet-{depth} has a lower test error than plain-{depth}",
            FIGURE_6, (plain(depth), resnet(depth)), TEST, quarter(plain_error, RESIDUAL_TEST_ERROR[depth]))
      for depth, plain_error in (PLAIN_TEST_ERROR | {110: paper.PLAIN_110}).items()),
    *(Claim(f"table-6-{depth}", f"ResNet-{depth} (option A) has a test error of {quoted} %", quoted.source,
            (resnet(depth, "A"),), TEST, near(quoted), "paper") for depth, quoted in RESIDUAL_TEST_ERROR.items()),
    Claim("resnet-110-converges", f"ResNet-110 converges if its learning rate is {paper.WARMUP_RATE.value:g} until its "
          f"training error is below {paper.WARMUP_ERROR.value:g} %",
          paper.WARMUP_RATE.source, (resnet(110),), TRAIN, MeanWithin(high=CONVERGED), "paper", every_run=True),
    Claim("plain-110-fails", f"Plain-110 does not converge: its error stays above {paper.PLAIN_110.value:g} %",
          paper.PLAIN_110.source, (plain(110),), TRAIN, MeanWithin(low=paper.PLAIN_110.value), "paper"),
    Claim("depth-110-apart", "Plain-110 has a higher training error than ResNet-110",
          FIGURE_6, (plain(110), resnet(110)), TRAIN, quarter(paper.PLAIN_110, paper.RESIDUAL_1202)),
    Claim("1202-trains", f"ResNet-1202 has a training error below {paper.RESIDUAL_1202.value:g} %",
          paper.RESIDUAL_1202.source, (resnet(1202),), TRAIN, MeanWithin(high=paper.RESIDUAL_1202.value), "paper",
          every_run=True),
    Claim("1202-overfits", "ResNet-1202 has a higher test error than ResNet-110",
          "Sec. 4.2, Table 6", (resnet(1202), resnet(110)), TEST,
          quarter(RESIDUAL_TEST_ERROR[1202], RESIDUAL_TEST_ERROR[110])),
    *(Claim(f"responses-smaller-{depth}", f"The layers of ResNet-{depth} have smaller responses than plain-{depth}'s",
            FIGURE_7, (plain(depth), resnet(depth)), metrics.RESPONSE, RESPONSES) for depth in (20, 56)),
    *(Claim(f"responses-fall-{few}-{many}", f"The layers of ResNet-{many} have smaller responses than ResNet-{few}'s",
            FIGURE_7, (resnet(few), resnet(many)), metrics.RESPONSE, RESPONSES) for few, many in ((20, 56), (56, 110))),
    *(Claim(f"explosion-{depth}", f"Batch norm makes plain-{depth}'s gradients explode at the start: in the first "
            f"stage they grow by {paper.GRADIENT_GROWTH.value:.2f} a layer towards the input",
            paper.MEAN_FIELD, (plain(depth),), GROWTH, AS_THEORY) for depth in (20, 56)),
    *(Claim(f"explosion-56-stage-{stage}", f"In stage {stage} plain-56's gradients grow towards the input as well",
            paper.MEAN_FIELD, (plain(56),), metric, MeanWithin(low=1 + NO_GROWTH))
      for stage, metric in ((2, GROWTH_2), (3, GROWTH_3))),
    *(Claim(f"no-explosion-56-stage-{stage}", f"With shortcuts they do not: in stage {stage} ResNet-56's stay level",
            paper.MEAN_FIELD, (resnet(56),), metric, FLAT) for stage, metric in ((2, GROWTH_2), (3, GROWTH_3))),
    Claim("shortcuts-calm-56", "In the first stage plain-56's gradients grow faster than ResNet-56's",
          paper.MEAN_FIELD, (plain(56), resnet(56)), GROWTH, Higher(NO_GROWTH)),
    Claim("ratio-start", "At the start gradients do not vanish, they explode: the first third of plain-56's layers has "
          "at least ten times the gradient of the last third", NOT_VANISHING, (plain(56),), RATIO["start"],
          MeanWithin(low=TENFOLD)),
    Claim("ratio-end", "After training they do not vanish either: the first third of plain-56's layers has at least a "
          "tenth of the gradient of the last third", NOT_VANISHING, (plain(56),), RATIO["end"],
          MeanWithin(low=-TENFOLD)),
    Claim("ratio-training", "Training takes the explosion away: plain-56's ratio falls at least tenfold",
          paper.MEAN_FIELD, (plain(56),), metrics.EVENED, MeanWithin(low=TENFOLD)),
    *(Claim(f"shortcuts-close-{depth}",
            f"At {depth} layers options A, B and C have nearly the same test error: projections are not essential",
            TABLE_3, (resnet(depth, "A"), resnet(depth, "B"), resnet(depth, "C")), TEST,
            DifferencesWithin(-OPTIONS_CLOSE, OPTIONS_CLOSE)) for depth in (20, 56)),
    Claim("notebook", f"The notebook's ResNet-20 has a test error of {paper.NOTEBOOK} %, selected on the test set",
          paper.NOTEBOOK.source, (resnet(20, "avgpool"),), metrics.BEST_TEST, near(paper.NOTEBOOK), "notebook"),
)
# fmt: on
CLAIMS = PAPERS + interventions.CLAIMS


@dataclass(frozen=True)
class Finding:
    """A claim's verdict in one setting."""

    claim: Claim
    setting: Setting
    verdict: Verdict
    """Corrected for the number of claims that are tested in the study."""
    headline: str
    """The number that decides."""
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
        claim, arms = self.claim, [asdict(arm) for arm in self.claim.arms]
        found: dict[str, Any] = {
            "id": claim.id,
            "study": study.name,
            "setting": self.setting.title,
            "label": self.label,
        }
        found |= {"verdict": self.verdict, "uncorrected": self.uncorrected}
        found |= {"statement": claim.statement, "source": claim.source}
        found |= {"comparison": claim.comparison, "arms": arms, "test": claim.test.rule}
        return found | {"threshold": claim.test.threshold, "evidence": self.evidence, "numbers": self.numbers}


def study_findings(study: Study) -> list[list[Finding]]:
    """The verdicts in each setting of a study; a claim that is tested nowhere stands once, in the main setting."""
    found = corrected([finding for claim in CLAIMS for finding in findings(claim, study)])
    return [[finding for finding in found if finding.setting is setting] for setting in study.settings]


def corrected(found: list[Finding]) -> list[Finding]:
    """The findings of a study with their final verdicts."""
    tested = [(finding, finding.judged) for finding in found if finding.judged]
    seeds = [min(finding.numbers["n"].values()) for finding, _ in tested]
    final = zip(tested, verdicts([judged for _, judged in tested], seeds), strict=True)
    changed = {
        id(finding): replace(
            finding,
            verdict=made.verdict,
            headline=f"{finding.headline}, corrected p = {made.p:.2g}",
            numbers=finding.numbers
            | {"p": judged.p, "p_corrected": made.p, "p_contradicted": judged.p_contradicted}
            | {"p_contradicted_corrected": made.p_contradicted, "claims": len(tested)},
        )
        for (finding, judged), made in final
    }
    return [changed.get(id(finding), finding) for finding in found]


def findings(claim: Claim, study: Study) -> list[Finding]:
    """The claim wherever it can be tested in the study, by itself, uncorrected; else once, untested."""
    found = [examine(claim, setting, cells) for setting, cells in claim.cells(study)]
    main = study.settings[0]
    if not found:
        untested = Finding(claim, main, "untested", f"no records with the {claim.scope}'s recipe")
        return [untested] if main.keys["data.name"] == paper.RECIPE["data"]["name"] else []
    nearest = max(found, key=lambda finding: len(finding.numbers["n"]))
    tested = [one for one in found if one.verdict != "untested"]
    if claim in interventions.CLAIMS:  # of an intervention that a study does not try there is nothing to say
        return tested
    return tested or [replace(nearest, setting=main)]


def examine(claim: Claim, setting: Setting, found: dict[Arm, Cell | None]) -> Finding:
    metric, cells = claim.metric, {arm.label(cell): cell for arm, cell in found.items() if cell}
    samples = {label: metric.of(cell) for label, cell in cells.items()}
    means = {label: float(values.mean()) for label, values in samples.items() if len(values)}
    details = [sample_text(label, samples[label], metric, cell) for label, cell in cells.items()]
    if metric.beside:
        beside = [values.mean() for values in map(metric.beside.of, cells.values()) if len(values)]
        text = ", ".join(f"{mean:.{metric.decimals}f}{metric.unit}" for mean in beside)
        details += [f"{metric.beside.name} {text}"] if text else []
    counts = {label: len(values) for label, values in samples.items()}
    lost = {label: cell.failed + len(cell.runs) - counts[label] for label, cell in cells.items()}
    numbers: dict[str, Any] = {"n": counts, "means": means, "without_number": lost}
    untested = Finding(claim, setting, "untested", "", "; ".join(details), numbers)
    lacking = [arm.name for arm, cell in found.items() if not cell] + [label for label in samples if label not in means]
    not_converged = sum(lost.values()) if claim.every_run else 0
    if lacking and not not_converged:
        return replace(untested, headline=f"no records of {', '.join(lacking)}")
    if not_converged:
        runs = not_converged + sum(counts.values())
        text = f"{not_converged} of {runs} runs failed or diverged; the claim is about every run"
        return replace(untested, verdict="inconclusive", headline=text)
    judged = claim.test.judge(samples, metric)
    shown = replace(untested, verdict=judged.verdict, headline=judged.text, numbers=numbers | judged.numbers)
    if min(counts.values()) < MIN_SEEDS:
        text = f"{judged.text}; too few seeds, {MIN_SEEDS} are needed"
        return replace(shown, verdict="inconclusive", headline=text)
    return replace(shown, judged=judged)


def sample_text(label: str, values: Values, metric: Metric, cell: Cell) -> str:
    """A network's mean, spread and n, with the runs that have no number, and what the test set's own sampling gives."""
    lost = f", {cell.failed} more failed or diverged" if cell.failed else ""
    lost += f", {without} without a number" if (without := len(cell.runs) - len(values)) else ""
    if not len(values):
        return f"{label}: no number{lost}"
    spread = f" ± {values.std(ddof=1):.{metric.decimals}f}" if len(values) > 1 else ""
    sampling = metrics.sampling_std(cell) if metric is TEST else math.nan
    beside = f", sampling of the test set ± {sampling:.2f}" if math.isfinite(sampling) else ""
    return f"{label} {values.mean():.{metric.decimals}f}{spread}{metric.unit} (n={len(values)}{lost}{beside})"
