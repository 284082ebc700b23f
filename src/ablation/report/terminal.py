"""The report in the terminal: a compact table and the verdicts of each setting."""

import textwrap
from collections.abc import Iterable

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from ablation.report.content import Block, Table, Text
from ablation.report.findings import Finding

NETWORKS = ["Network", "n", "Val error %", "Train error %", "Test error %", "95% interval"]
NETWORKS += ["selected on test", "Paper", "Difference", "Time"]
"""The columns of a setting's table that fit into 80 characters."""
LEAST = ["95% interval", "running", "Time", "P(better)", "Train error %", "p"]
"""Columns of a comparison that a narrow terminal goes without, the first one first."""
STYLES = {"reproduced": "green", "suggestive": "cyan", "contradicted": "bold red", "inconclusive": "yellow"}
FORMS = {"study": "\n[bold]{}[/]", "setting": "\n{}", "plain": "{}", "label": "[yellow]{}[/]"}
FORMS |= {"note": "[yellow]note:[/] {}", "command": "  {}"}
"""By kind of text; other kinds are not for the terminal."""


def show(blocks: Iterable[Block], to: Console, verdicts: bool = True) -> None:
    """Print a report's tables and verdicts, or say what to run when there is nothing."""
    for block in blocks:
        match block:
            case Text(kind, text) if kind in FORMS:
                to.print(FORMS[kind].format(escape(text)), highlight=False)
            case Table("leftovers", _, frame):
                for row in frame.itertuples(index=False):
                    to.print("  " + escape(" · ".join(str(value) for value in row if value)), highlight=False)
            case Table("networks" | "comparison" | "runs"):
                to.print(grid(block, to.width))
            case list() if verdicts:
                show_verdicts(block, to)


def grid(table: Table, width: int) -> Grid:
    """The table, with as many columns as fit into the width."""
    frame = table.frame
    if table.kind == "networks":
        frame = frame[[name for name in NETWORKS if name in frame]]
    elif table.kind == "comparison":
        keys = list(frame.columns)[: list(frame.columns).index("n")]
        name = keys[0] if len(keys) == 1 else "compared"
        frame = frame.drop(columns=keys)
        frame.insert(0, name, list(table.frame.index))
    for least in LEAST:
        if least in frame and breadth(frame) > width:
            frame = frame.drop(columns=least)
    found = Grid(box=None, pad_edge=False)
    for place, column in enumerate(map(str, frame)):
        found.add_column(escape(header(frame, column)), justify="right" if place else "left", overflow="fold")
    for row in frame.itertuples(index=False):
        found.add_row(*(escape(str(value)) for value in row), style="dim" if "missing" in row else "")
    return found


def header(frame: pd.DataFrame, column: str) -> str:
    """The column's title, over several lines where it is longer than what stands below it."""
    longest = max(map(len, [*column.split(), *map(str, frame[column])]))
    return "\n".join(textwrap.wrap(column, longest + 2, break_long_words=False, break_on_hyphens=False))


def breadth(frame: pd.DataFrame) -> int:
    """How many characters the table is wide, with a space on each side of the columns."""
    lines = [[*header(frame, column).split("\n"), *frame[column].map(str)] for column in map(str, frame)]
    return sum(max(map(len, one)) + 2 for one in lines) - 2


def show_verdicts(findings: list[Finding], to: Console) -> None:
    table = Grid(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    table.add_column(ratio=1, overflow="fold")
    for finding in findings:
        if style := STYLES.get(finding.verdict):
            claim = escape(finding.claim.statement)
            alone = "" if finding.uncorrected == finding.verdict else f"\n[dim]uncorrected:\n{finding.uncorrected}[/]"
            table.add_row(f"[{style}]{finding.verdict}[/]{alone}", claim, escape(finding.headline))
    if table.row_count:
        to.print(table, highlight=False)
    if untested := [finding.claim.id for finding in findings if finding.verdict == "untested"]:
        to.print(f"[dim]untested, for want of records: {escape(', '.join(untested))}[/]", highlight=False)
