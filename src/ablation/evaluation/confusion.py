"""A confusion matrix for people: error by class, the pairs most often taken for each other, the matrix itself."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table
from torch import Tensor

MOST_CLASSES = 20
"""More classes than these are not all shown: those with the highest error are."""

PAIRS = 10
"""How many of the most confused pairs are shown."""


def class_errors(confusion: Tensor) -> list[float | None]:
    """Percent of each class's pictures that were taken for another; None for a class without pictures.

    `confusion`: (classes, classes), row true, column predicted.
    """
    counts, right = confusion.sum(1).tolist(), confusion.diagonal().tolist()
    return [100 * (n - ok) / n if n else None for n, ok in zip(counts, right, strict=True)]


def confused_pairs(confusion: Tensor) -> list[tuple[int, int, int]]:
    """(true, predicted, count) off the diagonal, the most frequent first, zeros left out."""
    pairs = [
        (true, predicted, int(count))
        for true, row in enumerate(confusion.tolist())
        for predicted, count in enumerate(row)
        if true != predicted and count
    ]
    return sorted(pairs, key=lambda pair: -pair[2])


def class_table(confusion: Tensor, classes: Sequence[str]) -> Table:
    """A row a class: its error, and what it is taken for most often."""
    errors = class_errors(confusion)
    shown = list(range(len(classes)))
    title = "Error by class"
    if len(shown) > MOST_CLASSES:
        title = f"The {MOST_CLASSES} classes with the highest error, of {len(classes)}"
        shown = sorted(shown, key=lambda i: -(errors[i] or 0.0))[:MOST_CLASSES]
    nearest = {true: (predicted, count) for true, predicted, count in reversed(confused_pairs(confusion))}
    table = Table(title=title, title_justify="left")
    table.add_column("class")
    for heading in ("pictures", "wrong", "error %"):
        table.add_column(heading, justify="right")
    table.add_column("most often taken for")
    for i in shown:
        count, error = int(confusion[i].sum()), errors[i]
        taken = f"{escape(classes[nearest[i][0]])} ({nearest[i][1]})" if i in nearest else ""
        percent = "" if error is None else f"{error:.2f}"
        table.add_row(escape(classes[i]), f"{count:,}", str(count - int(confusion[i, i])), percent, taken)
    return table


def pair_table(confusion: Tensor, classes: Sequence[str]) -> Table:
    """The most confused pairs, each direction on its own."""
    table = Table(title="Most confused", title_justify="left")
    for heading in ("true class", "taken for"):
        table.add_column(heading)
    table.add_column("pictures", justify="right")
    for true, predicted, count in confused_pairs(confusion)[:PAIRS]:
        table.add_row(escape(classes[true]), escape(classes[predicted]), str(count))
    return table


def matrix_table(confusion: Tensor, classes: Sequence[str]) -> Table:
    """The whole matrix; the diagonal stands out."""
    table = Table(title="Confusion (row: true class)", title_justify="left")
    table.add_column("")
    for name in classes:
        table.add_column(escape(name), justify="right")
    for i, row in enumerate(confusion.tolist()):
        cells = [f"[bold]{n}[/]" if i == j else str(n) if n else "." for j, n in enumerate(row)]
        table.add_row(escape(classes[i]), *cells)
    return table
