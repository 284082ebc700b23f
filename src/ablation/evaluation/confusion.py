"""A confusion matrix in tables: the error of each class, the most confused pairs, the matrix itself.

`confusion` always has the class names as its index, the true class, and as its columns, the predicted class.
"""

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

MOST_CLASSES = 20  # of more, those with the highest error are shown
PAIRS = 10  # the most confused ones are shown


def by_class(confusion: pd.DataFrame) -> pd.DataFrame:
    """A row for each class: images, wrong ones, error in percent (NaN without images), what it is mostly taken for."""
    images, others = confusion.sum(axis=1), off_diagonal(confusion)
    wrong = others.sum(axis=1)
    taken = others.idxmax(axis=1).astype(str) + " (" + others.max(axis=1).astype(str) + ")"
    numbers = {"images": images, "wrong": wrong, "error": 100 * wrong / images}
    return pd.DataFrame(numbers | {"taken for": taken.where(wrong > 0, "")})


def confused_pairs(confusion: pd.DataFrame) -> pd.DataFrame:
    """True class -> (taken for, images) off the diagonal, the most frequent first, zeros left out."""
    mistakes = off_diagonal(confusion).rename_axis("true class").reset_index()
    pairs = mistakes.melt("true class", var_name="taken for", value_name="images").set_index("true class")
    return pairs[pairs["images"] > 0].sort_values("images", ascending=False, kind="stable")


def off_diagonal(confusion: pd.DataFrame) -> pd.DataFrame:
    return confusion.mask(np.eye(len(confusion), dtype=bool), 0)


def show_confusion(confusion: pd.DataFrame, matrix: bool) -> None:
    """Print the matrix if asked for, the errors by class, the most confused pairs."""
    classes, title = by_class(confusion), "Error by class, percent"
    if len(classes) > MOST_CLASSES:
        title = f"{title}: the {MOST_CLASSES} highest of {len(classes)}"
        classes = classes.sort_values("error", ascending=False, kind="stable").head(MOST_CLASSES)
    if matrix:
        show("Confusion (row: true class)", confusion, "")
    show(title, classes, "class")
    show("Most confused", confused_pairs(confusion).head(PAIRS), "true class")


def show(title: str, frame: pd.DataFrame, index: str) -> None:
    """Print `frame`, with its index named so: numbers on the right, fractions with two decimals, names as they are."""
    shown, frame = Table(title=title, title_justify="left"), frame.reset_index(names=index)
    for name, column in frame.items():
        shown.add_column(escape(str(name)), justify="right" if pd.api.types.is_numeric_dtype(column) else "left")
    for row in frame.itertuples(index=False):
        shown.add_row(*("" if pd.isna(v) else escape(f"{v:,.2f}" if isinstance(v, float) else str(v)) for v in row))
    Console(width=None if Console().is_terminal else 160).print(shown)
