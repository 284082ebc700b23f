"""The report in the terminal: a compact table and the verdicts of each setting."""

from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ablation.report.content import HOW_TO_START, Content, Part
from ablation.report.tables import NONE

WIDE = 120
"""Columns where the output is not a terminal: a log must not lose half a table."""
COMPACT = (
    "Network",
    "n",
    "Train error %",
    "Test error %",
    "95% interval",
    "selected on test",
    "Paper",
    "Difference",
    "Time",
)
STYLES = {"reproduced": "green", "contradicted": "bold red", "inconclusive": "yellow", "untested": "dim"}


def console() -> Console:
    """As wide as the terminal, or WIDE."""
    found = Console()
    return found if found.is_terminal else Console(width=WIDE)


def show(content: Content, to: Console, verdicts: bool = True) -> None:
    """Print the report's tables and verdicts, or say what to run when there is nothing."""
    if not content.sections:
        to.print("No finished runs to report on. Start with one of", *(f"  {line}" for line in HOW_TO_START), sep="\n")
    for section in content.sections:
        to.print(f"\n[bold]{escape(section.title)}[/]")
        for part in section.parts:
            to.print(f"\n{escape(part.title)}", highlight=False)
            if part.label:
                to.print(f"[yellow]{escape(part.label)}[/]", highlight=False)
            to.print(main_table(part))
            if verdicts:
                show_verdicts(part, to)
        for axis, table in section.ablations if verdicts else []:
            columns = [name for name in table.columns if name not in ("Train error %", "95% interval (train)", "Time")]
            to.print(f"\n{axis}: baseline and one change")
            to.print(grid(columns, table[columns].itertuples(index=False)))
        for note in section.notes:
            to.print(f"[yellow]note:[/] {escape(note)}", highlight=False)
    for title, explanation, table in content.leftovers:
        to.print(f"\n[bold]{title}[/]: {explanation}")
        for row in table.itertuples(index=False):
            to.print("  " + escape(" · ".join(str(value) for value in row if value)), highlight=False)


def main_table(part: Part) -> Table:
    """The setting's networks in as few columns as tell the story."""
    columns = [name for name in COMPACT if name in part.table]
    return grid(columns, part.table[columns].itertuples(index=False))


def grid(columns: list[str], rows: Iterator[tuple[str, ...]]) -> Table:
    """A plain table: names on the left, numbers on the right."""
    table = Table(box=None, pad_edge=False)
    for name in columns:
        left = name in ("Network", "Change")
        table.add_column(escape(name), justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for row in rows:
        style = "dim" if "missing" in row else ""
        table.add_row(*(escape(str(value)) if value else NONE for value in row), style=style)
    return table


def show_verdicts(part: Part, to: Console) -> None:
    """A line a claim; the untested ones together."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    table.add_column(ratio=1, overflow="fold")
    for finding in part.findings:
        if finding.verdict != "untested":
            style = STYLES[finding.verdict]
            table.add_row(f"[{style}]{finding.verdict}[/]", escape(finding.claim.statement), escape(finding.headline))
    if table.row_count:
        to.print(table, highlight=False)
    untested = [finding.claim.id for finding in part.findings if finding.verdict == "untested"]
    if untested:
        to.print(f"[dim]untested, for want of records: {escape(', '.join(untested))}[/]\n", highlight=False)
