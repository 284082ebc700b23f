"""The report in the terminal: a compact table and the verdicts of each setting."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from ablation.report.claims import Finding
from ablation.report.content import Content, Table, Text

WIDE = 120
"""Columns where the output is not a terminal: a log must not lose half a table."""
NETWORKS = ["Network", "n", "Train error %", "Test error %", "95% interval"]
NETWORKS += ["selected on test", "Paper", "Difference", "Time"]
CHANGES = ["Network", "Change", "n", "Test error %", "Test difference", "95% interval (test)"]
"""The columns that fit into 80 characters."""
STYLES = {"reproduced": "green", "suggestive": "cyan", "contradicted": "bold red", "inconclusive": "yellow"}
FORMS = {"study": "\n[bold]{}[/]", "setting": "\n{}", "plain": "{}", "label": "[yellow]{}[/]"}
FORMS |= {"note": "[yellow]note:[/] {}", "command": "  {}"}
"""By kind of text; other kinds are not for the terminal."""


def console() -> Console:
    found = Console()
    return found if found.is_terminal else Console(width=WIDE)


def show(content: Content, to: Console, verdicts: bool = True) -> None:
    """Print the report's tables and verdicts, or say what to run when there is nothing."""
    for block in content.blocks():
        match block:
            case Text(kind, text) if kind in FORMS:
                to.print(FORMS[kind].format(escape(text)), highlight=False)
            case Table("leftovers", _, frame):
                for row in frame.itertuples(index=False):
                    to.print("  " + escape(" · ".join(str(value) for value in row if value)), highlight=False)
            case Table(kind, title) if verdicts or kind == "networks":
                if kind == "changes":
                    to.print(f"\n{escape(title)}")
                to.print(grid(block))
            case list() if verdicts:
                show_verdicts(block, to)


def grid(table: Table) -> Grid:
    columns = [name for name in (CHANGES if table.kind == "changes" else NETWORKS) if name in table.frame]
    found = Grid(box=None, pad_edge=False)
    for name in columns:
        left = name in ("Network", "Change")
        found.add_column(escape(name), justify="left" if left else "right", no_wrap=name != "Change", overflow="fold")
    for row in table.frame[columns].itertuples(index=False):
        found.add_row(*(escape(str(value)) for value in row), style="dim" if "missing" in row else "")
    return found


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
