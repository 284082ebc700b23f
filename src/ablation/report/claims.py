"""The paper's claims as a table, and the verdicts on them from records.

Source: He et al. 2015, Sections 3.3, 4.1 and 4.2; the quoted numbers stand in `paper`, the rules in `rules`. Notable:
everything that decides is a constant, written down before any record was made. Each claim is tested by itself, without
a correction for their number. A claim about a number of the paper is only asked of runs with the paper's recipe.
"""

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from ablation.report import interventions, paper
from ablation.report.arms import Arm, Claim
from ablation.report.metrics import BEST_TEST, GRADIENT, RESPONSE, TEST, TRAIN, Metric
from ablation.report.rules import MIN_SEEDS, DifferencesWithin, Higher, MeanWithin, Rule, Verdict
from ablation.report.statistics import Values
from ablation.report.studies import Cell, Setting, Study

# Points of test error, points of training error, and a ratio of gradients
QUOTED_TOLERANCE = 0.75  # public reproductions with the paper's recipe lie up to 0.7 from Table 6, on both sides
OPTIONS_CLOSE = 1.0  # on ImageNet, options A and C are 0.84 apart (Table 3)
HARDLY_DIFFERENT = 0.5  # in a-martyn's reproduction plain-20 and plain-32 are 0.05 apart
NO_DEGRADATION = 0.5  # what the deeper residual net may be worse
CONVERGED = 10.0  # for a net of 110 layers
NOT_VANISHING = 0.1  # a vanishing gradient falls by powers of ten


plain, resnet = partial(Arm, False), partial(Arm, True)


def near(quoted: paper.Quoted) -> Rule:
    return MeanWithin(quoted.value - QUOTED_TOLERANCE, quoted.value + QUOTED_TOLERANCE, quoted)


FIGURE_6, LEFT, MIDDLE = "Sec. 4.2, Fig. 6", "Sec. 4.2, Fig. 6 (left)", "Sec. 4.2, Fig. 6 (middle), Table 6"
FIGURE_7, TABLE_3 = "Sec. 4.2, Fig. 7", "Sec. 4.1, Table 3 (ImageNet)"
HIGHER = Higher()

# fmt: off
PAPERS: tuple[Claim, ...] = (
    # slug, claim, source, networks, metric, rule, scope
    Claim("degradation-train", "Degradation: plain-56 has a higher training error than plain-20",
          LEFT, (plain(56), plain(20)), TRAIN, HIGHER),
    Claim("degradation-test", "Degradation: plain-56 has a higher test error than plain-20",
          LEFT, (plain(56), plain(20)), TEST, HIGHER),
    Claim("plain-20-32", "Plain-20 and plain-32 have nearly the same training error: only deeper plain nets degrade",
          LEFT, (plain(20), plain(32)), TRAIN, DifferencesWithin(-HARDLY_DIFFERENT, HARDLY_DIFFERENT)),
    Claim("no-degradation", "Shortcuts end degradation: ResNet-56 has no higher training error than ResNet-20",
          MIDDLE, (resnet(56), resnet(20)), TRAIN, DifferencesWithin(high=NO_DEGRADATION)),
    Claim("depth-helps-train", "With shortcuts depth helps: ResNet-56 has a lower training error than ResNet-20",
          MIDDLE, (resnet(20), resnet(56)), TRAIN, HIGHER),
    Claim("depth-helps-test", "With shortcuts depth helps: ResNet-56 has a lower test error than ResNet-20",
          MIDDLE, (resnet(20), resnet(56)), TEST, HIGHER),
    *(Claim(f"residual-beats-plain-{depth}", f"ResNet-{depth} has a lower test error than plain-{depth}",
            FIGURE_6, (plain(depth), resnet(depth)), TEST, HIGHER) for depth in (20, 32, 44, 56, 110)),
    *(Claim(f"table-6-{depth}", f"ResNet-{depth} (option A) has a test error of {quoted} %", quoted.source,
            (resnet(depth, "A"),), TEST, near(quoted), "paper") for depth, quoted in paper.RESIDUAL_TEST_ERROR.items()),
    Claim("resnet-110-converges", f"ResNet-110 converges if its learning rate is {paper.WARMUP_RATE.value:g} until its "
          f"training error is below {paper.WARMUP_ERROR.value:g} %",
          paper.WARMUP_RATE.source, (resnet(110),), TRAIN, MeanWithin(high=CONVERGED), "paper"),
    Claim("plain-110-fails", f"Plain-110 does not converge: its error stays above {paper.PLAIN_110.value:g} %",
          paper.PLAIN_110.source, (plain(110),), TRAIN, MeanWithin(low=paper.PLAIN_110.value), "paper"),
    Claim("depth-110-apart", "Plain-110 has a higher training error than ResNet-110",
          FIGURE_6, (plain(110), resnet(110)), TRAIN, HIGHER),
    Claim("1202-trains", f"ResNet-1202 has a training error below {paper.RESIDUAL_1202.value:g} %",
          paper.RESIDUAL_1202.source, (resnet(1202),), TRAIN, MeanWithin(high=paper.RESIDUAL_1202.value), "paper"),
    Claim("1202-overfits", "ResNet-1202 has a higher test error than ResNet-110",
          "Sec. 4.2, Table 6", (resnet(1202), resnet(110)), TEST, HIGHER),
    *(Claim(f"responses-smaller-{depth}", f"The layers of ResNet-{depth} have smaller responses than plain-{depth}'s",
            FIGURE_7, (plain(depth), resnet(depth)), RESPONSE, HIGHER) for depth in (20, 56)),
    *(Claim(f"responses-fall-{few}-{many}", f"The layers of ResNet-{many} have smaller responses than ResNet-{few}'s",
            FIGURE_7, (resnet(few), resnet(many)), RESPONSE, HIGHER) for few, many in ((20, 56), (56, 110))),
    Claim("no-vanishing-gradients", "Vanishing gradients are not the cause: before and after training, the first third "
          f"of plain-56's layers has at least {NOT_VANISHING:g} times the gradient of the last third",
          "Sec. 4.1", (plain(56),), GRADIENT, MeanWithin(low=NOT_VANISHING)),
    *(Claim(f"shortcuts-close-{depth}",
            f"At {depth} layers options A, B and C have nearly the same test error: projections are not essential",
            TABLE_3, (resnet(depth, "A"), resnet(depth, "B"), resnet(depth, "C")), TEST,
            DifferencesWithin(-OPTIONS_CLOSE, OPTIONS_CLOSE)) for depth in (20, 56)),
    Claim("notebook", f"The notebook's ResNet-20 has a test error of {paper.NOTEBOOK} %, selected on the test set",
          paper.NOTEBOOK.source, (resnet(20, "avgpool"),), BEST_TEST, near(paper.NOTEBOOK), "notebook"),
)
# fmt: on
CLAIMS = PAPERS + interventions.CLAIMS


@dataclass(frozen=True)
class Finding:
    """A claim's verdict in one setting."""

    claim: Claim
    setting: Setting
    verdict: Verdict
    headline: str
    """The number that decides."""
    details: str
    """The networks' own numbers."""
    numbers: dict[str, Any]

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
        found |= {"verdict": self.verdict, "statement": claim.statement, "source": claim.source}
        found |= {"comparison": claim.comparison, "arms": arms, "test": claim.test.rule}
        return found | {"threshold": claim.test.threshold, "evidence": self.evidence, "numbers": self.numbers}


def study_findings(study: Study) -> list[list[Finding]]:
    """The verdicts in each setting of a study; a claim that is tested nowhere stands once, in the main setting."""
    found = [finding for claim in CLAIMS for finding in findings(claim, study)]
    return [[finding for finding in found if finding.setting is setting] for setting in study.settings]


def findings(claim: Claim, study: Study) -> list[Finding]:
    found = [examine(claim, setting, cells) for setting, cells in claim.cells(study)]
    main = study.settings[0]
    if not found:
        untested = Finding(claim, main, "untested", f"no records with the {claim.scope}'s recipe", "", {})
        return [untested] if main.keys["data.name"] == paper.RECIPE["data"]["name"] else []
    nearest = max(found, key=lambda finding: len(finding.numbers["n"]))
    return [one for one in found if one.verdict != "untested"] or [replace(nearest, setting=main)]


def examine(claim: Claim, setting: Setting, found: dict[Arm, Cell | None]) -> Finding:
    metric = claim.metric
    cells = [cell for cell in found.values() if cell]
    samples = {arm.label(cell): metric.of(cell) for arm, cell in found.items() if cell}
    means = {label: float(values.mean()) for label, values in samples.items() if len(values)}
    lost = {arm.label(cell): cell.failed for arm, cell in found.items() if cell}
    details = [sample_text(label, values, metric, lost[label]) for label, values in samples.items()]
    if metric.beside:
        beside = [values.mean() for values in map(metric.beside.of, cells) if len(values)]
        shown = ", ".join(f"{mean:.{metric.decimals}f}{metric.unit}" for mean in beside)
        details += [f"{metric.beside.name} {shown}"] if shown else []
    counts = {label: len(values) for label, values in samples.items()}
    numbers: dict[str, Any] = {"n": counts, "means": means, "failed": lost}
    lacking = [arm.name for arm, cell in found.items() if not cell] + [label for label in samples if label not in means]
    if lacking:
        return Finding(claim, setting, "untested", f"no records of {', '.join(lacking)}", "; ".join(details), numbers)
    verdict, text, judged = claim.test.judge(samples, metric)
    if min(counts.values()) < MIN_SEEDS:
        verdict, text = "inconclusive", f"{text}; too few seeds, {MIN_SEEDS} are needed"
    return Finding(claim, setting, verdict, text, "; ".join(details), numbers | judged)


def sample_text(label: str, values: Values, metric: Metric, failed: int) -> str:
    lost = f", {failed} more failed or diverged" if failed else ""
    if not len(values):
        return f"{label}: no number{lost}"
    spread = f" ± {values.std(ddof=1):.{metric.decimals}f}" if len(values) > 1 else ""
    return f"{label} {values.mean():.{metric.decimals}f}{spread}{metric.unit} (n={len(values)}{lost})"
