"""report.html: one self-contained page, its images inside, that prints well and follows the reader's light or dark.

Notable: every text is escaped, since folder names and messages come from the file system; the page loads nothing, and
its policy lets a browser run no script but page.js, which draws the curves that the page holds as JSON.
"""

import base64
import json
from collections.abc import Iterator
from hashlib import sha256
from html import escape
from itertools import groupby
from pathlib import Path

from ablation.report.content import Block, Content, Illustration, Table, Text
from ablation.report.findings import Finding

STYLE, SCRIPT = (Path(__file__).with_name(name).read_text() for name in ("page.css", "page.js"))
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
POLICY += f"script-src 'sha256-{base64.b64encode(sha256(SCRIPT.encode()).digest()).decode()}'"
VERDICT = '<span class="verdict {0}">{1} {0}</span>'
"""With a sign, so that it does not depend on colour."""
SIGNS = {"reproduced": "✓", "suggestive": "~", "contradicted": "✗", "inconclusive": "?", "untested": "·"}
VERDICTS = {verdict: VERDICT.format(verdict, sign) for verdict, sign in SIGNS.items()}
TAGS = {verdict: f"<p>{shown}: {{}}</p>" for verdict, shown in VERDICTS.items()} | {
    "title": "<h1>{}</h1>",
    "chapter": '<h2 id="{1}">{0}</h2>',
    "study": '<h2 id="{1}">{0}</h2>',
    "setting": "<h3>{}</h3>",
    "note": "<li>{}</li>",
    "item": "<li>{}</li>",
    "command": "<pre>{}</pre>",
    "plain": "<p>{}</p>",
    "soft": '<p class="soft">{}</p>',
    "label": '<p class="soft label">{}</p>',
}
LISTS = {"note": '<ul class="soft">{}</ul>', "figures": '<div class="figures">{}</div>'}
LISTS["item"] = "<details><summary>Errors, intervals, tests and verdicts</summary><ul>{}</ul></details>"
"""What holds blocks of one kind that follow each other."""
TABLE = '<div class="scroll"><table class="claims"><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'


def html(content: Content, refresh: int | None = None) -> str:
    """The whole page; with `refresh` it loads itself again after so many seconds."""
    reload = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    blocks = list(content.blocks())
    headings = [block.text for block in blocks if isinstance(block, Text) and block.kind in ("chapter", "study")]
    links = "".join(f'<a href="#{anchor(title)}">{escape(title)}</a>' for title in headings)
    charts = {block.name: block.chart for block in blocks if isinstance(block, Illustration) and block.chart}
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(content.title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"{reload}<style>{STYLE}</style></head>\n<body>\n{body(blocks, links)}\n"
        f'<script type="application/json" id="charts">{json.dumps(charts).replace("<", chr(92) + "u003c")}</script>\n'
        f"<script>{SCRIPT}</script>\n</body></html>\n"
    )


def body(blocks: list[Block], links: str) -> str:
    """The blocks in order, lists and figures held together; the contents follow the title and its lines."""
    texts = []
    for kind, group in groupby(blocks, kind_of):
        if links and kind in ("chapter", "study"):
            texts.append(f'<nav aria-label="Contents">{links}</nav>')
            links = ""
        texts.append(LISTS.get(kind, "{}").format("\n".join(text for block in group for text in block_html(block))))
    return "\n".join(texts)


def kind_of(block: Block) -> str:
    match block:
        case Text(kind) | Table(kind):
            return kind
        case Illustration():
            return "figures"
    return "claims"


def block_html(block: Block) -> Iterator[str]:
    match block:
        case Text(kind, text):
            yield TAGS[kind].format(escape(text), anchor(text))
        case Table(kind, _, frame):
            shown = frame.map(signed if kind == "verdicts" else escape).rename(columns=escape).rename_axis(columns=None)
            markup = shown.to_html(index=False, border=0, classes=kind, escape=False, justify="inherit")
            yield f'<div class="scroll">{markup}</div>'
        case Illustration(_, name, caption, svg):
            data = base64.b64encode(svg).decode()
            yield f'<figure id="figure-{anchor(name)}"><img src="data:image/svg+xml;base64,{data}" '
            yield f'alt="{escape(caption.split(". ")[0])}"><figcaption>{escape(caption)}</figcaption></figure>'
        case findings:
            yield "<h3>Claims</h3>"
            yield claims_html(findings)


def signed(verdicts: str) -> str:
    """One verdict or several, each with its sign; any other text as it is."""
    parts = verdicts.split(", ")
    return "<br>".join(VERDICTS[part] for part in parts) if {*parts} <= {*VERDICTS} else escape(verdicts)


def anchor(title: str) -> str:
    """What a link calls a heading."""
    return escape(title.replace(" ", "-"))


def claims_html(findings: list[Finding]) -> str:
    rows = []
    for finding in findings:
        claim = finding.claim
        alone = "" if finding.uncorrected == finding.verdict else f"<small>uncorrected: {finding.uncorrected}</small>"
        test = f"{claim.comparison}: {claim.test.rule}; reproduced if {claim.test.threshold}"
        rows.append(
            f"<tr><td>{VERDICTS[finding.verdict]}{alone}</td>"
            f"<td>{escape(claim.statement)}<small>{escape(claim.source)} · {escape(claim.id)}</small></td>"
            f"<td>{escape(finding.evidence)}<small>{escape(test)}</small></td></tr>"
        )
    head = "<th>Verdict</th><th>Claim</th><th>Evidence, test and threshold</th>"
    return TABLE.format(head, "".join(rows)) if rows else ""
