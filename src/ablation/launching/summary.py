"""The end of a sweep: a row a job, and where to look for those that did not finish."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ablation.runs.record.outcome import EXIT_STATUS, Outcome


def summary_table(outcomes: Sequence[Outcome]) -> None:
    """Print a row a job, and below it where to look for those that did not finish."""
    table = Table(title="Summary of the sweep", title_justify="left")
    table.add_column("run")
    table.add_column("state")
    for title in ("train error %", "test error %"):
        table.add_column(title, justify="right")
    console = Console(width=None if Console().is_terminal else 160)
    for outcome in outcomes:
        errors = [outcome.metrics.get(key) for key in ("train_error", "test_error")]
        shown = ["" if error is None else f"{error:.2f}" for error in errors]
        style = {"failed": "red", "interrupted": "yellow", "busy": "yellow"}.get(outcome.state, "")
        table.add_row(outcome.name, f"[{style}]{outcome.state}[/]" if style else outcome.state, *shown)
    console.print(table)
    counts = {state: sum(o.state == state for o in outcomes) for state in EXIT_STATUS}
    print(", ".join(f"{count} {state}" for state, count in counts.items() if count))
    for outcome in outcomes:
        if outcome.exit_status:
            where = f" ({outcome.folder})" if outcome.folder else ""
            print(f"{outcome.state}: {outcome.name}: {outcome.message}{where}")
