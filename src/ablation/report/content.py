"""What a report says, as one sequence of blocks; the page, Markdown, LaTeX and the terminal each show these blocks."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from ablation.report import paper
from ablation.report.comparisons import Comparison, comparison_of, network
from ablation.report.evidence import Evidence, now
from ablation.report.findings import Finding, study_findings
from ablation.report.rules import ENOUGH_SEEDS, MIN_SEEDS, VERDICTS, Verdict
from ablation.report.studies import Cell, Keys, Setting, Study, studies, title_of
from ablation.report.tables import NONE, comparison_table, main_table, recorded, verdict_on

ORIGIN = {"torch": "torch", "git_commit": "commit"}
MOST_FIGURES = 4
"""Settings of one study that get figures; the rest are named."""

HOW_TO_START = (
    "make quickstart",
    "python src/train.py model=resnet20",
    "python src/train.py -m model.depth=20,56 model.residual=true,false data=digits",
)
HOW_TO_READ = (
    "Errors are in percent and of the final iterate, unless a column says that it was selected on the test set. "
    "Training error is measured in evaluation mode on the clean training set. The running training error, measured in "
    "training mode on augmented images, is shown beside it; no claim is tested on it.",
    "± is the standard deviation over seeds, the interval a 95 % t interval: Student's of a mean, Welch's of a "
    "difference; d is a difference in units of that deviation. Beside a test error's ± stands what the test set's own "
    "sampling gives, sqrt(p (1 - p) / N): where both are alike, the seeds differ by little else.",
    "A difference needs Welch's test and the permutation test. The permutation test is exact where both sides have the "
    "same spread; Welch's allows for unequal ones, and takes the values to be near normal. A difference also needs a "
    "minimum, a quarter of the published one.",
    f"A verdict needs {MIN_SEEDS} seeds a side. Reproduced and contradicted hold after Holm's correction for all the "
    f"claims that are tested in the study, with at least {ENOUGH_SEEDS} seeds a side; what is reproduced only without "
    "both is suggestive. Decide how many seeds to run before you look: a look after each adds false verdicts.",
    "Runs that failed or diverged stand beside their network's n; a claim that a net converges is about every run.",
    "These rules were changed on 2026-11-24, after the records of the reference studies were seen and before any run "
    "by the paper's recipe. Before, intervals were bootstrapped, margins were wider, and nothing was corrected; "
    "docs/log.md lists every verdict that changed.",
    "A comparison's differences are of test errors, to the baseline of the same network; their p is two-sided and not "
    "corrected for the number of rows. P(better) is the probability of improvement: how often a run has a lower test "
    "error than one of the baseline's, ties counted half (Bouthillier et al. 2021).",
    "Only seeds are averaged: runs equal in their whole config, hardware, precision and data. Seeds that ran at "
    "different commits are averaged, with a note. Studies are never mixed.",
    f"The paper's numbers ({paper.CITATION}) stand only beside runs with its recipe; ≈ is read off a figure. At 110 "
    f"layers our mean is compared with the paper's mean of five runs, {paper.RESIDUAL_TEST_ERROR[110]}, not with the "
    f"best of them, {paper.BEST_OF_FIVE_110}.",
)


@dataclass(frozen=True)
class Text:
    """A heading (title, chapter, study, setting), a line of a list (note, item, command) or a paragraph.

    soft: of less weight; label: a reservation about what follows; a verdict: what is reproduced or not.
    """

    kind: Literal["title", "chapter", "study", "setting", "note", "item", "command", "plain", "soft", "label"] | Verdict
    text: str


@dataclass(frozen=True)
class Table:
    """All text. networks: of one setting; comparison: of what differs, its index holds the rows' names; verdicts: of
    every study; runs: a row a run; leftovers: what is not in the others.
    """

    kind: Literal["networks", "comparison", "verdicts", "runs", "leftovers"]
    title: str
    frame: pd.DataFrame


@dataclass(frozen=True)
class Illustration:
    """A figure. `kind`: curves, depth, responses or gradients; `name`: of its file, without the ending."""

    kind: str
    name: str
    caption: str
    svg: bytes
    png: bytes = b""
    pdf: bytes = b""
    """`png` and `pdf` are empty where nothing asked for them."""
    chart: dict[str, Any] = field(default_factory=dict)
    """For the page's script: `series` with network, what, color, dash and points (step, error in percent)."""


Block = Text | Table | Illustration | list[Finding]


@dataclass
class Part:
    """One setting of a study. `figured`: whether it gets figures, which `reporting.illustrate` draws."""

    setting: Setting
    findings: list[Finding]
    figured: bool
    illustrations: list[Illustration] = field(default_factory=list)

    @property
    def table(self) -> Table:
        return Table("networks", self.setting.title, main_table(self.setting))

    @property
    def label(self) -> str:
        """Why the setting is not the paper's; empty if it is."""
        if self.setting.notebook:
            return "The notebook's recipe: its own number is selected on the test set."
        apart = ", ".join(self.setting.deviations)
        return apart and f"Not the paper's recipe ({apart}): effects are tested, absolute numbers are not compared."

    @property
    def tested(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.verdict != "untested"]

    def blocks(self, compared: bool) -> Iterator[Block]:
        """From top to bottom; first of all the verdict that the project is about, degradation in training.

        `compared`: its networks stand in the study's own table.
        """
        if compared and not self.tested and not self.illustrations:
            return
        yield Text("setting", self.setting.title)
        if self.label:
            yield Text("label", self.label)
        for finding in self.tested:
            if finding.claim.id == "degradation-train":
                yield Text(finding.verdict, f"{finding.claim.statement} ({finding.headline}).")
        if not compared:
            yield Text("soft", origin(self.setting.cells))
            yield self.table
        yield from self.illustrations
        if self.tested:
            yield self.tested


def origin(cells: Sequence[Cell]) -> str:
    """The versions of torch and the commits that the cells' runs were made with."""
    found = {key: {v[:10] for cell in cells for v in recorded(cell, f"environment.{key}")} for key in ORIGIN}
    return " · ".join(f"{name} {', '.join(sorted(found[key])) or 'unknown'}" for key, name in ORIGIN.items())


@dataclass(frozen=True)
class Section:
    """One study."""

    study: Study
    parts: list[Part]
    notes: list[str]
    comparison: Comparison | None
    """What the study compares; None for the paper's own question, whose settings have tables of their own."""
    illustrations: list[Illustration] = field(default_factory=list)
    """The figures of the comparison."""

    def blocks(self) -> Iterator[Block]:
        yield Text("study", self.study.title)
        found = Counter(finding.verdict for part in self.parts for finding in part.findings)
        verdicts = ", ".join(f"{found[verdict]} {verdict}" for verdict in VERDICTS if found[verdict])
        yield Text(
            "soft" if set(found) <= {"untested"} else "plain", f"Claims: {verdicts}" if verdicts else "No claims"
        )
        yield from (Text("note", note) for note in dict.fromkeys(self.notes))
        if self.comparison:
            yield from comparison_blocks(self.comparison)
        yield from self.illustrations
        for part in self.parts:
            yield from part.blocks(compared=self.comparison is not None)


def comparison_blocks(comparison: Comparison) -> Iterator[Block]:
    keys = ", ".join(comparison.keys)
    same = [] if comparison.networks else [network(comparison.cells[0])]
    yield Text("setting", f"Compared: {keys}")
    recipe = title_of(comparison.held_still | {"data.name": comparison.study.data})
    yield Text("plain", f"The same for all: {' · '.join([*same, recipe])}.")
    if comparison.off_default:
        wanted, baseline = ", ".join(comparison.off_default), comparison.label(comparison.baseline)
        yield Text("note", f"No runs with {wanted}: the baseline is {baseline}; --baseline KEY=VALUE names another.")
    yield Text("soft", origin(comparison.cells))
    yield Table("comparison", f"{comparison.study.title}: {keys}", comparison_table(comparison))
    yield Text("plain" if comparison.winner else "label", verdict_on(comparison))


@dataclass(frozen=True)
class Content:
    """Everything that a report says."""

    sections: list[Section]
    leftovers: list[Block]
    """What is in no table of a study, explained."""
    summary: str

    @property
    def title(self) -> str:
        """What is shown: the one comparison, or the paper's question."""
        compared = [(section.comparison, section.study.data) for section in self.sections]
        match compared:
            case [(Comparison(keys=keys), data)]:
                return f"{' and '.join(keys)} compared on {data}"
        return "Does depth help?"

    @property
    def findings(self) -> list[tuple[Study, Finding]]:
        return [(section.study, f) for section in self.sections for part in section.parts for f in part.findings]

    def blocks(self) -> Iterator[Block]:
        """The whole document from top to bottom."""
        yield Text("title", self.title)
        yield Text("soft", self.summary)
        if not self.sections:
            yield Text("plain", "There are no finished runs to report on. Start with one of")
            yield from (Text("command", line) for line in HOW_TO_START)
        yield Text("chapter", "How to read this")
        yield from (Text("item", line) for line in HOW_TO_READ)
        tested = [(f.claim.statement, study.name, f.verdict) for study, f in self.findings if f.verdict != "untested"]
        if tested:
            found = pd.DataFrame(tested, columns=["Claim", "Study", "Verdict"])
            each = found.groupby(["Claim", "Study"], sort=False)["Verdict"].agg(lambda v: ", ".join(dict.fromkeys(v)))
            yield Text("chapter", "Verdicts")
            yield Table("verdicts", "Verdicts", each.unstack(sort=False).fillna(NONE).reset_index())
        for section in self.sections:
            yield from section.blocks()
        yield from self.leftovers


def compose(evidence: Evidence, baseline: Keys | None = None) -> Content:
    """The report's content; `baseline`: the values, by dotted key, of the comparisons' baselines."""
    others = {"unfinished or failed": evidence.unfinished, "unreadable": evidence.unreadable}
    counts = [f"{len(evidence.runs)} finished", *(f"{len(rows)} {name}" for name, rows in others.items() if len(rows))]
    summary = f"Runs: {', '.join(counts)}; {now()}. Compared with {paper.CITATION}."
    leftovers: list[Block] = []
    for title, explanation, frame in (
        ("Unfinished and failed runs", "They have no record, and are in no table above.", evidence.unfinished),
        ("Unreadable files", "They were found but cannot be used.", evidence.unreadable),
        ("Runs found twice", "The same run in two folders of one study: counted once.", evidence.doubles),
    ):
        if len(frame):
            leftovers += [Text("study", title), Text("plain", explanation), Table("leftovers", title, frame)]
    found = studies(evidence.runs, evidence.failed)
    return Content([section(study, comparison_of(study, baseline)) for study in found], leftovers, summary)


def section(study: Study, comparison: Comparison | None) -> Section:
    notes = list(study.notes)
    parts: list[Part] = []
    for setting, findings in zip(study.settings, study_findings(study), strict=True):
        several = len(setting.cells) > 1
        most = 1 if comparison else MOST_FIGURES  # a comparison has figures of its own, of all settings
        figured = (several or not (comparison or parts)) and sum(part.figured for part in parts) < most
        if several and not figured and not comparison:
            notes.append(f"No figures of {setting.title}: filter by its keys to see them.")
        parts.append(Part(setting, findings, figured))
    return Section(study, parts, notes, comparison)
