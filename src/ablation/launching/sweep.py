"""Multirun: every job is checked before the first one starts, and the sweep ends with a summary and an exit status.

Hydra's basic sweeper raises the first failed job's exception and shows nothing of the others; here a job returns an
`Outcome`, the table shows all of them, and what a killed job left is read from its folder.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from omegaconf import open_dict

from ablation.config import compose
from ablation.config.schema import Config
from ablation.errors import UserError
from ablation.interrupts import Interrupts
from ablation.launching.summary import summary_table
from ablation.runs.record.files import read_json
from ablation.runs.record.outcome import EXIT_STATUS, Outcome, State
from ablation.tracking import tracker


class CheckedSweeper(BasicSweeper):
    """Hydra's basic sweeper with checks before, a summary after, and `arms`: one change each, not a product of axes."""

    def __init__(
        self, max_batch_size: int | None, params: dict[str, str] | None = None, arms: list[list[str]] | None = None
    ) -> None:
        """`arms`: lists of overrides, each run with every combination of `params`."""
        super().__init__(max_batch_size, params)
        self.arms = arms or [[]]

    def sweep(self, arguments: list[str]) -> None:
        """Run every combination of the arguments; leave with the worst job's exit status."""
        assert self.config is not None
        assert self.hydra_context is not None
        assert self.launcher is not None
        if not isinstance(self.params, Mapping):
            raise UserError("hydra.sweeper.params", self.params, "must be a mapping such as {model.depth: '20,32'}")
        lines = [f"{key}={value}" for key, value in self.params.items()] + arguments
        overrides = OverridesParser.create(self.hydra_context.config_loader).parse_overrides(lines)
        jobs = [[*arm, *job] for job in self.split_arguments(overrides, None)[0] for arm in self.arms]
        if not jobs:
            raise UserError("command line", " ".join(lines), "an axis of the sweep has no values")
        different: dict[str, tuple[list[str], Config]] = {}
        for job in jobs:
            config = self.checked(job)
            different.setdefault(config.identity(config.trainer.precision), (job, config))
        if len(different) < len(jobs):  # a plain net has no shortcut to vary
            print(f"{len(jobs)} combinations are {len(different)} different runs")
        jobs, configs = [job for job, _ in different.values()], [config for _, config in different.values()]
        group = configs[0].tracker.group or self.group(overrides)
        jobs = [[*job, f"tracker.group={group}"] for job in jobs]
        limits = [config.trainer.time_limit for config in configs if config.trainer.time_limit is not None]
        with Interrupts(min(limits, default=None)) as interrupts:
            try:
                returns: Sequence[JobReturn] = self.launcher.launch(jobs, initial_job_idx=0)
                outcomes = [outcome_of(a_return, config) for a_return, config in zip(returns, configs, strict=True)]
            except UserError:
                raise
            except Exception as error:  # a launcher gives up when a worker was killed; the others' work is kept
                print(f"the launcher stopped: {type(error).__name__}: {error}", file=sys.stderr)
                outcomes = [outcome_on_disk(config) for config in configs]
            if reason := interrupts.reason:
                outcomes = [not_begun(outcome, reason) for outcome in outcomes]
        summary_table(outcomes)
        if page := make_report(configs[0]):
            rows = [tracked_row(outcome) for outcome in outcomes]
            tracker.follow_sweep(group, page, rows, asdict(configs[0].tracker), configs[0].results_dir)
        sys.exit(max(outcome.exit_status for outcome in outcomes))

    def group(self, overrides: Sequence[Override]) -> str:
        """The sweep's name for the tracker: that of its file, else made from what it varies."""
        assert self.config is not None
        varied = [override.get_key_element() for override in overrides if override.is_sweep_override()]
        return str(self.config.hydra.runtime.choices.get("sweep") or "-".join(["multirun", *varied]))

    def checked(self, job: Sequence[str]) -> Config:
        """The job's composed and checked configuration. Raises what is wrong with it, before any job has started."""
        assert self.config is not None
        assert self.hydra_context is not None
        composed = self.hydra_context.config_loader.load_sweep_config(self.config, list(job))
        with open_dict(composed):
            del composed["hydra"]
        return compose.from_hydra(composed)


def outcome_of(job: JobReturn, config: Config) -> Outcome:
    """What a job returned, or what its folder says if it could not return."""
    value: Any = job._return_value  # `return_value` prints a line of Hydra's own where it is an exception
    if isinstance(value, Exception):
        return Outcome(config.name(), None, "failed", f"{type(value).__name__}: {value}")
    if not isinstance(value, Outcome):
        return outcome_on_disk(config)
    return value if value.name else replace(value, name=config.name())


def outcome_on_disk(config: Config) -> Outcome:
    """What the run's folder says about a job of which nothing was heard."""
    for precision in ("bfloat16", "float32"):
        folder = config.results_dir / "runs" / f"{config.name()}-{config.identity(precision)[:8]}"
        status = read_json(folder / "status.json")
        if not isinstance(status, dict):
            continue
        state: State = status["status"] if status.get("status") in EXIT_STATUS else "interrupted"
        record = read_json(folder / "record.json")
        metrics = record["metrics"] if state == "done" and isinstance(record, dict) else {}
        return Outcome(folder.name, folder, state, status.get("message") or "its process was killed", metrics)
    return Outcome(config.name(), None, "failed", "never started, or killed before its folder was made")


def not_begun(outcome: Outcome, reason: str) -> Outcome:
    """The outcome of a job that the sweep left out when it was asked to leave, for that `reason`."""
    if outcome.state == "failed" and outcome.folder is None and not outcome.message.startswith("never"):
        return outcome
    return outcome if outcome.folder else replace(outcome, state="interrupted", message=f"{reason}; not begun")


def tracked_row(outcome: Outcome) -> dict[str, Any]:
    """What the tracker shows of a job."""
    errors = {key: outcome.metrics.get(key) for key in ("train_error", "test_error")}
    return {"run": outcome.name, "state": outcome.state} | errors | {"message": outcome.message}


def make_report(config: Config) -> Path | None:
    """The report over all runs, also when a job failed, and its main table. Returns its page, if it could be made."""
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
