"""The paper's claims, each with the comparison, rule and threshold that decide it, and the verdicts on records.

Source: He et al. 2015, Sections 3.3, 4.1 and 4.2; the quoted numbers stand in `paper`, the rules in `rules`. Notable:
everything that decides is a constant, written down before any record was made. Each claim is tested by itself, without
a correction for their number. A claim about a number of the paper is only asked of the paper's recipe.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from ablation.report import paper
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
    Metric,
    NotHigher,
    Rule,
    Sample,
    Verdict,
)
from ablation.report.studies import Setting, Study

TABLE_6_TOLERANCE = 0.75
"""Points of test error. Public reproductions with the paper's recipe lie up to 0.7 points from Table 6, on both
sides.
"""
NO_DEGRADATION_MARGIN = 0.5
"""Points of training error that the deeper residual net may be worse and still not degrade."""
HARDLY_DIFFERENT = 0.5
"""Points of training error between plain-20 and plain-32 (another project measured 0.05)."""
SHORTCUTS_CLOSE = 1.0
"""Points of test error between options A, B and C; on ImageNet, A and C lie 0.84 apart (Table 3)."""
CONVERGED = 10.0
"""Percent of training error below which a net of 110 layers has converged."""
NOT_VANISHING = 0.1
"""Least ratio of the gradient in the first third of the layers to that in the last third; vanishing means powers
of ten.
"""


@dataclass(frozen=True)
class Arm:
    """One side of a comparison. `shortcut` None: the main one of the setting."""

    depth: int
    residual: bool
    shortcut: str | None = None

    @property
    def name(self) -> str:
        """Such as plain-56 or ResNet-20 (B)."""
        kind = f"{'ResNet' if self.residual else 'plain'}-{self.depth}"
        return f"{kind} ({self.shortcut})" if self.shortcut and self.residual else kind


@dataclass(frozen=True)
class Claim:
    """A statement, where it stands, and what would decide it."""

    id: str
    statement: str
    source: str
    arms: tuple[Arm, ...]
    metric: Metric
    test: Rule
    scope: Literal["any", "paper", "notebook"] = "any"
    """Which recipe it can be asked of: a number of the paper only of the paper's own."""

    @property
    def comparison(self) -> str:
        """Which numbers of which networks."""
        return f"{self.metric.name} of {' and '.join(arm.name for arm in self.arms)}"

    def applies(self, setting: Setting) -> bool:
        """Whether the claim may be asked of a setting's recipe."""
        return self.scope == "any" or (setting.from_paper if self.scope == "paper" else setting.notebook)


@dataclass(frozen=True)
class Finding:
    """A claim's verdict in one setting."""

    claim: Claim
    setting: Setting
    verdict: Verdict
    headline: str
    """The number that decides."""
    details: str
    """The arms' own numbers."""
    numbers: dict[str, Any]

    @property
    def evidence(self) -> str:
        """All numbers in words."""
        return "; ".join(text for text in (self.headline, self.details) if text)

    @property
    def label(self) -> str:
        """What keeps this from being the paper's own claim; empty if nothing does."""
        if self.claim.scope == "notebook" or self.setting.from_paper:
            return ""
        return f"not the paper's recipe: {', '.join(self.setting.deviations)}"

    def as_dict(self, study: Study) -> dict[str, Any]:
        """Everything of it as plain values, for claims.json."""
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


def examine(claim: Claim, setting: Setting) -> Finding:
    """The verdict on a claim from the records of one setting."""
    cells = [setting.cell(arm.depth, arm.residual, arm.shortcut) for arm in claim.arms]
    found = [cell for cell in cells if cell is not None]
    samples = [Sample(cell.label, claim.metric.of(cell)) for cell in found]
    parts = [sample_text(sample, claim.metric) for sample in samples]
    if claim.metric.beside:
        beside = [Sample(cell.label, claim.metric.beside.of(cell)) for cell in found]
        shown = [claim.metric.beside.format(sample.mean) for sample in beside if len(sample.values)]
        parts += [f"{claim.metric.beside.name} {', '.join(shown)}"] if shown else []
    lacking = [arm.name for arm, cell in zip(claim.arms, cells, strict=True) if cell is None]
    lacking += [sample.name for sample in samples if not len(sample.values)]
    numbers: dict[str, Any] = {"n": {sample.name: len(sample.values) for sample in samples}}
    numbers["means"] = {sample.name: sample.mean for sample in samples if len(sample.values)}
    details = "; ".join(parts)
    if lacking:
        return Finding(claim, setting, "untested", f"no records of {', '.join(lacking)}", details, numbers)
    judgement = claim.test.judge(samples, claim.metric)
    verdict, text = judgement.verdict, judgement.text
    if min(len(sample.values) for sample in samples) < MIN_SEEDS:
        verdict, text = "inconclusive", f"{text}; too few seeds, {MIN_SEEDS} are needed"
    return Finding(claim, setting, verdict, text, details, numbers | judgement.numbers)


def sample_text(sample: Sample, metric: Metric) -> str:
    """Mean, spread and n of one arm."""
    if not len(sample.values):
        return f"{sample.name}: no number"
    spread = f" ± {sample.values.std(ddof=1):.{metric.decimals}f}" if len(sample.values) > 1 else ""
    return f"{sample.name} {sample.mean:.{metric.decimals}f}{spread}{metric.unit} (n={len(sample.values)})"


def study_findings(study: Study) -> list[list[Finding]]:
    """The verdicts in each setting of a study; those that are untested stand once, in the main setting."""
    main, *others = study.settings
    found = [findings(main, main=True), *(findings(setting, main=False) for setting in others)]
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


def plain(depth: int) -> Arm:
    """The plain net."""
    return Arm(depth, residual=False)


def resnet(depth: int, shortcut: str | None = None) -> Arm:
    """The residual net."""
    return Arm(depth, residual=True, shortcut=shortcut)


def degradation() -> Iterator[Claim]:
    """Plain nets train worse when they are deeper."""
    where = "Sec. 4.2, Fig. 6 (left)"
    yield Claim(
        "degradation-train",
        "Degradation: the plain net of 56 layers has a higher training error than that of 20",
        where,
        (plain(56), plain(20)),
        TRAIN,
        Higher(),
    )
    yield Claim(
        "degradation-test",
        "Degradation: plain-56 tests worse than plain-20",
        where,
        (plain(56), plain(20)),
        TEST,
        Higher(),
    )
    yield Claim(
        "plain-20-32",
        "Between plain-20 and plain-32 the training error hardly differs: degradation is a matter of the deeper pairs",
        where,
        (plain(20), plain(32)),
        TRAIN,
        Close(HARDLY_DIFFERENT),
    )


def cure() -> Iterator[Claim]:
    """Residual nets do not."""
    where = "Sec. 4.2, Fig. 6 (middle), Table 6"
    yield Claim(
        "no-degradation",
        "With shortcuts degradation is gone: ResNet-56 does not train worse than ResNet-20",
        where,
        (resnet(56), resnet(20)),
        TRAIN,
        NotHigher(NO_DEGRADATION_MARGIN),
    )
    yield Claim(
        "depth-helps-train", "ResNet-56 trains better than ResNet-20", where, (resnet(20), resnet(56)), TRAIN, Higher()
    )
    yield Claim(
        "depth-helps-test", "ResNet-56 tests better than ResNet-20", where, (resnet(20), resnet(56)), TEST, Higher()
    )
    for depth in (20, 32, 44, 56, 110):
        yield Claim(
            f"residual-beats-plain-{depth}",
            f"At {depth} layers the residual net tests better than the plain one",
            "Sec. 4.2, Fig. 6",
            (plain(depth), resnet(depth)),
            TEST,
            Higher(),
        )


def table_6() -> Iterator[Claim]:
    """The test errors of Table 6."""
    for depth, quoted in paper.RESIDUAL_TEST_ERROR.items():
        low, high = quoted.value - TABLE_6_TOLERANCE, quoted.value + TABLE_6_TOLERANCE
        yield Claim(
            f"table-6-{depth}",
            f"ResNet-{depth} (option A) has a test error of {quoted} %"
            + (" (mean of 5 runs)" if quoted.runs > 1 else ""),
            quoted.source,
            (resnet(depth, "A"),),
            TEST,
            Between(low, high, quoted),
            scope="paper",
        )


def very_deep() -> Iterator[Claim]:
    """110 and 1202 layers."""
    stays, near_zero = paper.PLAIN_110_STAYS_ABOVE, paper.RESIDUAL_1202_TRAINS_BELOW
    yield Claim(
        "resnet-110-converges",
        "ResNet-110 converges when it warms up at 0.01 until the training error is below 80 %",
        "Sec. 4.2",
        (resnet(110),),
        TRAIN,
        Between(-np.inf, CONVERGED),
        scope="paper",
    )
    yield Claim(
        "plain-110-fails",
        f"plain-110 does not converge: its error stays above {stays.value:g} %",
        stays.source,
        (plain(110),),
        TRAIN,
        Between(stays.value, np.inf),
        scope="paper",
    )
    yield Claim(
        "depth-110-apart",
        "At 110 layers the plain net has a higher training error than the residual one",
        "Sec. 4.2, Fig. 6",
        (plain(110), resnet(110)),
        TRAIN,
        Higher(),
    )
    yield Claim(
        "1202-trains",
        f"ResNet-1202 trains to nearly zero: below {near_zero.value:g} %",
        near_zero.source,
        (resnet(1202),),
        TRAIN,
        Between(-np.inf, near_zero.value),
        scope="paper",
    )
    yield Claim(
        "1202-overfits",
        "ResNet-1202 tests worse than ResNet-110",
        "Sec. 4.2, Table 6",
        (resnet(1202), resnet(110)),
        TEST,
        Higher(),
    )


def layers() -> Iterator[Claim]:
    """Responses and gradients, layer by layer."""
    for depth in (20, 56):
        yield Claim(
            f"responses-smaller-{depth}",
            f"At {depth} layers residual responses are smaller than plain ones",
            "Sec. 4.2, Fig. 7",
            (plain(depth), resnet(depth)),
            RESPONSE,
            Higher(),
        )
    for shallow, deep in ((20, 56), (56, 110)):
        yield Claim(
            f"responses-fall-{shallow}-{deep}",
            f"Residual responses are smaller the deeper the net: ResNet-{deep} below ResNet-{shallow}",
            "Sec. 4.2, Fig. 7",
            (resnet(shallow), resnet(deep)),
            RESPONSE,
            Higher(),
        )
    yield Claim(
        "no-vanishing-gradients",
        "Vanishing gradients are not the cause: in plain-56 the first third of the layers gets at least a tenth of the "
        "gradient of the last third, before and after training",
        "Sec. 4.1",
        (plain(56),),
        GRADIENT,
        Between(NOT_VANISHING, np.inf),
    )


def options() -> Iterator[Claim]:
    """Shortcuts A, B and C."""
    for depth in (20, 56):
        yield Claim(
            f"shortcuts-close-{depth}",
            f"Options A, B and C are close together at {depth} layers: projections are not essential",
            "Sec. 4.1, Table 3 (ImageNet)",
            (resnet(depth, "A"), resnet(depth, "B"), resnet(depth, "C")),
            TEST,
            Close(SHORTCUTS_CLOSE),
        )


def notebook() -> Iterator[Claim]:
    """The notebook's own number."""
    quoted = paper.NOTEBOOK_TEST_ERROR
    yield Claim(
        "notebook",
        "The notebook's ResNet-20 reaches 91.0 % test accuracy, selected on the test set",
        quoted.source,
        (resnet(20, "avgpool"),),
        BEST_TEST,
        Between(quoted.value - TABLE_6_TOLERANCE, quoted.value + TABLE_6_TOLERANCE, quoted),
        scope="notebook",
    )


CLAIMS: tuple[Claim, ...] = tuple(
    claim for group in (degradation, cure, table_6, very_deep, layers, options, notebook) for claim in group()
)
