"""Multirun: every job is checked before the first one starts; the sweep ends with a summary and an exit status.

Hydra's own sweeper raises the exception of the first failed job and shows nothing of the others. Here every job has an
`Outcome`; that of a killed job is read from its run's folder.
"""

import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, open_dict
from rich.console import Console
from rich.table import Table

from ablation.config import compose
from ablation.config.schema import Config
from ablation.errors import UserError
from ablation.interrupts import Interrupts
from ablation.launching.job import leave
from ablation.runs.record.files import read_json
from ablation.runs.record.outcome import EXIT_STATUS, Outcome
from ablation.tracking import tracker

STYLES = {"failed": "red", "interrupted": "yellow", "busy": "yellow"}


def sweep(
    loader: ConfigLoader, master: DictConfig, launcher: Launcher, arguments: list[str], arms: Sequence[list[str]]
) -> NoReturn:
    """Run every combination of the `arguments` with each of the `arms`; leave with the worst job's exit status.

    `master`: the configuration without the sweep's own values; `arms`: lists of overrides.
    Raises UserError, before any job has started, for a mistake in any of them.
    """
    overrides = OverridesParser.create(loader).parse_overrides(arguments)
    axes = {override.get_key_element(): axis(override) for override in overrides}  # the last one for a key counts
    group = f"tracker.group={master.tracker.group or group_name(master, overrides)}"
    jobs = [[group, *arm, *job] for job in itertools.product(*axes.values()) for arm in arms]
    if not jobs:
        raise UserError("command line", " ".join(arguments), "an axis of the sweep has no values")
    different: dict[str, tuple[list[str], Config]] = {}
    for job in jobs:
        config = checked(loader, master, job)
        different.setdefault(config.identity(config.trainer.precision), (job, config))
    if len(different) < len(jobs):  # a plain net has no shortcut to vary
        print(f"{len(jobs)} combinations are {len(different)} different runs")
    jobs, configs = [job for job, _ in different.values()], [config for _, config in different.values()]
    limits = [config.trainer.time_limit for config in configs if config.trainer.time_limit is not None]
    began = time.time()
    with Interrupts(min(limits, default=None)):
        try:
            returns = launcher.launch(jobs, initial_job_idx=0)
            outcomes = [outcome_of(a_return, config, began) for a_return, config in zip(returns, configs, strict=True)]
        except UserError:
            raise
        except Exception as error:  # another launcher than ours may end with a killed worker; the other runs count
            print(f"the launcher stopped: {type(error).__name__}: {error}", file=sys.stderr)
            outcomes = [outcome_on_disk(config, began) for config in configs]
    show_summary(outcomes)
    if page := make_report(configs[0]):
        rows = [tracked_row(outcome) for outcome in outcomes]
        settings = configs[0].tracker
        tracker.follow_sweep(settings.group or "", page, rows, asdict(settings), configs[0].results_dir)
    leave(max(outcome.exit_status for outcome in outcomes))


def axis(override: Override) -> list[str]:
    """The values of one argument, each as an override of its own."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise UserError(key, override.get_value_string(), "has no values to list; allowed: a,b or choice() or range()")
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def group_name(master: DictConfig, overrides: Sequence[Override]) -> str:
    """The sweep's name for the tracker: that of its file, or one made of the keys that vary."""
    varied = [override.get_key_element() for override in overrides if override.is_sweep_override()]
    return str(master.hydra.runtime.choices.get("sweep") or "-".join(["multirun", *varied]))


def checked(loader: ConfigLoader, master: DictConfig, job: Sequence[str]) -> Config:
    """The job's composed and checked configuration. Raises UserError, and what Hydra raises, for a mistake in it."""
    composed = loader.load_sweep_config(master, list(job))
    with open_dict(composed):
        del composed["hydra"]
    return compose.from_hydra(composed)


def outcome_of(job: JobReturn, config: Config, began: float) -> Outcome:
    """What a job returned, or what its run's folder says if its process was killed."""
    value: Any = job._return_value  # the property `return_value` raises an exception, after a line of Hydra's own
    if isinstance(value, Exception):
        return Outcome(config.name(), None, "failed", f"{type(value).__name__}: {value}")
    if not isinstance(value, Outcome):
        return outcome_on_disk(config, began)
    return value if value.name else replace(value, name=config.name())


def outcome_on_disk(config: Config, began: float) -> Outcome:
    """What a job without an outcome wrote since the sweep `began` (seconds, as `time.time` has them)."""
    asked = config.trainer.precision
    for precision in ("bfloat16", "float32") if asked == "auto" else (asked,):
        folder = config.results_dir / "runs" / f"{config.name()}-{config.identity(precision)[:8]}"
        if not written_for(asked, folder, began):
            continue
        status, record = read_json(folder / "status.json") or {}, read_json(folder / "record.json") or {}
        if status.get("status") in EXIT_STATUS:
            state, metrics = status["status"], record.get("metrics", {}) if status["status"] == "done" else {}
            return Outcome(folder.name, folder, state, status.get("message", ""), metrics)
        return Outcome(folder.name, folder, "interrupted", "its process was killed")
    return Outcome(config.name(), None, "interrupted", "its process was killed before it began to train")


def written_for(precision: str, folder: Path, began: float) -> bool:
    """Whether a job that asked for this precision ("auto" too) wrote into the run's folder since then."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        recent: bool = (folder / "status.json").stat().st_mtime >= began
        return recent and config["trainer"]["precision"] == precision
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):  # no such file, or a damaged one
        return False


def show_summary(outcomes: Sequence[Outcome]) -> None:
    """Print a row a job, and below it where to look for those that did not finish."""
    table = Table("run", "state", title="Summary of the sweep", title_justify="left")
    for title in ("train error %", "test error %"):
        table.add_column(title, justify="right")
    for outcome in outcomes:
        errors = [outcome.metrics.get(key) for key in ("train_error", "test_error")]
        shown = ["" if error is None else f"{error:.2f}" for error in errors]
        table.add_row(outcome.name, outcome.state, *shown, style=STYLES.get(outcome.state))
    Console(width=None if Console().is_terminal else 160).print(table)
    counts = {state: sum(o.state == state for o in outcomes) for state in EXIT_STATUS}
    print(", ".join(f"{count} {state}" for state, count in counts.items() if count))
    for outcome in outcomes:
        if outcome.exit_status:
            where = f" ({outcome.folder})" if outcome.folder else ""
            print(f"{outcome.state}: {outcome.name}: {outcome.message}{where}")


def tracked_row(outcome: Outcome) -> dict[str, Any]:
    """What the tracker shows of a job."""
    errors = {key: outcome.metrics.get(key) for key in ("train_error", "test_error")}
    return {"run": outcome.name, "state": outcome.state} | errors | {"message": outcome.message}


def make_report(config: Config) -> Path | None:
    """Make the report over all runs, also when a job failed, and print its main table. Returns its page, if made."""
    from ablation.report import reporting  # here, and not above: it takes a second to import

    runs = [config.results_dir / "runs"]
    try:
        page = reporting.make_report(runs, config.results_dir / "report")
        reporting.show_main_table(runs)
        print(f"report: {page}")
        return page
    except Exception as error:  # the runs are done and safe: a fault in the report must not look like theirs
        print(f"the report could not be made: {type(error).__name__}: {error}", file=sys.stderr)
        return None
