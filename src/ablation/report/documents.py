"""report.md, table.csv, runs.csv, table.tex and claims.json: for a README, a spreadsheet, a paper and a program.

Notable: report.html is this Markdown, too (`page`).
"""

import json
import re
from collections.abc import Iterable
from typing import Any

import pandas as pd

from ablation.report.content import Block, Content, Illustration, Table, Text
from ablation.report.listings import every_run
from ablation.report.tables import cell_row, difference

MARKDOWN = str.maketrans({"\\": "\\\\", "|": "\\|", "<": "&lt;", "*": "\\*"})
LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"±": r"$\pm$", "≈": r"$\approx$", "–": "--", "·": r"$\cdot$"}
)
FORMS = {
    "title": "# {}",
    "chapter": "## {}",
    "study": "## {}",
    "setting": "### {}",
    "command": "    {}",
    "note": "- {}",
}
FORMS |= {"plain": "{}", "soft": "*{}*", "label": "> {}"}
FORMS |= {"fold": "<details><summary>{}</summary>", "unfold": "</details>"}
"""By kind of text; a verdict stands before its text."""
FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
"""Makes a table as small as it must be for the page."""
NOT_IN_LATEX = ["Time", "Images/s"]


def markdown(blocks: Iterable[Block], images: str = "figures/{}.png") -> str:
    """The blocks in GitHub's Markdown; `images` is the path of an image from the document, {} its name."""
    return "\n\n".join(markdown_text(block, images) for block in blocks) + "\n"


def markdown_text(block: Block, images: str) -> str:
    match block:
        case Text(kind, text):
            return FORMS.get(kind, f"**{kind}**: {{}}").format(escaped(text))
        case Table(_, _, frame):
            return markdown_table(frame)
        case Illustration(_, name, caption):
            return f"![{name}]({images.format(name)})\\\n*{escaped(caption)}*"


def markdown_table(table: pd.DataFrame) -> str:
    lines = [list(table.columns), ["---:" if is_numeric(table[name]) else "---" for name in table.columns]]
    lines += table.to_numpy().tolist()
    return "\n".join(f"| {' | '.join(escaped(str(text)) for text in line)} |" for line in lines)


def is_numeric(column: "pd.Series[Any]") -> bool:
    """Whether the column's text is numbers, with unit and spread or without, and belongs to the right."""
    return all(re.match(r"[-+≈]?\d(?!.*[A-Za-z]{4})|(–|missing|baseline)?$", str(text)) for text in column)


def escaped(text: str) -> str:
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
    return csv_of(pd.DataFrame(rows))


def runs_csv(content: Content) -> str:
    """Every run with what defines it and all its numbers."""
    return csv_of(every_run(content))


def csv_of(frame: pd.DataFrame) -> str:
    return str(frame.map(csv_text).to_csv(index=False))


def csv_text(value: Any) -> Any:
    """A text that no spreadsheet takes for a formula; anything else as it is."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


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
    rows = json.dumps([finding.as_dict(study) for study, finding in content.findings])
    rows = json.loads(rows, parse_constant=lambda _: None)  # JSON has no NaN and no infinity
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
