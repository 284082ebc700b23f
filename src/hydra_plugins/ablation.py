"""The sweeper and the launcher that `conf/hydra/` names.

Hydra imports all of this namespace at every start, `--help` included, so torch and submitit are imported only to train.
"""

import time
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ablation.config.command_line import axis, check_sweep
from ablation.config.compose import is_study
from ablation.errors import UserError
from ablation.launching.sweep import TRIALS, completed, compose_job, labelled, labels, sweep, trial

# Parameters of launchers that must be positive whole numbers, and whether they may be null.
POSITIVE = dict.fromkeys(("at_once", "processes", "threads", "max_failures"), " or null")
POSITIVE |= {"runs_per_job": "", "poll_s": ""}


class AblationSweeper(Sweeper):
    """Named by conf/hydra/sweeper/ablation.yaml, which explains the parameters."""

    def __init__(self, params: Any, arms: Any, zip: Any) -> None:
        self.given = params, arms, zip

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.arguments, self.arms = check_sweep(*self.given)
        launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)
        self.start = partial(sweep, hydra_context.config_loader, config, launcher)

    def sweep(self, arguments: list[str]) -> None:
        self.start(self.arguments + arguments, self.arms)


class AblationLauncher(Launcher):
    """Calls `train` of the module ablation.launching.`module`; conf/hydra/launcher/*.yaml explain its parameters."""

    def __init__(self, module: str, **parameters: Any) -> None:
        self.module = module
        self.parameters = {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in parameters.items()}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        if find_spec(f"ablation.launching.{self.module}") is None:
            raise UserError("hydra.launcher.module", self.module, "must be one of gang, processes, slurm")
        for key, or_null in POSITIVE.items():
            value = self.parameters.get(key, 1)
            if (type(value) is not int or value < 1) and not (or_null and value is None):
                raise UserError(f"hydra.launcher.{key}", value, f"must be a positive whole number{or_null}")
        self.loader, self.config = hydra_context.config_loader, config
        choices = config.hydra.runtime.choices
        self.study = is_study(choices, config.data.validation)
        if self.study:
            given = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
            self.fixed = [override for one in given if not one.is_sweep_override() for override in axis(one)]
            config.tracker.group = config.tracker.group or choices.get("sweep") or choices["hydra/sweeper"]
            folder = compose_job(self.loader, config, self.fixed).results_dir / "studies" / config.tracker.group
            folder.mkdir(parents=True, exist_ok=True)
            config.hydra.sweep.dir = str(folder)  # for the optimiser's own file

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Train the jobs; each returns its outcome, or None if its process was killed; in a study see `trial`."""
        jobs, began = [list(job) for job in job_overrides], time.time()
        if self.study:
            own = labels([self.fixed, *jobs])[1:]
            group = f"tracker.group={self.config.tracker.group}"
            jobs = [labelled([group, *job], label) for job, label in zip(jobs, own, strict=True)]
        configs = [compose_job(self.loader, self.config, job) for job in jobs]
        outcomes = import_module(f"ablation.launching.{self.module}").train(configs, **self.parameters)
        if self.study:
            TRIALS.extend(zip(configs, found := completed(outcomes, configs, began), strict=True))
            return [*map(trial, found)]
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=outcome) for outcome in outcomes]
