"""One Hydra job, and how the program ends with it."""

import atexit
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from ablation.config.command_line import translate
from ablation.errors import UserError
from ablation.interrupts import asked_for
from ablation.runs.record.status import Outcome


def job(work: Callable[[], Outcome]) -> Outcome:
    """Do `work` as a Hydra job: in a sweep return its outcome; alone, leave the program with its exit status.

    It leaves from here, by SystemExit, because Hydra would drop the outcome and add lines of its own to an error.
    """
    try:
        outcome = work()
        status = outcome.exit_status
    except (UserError, OmegaConfBaseException) as error:
        outcome = not_begun(error if isinstance(error, UserError) else translate(error))
        status = 2
    if HydraConfig.get().mode == RunMode.RUN:
        leave(status)
    return outcome


def not_begun(mistake: UserError) -> Outcome:
    """Print the user's mistake; the outcome of a run that was not begun because of it."""
    print(mistake, file=sys.stderr, flush=True)
    return Outcome("", None, "failed", str(mistake))


def leave(status: int) -> NoReturn:
    """Leave the program with this exit status, which a second SIGTERM on the way out does not change."""
    for number in asked_for():
        if number != signal.SIGINT:  # Ctrl-C still ends the wait for the tracker
            atexit.register(signal.signal, number, signal.SIG_IGN)  # the last ones registered are the first ones called
    sys.exit(status)
