"""docs/keys.md from the schema: `python -m ablation.config.keys` prints it; a test holds the page to it.

A key's meaning is the comment behind its field in schema.py, or the string below it; its default is that of conf/.
"""

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from ablation.config import schema
from ablation.config.command_line import IN_WORDS
from ablation.config.compose import OPTIMIZER_RULES, compose
from ablation.config.schema import CONF, OPEN_GROUPS, Config
from ablation.errors import as_typed

HEAD = """# Every key

A key is given as `key=value`: `python src/train.py optimizer.lr=0.05`; a group's member by the group's name:
`optimizer=adamw`. The defaults are those of `python src/train.py` without arguments; `--cfg job` shows what a command
line composes to. This page is made from the schema: `PYTHONPATH=src python -m ablation.config.keys > docs/keys.md`.
"""
ROW = "| Key | Meaning | Default | Allowed |\n| --- | --- | --- | --- |"


def page() -> str:
    """The whole page, in Markdown."""
    config, known = compose([]), meanings()
    groups = {entry.name: getattr(config, entry.name) for entry in fields(Config) if callable(entry.default_factory)}
    top = [entry for entry in fields(Config) if entry.name not in groups]
    parts = [HEAD, section("The run", known["Config"], "", config, top)]
    for group, node in groups.items():
        if group in OPEN_GROUPS:
            parts.append("\n".join(open_group(group, node)))
        else:
            parts.append(section(group, known[type(node).__name__], f"{group}.", node, fields(node)))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def meanings() -> dict[str, dict[str, str]]:
    """For each class of the schema its own docstring, under "", and what stands beside each field."""
    source = Path(schema.__file__).read_text("utf-8")
    lines, found = source.splitlines(), {}
    for node in (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)):
        found[node.name] = {"": ast.get_docstring(node) or ""}
        for entry, after in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name):
                below = ast.literal_eval(after.value) if isinstance(after, ast.Expr) else ""
                beside = lines[(entry.end_lineno or 1) - 1].partition("  # ")[2]
                name = "part of the run's name" if entry.target.id == "name" and node.name != "Data" else ""
                found[node.name][entry.target.id] = " ".join(f"{beside} {below} {name}".split())
    return found


def section(title: str, known: dict[str, str], prefix: str, node: Any, entries: Any) -> str:
    rows = [row(prefix + entry.name, known[entry.name], getattr(node, entry.name), allowed(entry)) for entry in entries]
    return "\n".join([f"## {title}\n", f"{known['']}\n", ROW, *rows])


def allowed(entry: Any) -> str:
    rules = [rule.allowed.removeprefix("must be ") for rule in entry.metadata.get("rules", ())]
    words = "; ".join(rules) or IN_WORDS[entry.type].removesuffix(" or null")
    return words + (" or null" if NoneType in get_args(entry.type) else "")


def open_group(group: str, node: dict[str, Any]) -> Iterator[str]:
    members = ", ".join(f"`{path.stem}`" for path in sorted((CONF / group).glob("*.yaml")))
    yield f"## {group}\n\nAn open group: `_target_` is called with the other keys. Members: {members}.\n\n{ROW}"
    for key, value in node.items():
        rule = OPTIMIZER_RULES.get(key) if group == "optimizer" else None
        yield row(f"{group}.{key}", f"in conf/{group}/{node['name']}.yaml", value, rule.allowed if rule else "")


def row(key: str, meaning: str, value: Any, words: str) -> str:
    cells = (f"`{key}`", meaning, f"`{as_typed(value)}`", words.removeprefix("must be "))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    print(page(), end="")
