"""Train one network, or sweep over many: `python src/train.py model=resnet20`, `-m model.depth=20,32`, `sweep=NAME`.

Everything lies in `conf/`: `python src/train.py --help` lists the groups, `--cfg job` shows what would run.
"""

import hydra
from omegaconf import DictConfig

from ablation import config
from ablation.command_line import hydra_command, job
from ablation.interrupts import Interrupts
from ablation.outcome import Outcome


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(composed: DictConfig) -> object:
    """One job: its outcome, for the sweep's summary (or, alone, for the exit status)."""

    def work() -> Outcome:
        checked = config.from_hydra(composed)
        from ablation.run import run  # here, and not above: it imports torch, which --help and --cfg do without

        return run(checked)

    return job(work)


if __name__ == "__main__":
    config.register()
    with Interrupts():  # around everything: a signal while torch is being imported must not be lost
        hydra_command(main)
