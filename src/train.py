"""Train one network, or sweep over many: `python src/train.py model=resnet20`, `-m model.depth=20,32`, `sweep=NAME`.

Everything is configured in `conf/`: `python src/train.py --help` lists the groups, `--cfg job` shows what would run.
"""

import hydra
from omegaconf import DictConfig

from ablation.config.command_line import check_arguments, hydra_command
from ablation.interrupts import Interrupts
from ablation.launching.sweep import job


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def train(composed: DictConfig) -> object:
    return job(composed)


def main() -> None:
    check_arguments()
    train()


if __name__ == "__main__":
    with Interrupts():  # around everything: a signal while torch is being imported must not be lost
        hydra_command(main)
