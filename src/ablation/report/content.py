"""What a report says, apart from how it is written down: the same content for the page, Markdown and the terminal."""

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from ablation.report import paper
from ablation.report.claims import Finding, study_findings
from ablation.report.evidence import Evidence, missing, now
from ablation.report.rules import MIN_SEEDS, VERDICTS
from ablation.report.studies import Setting, Study, studies
from ablation.report.tables import ablation_tables, main_table

MOST_FIGURES = 4
"""Settings of one study that get figures; the rest are named."""

HOW_TO_START = (
    "make quickstart",
    "python src/train.py model=resnet20",
    "python src/train.py -m model.depth=20,56 model.residual=true,false data=digits",
)
CHOICES = (
    "Errors are in percent and of the final iterate, unless a column says that it was selected on the test set. "
    "Training error is measured in evaluation mode on the clean training set; the running one, in training mode on "
    "augmented images, is shown beside it and tested nowhere.",
    "± is the standard deviation over seeds, the interval a 95 % percentile bootstrap of the mean with a fixed seed. "
    "With few seeds it is narrower than its name: five normal values cover their mean about 85 times in a hundred.",
    f"A verdict takes at least {MIN_SEEDS} seeds a side. A difference takes an exact one-sided permutation test and an "
    "interval that excludes zero. Tests and thresholds were fixed before the records; there is no correction for the "
    "number of claims.",
    "Only seeds are averaged: runs equal in their whole config, hardware, precision and data. Seeds that ran at "
    "different commits are averaged and noted. Studies are never mixed with each other.",
    f"The paper's numbers ({paper.CITATION}) stand only beside runs with its recipe; ≈ is read off a figure. For 110 "
    f"layers ours, a mean, compares with the paper's mean of five runs, {paper.RESIDUAL_TEST_ERROR[110]}, and not with "
    f"the best of them, {paper.BEST_OF_FIVE_110}.",
)


@dataclass(frozen=True)
class Illustration:
    """A saved figure."""

    file: str
    """The PNG's path from the report."""
    caption: str
    svg: bytes


@dataclass(frozen=True)
class Part:
    """One setting of a study."""

    title: str
    label: str
    """Why the setting is not the paper's; empty if it is."""
    versions: str
    table: pd.DataFrame
    findings: list[Finding]
    setting: Setting
    figured: bool
    """Whether it gets figures."""
    illustrations: list[Illustration] = field(default_factory=list)

    @property
    def lead(self) -> Finding | None:
        """The verdict that the project is about: degradation in the training error; None if it is untested here."""
        found = [f for f in self.findings if f.claim.id == "degradation-train" and f.verdict != "untested"]
        return found[0] if found else None


@dataclass(frozen=True)
class Section:
    """One study."""

    name: str
    title: str
    study: Study
    parts: list[Part]
    ablations: list[tuple[str, pd.DataFrame]]
    notes: list[str]

    @property
    def counts(self) -> dict[str, int]:
        """How many claims have which verdict."""
        found = Counter(finding.verdict for part in self.parts for finding in part.findings)
        return {verdict: found[verdict] for verdict in VERDICTS}


@dataclass(frozen=True)
class Content:
    """Everything that a report says."""

    sections: list[Section]
    leftovers: list[tuple[str, str, pd.DataFrame]]
    """What is not in the tables: title, explanation, table."""
    summary: str

    @property
    def findings(self) -> list[tuple[Study, Finding]]:
        """Every verdict with its study."""
        return [(section.study, f) for section in self.sections for part in section.parts for f in part.findings]

    @property
    def contradicted(self) -> list[tuple[Study, Finding]]:
        """What `--check` complains about."""
        return [(study, finding) for study, finding in self.findings if finding.verdict == "contradicted"]

    def with_illustrations(self, drawn: dict[tuple[str, int], list[Illustration]]) -> "Content":
        """The same content with the figures of each study's settings, by study and place of the setting."""
        sections = [
            replace(
                section,
                parts=[
                    replace(part, illustrations=drawn.get((section.name, i), []))
                    for i, part in enumerate(section.parts)
                ],
            )
            for section in self.sections
        ]
        return replace(self, sections=sections)


def compose(evidence: Evidence, paths: list[Path]) -> Content:
    """Tables and verdicts from what was read below `paths`."""
    sections = [section(study) for study in studies(evidence.runs)]
    count = len(evidence.runs)
    summary = f"{count} finished run{'s' * (count != 1)}"
    if len(evidence.unfinished):
        summary += f", {len(evidence.unfinished)} unfinished or failed"
    if len(evidence.unreadable):
        summary += f", {len(evidence.unreadable)} unreadable"
    return Content(sections, leftovers(evidence), f"{summary}; {now()}.")


def leftovers(evidence: Evidence) -> list[tuple[str, str, pd.DataFrame]]:
    """The tables of what did not make it into the others, the empty ones left out."""
    explained = [
        (
            "Unfinished and failed runs",
            "These folders hold no record; they are in no table above.",
            evidence.unfinished,
        ),
        ("Unreadable files", "These were found and could not be used.", evidence.unreadable),
        (
            "Runs found twice",
            "The same identity in two folders of one study, as after merging two machines: counted once.",
            evidence.doubles,
        ),
    ]
    return [row for row in explained if len(row[2])]


def section(study: Study) -> Section:
    """A study's tables, verdicts and notes."""
    notes = list(study.notes)
    parts = []
    figured = 0
    for place, (setting, found) in enumerate(zip(study.settings, study_findings(study), strict=True)):
        draws = place == 0 or (len(setting.cells) > 1 and figured < MOST_FIGURES)
        if not draws and len(setting.cells) > 1:
            notes.append(f"No figures of {setting.title}: filter by its keys to see them.")
        figured += draws
        parts.append(part(setting, found, figured=draws))
    return Section(study.name, study.title, study, parts, list(ablation_tables(study)), notes)


def part(setting: Setting, found: list[Finding], figured: bool) -> Part:
    """One setting's table and verdicts."""
    label = ""
    if setting.notebook:
        label = "The notebook's recipe: its own number is selected on the test set."
    elif not setting.from_paper:
        label = (
            f"Not the paper's recipe ({', '.join(setting.deviations)}): the paper's claims are asked of it by name, "
        )
        label += "its numbers are not."
    return Part(setting.title, label, versions(setting), main_table(setting), found, setting, figured)


def versions(setting: Setting) -> str:
    """Versions and commits of a setting's runs; hardware and precision stand in its title."""
    torch = {str(v) for cell in setting.cells for v in cell_values(cell.runs, "environment.torch")}
    commits = {str(v)[:10] for cell in setting.cells for v in cell_values(cell.runs, "environment.git_commit")}
    return f"torch {', '.join(sorted(torch)) or 'unknown'} · commit {', '.join(sorted(commits)) or 'unknown'}"


def cell_values(runs: pd.DataFrame, column: str) -> list[object]:
    """A column's values that are there."""
    return [value for value in runs[column] if not missing(value)] if column in runs else []
