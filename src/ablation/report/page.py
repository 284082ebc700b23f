"""report.html: one self-contained page, its pictures inside, that prints well and follows the reader's light or dark.

Notable: every text goes through an escape, since folder names and messages come from the file system; there is no
script in the page and nothing is loaded from elsewhere.
"""

import base64
from collections.abc import Iterator
from html import escape

import pandas as pd

from ablation.report import paper
from ablation.report.claims import Finding
from ablation.report.content import CHOICES, HOW_TO_START, Content, Illustration, Section

STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --soft: #5f6368; --line: #d9d9de; --paper: #ffffff; --band: #f5f5f7;
  --reproduced: #00634a; --contradicted: #a83200; --inconclusive: #7a5b00; --untested: #5f6368; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8ea; --soft: #a0a4aa; --line: #3a3a3f; --paper: #17171a;
  --band: #222226; --reproduced: #4fcfa6; --contradicted: #ff9a6b; --inconclusive: #e8c45a; --untested: #a0a4aa; } }
body { margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 74rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 Charter, "Bitstream Charter", Georgia, "DejaVu Serif", serif; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .3rem; } h2 { font-size: 1.45rem; margin: 3rem 0 .4rem;
  border-top: 2px solid var(--ink); padding-top: .8rem; } h3 { font-size: 1.1rem; margin: 2rem 0 .3rem; }
p, li { max-width: 46rem; } .soft, figcaption, caption { color: var(--soft); font-size: .88rem; }
nav a { margin-right: 1.2rem; } a { color: inherit; }
code { font-size: .88em; background: var(--band); padding: .1em .3em; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: .8rem 0; font-size: .8rem; line-height: 1.35;
  font-variant-numeric: tabular-nums lining-nums; border-block: 1.5px solid var(--ink); }
th, td { padding: .32rem .55rem .32rem 0; text-align: right; vertical-align: top; border: 0; white-space: nowrap; }
th { border-bottom: 1px solid var(--ink); font-weight: 600; } tbody tr:nth-child(even) { background: var(--band); }
th:first-child, td:first-child { text-align: left; padding-left: .3rem; }
table.ablation th:nth-child(2), table.ablation td:nth-child(2) { text-align: left; }
summary { cursor: pointer; margin: .8rem 0; }
table.words th, table.words td { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 5rem; }
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
    """The whole page; with `refresh` it loads itself again after as many seconds."""
    reload = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
    body = "\n".join(parts(content))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Ablation report</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"{reload}<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def parts(content: Content) -> Iterator[str]:
    """The page from top to bottom."""
    yield "<h1>Does depth help?</h1>"
    yield f'<p class="soft">{escape(content.summary)} Against {escape(paper.CITATION)}.</p>'
    if not content.sections:
        start = "".join(f"<li><code>{escape(line)}</code></li>" for line in HOW_TO_START)
        yield f"<p>There are no finished runs to report on. Start with one of</p><ul>{start}</ul>"
    links = [f'<a href="#{escape(section.name)}">{escape(section.title)}</a>' for section in content.sections]
    if len(links) > 1:
        yield f"<nav>{''.join(links)}</nav>"
    for section in content.sections:
        yield from section_parts(section)
    for title, explanation, table in content.leftovers:
        yield f"<h2>{escape(title)}</h2><p>{escape(explanation)}</p>{table_html(table, 'words')}"
    yield f"<h2>How to read this</h2><ul>{''.join(f'<li>{escape(choice)}</li>' for choice in CHOICES)}</ul>"


def section_parts(section: Section) -> Iterator[str]:
    """One study."""
    yield f'<section id="{escape(section.name)}"><h2>{escape(section.title)}</h2>'
    counts = "".join(
        f"<span>{verdict_html(verdict)} {count}</span>" for verdict, count in section.counts.items() if count
    )
    yield f'<p class="counts">{counts}</p>'
    if section.notes:
        yield f'<ul class="soft">{"".join(f"<li>{escape(note)}</li>" for note in section.notes)}</ul>'
    for part in section.parts:
        yield f"<h3>{escape(part.title)}</h3>"
        if part.label:
            yield f'<p class="soft label">{escape(part.label)}</p>'
        if part.lead:
            lead = part.lead
            yield f"<p>{verdict_html(lead.verdict)}: {escape(lead.claim.statement)} ({escape(lead.headline)}).</p>"
        yield f'<p class="soft">{escape(part.versions)}</p>{table_html(part.table)}'
        yield from map(figure_html, part.illustrations)
        if part.findings:
            yield from claims_parts(part.findings)
    for axis, table in section.ablations:
        yield f"<h3>{escape(axis)}: baseline and one change</h3>{table_html(table, 'ablation')}"
    yield "</section>"


def table_html(table: pd.DataFrame, kind: str = "numbers") -> str:
    """A frame as an escaped table."""
    markup = table.to_html(index=False, border=0, classes=kind, escape=True, justify="inherit")
    return f'<div class="scroll">{markup}</div>'


def figure_html(illustration: Illustration) -> str:
    """A picture inside the page, as vectors."""
    data = base64.b64encode(illustration.svg).decode()
    alternative = escape(illustration.caption.split(". ")[0], quote=True)
    return (
        f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{alternative}">'
        f"<figcaption>{escape(illustration.caption)}</figcaption></figure>"
    )


def verdict_html(verdict: str) -> str:
    """A verdict with its sign, so that it does not hang on colour."""
    return f'<span class="verdict {verdict}">{VERDICT_SIGNS[verdict]} {verdict}</span>'


def claims_parts(findings: list[Finding]) -> Iterator[str]:
    """The verdicts; those without records folded away, but counted."""
    yield "<h3>Claims</h3>"
    tested = [finding for finding in findings if finding.verdict != "untested"]
    untested = [finding for finding in findings if finding.verdict == "untested"]
    if tested:
        yield claims_html(tested)
    if untested:
        summary = f"{len(untested)} untested, for want of records"
        yield f"<details><summary>{summary}</summary>{claims_html(untested)}</details>"


def claims_html(findings: list[Finding]) -> str:
    """A row a claim: verdict, statement with source, evidence with test and threshold."""
    rows = []
    for finding in findings:
        claim = finding.claim
        rows.append(
            f"<tr><td>{verdict_html(finding.verdict)}</td>"
            f"<td>{escape(claim.statement)}<small>{escape(claim.source)} · {escape(claim.id)}</small></td>"
            f"<td>{escape(finding.evidence)}<small>{escape(claim.comparison)}: {escape(claim.test.rule)}; "
            f"reproduced if {escape(claim.test.threshold)}</small></td></tr>"
        )
    head = "<thead><tr><th>Verdict</th><th>Claim</th><th>Evidence, test and threshold</th></tr></thead>"
    return f'<div class="scroll"><table class="claims">{head}<tbody>{"".join(rows)}</tbody></table></div>'
