"""The paper's claims as a table, and the verdicts on them from records.

Source: He et al. 2015, Sections 3.3, 4.1 and 4.2; the quoted numbers stand in `paper`, the rules in `rules`. Notable:
everything that decides is a constant, written down before any record was made. Each claim is tested by itself, without
a correction for their number. A claim about a number of the paper is only asked of runs with the paper's recipe.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ablation.report import paper
from ablation.report.rules import (
    BEST_TEST,
    GRADIENT,
    MIN_SEEDS,
    RESPONSE,
    TEST,
    TRAIN,
    DifferencesWithin,
    Higher,
    MeanWithin,
    Metric,
    Rule,
    Sample,
    Verdict,
)
from ablation.report.studies import Setting, Study, network_name

# Points of test error
QUOTED_TOLERANCE = 0.75  # public reproductions with the paper's recipe lie up to 0.7 from Table 6, on both sides
OPTIONS_CLOSE = 1.0  # on ImageNet, options A and C are 0.84 apart (Table 3)
# Points of training error
HARDLY_DIFFERENT = 0.5  # in a-martyn's reproduction plain-20 and plain-32 are 0.05 apart
NO_DEGRADATION = 0.5  # what the deeper residual net may be worse
CONVERGED = 10.0  # for a net of 110 layers
# Ratio of gradients
NOT_VANISHING = 0.1  # a vanishing gradient falls by powers of ten


@dataclass(frozen=True)
class Arm:
    """One network of a comparison. `shortcut` None: the main one of the setting."""

    depth: int
    residual: bool
    shortcut: str | None = None

    @property
    def name(self) -> str:
        """Such as plain-56 or ResNet-20 (B)."""
        return network_name(self.depth, self.residual) + (f" ({self.shortcut})" if self.shortcut else "")


@dataclass(frozen=True)
class Claim:
    """A statement, where it stands, and what decides it."""

    id: str
    statement: str
    source: str
    arms: tuple[Arm, ...]
    metric: Metric
    test: Rule
    scope: Literal["any", "paper", "notebook"] = "any"
    """Which recipe it is asked of: a number of the paper only of the paper's own."""

    @property
    def comparison(self) -> str:
        """Which numbers of which networks."""
        return f"{self.metric.name} of {' and '.join(arm.name for arm in self.arms)}"

    def applies(self, setting: Setting) -> bool:
        """Whether the claim may be asked of a setting's recipe."""
        return self.scope == "any" or (setting.from_paper if self.scope == "paper" else setting.notebook)


def plain(depth: int) -> Arm:
    return Arm(depth, residual=False)


def resnet(depth: int, shortcut: str | None = None) -> Arm:
    return Arm(depth, residual=True, shortcut=shortcut)


def near(quoted: paper.Quoted) -> Rule:
    return MeanWithin(quoted.value - QUOTED_TOLERANCE, quoted.value + QUOTED_TOLERANCE, quoted)


def close(margin: float) -> Rule:
    return DifferencesWithin(-margin, margin)


FIGURE_6, LEFT, MIDDLE = "Sec. 4.2, Fig. 6", "Sec. 4.2, Fig. 6 (left)", "Sec. 4.2, Fig. 6 (middle), Table 6"
FIGURE_7, TABLE_3 = "Sec. 4.2, Fig. 7", "Sec. 4.1, Table 3 (ImageNet)"
HIGHER = Higher()

# fmt: off
CLAIMS: tuple[Claim, ...] = (
    # slug, claim, source, networks, metric, rule, scope
    Claim("degradation-train", "Degradation: plain-56 has a higher training error than plain-20",
          LEFT, (plain(56), plain(20)), TRAIN, HIGHER),
    Claim("degradation-test", "Degradation: plain-56 has a higher test error than plain-20",
          LEFT, (plain(56), plain(20)), TEST, HIGHER),
    Claim("plain-20-32", "Plain-20 and plain-32 have nearly the same training error: only deeper plain nets degrade",
          LEFT, (plain(20), plain(32)), TRAIN, close(HARDLY_DIFFERENT)),
    Claim("no-degradation", "Shortcuts end degradation: ResNet-56 has no higher training error than ResNet-20",
          MIDDLE, (resnet(56), resnet(20)), TRAIN, DifferencesWithin(high=NO_DEGRADATION)),
    Claim("depth-helps-train", "With shortcuts depth helps: ResNet-56 has a lower training error than ResNet-20",
          MIDDLE, (resnet(20), resnet(56)), TRAIN, HIGHER),
    Claim("depth-helps-test", "With shortcuts depth helps: ResNet-56 has a lower test error than ResNet-20",
          MIDDLE, (resnet(20), resnet(56)), TEST, HIGHER),
    *(Claim(f"residual-beats-plain-{depth}", f"ResNet-{depth} has a lower test error than plain-{depth}",
            FIGURE_6, (plain(depth), resnet(depth)), TEST, HIGHER) for depth in (20, 32, 44, 56, 110)),
    *(Claim(f"table-6-{depth}", f"ResNet-{depth} (option A) has a test error of {quoted} %",
            quoted.source, (resnet(depth, "A"),), TEST, near(quoted), "paper")
      for depth, quoted in paper.RESIDUAL_TEST_ERROR.items()),
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
    *(Claim(f"responses-fall-{shallow}-{deep}",
            f"The layers of ResNet-{deep} have smaller responses than ResNet-{shallow}'s",
            FIGURE_7, (resnet(shallow), resnet(deep)), RESPONSE, HIGHER) for shallow, deep in ((20, 56), (56, 110))),
    Claim("no-vanishing-gradients", "Vanishing gradients are not the cause: before and after training, the first third "
          f"of plain-56's layers has at least {NOT_VANISHING:g} times the gradient of the last third",
          "Sec. 4.1", (plain(56),), GRADIENT, MeanWithin(low=NOT_VANISHING)),
    *(Claim(f"shortcuts-close-{depth}",
            f"At {depth} layers options A, B and C have nearly the same test error: projections are not essential",
            TABLE_3, (resnet(depth, "A"), resnet(depth, "B"), resnet(depth, "C")), TEST, close(OPTIONS_CLOSE))
      for depth in (20, 56)),
    Claim("notebook", f"The notebook's ResNet-20 has a test error of {paper.NOTEBOOK} %, selected on the test set",
          paper.NOTEBOOK.source, (resnet(20, "avgpool"),), BEST_TEST, near(paper.NOTEBOOK), "notebook"),
)
# fmt: on


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
        """All numbers in words."""
        return "; ".join(filter(None, (self.headline, self.details)))

    @property
    def label(self) -> str:
        """What keeps this from being the paper's own claim; empty if nothing does."""
        if self.claim.scope == "notebook" or self.setting.from_paper:
            return ""
        return f"not the paper's recipe: {', '.join(self.setting.deviations)}"

    def as_dict(self, study: Study) -> dict[str, Any]:
        """The finding as plain values, for claims.json."""
        claim = self.claim
        return {
            "id": claim.id,
            "study": study.name,
            "setting": self.setting.title,
            "label": self.label,
            "verdict": self.verdict,
            "statement": claim.statement,
            "source": claim.source,
            "comparison": claim.comparison,
            "arms": [asdict(arm) for arm in claim.arms],
            "test": claim.test.rule,
            "threshold": claim.test.threshold,
            "evidence": self.evidence,
            "numbers": self.numbers,
        }


def study_findings(study: Study) -> list[list[Finding]]:
    """The verdicts in each setting of a study; those that are untested stand once, in the main setting."""
    found = [findings(setting, main=place == 0) for place, setting in enumerate(study.settings)]
    main = study.settings[0]
    if main.keys["data.name"] in paper.RECIPE["data.name"]:
        for claim in CLAIMS:
            if not any(claim.applies(setting) for setting in study.settings):
                reason = f"no records with the {claim.scope}'s recipe"
                found[0].append(Finding(claim, main, "untested", reason, "", {}))
    return found


def findings(setting: Setting, main: bool) -> list[Finding]:
    """The verdicts in one setting; what is untested only if it is the main one."""
    found = [examine(claim, setting) for claim in CLAIMS if claim.applies(setting)]
    return [finding for finding in found if main or finding.verdict != "untested"]


def examine(claim: Claim, setting: Setting) -> Finding:
    """The verdict on a claim from the records of one setting."""
    metric = claim.metric
    found = {arm: setting.cell(arm.depth, arm.residual, arm.shortcut) for arm in claim.arms}
    cells = [cell for cell in found.values() if cell]
    samples = [Sample(cell.label, metric.of(cell)) for cell in cells]
    details = [sample_text(sample, metric) for sample in samples]
    if metric.beside:
        beside = [values.mean() for values in map(metric.beside.of, cells) if len(values)]
        shown = ", ".join(f"{mean:.{metric.decimals}f}{metric.unit}" for mean in beside)
        details += [f"{metric.beside.name} {shown}"] if shown else []
    numbers: dict[str, Any] = {
        "n": {sample.name: len(sample.values) for sample in samples},
        "means": {sample.name: sample.mean for sample in samples if len(sample.values)},
    }
    lacking = [arm.name for arm, cell in found.items() if not cell]
    lacking += [sample.name for sample in samples if not len(sample.values)]
    if lacking:
        text = f"no records of {', '.join(lacking)}"
        return Finding(claim, setting, "untested", text, "; ".join(details), numbers)
    verdict, text, judged = claim.test.judge(samples, metric)
    if min(len(sample.values) for sample in samples) < MIN_SEEDS:
        verdict, text = "inconclusive", f"{text}; too few seeds, {MIN_SEEDS} are needed"
    return Finding(claim, setting, verdict, text, "; ".join(details), numbers | judged)


def sample_text(sample: Sample, metric: Metric) -> str:
    """Mean, spread and n of one network."""
    if not len(sample.values):
        return f"{sample.name}: no number"
    spread = f" ± {sample.values.std(ddof=1):.{metric.decimals}f}" if len(sample.values) > 1 else ""
    return f"{sample.name} {sample.mean:.{metric.decimals}f}{spread}{metric.unit} (n={len(sample.values)})"
