"""The launchers under the one namespace in which Hydra looks for plugins."""

from typing import Any

from hydra.plugins.launcher import Launcher

from ablation.errors import UserError
from ablation.launching.processes import Processes

try:
    from ablation.launching.slurm import Slurm
except ImportError:  # the extra is not installed: only who asks for Slurm shall hear of it
    Slurm = None  # type: ignore[assignment,misc]


class ProcessLauncher(Processes):
    """Named by conf/hydra/launcher/processes.yaml."""


if Slurm is not None:

    class SlurmLauncher(Slurm):
        """Named by conf/hydra/launcher/slurm.yaml."""

else:

    class SlurmLauncher(Launcher):  # type: ignore[no-redef]
        """Says what is missing."""

        def __init__(self, **_params: Any) -> None: ...

        def setup(self, **_context: Any) -> None:
            raise UserError("hydra/launcher", "slurm", "needs submitit: pip install -e '.[slurm]'")

        def launch(self, *_arguments: Any) -> Any: ...
