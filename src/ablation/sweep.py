"""Multirun: every job is checked before the first one starts, and the sweep ends with a summary and an exit status.

Hydra's basic sweeper raises the first failed job's exception and shows nothing of the others; here a job returns an
`Outcome`, the table shows all of them, and what a killed job left is read from its folder.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from omegaconf import open_dict

from ablation import config as configuration
from ablation.config import Config
from ablation.outcome import Outcome, State, summary_table


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
        lines = [f"{key}={value}" for key, value in self.params.items()] + arguments
        overrides = OverridesParser.create(self.hydra_context.config_loader).parse_overrides(lines)
        jobs = [[*arm, *job] for job in self.split_arguments(overrides, None)[0] for arm in self.arms]
        configs = [self.checked(job) for job in jobs]
        try:
            returns: Sequence[JobReturn] = self.launcher.launch(jobs, initial_job_idx=0)
            outcomes = [outcome_of(a_return, config) for a_return, config in zip(returns, configs, strict=True)]
        except Exception as error:  # a launcher gives up when one of its workers was killed; the others' work is kept
            print(f"the launcher stopped: {type(error).__name__}: {error}", file=sys.stderr)
            outcomes = [outcome_on_disk(config) for config in configs]
        summary_table(outcomes)
        make_report(configs[0])
        sys.exit(max(outcome.exit_status for outcome in outcomes))

    def checked(self, job: Sequence[str]) -> Config:
        """The job's composed and checked configuration. Raises what is wrong with it, before any job has started."""
        assert self.config is not None
        assert self.hydra_context is not None
        composed = self.hydra_context.config_loader.load_sweep_config(self.config, list(job))
        with open_dict(composed):
            del composed["hydra"]
        return configuration.from_hydra(composed)


def outcome_of(job: JobReturn, config: Config) -> Outcome:
    """What a job returned, or what its folder says if it could not return."""
    try:
        value: Any = job.return_value
    except Exception as error:
        return Outcome(config.name(), None, "failed", f"{type(error).__name__}: {error}")
    return value if isinstance(value, Outcome) else outcome_on_disk(config)


def outcome_on_disk(config: Config) -> Outcome:
    """What the run's folder says about a job of which nothing was heard."""
    for precision in ("bfloat16", "float32"):
        folder = config.results_dir / "runs" / f"{config.name()}-{config.identity(precision)[:8]}"
        try:
            status = json.loads((folder / "status.json").read_text())
        except (OSError, ValueError):
            continue
        state: State = "interrupted" if status["status"] == "running" else status["status"]
        return Outcome(folder.name, folder, state, status.get("message", ""))
    return Outcome(config.name(), None, "failed", "never started, or killed before its folder was made")


def make_report(config: Config) -> None:
    """The report over everything under results/, also when a job failed."""
    try:
        from ablation.report import make_report as report
    except ImportError:
        return
    try:
        page: Path = report([config.results_dir / "runs"], config.results_dir / "report")
        print(f"report: {page}")
    except Exception as error:  # the runs are done and safe: a fault in the report must not look like theirs
        print(f"the report could not be made: {type(error).__name__}: {error}", file=sys.stderr)
