"""One Hydra job: its outcome is for the sweep's summary or, alone, for the exit status."""

import sys
from collections.abc import Callable

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from ablation.config.command_line import translate
from ablation.errors import UserError
from ablation.program import fail
from ablation.runs.record.outcome import Outcome


def job(work: Callable[[], Outcome]) -> Outcome:
    """`work` as one Hydra job: in a sweep its outcome is for the summary; alone, the program leaves with its status.

    It leaves from here, with SystemExit, because Hydra would forget the outcome, and add lines of its own to an error.
    """
    alone = HydraConfig.get().mode == RunMode.RUN
    try:
        outcome = work()
    except (UserError, OmegaConfBaseException) as error:
        mistake = error if isinstance(error, UserError) else translate(error)
        if alone:
            fail(mistake)
        print(mistake, file=sys.stderr, flush=True)
        return Outcome("", None, "failed", str(mistake))
    if alone:
        sys.exit(outcome.exit_status)
    return outcome
