"""The sweeper under the one namespace in which Hydra looks for plugins."""

from ablation.launching.sweep import CheckedSweeper


class AblationSweeper(CheckedSweeper):
    """Named by conf/hydra/sweeper/ablation.yaml."""
