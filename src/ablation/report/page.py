"""report.html: one self-contained page, its images inside, that prints well and follows the reader's light or dark.

Notable: every text is escaped, since folder names and messages come from the file system; the page has no script and
loads nothing.
"""

import base64
from collections.abc import Iterator
from html import escape

from ablation.report.claims import Finding
from ablation.report.content import Block, Claims, Content, Counts, Heading, Illustration, Items, Lead, Paragraph, Table

STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --soft: #5f6368; --line: #d9d9de; --paper: #ffffff; --band: #f5f5f7;
  --reproduced: #00634a; --contradicted: #a83200; --inconclusive: #7a5b00; --untested: #5f6368; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8ea; --soft: #a0a4aa; --line: #3a3a3f; --paper: #17171a;
  --band: #222226; --reproduced: #4fcfa6; --contradicted: #ff9a6b; --inconclusive: #e8c45a; --untested: #a0a4aa; } }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 74rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 Charter, "Bitstream Charter", Georgia, "DejaVu Serif", serif; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .3rem; } h2 { font-size: 1.45rem; margin: 3rem 0 .4rem;
  border-top: 2px solid var(--ink); padding-top: .8rem; } h3 { font-size: 1.1rem; margin: 2rem 0 .3rem; }
p, li { max-width: 46rem; } .soft, .label, .notes, figcaption, caption { color: var(--soft); font-size: .88rem; }
nav a { margin-right: 1.2rem; } a { color: inherit; }
code { font-size: .88em; background: var(--band); padding: .1em .3em; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: .8rem 0; font-size: .8rem; line-height: 1.35;
  font-variant-numeric: tabular-nums lining-nums; border-block: 1.5px solid var(--ink); }
th, td { padding: .32rem .55rem .32rem 0; text-align: right; vertical-align: top; border: 0; white-space: nowrap; }
th { border-bottom: 1px solid var(--ink); font-weight: 600; } tbody tr:nth-child(even) { background: var(--band); }
th:first-child, td:first-child { text-align: left; padding-left: .3rem; }
table.changes th:nth-child(2), table.changes td:nth-child(2) { text-align: left; }
summary { cursor: pointer; margin: .8rem 0; }
table.leftovers th, table.leftovers td { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 5rem; }
table.claims td { text-align: left; white-space: normal; } table.claims th { text-align: left; }
table.claims td:nth-child(2) { width: 32%; } table.claims small { color: var(--soft); display: block; }
.verdict { font-weight: 700; white-space: nowrap; } .verdict.reproduced { color: var(--reproduced); }
.verdict.contradicted { color: var(--contradicted); } .verdict.inconclusive { color: var(--inconclusive); }
.verdict.untested { color: var(--untested); font-weight: 400; }
.counts > span { display: inline-block; margin-right: 1.4rem; } .label { border-left: 3px solid var(--inconclusive);
  padding-left: .7rem; } figure { margin: 1.4rem 0; } figure img { display: block; max-width: 100%; height: auto;
  background: #ffffff; padding: .4rem; box-sizing: border-box; } figcaption { max-width: 46rem; margin-top: .3rem; }
@media print { body { font-size: 10pt; max-width: none; padding: 0; } nav { display: none; }
  figure, tr { break-inside: avoid; }
  .scroll { overflow: visible; } table { font-size: 7.5pt; } }
"""
VERDICT_SIGNS = {"reproduced": "✓", "contradicted": "✗", "inconclusive": "?", "untested": "·"}


def html(content: Content, refresh: int | None = None) -> str:
    """The whole page; with `refresh` it loads itself again after so many seconds."""
    reload = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    blocks = list(content.blocks())
    targets = [block for block in blocks if isinstance(block, Heading) and block.anchor]
    links = "".join(f'<a href="#{escape(target.anchor)}">{escape(target.text)}</a>' for target in targets)
    body = "\n".join(text for block in blocks for text in block_html(block))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Ablation report</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"{reload}<style>{STYLE}</style></head>\n<body>\n<nav>{links}</nav>\n{body}\n</body></html>\n"
    )


def block_html(block: Block) -> Iterator[str]:
    match block:
        case Heading(level, text, anchor):
            yield f'<h{level} id="{escape(anchor)}">{escape(text)}</h{level}>'
        case Paragraph(text, kind):
            yield f'<p class="{kind}">{escape(text)}</p>'
        case Items(texts, kind):
            tag = "code" if kind == "commands" else "span"
            yield f'<ul class="{kind}">{"".join(f"<li><{tag}>{escape(text)}</{tag}></li>" for text in texts)}</ul>'
        case Counts(verdicts):
            counts = (f"<span>{verdict_html(verdict)} {count}</span>" for verdict, count in verdicts.items())
            yield f'<p class="counts">{"".join(counts)}</p>'
        case Lead(finding):
            text = f"{escape(finding.claim.statement)} ({escape(finding.headline)})"
            yield f"<p>{verdict_html(finding.verdict)}: {text}.</p>"
        case Table(title, frame, kind):
            if kind == "changes":
                yield f"<h3>{escape(title)}</h3>"
            markup = frame.to_html(index=False, border=0, classes=kind, escape=True, justify="inherit")
            yield f'<div class="scroll">{markup}</div>'
        case Illustration(_, _, caption, svg):
            data = base64.b64encode(svg).decode()
            yield f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{escape(caption.split(". ")[0])}">'
            yield f"<figcaption>{escape(caption)}</figcaption></figure>"
        case Claims(findings):
            yield "<h3>Claims</h3>"
            yield claims_html([finding for finding in findings if finding.verdict != "untested"])
            untested = [finding for finding in findings if finding.verdict == "untested"]
            if untested:
                yield f"<details><summary>{len(untested)} untested, for want of records</summary>"
                yield f"{claims_html(untested)}</details>"


def verdict_html(verdict: str) -> str:
    """A verdict with a sign, so that it does not depend on colour."""
    return f'<span class="verdict {verdict}">{VERDICT_SIGNS[verdict]} {verdict}</span>'


def claims_html(findings: list[Finding]) -> str:
    """A row a claim: verdict, statement with source, evidence with test and threshold."""
    rows = []
    for finding in findings:
        claim = finding.claim
        test = f"{claim.comparison}: {claim.test.rule}; reproduced if {claim.test.threshold}"
        rows.append(
            f"<tr><td>{verdict_html(finding.verdict)}</td>"
            f"<td>{escape(claim.statement)}<small>{escape(claim.source)} · {escape(claim.id)}</small></td>"
            f"<td>{escape(finding.evidence)}<small>{escape(test)}</small></td></tr>"
        )
    head = "<thead><tr><th>Verdict</th><th>Claim</th><th>Evidence, test and threshold</th></tr></thead>"
    table = f'<table class="claims">{head}<tbody>{"".join(rows)}</tbody></table>'
    return f'<div class="scroll">{table}</div>' if rows else ""
