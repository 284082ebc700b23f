"""report.md, table.csv, table.tex and claims.json: the report for a README, a spreadsheet, a paper and a program."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from ablation.report.content import Block, Content, Illustration, Table, Text
from ablation.report.listings import every_run
from ablation.report.tables import cell_row, claims_table, difference

MARKDOWN = str.maketrans({"\\": "\\\\", "|": "\\|", "<": "&lt;", "*": "\\*"})
LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"±": r"$\pm$", "≈": r"$\approx$", "–": "--", "·": r"$\cdot$"}
)
MARKS = {"title": "# ", "chapter": "## ", "study": "## ", "setting": "### ", "command": "    "}
MARKS |= {"note": "- ", "item": "- ", "plain": "", "soft": "", "label": ""}
FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
"""Makes a table as small as it must be for the page."""
NOT_IN_LATEX = ["Time", "Images/s", "best", "median"]


def markdown(blocks: Iterable[Block], images: str = "figures/{}.png") -> str:
    """The blocks in GitHub's Markdown; `images` is the path of an image from the document, {} its name."""
    return "\n\n".join(text for block in blocks for text in markdown_texts(block, images)) + "\n"


def markdown_texts(block: Block, images: str) -> Iterator[str]:
    match block:
        case Text(kind, text):
            yield MARKS.get(kind, f"**{kind}**: ") + markdown_text(text)
        case Table(_, _, frame):
            yield markdown_table(frame)
        case Illustration(_, name, caption):
            yield f"![{name}]({images.format(name)})"
            yield f"*{markdown_text(caption)}*"
        case findings:
            yield markdown_table(claims_table(findings))


def markdown_table(table: pd.DataFrame) -> str:
    rows = [list(map(str, table.columns)), ["---"] * len(table.columns)]
    rows += [[markdown_text(str(value)) for value in row] for row in table.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def markdown_text(text: str) -> str:
    """Text that cannot break out of a Markdown table, or become HTML or a link."""
    return re.sub(r"\](?=[(\[:])", r"\]", " ".join(text.split()).translate(MARKDOWN))


def csv(content: Content) -> str:
    """Every cell with what defines it and all its numbers, and its difference to the study's baseline."""
    rows = []
    for section in content.sections:
        for setting in section.study.settings:
            for cell in setting.cells:
                row = {"study": section.study.name, "network": cell.label} | cell.keys | cell_row(cell, setting)
                rows.append(row | (difference(section.comparison, cell) if section.comparison else {}))
    return str(pd.DataFrame(rows).map(csv_text).to_csv(index=False))


def csv_text(value: Any) -> Any:
    """A text that no spreadsheet takes for a formula; anything else as it is."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


def runs_csv(content: Content) -> str:
    """Every run with what defines it and all its numbers."""
    return str(every_run(content).map(csv_text).to_csv(index=False))


def latex(content: Content) -> str:
    """A `table` environment for each comparison and each setting that has a table; needs booktabs and graphicx."""
    made = []
    for section in content.sections:
        blocks = [block for block in section.blocks() if isinstance(block, Table)]
        for place, table in enumerate((one for one in blocks if one.kind in ("networks", "comparison")), start=1):
            label = re.sub("[^A-Za-z0-9]+", "-", section.study.name) + (f"-{place}" if place > 1 else "")
            made.append(latex_table(table, f"tab:{label}"))
    return "% Needs \\usepackage{booktabs,graphicx}.\n" + "\n".join(made)


def latex_table(table: Table, label: str) -> str:
    wide = ["running", "95% interval"] if table.kind == "comparison" else []  # the differences have intervals, too
    frame = table.frame.drop(columns=[*NOT_IN_LATEX, *wide], errors="ignore")
    cells = [list(frame.columns), *frame.to_numpy().tolist()]
    head, *rows = (" & ".join(str(cell).translate(LATEX) for cell in row) + r" \\" for row in cells)
    caption = " · ".join(table.title.split(" · ")[:3]).translate(LATEX)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}", rf"\label{{{label}}}"]
    lines += [FIT, rf"\begin{{tabular}}{{l{'r' * (len(frame.columns) - 1)}}}", r"\toprule", head, r"\midrule", *rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}", r"\end{table}", ""])


def claims_json(content: Content) -> str:
    rows = [finite_numbers(finding.as_dict(study)) for study, finding in content.findings]
    return json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def finite_numbers(tree: Any) -> Any:
    """The tree with null for NaN and infinity, which JSON does not have."""
    if isinstance(tree, dict):
        return {key: finite_numbers(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite_numbers(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
