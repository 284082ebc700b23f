"""What a report says, as one sequence of blocks; the page, Markdown, LaTeX and the terminal each show these blocks."""

import re
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
from ablation.report.tables import NONE, claims_table, comparison_table, main_table, recorded, verdict_on

ORIGIN = {"device_name": "on", "torch": "torch", "git_commit": "commit"}
MOST_FIGURES = 4
"""Settings of one study that get figures; the rest are named."""

HOW_TO_START = (
    "make quickstart",
    "python src/train.py model=resnet20",
    "python src/train.py -m model.depth=20,56 model.residual=true,false data=digits",
)
HOW_TO_READ = (
    "Errors are in percent and of the final iterate, unless a column says that it was selected on the test set. "
    "Training error is measured in evaluation mode on the clean training set; no claim is tested on the running one, "
    "which is measured in training mode on augmented images.",
    "± is the standard deviation over seeds, the interval a 95 % t interval (Welch's of a difference), d a difference "
    "in units of that deviation. Beside a test error's ± stands what the test set's own sampling gives, "
    "sqrt(p (1 - p) / N): where both are alike, the seeds differ by little else.",
    "A difference needs Welch's test, which takes the values to be near normal, the permutation test, which is exact "
    "where both sides have the same spread, and a minimum, a quarter of the published one.",
    f"A verdict needs {MIN_SEEDS} seeds a side. Reproduced and contradicted hold after Holm's correction for all the "
    f"claims that are tested in the study, with at least {ENOUGH_SEEDS} seeds a side; what is reproduced only without "
    "both is suggestive. Decide how many seeds to run before you look: a look after each adds false verdicts. A claim "
    "that a net converges is about every run, failed and diverged ones too.",
    "These rules were changed on 2026-11-24, after the records of the reference studies were seen and before any run "
    "by the paper's recipe; docs/log.md lists every verdict that changed.",
    "A comparison's differences are of test errors, to the baseline of the same network; their p is two-sided and not "
    "corrected. P(better) is how often a run has a lower test error than one of the baseline's, ties counted half "
    "(Bouthillier et al. 2021).",
    "Only seeds are averaged: runs equal in their whole config, hardware, precision and data; of different commits "
    "only with a note. Studies are never mixed.",
    f"The paper's numbers ({paper.CITATION}) stand only beside runs with its recipe; ≈ is read off a figure. At 110 "
    f"layers its mean of five runs counts, {paper.RESIDUAL_TEST_ERROR[110]}, not the best, {paper.BEST_OF_FIVE_110}.",
)


@dataclass(frozen=True)
class Text:
    """A heading (title, chapter, study, setting), a line of a list (note, command) or a paragraph.

    soft: of less weight; label: a reservation about what follows; a verdict: what is reproduced or not; a page shows
    what stands between fold and unfold when its reader asks for it.
    """

    kind: (
        Literal["title", "chapter", "study", "setting", "note", "command", "plain", "soft", "label", "fold", "unfold"]
        | Verdict
    )
    text: str


@dataclass(frozen=True)
class Table:
    """All text. networks: of one setting; comparison: of what differs; claims: of one setting, tested; verdicts: of
    every study; runs: a row a run; leftovers: what is not in the others.
    """

    kind: Literal["networks", "comparison", "claims", "verdicts", "runs", "leftovers"]
    title: str
    frame: pd.DataFrame


@dataclass(frozen=True)
class Illustration:
    """A figure. `kind`: a key of `figures.OF_SETTING` or `OF_COMPARISON`; `name`: of its file, without the ending."""

    kind: str
    name: str
    caption: str
    svg: bytes
    png: bytes = b""
    pdf: bytes = b""
    """Empty, as `png`, where nothing asked for it."""
    chart: dict[str, Any] = field(default_factory=dict)
    """For the page's script: `series` with network, what, color, dash and points (step, error in percent)."""


Block = Text | Table | Illustration


@dataclass
class Part:
    """A study's comparison, or one of its settings."""

    stem: str
    """How the names of its figures begin."""
    subject: Comparison | Setting
    figured: bool = True
    """Whether it gets figures, which `reporting.illustrate` draws."""
    compared: bool = False
    """Whether the networks of a setting stand in the study's comparison."""
    findings: list[Finding] = field(default_factory=list)
    illustrations: list[Illustration] = field(default_factory=list)

    @property
    def table(self) -> Table:
        if isinstance(self.subject, Comparison):
            title = f"{self.subject.study.title}: {', '.join(self.subject.keys)}"
            return Table("comparison", title, comparison_table(self.subject))
        return Table("networks", self.subject.title, main_table(self.subject))

    @property
    def tested(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.verdict != "untested"]

    def blocks(self) -> Iterator[Block]:
        if isinstance(self.subject, Comparison):
            yield from comparison_blocks(self.subject, self.table)
        elif self.tested or self.illustrations or not self.compared:
            yield from setting_blocks(self.subject)
            for finding in self.tested:
                if finding.claim.id == "degradation-train":  # what the project is about comes first
                    yield Text(finding.verdict, f"{finding.claim.statement} ({finding.headline}).")
            if not self.compared:
                yield Text("soft", origin(self.subject.cells))
                yield self.table
        yield from self.illustrations
        if self.tested:
            yield Table("claims", "Claims", claims_table(self.tested))


@dataclass(frozen=True)
class Section:
    """One study."""

    study: Study
    comparison: Comparison | None
    """What the study compares; None for the paper's own question, whose settings have tables of their own."""
    notes: list[str]
    parts: list[Part]

    @property
    def counts(self) -> str:
        """How many claims have which verdict."""
        found = Counter(finding.verdict for part in self.parts for finding in part.findings)
        return ", ".join(f"{found[verdict]} {verdict}" for verdict in VERDICTS if found[verdict]) or "none"

    def blocks(self) -> Iterator[Block]:
        yield Text("study", self.study.title)
        yield Text("plain", f"Claims: {self.counts}")
        yield from (Text("note", note) for note in dict.fromkeys(self.notes))
        for part in self.parts:
            yield from part.blocks()


def origin(cells: Sequence[Cell]) -> str:
    """The hardware, the versions of torch and the commits that the cells' runs were made with."""
    found = {key: {text for cell in cells for text in recorded(cell, f"environment.{key}")} for key in ORIGIN}
    found["git_commit"] = {commit[:10] for commit in found["git_commit"]}
    return " · ".join(f"{name} {', '.join(sorted(found[key])) or 'unknown'}" for key, name in ORIGIN.items())


def setting_blocks(setting: Setting) -> Iterator[Block]:
    yield Text("setting", setting.title)
    if setting.notebook:
        yield Text("label", "The notebook's recipe: its own number is selected on the test set.")
    elif apart := ", ".join(setting.deviations):
        yield Text("label", f"Not the paper's recipe ({apart}): effects are tested, absolute numbers are not compared.")


def comparison_blocks(comparison: Comparison, table: Table) -> Iterator[Block]:
    keys = ", ".join(comparison.keys)
    same = [] if comparison.networks else [network(comparison.cells[0])]
    recipe = title_of(comparison.held_still | {"data.name": comparison.study.data})
    yield Text("setting", f"Compared: {keys}")
    yield Text("plain", f"The same for all: {' · '.join([*same, recipe])}.")
    yield Text("soft", origin(comparison.cells))
    yield table
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
        yield from how_to_read()
        yield from self.verdicts()
        for section in self.sections:
            yield from section.blocks()
        yield from self.leftovers

    def verdicts(self) -> Iterator[Block]:
        """Every claim that is tested in a study, a column a study."""
        parts = [(section.study.name, part) for section in self.sections for part in section.parts]
        tested = [(f.claim.statement, name, f.verdict) for name, part in parts for f in part.tested]
        if tested:
            found = pd.DataFrame(tested, columns=["Claim", "Study", "Verdict"])
            each = found.groupby(["Claim", "Study"], sort=False)["Verdict"].agg(lambda v: ", ".join(dict.fromkeys(v)))
            yield Text("chapter", "Verdicts")
            yield Table("verdicts", "Verdicts", each.unstack(sort=False).fillna(NONE).reset_index())


def how_to_read() -> Iterator[Block]:
    yield Text("chapter", "How to read this")
    yield Text("fold", "Errors, intervals, tests and verdicts")
    yield from (Text("note", line) for line in HOW_TO_READ)
    yield Text("unfold", "")


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
    stem, notes = re.sub(r"[^A-Za-z0-9._-]+", "-", study.name), list(study.notes)
    parts = [Part(f"{stem}-comparison", comparison)] if comparison else []
    most = 1 if comparison else MOST_FIGURES  # a comparison has figures of its own, of all settings
    for place, (setting, findings) in enumerate(zip(study.settings, study_findings(study), strict=True), start=1):
        several = len(setting.cells) > 1
        figured = most > 0 and (several or not parts)
        most -= figured
        if several and not figured and not comparison:
            notes.append(f"No figures of {setting.title}: filter by its keys to see them.")
        name = stem if place == 1 else f"{stem}-{place}"
        parts.append(Part(name, setting, figured, comparison is not None, findings))
    return Section(study, comparison, notes, parts)
