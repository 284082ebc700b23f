"""report.html: one self-contained page, its images inside, that prints well and follows the reader's light or dark.

Notable: it is report.md as HTML, whose texts are escaped there, since folder names and messages come from the file
system; the page loads nothing, and its policy lets a browser run no script but page.js, which draws the curves that the
page holds as JSON.
"""

import base64
import json
import re
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from ablation.report.content import Content, Illustration
from ablation.report.documents import markdown

STYLE, SCRIPT = (Path(__file__).with_name(name).read_text("utf-8") for name in ("page.css", "page.js"))
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
POLICY += f"script-src 'sha256-{base64.b64encode(sha256(SCRIPT.encode()).digest()).decode()}'"
SIGNS = {"reproduced": "✓", "suggestive": "~", "contradicted": "✗", "inconclusive": "?", "untested": "·"}
"""Beside a verdict, so that it does not depend on colour."""
VERDICTS = re.compile(rf"(?:^|(?<=[ (]))({'|'.join(SIGNS)})(?=$|[,)]| \()")


def html(content: Content) -> str:
    blocks = list(content.blocks())
    figures = {block.name: block for block in blocks if isinstance(block, Illustration)}
    charts = {name: figure.chart for name, figure in figures.items() if figure.chart}
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(content.title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head>\n<body>\n{body(markdown(blocks, '{}'), figures)}\n"
        f'<script type="application/json" id="charts">{json.dumps(charts).replace("<", chr(92) + "u003c")}</script>\n'
        f"<script>{SCRIPT}</script>\n</body></html>\n"
    )


def body(text: str, figures: dict[str, Illustration]) -> str:
    """The Markdown as HTML, with the figures inside, the contents before the first chapter, and signs at verdicts."""
    parser = MarkdownIt("commonmark").enable("table")
    parser.add_render_rule("text", verdicts)
    tokens = parser.parse(text)
    links: list[str] = []
    for before, token, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
        children = token.children or []
        if before.type == "heading_open" and before.tag == "h2":
            before.attrs["id"] = f"part-{len(links)}"
            title = "".join(child.content for child in children)
            links.append(f'<a href="#part-{len(links)}">{escape(title)}</a>')
        elif children and children[0].type == "image":
            figure = figures[str(children[0].attrs["src"])]
            before.tag = after.tag = "figure"
            before.attrs["id"] = f"figure-{figure.name}"
            children[0].attrs["src"] = f"data:image/svg+xml;base64,{base64.b64encode(figure.svg).decode()}"
    made = parser.renderer.render(tokens, parser.options, {})
    return made.replace("<h2", f'<nav aria-label="Contents">{"".join(links)}</nav>\n<h2', 1)


def verdicts(_: Any, tokens: Any, place: int, *__: Any) -> str:
    """A text, in which each verdict has its sign and colour."""
    signed = lambda found: f'<span class="verdict {found[1]}">{SIGNS[found[1]]} {found[1]}</span>'  # noqa: E731
    return VERDICTS.sub(signed, escape(tokens[place].content))
