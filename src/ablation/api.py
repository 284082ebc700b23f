"""What `import ablation` offers to scripts and notebooks (docs/python.md); every mistake is a UserError of one line."""

import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ablation.config.compose import check
from ablation.config.compose import compose as compose
from ablation.config.schema import Config
from ablation.errors import UserError
from ablation.report import evidence
from ablation.runs.record import history as histories
from ablation.runs.record.status import Outcome

if TYPE_CHECKING:
    from ablation.networks import Network

Run = Outcome | str | Path  # what `run` returned, or a run's folder
ONE_RUN = threading.Lock()  # at a time: weights are drawn from torch's one generator, and Interrupts are nested


def run(config: Config) -> Outcome:
    """Train, go on with, or find done the run of `config`, in this process: its `state`, `folder` and `metrics`.

    States are "done", "resumed", "skipped", "busy" (another process trains it), "interrupted" (its time limit). Ctrl-C
    raises KeyboardInterrupt, after a checkpoint: the same call goes on from there. Raises UserError for wrong input,
    RuntimeError if the run fails or diverges.
    """
    check(config)
    from torch import random  # here, and not above: to read results does without torch

    from ablation.runs.run import run as train

    with ONE_RUN, random.fork_rng(devices=[]):  # the caller's random numbers are not the run's
        outcome = train(config, session=True)
    if outcome.state == "failed":
        raise RuntimeError(f"{outcome.name}: {outcome.message}; traceback in {outcome.folder}")
    return outcome


def history(run: Run) -> pd.DataFrame:
    """A row an evaluation: step, epoch, lr, losses, errors in percent, images a second. Raises UserError."""
    return pd.DataFrame(histories.read(folder_of(run) / "history.jsonl")[0], dtype=float)


def load(run: Run) -> "Network":
    """The network with the weights of the run's result, or of its newest checkpoint, in evaluation mode on the CPU.

    It takes images that are normalised as in the run (ablation.data.fit_normalization). Raises UserError.
    """
    from torch import device

    from ablation.evaluation.evaluate import load as read
    from ablation.evaluation.weights import load_weights
    from ablation.runs.build import build_network

    trained = read(folder_of(run), [])
    network = build_network(trained.config, len(trained.weights.get("fc.bias", range(10))), device("cpu"))
    load_weights(network, trained.weights, trained.record, folder_of(run))
    return network.eval()


def records(*paths: str | Path) -> pd.DataFrame:
    """A row a finished run below `paths`; columns are the record's keys (`config.seed`, `metrics.test_error`).

    `network` is its name (plain20), `folder` the run's. Warns of damaged records and of doubles of a run, which are
    left out. Raises UserError for a path that does not exist.
    """
    found = evidence.read([folder_of(path) for path in paths])
    if left_out := len(found.unreadable) + len(found.doubles):
        warnings.warn(f"{left_out} records are left out: damaged, or a run that is there twice", stacklevel=2)
    return found.runs.drop(columns=["cell", "cell_keys", "analyses"], errors="ignore").infer_objects()


def folder_of(run: Run) -> Path:
    folder = Path((run.folder or "") if isinstance(run, Outcome) else run)
    if not folder.exists():
        raise UserError("path", folder, "no such file or folder")
    return folder
