"""One run from its configuration to its record: skipped if done, else built, trained and written down.

config -> data, network, optimizer, schedule (plain arguments) -> trainer.py: history rows -> finish.py: one record
"""

import traceback
from collections.abc import Generator
from contextlib import closing, suppress
from typing import Any

from ablation.config.schema import Config
from ablation.errors import UserError
from ablation.interrupts import Interrupts
from ablation.runs.environment import CODE
from ablation.runs.finish import finish, result_line
from ablation.runs.progress import announced
from ablation.runs.record.checkpoints import State
from ablation.runs.record.files import write_atomically
from ablation.runs.record.folder import RunFolder
from ablation.runs.record.status import Busy, Outcome, held
from ablation.runs.trainer import Diverged, Trainer
from ablation.training import devices

Steps = Generator[None, None, Outcome]
"""A run that is taken step by step; its return value is its outcome."""


def run(config: Config, session: bool = False) -> Outcome:
    """Train, go on with, or find done the run that `config` describes. Raises UserError for wrong input.

    `session`: in a process that is not the run's own (Interrupts).
    """
    stream = devices.own_stream(devices.pick_device(config.trainer.device))
    interrupts = Interrupts(config.trainer.time_limit, session)
    with interrupts, stream, closing(stepwise(config, interrupts)) as steps:
        return end_of(steps)


def end_of(steps: Steps) -> Outcome:
    """Take all the steps that are left; the run's outcome."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome


def stepwise(config: Config, interrupts: Interrupts, alone: bool = True) -> Steps:
    """`run` as a generator, so that several runs can share a process.

    It yields after every optimisation step and while it waits for the device. On CUDA every `next` must be called on
    the same stream, the run's own (`devices.own_stream`). `alone`: no other run writes to the terminal.
    """
    device = devices.pick_device(config.trainer.device)
    precision = devices.pick_precision(config.trainer.precision, device)
    folder = RunFolder(config, precision)
    record = folder.done()
    if record is not None and not config.overwrite:
        return skipped(folder, record)
    if reason := interrupts.reason:
        return Outcome(folder.name, folder.path, "interrupted", f"{reason}; not begun")
    try:
        try:
            with announced(folder.label, "loading data", config.trainer.progress):
                trainer = Trainer(config, folder, device, precision)  # wrong input shows here: nothing is written yet
        except Exception as error:  # such as a device out of memory, or a fault in a user's own shortcut
            if isinstance(error, UserError):
                raise
            with held(folder.path):
                return failed(folder, 0, error)
        with folder.open(config) as (record, checkpoint):
            if record is not None:  # finished by another process meanwhile
                return skipped(folder, record)
            return (yield from guarded(trainer, checkpoint, interrupts, alone))
    except Busy as busy:
        print(f"{folder.name}: {busy}; left to it", flush=True)
        return Outcome(folder.name, folder.path, "busy", str(busy))


def guarded(trainer: Trainer, checkpoint: State | None, interrupts: Interrupts, alone: bool) -> Steps:
    """Train and finish in the opened folder; however it ends, status.json says so at once."""
    folder, training = trainer.folder, trainer.training
    try:
        left = yield from trainer.train(checkpoint, interrupts, alone)
        if left is None:
            with announced(folder.label, "measuring the training error", trainer.config.trainer.progress):
                record = finish(trainer)
    except Exception as error:
        reason = interrupts.reason
        if reason is None or isinstance(error, Diverged | UserError):
            return failed(folder, training.step, error)
        # Ctrl-C also ends Triton's compilers, which makes the step fail; the traceback is kept all the same
        write_traceback(folder, error)
        left = f"{reason}, in the middle of a step ({type(error).__name__}); goes on from its last checkpoint"
    except BaseException:  # the generator was closed by a launcher, or a batch system raised SystemExit
        folder.status("interrupted", training.step, "ended at once; goes on from its last checkpoint")
        raise
    if left is not None:
        folder.status("interrupted", training.step, left)
        return Outcome(folder.name, folder.path, "interrupted", left)
    folder.status("done", training.step)
    if trainer.config.trainer.progress is not False:
        print(f"{folder.label}: {result_line(record)}", flush=True)
    return Outcome(folder.name, folder.path, "resumed" if trainer.resumed_at else "done", "", record["metrics"])


def skipped(folder: RunFolder, record: dict[str, Any]) -> Outcome:
    made, since = record["environment"], ""
    if made.get("code", CODE) != CODE:
        commit = (made["git_commit"] or "unknown")[:12]
        since = f" at commit {commit}; the code that trains has changed since: overwrite=true trains again"
    print(f"{folder.name}: done{since}; {folder.path / 'record.json'}", flush=True)
    return Outcome(folder.name, folder.path, "skipped", "it was done before", record["metrics"])


def failed(folder: RunFolder, step: int, error: Exception) -> Outcome:
    """Note the failure in the folder, and say where to look. Raises `error` again if it is a UserError."""
    write_traceback(folder, error)
    if folder.debug:
        traceback.print_exception(error)
    folder.status("failed", step, str(error))
    if isinstance(error, UserError):
        raise error
    message = str(error) if isinstance(error, Diverged) else f"{type(error).__name__}: {error}".splitlines()[0]
    print(f"{folder.name}: failed: {message}; traceback in {folder.path / 'traceback.txt'}", flush=True)
    return Outcome(folder.name, folder.path, "failed", message, diverged=isinstance(error, Diverged))


def write_traceback(folder: RunFolder, error: Exception) -> None:
    text = "".join(traceback.format_exception(error))
    with suppress(UserError, OSError):  # a folder that cannot be written
        folder.path.mkdir(parents=True, exist_ok=True)
        write_atomically(folder.path / "traceback.txt", lambda file: file.write(text.encode()))
