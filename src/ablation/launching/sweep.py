"""One job, and multirun: every job is checked before the first one starts; a sweep ends with a summary of them all.

Hydra's own sweeper raises the first failed job's exception. Here each has an `Outcome`, a killed one's from its folder.
"""

import itertools
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NoReturn

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.launcher import Launcher
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Column, Table

from ablation.config import compose
from ablation.config.command_line import translate
from ablation.config.schema import Config
from ablation.errors import UserError
from ablation.interrupts import Interrupts
from ablation.runs.record import status
from ablation.runs.record.files import read_json
from ablation.runs.record.status import EXIT_STATUS, Outcome
from ablation.tracking import tracker


def job(composed: DictConfig) -> Outcome:
    """Do one Hydra job: in a sweep return its outcome; alone, leave the program with its exit status.

    It leaves from here, by SystemExit, because Hydra would drop the outcome and add lines of its own to an error.
    """
    try:
        config = compose.from_hydra(composed)
        from ablation.runs.run import run  # here, and not above: it imports torch, which --help and --cfg do without

        outcome = run(config)
        exit_status = outcome.exit_status
    except (UserError, OmegaConfBaseException) as error:
        outcome, exit_status = not_begun(translate(error)), 2
    if HydraConfig.get().mode == RunMode.RUN:
        sys.exit(exit_status)
    return outcome


def not_begun(mistake: UserError) -> Outcome:
    """Print the user's mistake; the outcome of a run that was not begun because of it."""
    print(mistake, file=sys.stderr, flush=True)
    return Outcome("", None, "failed", str(mistake))


def sweep(
    loader: ConfigLoader, master: DictConfig, launcher: Launcher, arguments: list[str], arms: Sequence[list[str]]
) -> NoReturn:
    """Run every combination of the `arguments` with each of the `arms`; leave with the worst job's exit status.

    `master`: the configuration without the sweep's own values; `arms`: lists of overrides.
    Raises UserError, before any job has started, for a mistake in any of them.
    """
    overrides = OverridesParser.create(loader).parse_overrides(arguments)
    axes = {one.get_key_element(): compose.axis(one) for one in overrides}  # the last one for a key counts
    varied = [override.get_key_element() for override in overrides if override.is_sweep_override()]
    group = master.tracker.group or master.hydra.runtime.choices.get("sweep") or "-".join(["multirun", *varied])
    if math.prod(map(len, axes.values())) * len(arms) > compose.MOST_JOBS:
        raise UserError("command line", " ".join(arguments), f"a sweep has at most {compose.MOST_JOBS:,} jobs")
    combinations = [[f"tracker.group={group}", *arm, *job] for job in itertools.product(*axes.values()) for arm in arms]
    if not combinations:
        raise UserError("command line", " ".join(arguments), "an axis of the sweep has no values")
    jobs: dict[str, tuple[list[str], Config]] = {}
    for combination in combinations:
        config = compose_job(loader, master, combination)
        jobs.setdefault(config.identity(config.trainer.precision), (combination, config))
    if len(jobs) < len(combinations):  # a plain net has no shortcut to vary
        print(f"{len(combinations)} combinations are {len(jobs)} different runs")
    outcomes = launch(launcher, [job for job, _ in jobs.values()], [config for _, config in jobs.values()])
    show_summary(outcomes)
    if page := make_report(config.results_dir):
        rows = [{"run": o.name, "state": o.state, **errors(o), "message": o.message} for o in outcomes]
        tracker.follow_sweep(group, page, rows, asdict(config.tracker), config.results_dir)
    sys.exit(max(outcome.exit_status for outcome in outcomes))


def compose_job(loader: ConfigLoader, master: DictConfig, overrides: Sequence[str]) -> Config:
    composed = loader.load_sweep_config(master, list(overrides))
    with open_dict(composed):
        del composed["hydra"]
    return compose.from_hydra(composed)


def launch(launcher: Launcher, jobs: list[list[str]], configs: list[Config]) -> list[Outcome]:
    """Run the jobs; their outcomes, read from the runs' folders where a process was killed."""
    limits = [config.trainer.time_limit for config in configs if config.trainer.time_limit is not None]
    began = time.time()
    with Interrupts(min(limits, default=None)):
        try:
            returned = [returned.return_value for returned in launcher.launch(jobs, initial_job_idx=0)]
        except UserError:
            raise
        except Exception as error:  # a launcher of Hydra's raises what a job raised: the other runs count all the same
            print(f"the launcher stopped: {type(error).__name__}: {error}", file=sys.stderr)
            returned = [None] * len(jobs)
    outcomes = [outcome or outcome_on_disk(config, began) for outcome, config in zip(returned, configs, strict=True)]
    return [replace(o, name=o.name or config.name()) for o, config in zip(outcomes, configs, strict=True)]


def outcome_on_disk(config: Config, began: float) -> Outcome:
    """What a job without an outcome wrote since the sweep `began` (seconds, as `time.time` has them)."""
    asked = config.trainer.precision
    for precision in ("bfloat16", "float32") if asked == "auto" else (asked,):
        folder = config.run_folder(precision)
        try:
            fresh = (folder / "status.json").stat().st_mtime >= began
            own = yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["precision"] == asked
        except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):  # no such file, or a damaged one
            continue
        if fresh and own:
            ended = status.read(folder) or {}
            if ended.get("status") not in EXIT_STATUS:
                return Outcome(folder.name, folder, "interrupted", "its process was killed")
            record = (read_json(folder / "record.json") or {}) if ended["status"] == "done" else {}
            return Outcome(folder.name, folder, ended["status"], ended.get("message", ""), record.get("metrics", {}))
    return Outcome("", None, "failed", "its process ended before it began to train")


def errors(outcome: Outcome) -> dict[str, float | None]:
    return {key: outcome.metrics.get(key) for key in ("train_error", "test_error")}


def show_summary(outcomes: Sequence[Outcome]) -> None:
    """Print a row a job, and below it where to look for those that did not finish."""
    right = [Column(title, justify="right") for title in ("train error %", "test error %")]
    table = Table("run", "state", *right, title="Summary of the sweep", title_justify="left")
    styles = {"failed": "red", "interrupted": "yellow", "busy": "yellow"}
    for outcome in outcomes:
        shown = ["" if error is None else f"{error:.2f}" for error in errors(outcome).values()]
        table.add_row(outcome.name, outcome.state, *shown, style=styles.get(outcome.state))
    Console(width=None if Console().is_terminal else 160).print(table)
    counts = {state: sum(o.state == state for o in outcomes) for state in EXIT_STATUS}
    print(", ".join(f"{count} {state}" for state, count in counts.items() if count))
    for outcome in outcomes:
        if outcome.exit_status:
            where = f" ({outcome.folder})" if outcome.folder else ""
            print(f"{outcome.state}: {outcome.name}: {outcome.message}{where}")


def make_report(results: Path) -> Path | None:
    """Make the report over all runs, also when a job failed, and print its main table. Returns its page, if made."""
    from ablation.report import reporting  # here, and not above: it takes a second to import

    try:
        page = reporting.make_report([results / "runs"], results / "report")
        reporting.show_main_table([results / "runs"])
    except Exception as error:  # the runs are done and safe: a fault in the report must not look like theirs
        print(f"the report could not be made: {type(error).__name__}: {error}", file=sys.stderr)
        return None
    print(f"report: {page}")
    return page
