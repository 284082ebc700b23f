"""docs/keys.md: the page that is committed is the one that the schema makes, and it leaves no key without a word."""

import re

from ablation.config.compose import compose
from ablation.config.keys import page
from ablation.config.schema import ROOT
from ablation.runs.record.record import leaves

MADE = "make it anew: PYTHONPATH=src python -m ablation.config.keys > docs/keys.md"


def test_the_page_is_the_schemas() -> None:
    assert (ROOT / "docs" / "keys.md").read_text() == page(), MADE


def test_every_key_is_there_with_its_default_and_a_meaning() -> None:
    rows = dict(re.findall(r"^\| `(\S+)` \| (.+?) \|.*$", page(), re.MULTILINE))
    composed = dict(leaves(compose([]).to_dict()))
    assert set(rows) == set(composed)
    assert all(meaning.strip() for meaning in rows.values())
    assert "| `optimizer.lr` | in conf/optimizer/sgd.yaml | `0.1` | a positive number |" in page()
    assert re.search(r"`model.depth` .* `20` \| 6n \+ 2", page())
