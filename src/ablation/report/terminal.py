"""The report in the terminal: its tables, with as many columns as fit, and the verdicts of each setting."""

import textwrap
from collections.abc import Iterable

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table as Grid

from ablation.report.content import Block, Table, Text
from ablation.report.documents import is_numeric

LEAST = ["Images/s", "Parameters", "running", "95% interval", "Time", "P(better)", "Train error %", "p"]
"""Columns that a narrow terminal goes without, the first one first."""
NEVER = ["Networks", "Test", "Source"]
STYLES = {"reproduced": "green", "suggestive": "cyan", "contradicted": "bold red", "inconclusive": "yellow"}
FORMS = {"study": "\n[bold]{}[/]", "setting": "\n{}", "plain": "{}", "label": "[yellow]{}[/]"}
FORMS |= {"note": "[yellow]note:[/] {}", "command": "  {}"}
"""By kind of text; other kinds are not for the terminal."""


def show(blocks: Iterable[Block], to: Console, verdicts: bool = True) -> None:
    """Print a report's tables and verdicts, or say what to run when there is nothing."""
    folded = False
    held: list[str] = []  # a setting's head waits for its table: without the verdicts, it may have none
    for block in blocks:
        match block:
            case Text("fold" | "unfold" as kind):
                folded = kind == "fold"
            case Text(kind, text) if kind in FORMS and not folded:
                held = [] if kind in ("study", "setting") else held
                held.append(FORMS[kind].format(escape(text)))
                if kind != "setting" and len(held) == 1:
                    to.print(held.pop(), highlight=False)
            case Table(kind, _, frame) if kind != "verdicts" and (verdicts or kind != "claims"):
                while held:
                    to.print(held.pop(0), highlight=False)
                frame = frame.drop(columns=NEVER, errors="ignore")
                to.print(fitting(frame.replace(" [(](uncorrected:) ", r"\n(\1\n", regex=True), to), highlight=False)


def fitting(frame: pd.DataFrame, to: Console) -> Grid:
    """The frame as a table, with as many columns as fit into the terminal."""
    for least in LEAST:
        if least in frame and Measurement.get(to, to.options.update(width=1000), grid(frame)).maximum > to.width:
            frame = frame.drop(columns=least)
    return grid(frame)


def grid(frame: pd.DataFrame) -> Grid:
    found = Grid(box=None, pad_edge=False)
    for name in map(str, frame):
        # Over several lines where the title is longer than what stands below it.
        longest = max(map(len, [*name.split(), *map(str, frame[name])]))
        header = "\n".join(textwrap.wrap(name, longest + 2, break_long_words=False, break_on_hyphens=False))
        found.add_column(escape(header), justify="right" if is_numeric(frame[name]) else "left", overflow="fold")
    for row in frame.itertuples(index=False):
        style = "dim" if "missing" in row else STYLES.get(str(row[0]).split()[0] if row[0] else "", "")
        found.add_row(*(escape(str(value)) for value in row), style=style)
    return found
