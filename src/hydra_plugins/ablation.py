"""The sweeper and the launchers that `conf/hydra/` names.

Hydra takes plugins from this namespace alone and imports all of it at every start, `--help` included. So torch and
submitit are imported only when there is something to train.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ablation.config.schema import Config
from ablation.errors import UserError
from ablation.launching.sweep import checked, sweep
from ablation.runs.record.outcome import Outcome


class AblationSweeper(Sweeper):
    """Named by conf/hydra/sweeper/ablation.yaml, which explains the parameters."""

    def __init__(self, params: dict[str, str] | None, arms: list[list[str]] | None) -> None:
        self.params, self.arms = params or {}, arms or [[]]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Build the launcher. Raises UserError for `params` that are no mapping."""
        if not isinstance(self.params, Mapping):
            raise UserError("hydra.sweeper.params", self.params, "must be a mapping such as {model.depth: '20,32'}")
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        """Run every combination of the parameters and arguments with every arm; ends the program."""
        assert self.hydra_context is not None
        assert self.config is not None
        assert self.launcher is not None
        axes = [f"{key}={value}" for key, value in self.params.items()] + arguments
        sweep(self.hydra_context.config_loader, self.config, self.launcher, axes, self.arms)


class TrainingLauncher(Launcher):
    """A launcher of runs: it composes every job before the first one starts."""

    positive: Mapping[str, Any] = {}
    """Parameters that must be positive whole numbers or null."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Raises UserError for a parameter that is out of range."""
        for key, value in self.positive.items():
            if value is not None and (type(value) is not int or value < 1):
                raise UserError(f"hydra.launcher.{key}", value, "must be a positive whole number or null")
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Train the jobs; the return value of each is its outcome."""
        loader = self.hydra_context.config_loader
        outcomes = self.train([checked(loader, self.config, overrides) for overrides in job_overrides])
        return [
            JobReturn(overrides=list(overrides), status=JobStatus.COMPLETED, _return_value=outcome)
            for overrides, outcome in zip(job_overrides, outcomes, strict=True)
        ]

    @abstractmethod
    def train(self, configs: list[Config]) -> Sequence[Outcome | None]:
        """The outcome of each run, in order; None for one whose process was killed."""


class GangLauncher(TrainingLauncher):
    """Named by conf/hydra/launcher/gang.yaml."""

    def __init__(self, at_once: int | None) -> None:
        self.positive = {"at_once": at_once}

    def train(self, configs: list[Config]) -> Sequence[Outcome]:
        from ablation.launching.gang import Gang

        return Gang(configs, **self.positive).train()


class ProcessLauncher(TrainingLauncher):
    """Named by conf/hydra/launcher/processes.yaml."""

    def __init__(self, processes: int | None, threads: int | None) -> None:
        self.positive = {"processes": processes, "threads": threads}

    def train(self, configs: list[Config]) -> Sequence[Outcome | None]:
        from ablation.launching import processes

        return processes.train(configs, **self.positive)


class SlurmLauncher(TrainingLauncher):
    """Named by conf/hydra/launcher/slurm.yaml."""

    def __init__(self, runs_per_job: int, poll_s: int, **options: Any) -> None:
        """`options`: submitit's and sbatch's."""
        self.positive = {"runs_per_job": runs_per_job, "poll_s": poll_s}
        self.options = {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in options.items()}

    def train(self, configs: list[Config]) -> Sequence[Outcome | None]:
        try:
            from ablation.launching import slurm
        except ImportError:
            raise UserError("hydra/launcher", "slurm", "needs submitit: pip install -e '.[slurm]'") from None
        return slurm.train(configs, **self.positive, options=self.options)
