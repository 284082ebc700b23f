"""Train one network, or sweep over many: `python src/train.py model=resnet20`, `-m model.depth=20,32`, `sweep=NAME`.

Everything is configured in `conf/`: `python src/train.py --help` lists the groups, `--cfg job` shows what would run,
`--check` tries every file in `conf/` and `sweeps/`, yours among them.
"""

import sys
from typing import Any

from ablation.interrupts import Interrupts


def main() -> None:
    import hydra

    from ablation.config.command_line import check_arguments
    from ablation.config.compose import check_files
    from ablation.launching.sweep import job, summarized

    @hydra.main(version_base="1.3", config_path="../conf", config_name="config")
    def train(composed: Any) -> object:
        return job(composed)

    if sys.argv[1:] == ["--check"]:
        sys.exit(check_files())
    check_arguments()
    with summarized():
        train()


if __name__ == "__main__":
    with Interrupts():  # around everything: a signal while Hydra or torch is being imported must not be lost
        from ablation.config.command_line import hydra_command

        hydra_command(main)
