"""`hydra/launcher=gang`: the jobs of a multirun in this process, several at once where a GPU has room for them.

Hydra looks for plugins here at every start, `--help` included, so torch is imported when there is something to train.
"""

from collections.abc import Sequence

from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from ablation.config import compose
from ablation.config.schema import Config
from ablation.errors import UserError


class GangLauncher(Launcher):
    """Named by conf/hydra/launcher/gang.yaml."""

    def __init__(self, at_once: int | None) -> None:
        self.at_once = at_once

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Raises UserError for a number of runs that is not positive."""
        if self.at_once is not None and (not isinstance(self.at_once, int) or self.at_once < 1):
            raise UserError("hydra.launcher.at_once", self.at_once, "must be a positive whole number or null")
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Train the jobs; each job's return value is its outcome."""
        setup_globals()
        jobs = [self.composed(initial_job_idx + i, overrides) for i, overrides in enumerate(job_overrides)]
        configs = [job.return_value for job in jobs]  # raises what is wrong with one; the sweeper has checked them all
        from ablation.launching.gang import Gang  # here, and not above: it imports torch

        for job, outcome in zip(jobs, Gang(configs, self.at_once).train(), strict=True):
            job.return_value = outcome
        return jobs

    def composed(self, number: int, overrides: Sequence[str]) -> JobReturn:
        """What Hydra makes of a job whose work is to be its checked configuration."""
        composed = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = number

        def work(job: DictConfig) -> Config:
            return compose.from_hydra(job)

        return run_job(
            hydra_context=self.hydra_context,
            task_function=work,
            config=composed,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
