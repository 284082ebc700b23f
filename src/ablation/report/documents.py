"""report.md, table.csv, table.tex and claims.json: the report for a README, a spreadsheet, a paper and a program."""

import json
import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from ablation.report.content import CHOICES, HOW_TO_START, Content
from ablation.report.tables import cell_frame, claims_table


def markdown(content: Content) -> str:
    """The page's content in GitHub's Markdown; pictures are the files beside it."""
    return "\n\n".join(blocks(content)) + "\n"


def blocks(content: Content) -> Iterator[str]:
    """The document from top to bottom."""
    yield "# Does depth help?"
    yield content.summary
    if not content.sections:
        yield "There are no finished runs to report on. Start with one of\n\n" + "\n".join(
            f"    {x}" for x in HOW_TO_START
        )
    for section in content.sections:
        yield f"## {section.title}"
        yield ", ".join(f"{count} {verdict}" for verdict, count in section.counts.items() if count)
        if section.notes:
            yield "\n".join(f"- {cell_text(note)}" for note in section.notes)
        for part in section.parts:
            yield f"### {cell_text(part.title)}"
            yield from (cell_text(text) for text in (part.label, part.versions) if text)
            yield markdown_table(part.table)
            for picture in part.illustrations:
                yield f"![{picture.file}]({picture.file})\n\n*{cell_text(picture.caption)}*"
            if part.findings:
                yield markdown_table(claims_table(part.findings))
        for axis, table in section.ablations:
            yield f"### {axis}: baseline and one change"
            yield markdown_table(table)
    for title, explanation, table in content.leftovers:
        yield f"## {title}\n\n{explanation}\n\n{markdown_table(table)}"
    yield "## How to read this\n\n" + "\n".join(f"- {choice}" for choice in CHOICES)


def markdown_table(table: pd.DataFrame) -> str:
    """A frame as a pipe table."""
    rows = [list(map(str, table.columns)), ["---"] * len(table.columns)]
    rows += [[cell_text(str(value)) for value in row] for row in table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def cell_text(text: str) -> str:
    """Text that cannot break out of a Markdown table or become HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def csv(content: Content) -> str:
    """Every cell with all its numbers."""
    return str(cell_frame([section.study for section in content.sections]).to_csv(index=False))


LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "≈": r"$\approx$", "–": "--", "·": r"$\cdot$"}
LATEX |= {sign: "\\" + sign for sign in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def latex(content: Content) -> str:
    """The main tables, a `table` environment a setting; needs the package booktabs."""
    tables = [latex_table(part.title, part.table) for section in content.sections for part in section.parts]
    return "% Needs \\usepackage{booktabs}.\n" + "\n".join(tables)


def latex_table(title: str, table: pd.DataFrame) -> str:
    """One frame with rules above, below the head and below the body."""
    table = table.drop(columns=["Time", "Images/s", "best", "median"], errors="ignore")
    rows = [" & ".join(latex_text(str(value)) for value in row) + r" \\" for row in table.itertuples(index=False)]
    head = " & ".join(latex_text(str(column)) for column in table.columns) + r" \\"
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{latex_text(title)}}}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}", r"\toprule", head, r"\midrule", *rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def latex_text(text: str) -> str:
    """Text with LaTeX's own characters escaped."""
    return "".join(LATEX.get(character, character) for character in text)


def claims_json(content: Content) -> str:
    """Every verdict with its statement, test, threshold and numbers."""
    rows = [plain_numbers(finding.as_dict(study)) for study, finding in content.findings]
    return json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def plain_numbers(tree: Any) -> Any:
    """The tree with NaN and infinity, which JSON does not know, as null."""
    if isinstance(tree, dict):
        return {key: plain_numbers(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [plain_numbers(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
