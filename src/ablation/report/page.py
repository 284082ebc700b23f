"""report.html: one self-contained page, its images inside, that prints well and follows the reader's light or dark.

Notable: every text is escaped, since folder names and messages come from the file system; the page has no script and
loads nothing.
"""

import base64
from collections.abc import Iterator
from html import escape
from pathlib import Path

from ablation.report.claims import Finding
from ablation.report.content import Block, Content, Illustration, Table, Text

STYLE = Path(__file__).with_name("page.css").read_text()
VERDICT = '<span class="verdict {0}">{1} {0}</span>'
"""With a sign, so that it does not depend on colour."""
SIGNS = {"reproduced": "✓", "suggestive": "~", "contradicted": "✗", "inconclusive": "?", "untested": "·"}
VERDICTS = {verdict: VERDICT.format(verdict, sign) for verdict, sign in SIGNS.items()}
TAGS = {verdict: f"<p>{shown}: {{}}</p>" for verdict, shown in VERDICTS.items()} | {
    "title": "<h1>{}</h1>",
    "chapter": "<h2>{}</h2>",
    "study": '<h2 id="{1}">{0}</h2>',
    "setting": "<h3>{}</h3>",
    "note": '<ul class="soft"><li>{}</li></ul>',
    "item": "<ul><li>{}</li></ul>",
    "command": "<pre>{}</pre>",
    "plain": "<p>{}</p>",
    "soft": '<p class="soft">{}</p>',
    "label": '<p class="soft label">{}</p>',
}
TABLE = '<div class="scroll"><table class="claims"><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>'


def html(content: Content, refresh: int | None = None) -> str:
    """The whole page; with `refresh` it loads itself again after so many seconds."""
    reload = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    titles = [section.study.title for section in content.sections]
    links = "".join(f'<a href="#{anchor(title)}">{escape(title)}</a>' for title in titles)
    body = "\n".join(text for block in content.blocks() for text in block_html(block))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Ablation report</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"{reload}<style>{STYLE}</style></head>\n<body>\n<nav>{links}</nav>\n{body}\n</body></html>\n"
    )


def block_html(block: Block) -> Iterator[str]:
    match block:
        case Text(kind, text):
            yield TAGS[kind].format(escape(text), anchor(text))
        case Table(kind, title, frame):
            if kind == "changes":
                yield f"<h3>{escape(title)}</h3>"
            markup = frame.to_html(index=False, border=0, classes=kind, escape=True, justify="inherit")
            yield f'<div class="scroll">{markup}</div>'
        case Illustration(_, _, caption, svg):
            data = base64.b64encode(svg).decode()
            yield f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{escape(caption.split(". ")[0])}">'
            yield f"<figcaption>{escape(caption)}</figcaption></figure>"
        case findings:
            yield "<h3>Claims</h3>"
            yield claims_html([finding for finding in findings if finding.verdict != "untested"])
            if untested := [finding for finding in findings if finding.verdict == "untested"]:
                yield f"<details><summary>{len(untested)} untested, for want of records</summary>"
                yield f"{claims_html(untested)}</details>"


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
