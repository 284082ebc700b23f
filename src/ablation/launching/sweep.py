"""One job, and multirun: every job is checked before the first one starts; a sweep ends with a summary of them all.

Hydra's own sweeper raises the first failed job's exception. Here each has an `Outcome`, a killed one's from its folder.
"""

import itertools
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import NoReturn

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException
from rich.markup import escape
from rich.table import Column, Table

from ablation.config import compose
from ablation.config.command_line import MOST_JOBS, axis, translate
from ablation.config.schema import Config
from ablation.errors import UserError
from ablation.interrupts import Interrupts
from ablation.program import console
from ablation.runs.record import status
from ablation.runs.record.files import read_json
from ablation.runs.record.status import EXIT_STATUS, Outcome
from ablation.tracking import tracker

TRIALS: list[tuple[Config, Outcome]] = []  # what this program has done of a study, for the summary at its end


class TrialFailed(Exception):
    """A trial of a study has no validation error."""


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


def left_out(outcomes: Iterable[Outcome | None], max_failures: int | None) -> Outcome | None:
    """The outcome of the jobs not begun, if this many of the `outcomes` so far are of failed or killed ones."""
    failures = sum(outcome is None or outcome.state == "failed" for outcome in outcomes)
    if max_failures is None or failures < max_failures:
        return None
    return Outcome("", None, "not started", f"hydra.launcher.max_failures={max_failures} is reached")


def sweep(
    loader: ConfigLoader, master: DictConfig, launcher: Launcher, arguments: list[str], arms: Sequence[list[str]]
) -> NoReturn:
    """Run every combination of the `arguments` with each of the `arms`; leave with the worst job's exit status.

    `master`: the configuration without the sweep's own values; `arms`: lists of overrides.
    Raises UserError, before any job has started, for a mistake in any of them.
    """
    overrides = OverridesParser.create(loader).parse_overrides(arguments)
    axes = {one.get_key_element(): axis(one) for one in overrides}  # the last one for a key counts
    varied = [override.get_key_element() for override in overrides if override.is_sweep_override()]
    group = master.tracker.group or master.hydra.runtime.choices.get("sweep") or "-".join(["multirun", *varied])
    if math.prod(map(len, axes.values())) * len(arms) > MOST_JOBS:
        raise UserError("command line", " ".join(arguments), f"a sweep has at most {MOST_JOBS:,} jobs")
    combinations = [[f"tracker.group={group}", *arm, *job] for job in itertools.product(*axes.values()) for arm in arms]
    if not combinations:
        raise UserError("command line", " ".join(arguments), "an axis of the sweep has no values")
    jobs: dict[str, tuple[list[str], Config]] = {}
    for combination in map(labelled, combinations, labels(combinations)):
        config = compose_job(loader, master, combination)
        jobs.setdefault(config.identity(config.trainer.precision), (combination, config))
    if len(jobs) < len(combinations):  # a plain net has no shortcut to vary
        print(f"{len(combinations)} combinations are {len(jobs)} different runs")
    configs = [config for _, config in jobs.values()]
    outcomes = launch(launcher, [job for job, _ in jobs.values()], configs)
    finish(configs, outcomes)
    sys.exit(max(outcome.exit_status for outcome in outcomes))


def finish(configs: Sequence[Config], outcomes: Sequence[Outcome]) -> None:
    """Show what became of the jobs, make the report, and track the sweep."""
    show_summary(outcomes, [config.trainer.label or config.name() for config in configs])
    results, settings = configs[0].results_dir, configs[0].tracker
    if page := make_report(results, [outcome.folder for outcome in outcomes if outcome.folder]):
        rows = [{"run": o.name, "state": o.state, **errors(o), "message": o.message} for o in outcomes]
        tracker.follow_sweep(str(settings.group), page, rows, asdict(settings), results)


def trial(outcome: Outcome) -> JobReturn:
    """What an optimiser, such as `hydra/sweeper=optuna`, reads of a trial of its study: the validation error.

    One that has none raises TrialFailed when it is read, which ends the study unless the optimiser is told to go on
    without (Optuna: max_failure_rate=1); an interrupted one ends it at once.
    """
    if outcome.state == "interrupted":
        raise TrialFailed
    try:
        return JobReturn(status=JobStatus.COMPLETED, _return_value=float(outcome))
    except TypeError:
        return JobReturn(outcome.name, status=JobStatus.FAILED, _return_value=TrialFailed(outcome.message))


@contextmanager
def summarized() -> Iterator[None]:
    """Around the program: a study ends as a sweep does, but a diverged trial is no reason for an exit status."""
    with suppress(TrialFailed):  # the summary says which
        try:
            yield
        finally:
            if TRIALS:
                finish([config for config, _ in TRIALS], [outcome for _, outcome in TRIALS])
    if worst := max((outcome.exit_status for _, outcome in TRIALS if not outcome.diverged), default=0):
        sys.exit(worst)


def labels(combinations: Sequence[Sequence[str]]) -> list[str]:
    """What each combination has that not all have, such as "depth=20 seed=1"."""
    common = set(combinations[0]).intersection(*combinations[1:])
    own = [[override.lstrip("+~") for override in one if override not in common] for one in combinations]
    keys = {override.partition("=")[0] for one in own for override in one}
    last = Counter(key.rpartition(".")[2] for key in keys)
    short = {key: name if last[name := key.rpartition(".")[2]] == 1 else key for key in keys}
    return [" ".join(short[text.partition("=")[0]] + text[text.find("=") :] for text in one) for one in own]


def labelled(combination: list[str], label: str) -> list[str]:
    label = re.sub(r"\d+\.\d{5,}(e-?\d+)?", lambda number: f"{float(number[0]):.4g}", label)  # an optimiser's numbers
    quoted = label.replace("\\", "\\\\").replace("'", "\\'")
    return [*combination, f"trainer.label='{quoted}'"] if label else combination


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
    return completed(returned, configs, began)


def completed(returned: Sequence[Outcome | None], configs: Sequence[Config], began: float) -> list[Outcome]:
    """The outcomes with their names; those of killed processes from their runs' folders."""
    outcomes = [outcome or outcome_on_disk(config, began) for outcome, config in zip(returned, configs, strict=True)]
    return [replace(o, name=o.name or config.name()) for o, config in zip(outcomes, configs, strict=True)]


def outcome_on_disk(config: Config, began: float) -> Outcome:
    """What a job without an outcome wrote since the sweep `began` (seconds, as `time.time` has them)."""
    asked = config.trainer.precision
    for precision in ("bfloat16", "float32") if asked == "auto" else (asked,):
        folder = config.run_folder(precision)
        with suppress(OSError, TypeError, KeyError):  # no such file, or a damaged one
            made = read_json(folder / "config.yaml", yaml.safe_load)["trainer"]["precision"]
            if (folder / "status.json").stat().st_mtime < began or made != asked:
                continue
            ended = status.read(folder) or {}
            if ended.get("status") not in EXIT_STATUS:
                return Outcome(folder.name, folder, "interrupted", "its process was killed")
            record = (read_json(folder / "record.json") or {}) if ended["status"] == "done" else {}
            return Outcome(folder.name, folder, ended["status"], ended.get("message", ""), record.get("metrics", {}))
    return Outcome("", None, "failed", "its process ended before it began to train")


def errors(outcome: Outcome) -> dict[str, float | None]:
    return {key: outcome.metrics.get(key) for key in ("train_error", "val_error", "test_error")}


def show_summary(outcomes: Sequence[Outcome], names: Sequence[str]) -> None:
    """Print a row a job under its short name, and below the table where to look for those that did not finish."""
    found = [errors(outcome) for outcome in outcomes]
    keys = [key for key in found[0] if key != "val_error" or any(one[key] is not None for one in found)]
    right = [Column(f"{key.replace('_', ' ')} %", justify="right") for key in keys]
    table = Table(Column("run", overflow="fold"), "state", *right, title="Summary of the sweep", title_justify="left")
    styles = {"failed": "red", "interrupted": "yellow", "busy": "yellow"}
    for outcome, name, own in zip(outcomes, names, found, strict=True):
        shown = ["" if (error := own[key]) is None else f"{error:.2f}" for key in keys]
        table.add_row(escape(name), outcome.state, *shown, style=styles.get(outcome.state))
    console().print(table)
    counts = {state: sum(o.state == state for o in outcomes) for state in EXIT_STATUS}
    print(", ".join(f"{count} {state}" for state, count in counts.items() if count))
    for outcome in outcomes:
        if outcome.exit_status:
            where = f" ({outcome.folder})" if outcome.folder else ""
            print(f"{outcome.state}: {outcome.name}: {outcome.message}{where}")


def make_report(results: Path, folders: Sequence[Path]) -> Path | None:
    """Make the report over all runs, also when a job failed; print the tables of those in `folders`.

    Returns the report's page, if it could be made.
    """
    from ablation.report import reporting  # here, and not above: it takes a second to import

    try:
        page = reporting.make_report([results / "runs"], results / "report")
        reporting.show_tables(folders)
    except Exception as error:  # the runs are done and safe: a fault in the report must not look like theirs
        print(f"the report could not be made: {type(error).__name__}: {error}", file=sys.stderr)
        return None
    print(f"report: {page}")
    return page
