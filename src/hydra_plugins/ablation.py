"""The sweeper and the launcher that `conf/hydra/` names.

Hydra takes plugins from this namespace alone and imports all of it at every start, `--help` included. So torch and
submitit are imported only when there is something to train.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ablation.errors import UserError
from ablation.launching.sweep import compose_job, sweep

POSITIVE = ("at_once", "processes", "threads", "runs_per_job", "poll_s")


class AblationSweeper(Sweeper):
    """Named by conf/hydra/sweeper/ablation.yaml, which explains the parameters."""

    def __init__(self, params: dict[str, str] | None, arms: list[list[str]] | None) -> None:
        self.params, self.arms = params or {}, arms or [[]]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Build the launcher. Raises UserError for `params` that are no mapping."""
        if not isinstance(self.params, Mapping):
            raise UserError("hydra.sweeper.params", self.params, "must be a mapping such as {model.depth: '20,32'}")
        self.loader, self.config = hydra_context.config_loader, config
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        """Run every combination of the parameters and arguments with every arm; ends the program."""
        assert self.config is not None
        assert self.launcher is not None
        axes = [f"{key}={value}" for key, value in self.params.items()] + arguments
        sweep(self.loader, self.config, self.launcher, axes, self.arms)


class AblationLauncher(Launcher):
    """Calls `train` of the module ablation.launching.`module`; conf/hydra/launcher/*.yaml explain its parameters."""

    def __init__(self, module: str, **parameters: Any) -> None:
        self.module = module
        self.parameters = {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in parameters.items()}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Raises UserError for a number that is not positive."""
        for key in set(POSITIVE) & set(self.parameters):
            value = self.parameters[key]
            if value is not None and (type(value) is not int or value < 1):
                raise UserError(f"hydra.launcher.{key}", value, "must be a positive whole number or null")
        self.loader, self.config = hydra_context.config_loader, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Compose all jobs, then train them; each returns its outcome, or None if its process was killed."""
        configs = [compose_job(self.loader, self.config, overrides) for overrides in job_overrides]
        outcomes = import_module(f"ablation.launching.{self.module}").train(configs, **self.parameters)
        return [JobReturn(status=JobStatus.COMPLETED, _return_value=outcome) for outcome in outcomes]
