"""One run from its configuration to its record: built, resumed where it was cut off, trained, measured, written down.

config -> data, network, optimizer, schedule (plain arguments) -> Training -> history rows -> one record
"""

import hashlib
import io
import math
import traceback
from collections.abc import Generator
from contextlib import ExitStack, closing, suppress
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from ablation import data
from ablation.analysis.layers import gradient_norms, response_stds
from ablation.config.identity import SCHEMA
from ablation.config.schema import Config
from ablation.errors import UserError
from ablation.interrupts import Interrupts
from ablation.networks.fused import fuse, fusible
from ablation.networks.resnet import parameter_count
from ablation.runs.build import build_training, load_data
from ablation.runs.clock import Clock
from ablation.runs.environment import environment
from ablation.runs.progress import show
from ablation.runs.record import checkpoints
from ablation.runs.record.files import write_atomically, write_json
from ablation.runs.record.folder import Busy, RunFolder
from ablation.runs.record.history import History
from ablation.runs.record.outcome import Outcome, State
from ablation.tracking import tracker
from ablation.training import devices
from ablation.training.evaluation import Evaluation

Steps = Generator[None, None, Outcome]
"""A run that is advanced a step at a time; its value at the end is its outcome."""


class Diverged(Exception):
    """The loss is not finite; the message names the step, the learning rate and the last good checkpoint."""


def run(config: Config) -> Outcome:
    """Train, go on with, or find done the run that `config` describes. Raises UserError for bad input."""
    stream = devices.own_stream(devices.pick_device(config.trainer.device))
    with Interrupts(config.trainer.time_limit) as interrupts, stream, closing(advance(config, interrupts)) as steps:
        while True:
            try:
                next(steps)
            except StopIteration as end:
                outcome: Outcome = end.value
                return outcome


def advance(config: Config, interrupts: Interrupts, alone: bool = True) -> Steps:
    """`run` as a generator, so that several runs can share a process.

    It yields after every optimisation step and while it waits for the device. On CUDA it is to be advanced on a stream
    of its own (`devices.own_stream`), always the same one. `alone`: no other run's lines are on the terminal.
    """
    device = devices.pick_device(config.trainer.device)
    precision = devices.pick_precision(config.trainer.precision, device)
    folder = RunFolder(config.results_dir, config.name(), config.identity(precision))
    folder.check_owner()
    if not config.overwrite and (record := folder.record()) is not None:
        folder.tidy()
        return skipped(folder, record)
    if reason := interrupts.reason:
        return Outcome(folder.name, folder.path, "interrupted", f"{reason}; not begun")
    try:
        try:
            work = Work(config, folder, device, precision)  # everything that can be wrong with the input shows here
        except UserError:
            raise
        except Exception as error:  # no mistake of the user's: a device out of memory, a fault in their own shortcut
            with folder.held():
                return failed(folder, 0, config.schedule.steps, error)
        with folder.held():
            if not config.overwrite and (record := folder.record()) is not None:  # another process was faster
                return skipped(folder, record)
            return (yield from guarded(work, interrupts, alone))
    except Busy as busy:
        print(f"{folder.name}: {busy}; left to it", flush=True)
        return Outcome(folder.name, folder.path, "busy", str(busy))


def skipped(folder: RunFolder, record: dict[str, Any]) -> Outcome:
    """The outcome of a run that was done before."""
    print(f"{folder.name}: done; {folder.path / 'record.json'}", flush=True)
    return Outcome(folder.name, folder.path, "skipped", "it was done before", record["metrics"])


def failed(folder: RunFolder, step: int, steps: int, error: Exception) -> Outcome:
    """Note the failure in the folder and say where to look."""
    note_failure(folder, step, steps, error)
    message = str(error) if isinstance(error, Diverged) else f"{type(error).__name__}: {error}".splitlines()[0]
    print(f"{folder.name}: failed: {message}; traceback in {folder.path / 'traceback.txt'}", flush=True)
    return Outcome(folder.name, folder.path, "failed", message)


def note_failure(folder: RunFolder, step: int, steps: int, error: Exception) -> None:
    """Traceback and status into the folder at once; a folder that cannot be written keeps what it has."""
    text = "".join(traceback.format_exception(error))
    with suppress(UserError):
        write_atomically(folder.path / "traceback.txt", lambda file: file.write(text.encode()))
        folder.status("failed", step, steps, str(error))


def guarded(work: "Work", interrupts: Interrupts, alone: bool) -> Steps:
    """Train inside the folder's lock, and write down at once how it ended, whatever happens."""
    folder, steps = work.folder, work.config.schedule.steps
    try:
        outcome = yield from work.train(interrupts, alone)
        last, message = work.training.step, outcome.message
        folder.status("interrupted" if outcome.state == "interrupted" else "done", last, steps, message)
        return outcome
    except UserError as error:
        note_failure(folder, work.training.step, steps, error)
        raise
    except Exception as error:
        if (reason := interrupts.reason) and not isinstance(error, Diverged):
            # A Ctrl-C reaches Triton's compilers too, which die of it; the traceback is kept all the same.
            note_failure(folder, work.training.step, steps, error)
            message = f"{reason}, in the middle of a step ({type(error).__name__}); goes on from its last checkpoint"
            folder.status("interrupted", work.training.step, steps, message)
            return Outcome(folder.name, folder.path, "interrupted", message)
        return failed(folder, work.training.step, steps, error)
    except BaseException:  # closed by a launcher, or a batch system's SystemExit: leave the lock and say so
        with suppress(UserError):
            folder.status("interrupted", work.training.step, steps, "ended at once; goes on from its last checkpoint")
        raise


class Work:
    """One run being trained: what it is built from, and the files it writes."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        device: torch.device,
        precision: str,
        splits: data.Splits | None = None,
    ) -> None:
        """Build everything, on `splits` if given; nothing is written. Raises UserError for input that is no good."""
        self.config, self.folder, self.device, self.precision = config, folder, device, precision
        devices.set_deterministic(config.trainer.deterministic)
        self.data = splits or load_data(config)
        normalization = data.fit_normalization(config.data.normalization, self.data.train)
        self.compiled = fusible(config.trainer.fused, device)
        self.training = build_training(config, self.data, normalization, device, precision)
        if self.compiled:
            fuse(self.training.network)
        self.normalization = self.training.normalization
        self.clock, self.train_clock = Clock(), 0.0
        self.gradients_at_start: dict[str, float] = {}
        self.best: dict[str, Any] = {"error": math.inf, "step": 0, "evaluations_since": 0, "weights": None}
        self.history: History
        self.window = Clock()
        self.resumed_at = self.saved_at = 0
        self.stopped_early = False

    def train(self, interrupts: Interrupts, alone: bool) -> Steps:
        """The run's steps, evaluations and checkpoints in order; the end is the record."""
        config, training = self.config, self.training
        unfit = self.folder.unfit_to_go_on(config)
        if unfit or self.folder.moving:
            damaged = "" if config.overwrite or self.folder.moving else "record.json is damaged; "
            print(f"{self.folder.name}: {damaged}what was there is kept at {self.folder.set_aside(unfit)}", flush=True)
        self.folder.begin(config)
        self.resume()
        tracker.follow(self.folder.path, config.tracker.mode, config.tracker.timeout)
        steps, every = config.schedule.steps, config.trainer.evaluate_every or training.steps_per_epoch
        with ExitStack() as stack:
            shown = show(self.folder.name, training.step, steps, config.trainer.progress, alone)
            stack.callback(shown.close)
            stack.callback(self.history.close)
            while training.step < steps and not self.stopped_early:
                if reason := interrupts.reason:
                    return self.leave(reason)
                training.advance()
                shown.step(training.step)
                yield
                if training.step % every == 0 or training.step == steps:
                    row = yield from self.evaluate()
                    shown.row(row, steps)
                if training.step % config.trainer.checkpoint_every == 0:
                    yield from self.settled()
                    self.save_checkpoint()
        record = self.finish()
        if config.trainer.progress is not False:
            print(f"{self.folder.name}: {result_line(record)}", flush=True)
        state: State = "resumed" if self.resumed_at else "done"
        return Outcome(self.folder.name, self.folder.path, state, "", record["metrics"])

    def resume(self) -> None:
        """Go on from the folder's newest whole checkpoint, or start."""
        state = checkpoints.load(self.folder.path, lambda line: print(f"{self.folder.name}: {line}"))
        if state is None:
            self.window, self.history = Clock(), History(self.folder.path / "history.jsonl", [])
            self.gradients_at_start = gradient_norms(self.training.network, self.data.train, self.normalization)
        else:
            if state["id"] != self.folder.identity:
                raise UserError("checkpoint", self.folder.path, f"belongs to run {state['id']}, not to this one")
            if state["data"] != self.data.checksum:
                raise UserError("data.root", self.config.data_root, "its data is not what this run began with")
            try:
                self.restore(state)
            except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
                allowed = f"does not fit this version ({type(error).__name__}: {error}); {checkpoints.START_ANEW}"
                raise UserError("checkpoint", self.folder.path, allowed) from error
            print(f"{self.folder.name}: goes on at step {self.resumed_at} of {self.config.schedule.steps}", flush=True)
        self.folder.status("running", self.training.step, self.config.schedule.steps)

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `save_checkpoint` saw. Raises whatever a foreign state leads to."""
        self.training.load_state_dict(state["training"])
        self.gradients_at_start, self.best = state["gradients_at_start"], state["best"]
        self.stopped_early = state["stopped_early"]
        self.clock, self.train_clock = Clock(state["seconds"]), state["train_seconds"]
        self.window = Clock(state["window_seconds"])
        self.resumed_at = self.saved_at = self.training.step
        self.history = History(self.folder.path / "history.jsonl", state["history"])

    def leave(self, reason: str) -> Outcome:
        """Checkpoint, unless the last one is of this very step, and say how to go on."""
        if self.training.step != self.saved_at:
            self.save_checkpoint()
        command = "the same command without overwrite=true" if self.config.overwrite else "the same command"
        message = f"{reason}; left at step {self.training.step}; {command} goes on from there"
        return Outcome(self.folder.name, self.folder.path, "interrupted", message)

    def settled(self) -> Generator[None, None, None]:
        """Let other runs go on until the device is done with this one's work."""
        while not self.training.idle():
            yield

    def evaluate(self) -> Generator[None, None, dict[str, Any]]:
        """Read the running sums, evaluate, and add a row to the history. Raises Diverged."""
        training = self.training
        yield from self.settled()
        sums = training.read_sums()
        self.stop_if_diverged(sums.first_bad_step)
        seconds = self.window.seconds()
        self.train_clock += seconds
        sets = [self.data.test, *([self.data.val] if self.data.val else [])]
        for images in sets:
            training.begin_evaluation(images)
        yield from self.settled()
        test, val = training.evaluation(self.data.test), training.evaluation(sets[1]) if self.data.val else None
        row = {
            "step": training.step,
            "epoch": training.epoch,
            "lr": float(training.schedule.rate),
            "running_train_loss": sums.loss,
            "running_train_error": sums.error,
            "objective": sums.objective,
            "test_loss": finite(test.loss),
            "test_error": test.error,
            "val_loss": finite(val.loss) if val else None,
            "val_error": val.error if val else None,
            "images_per_second": sums.steps * training.batch_size / seconds,
            "wall_seconds": self.clock.seconds(),
        }
        self.history.append(row)
        self.note_best(test)
        if training.step % training.steps_per_epoch == 0:
            training.schedule.end_epoch(sums.objective)
        self.folder.status("running", training.step, self.config.schedule.steps)
        self.window = Clock()
        return row

    def stop_if_diverged(self, bad_step: int | None) -> None:
        """Raise Diverged if a loss was not finite, at `bad_step`, or the weights are not."""
        training, what = self.training, "loss"
        if bad_step is None:
            weights = [value.isfinite().all() for value in training.network.state_dict().values()]
            if bool(torch.stack(weights).all()):
                return
            bad_step, what = training.step - 1, "network"  # the update broke it behind a finite loss
        good = self.folder.path / checkpoints.NEWEST
        kept = f"last good checkpoint: {good}" if good.exists() else "there is no checkpoint before it"
        rate = training.schedule.rate_at(bad_step)
        raise Diverged(f"the {what} is not finite at step {bad_step}, learning rate {rate:g}; {kept}")

    def note_best(self, test: Evaluation) -> None:
        """Remember the least test error and, where it selects the result, its weights; stop early if asked to."""
        best = self.best
        if test.error < best["error"]:
            best |= {"error": test.error, "step": self.training.step, "evaluations_since": 0}
            if self.config.selection == "best_test":
                best["weights"] = {name: value.clone() for name, value in self.training.network.state_dict().items()}
        else:
            best["evaluations_since"] += 1
        patience = self.config.early_stopping
        self.stopped_early = patience is not None and best["evaluations_since"] >= patience

    def save_checkpoint(self) -> None:
        """Write everything that is needed to go on. Raises Diverged rather than save a broken network."""
        bad_step = int(self.training.first_bad_step)
        self.stop_if_diverged(bad_step if bad_step >= 0 else None)
        seconds = self.window.seconds()
        state = {
            "id": self.folder.identity,
            "data": self.data.checksum,
            "training": self.training.state_dict(),
            "gradients_at_start": self.gradients_at_start,
            "best": self.best,
            "history": self.history.rows,
            "stopped_early": self.stopped_early,
            "seconds": self.clock.seconds(),
            "train_seconds": self.train_clock,
            "window_seconds": seconds,  # of the history row that is under way
        }
        checkpoints.save(self.folder.path, state)
        self.saved_at = self.training.step
        self.folder.status("running", self.training.step, self.config.schedule.steps)

    def finish(self) -> dict[str, Any]:
        """Measure the final iterate, write the weights and the record, and drop the checkpoints."""
        training, config = self.training, self.config
        self.history.write()  # whole, should somebody have moved or deleted it meanwhile
        test, train = training.evaluate(self.data.test), training.evaluate(self.data.train)
        val = training.evaluate(self.data.val) if self.data.val else None
        selected_on_test = config.selection == "best_test"
        weights = self.best["weights"] if selected_on_test else training.network.state_dict()
        weights = {name: value.cpu() for name, value in weights.items()}
        buffer = io.BytesIO()  # torch.save meets a full disk with a RuntimeError of its own
        torch.save(weights, buffer)
        write_atomically(self.folder.path / "weights.pt", lambda file: file.write(buffer.getbuffer()))
        last = self.history.rows[-1]
        metrics = {
            "train_error": train.error,
            "train_loss": finite(train.loss),
            "running_train_error": last["running_train_error"],
            "running_train_loss": last["running_train_loss"],
            "test_error": test.error,
            "test_loss": finite(test.loss),
            "val_error": val.error if val else None,
            "val_loss": finite(val.loss) if val else None,
            "best_test_error": self.best["error"],
            "best_test_step": self.best["step"],
            "selected_test_error": self.best["error"] if selected_on_test else test.error,
            "selected_step": self.best["step"] if selected_on_test else training.step,
            "selected_on": "test" if selected_on_test else None,
        }
        record = {
            "schema": SCHEMA,
            "name": self.folder.name,
            "id": self.folder.identity,
            "status": "done",
            "config": recorded(config, self.precision),
            "metrics": metrics,
            "parameters": parameter_count(training.network),
            "seed": config.seed,
            "step": training.step,
            "epoch": training.epoch,
            "stopped_early": self.stopped_early,
            "environment": environment(self.device, self.precision, self.compiled, config.trainer.deterministic),
            "data": self.describe_data(),
            "timing": self.timing(),
            "layers": self.layers(),
            "confusion": test.confusion.tolist(),
            "weights_sha256": digest(weights),
        }
        write_json(self.folder.path / "record.json", record)
        checkpoints.remove(self.folder.path)
        return record

    def describe_data(self) -> dict[str, Any]:
        """Which pictures the numbers are of."""
        val = self.data.val
        return {
            "name": self.config.data.name,
            "checksum": self.data.checksum,
            "train_size": len(self.data.train),
            "val_size": len(val) if val else 0,
            "test_size": len(self.data.test),
            "classes": list(self.data.classes),
            "image_size": self.data.train.images.shape[-1],
        }

    def timing(self) -> dict[str, Any]:
        """Seconds over all the processes that worked on the run, and training throughput."""
        wall = self.clock.seconds()
        now = datetime.now(UTC)
        started = datetime.fromtimestamp(now.timestamp() - wall, UTC)
        return {
            "wall_seconds": wall,
            "train_seconds": self.train_clock,
            "images_per_second": self.training.step * self.training.batch_size / max(self.train_clock, 1e-9),
            "started": started.isoformat(timespec="seconds"),
            "finished": now.isoformat(timespec="seconds"),
            "resumed_at": self.resumed_at,
        }

    def layers(self) -> list[dict[str, Any]]:
        """Per 3x3 convolution, in network order: the response's standard deviation, gradient norms at start and end."""
        stds = response_stds(self.training.network, self.data.train, self.normalization)
        at_end = gradient_norms(self.training.network, self.data.train, self.normalization)
        return [
            {
                "name": name,
                "response_std": finite(std),
                "gradient_norm_start": finite(self.gradients_at_start[name]),
                "gradient_norm_end": finite(at_end[name]),
            }
            for name, std in stds.items()
        ]


def result_line(record: dict[str, Any]) -> str:
    """What a finished run says last; a number that was selected on the test set is never shown without that label."""
    metrics = record["metrics"]
    final = f"train error {metrics['train_error']:.2f} %, test error {metrics['test_error']:.2f} %"
    where = f"step {record['step']}" + (" (stopped early)" if record["stopped_early"] else "")
    line = f"done at {where}: {final}"
    if metrics["selected_on"] is None:
        return line
    error, step = metrics["selected_test_error"], metrics["selected_step"]
    return f"{line}; best test error {error:.2f} % (accuracy {100 - error:.2f} %) at step {step}, selected on test"


def recorded(config: Config, precision: str) -> dict[str, Any]:
    """The configuration as it was run: `auto` precision replaced by what it became."""
    whole = config.to_dict()
    return whole | {"trainer": whole["trainer"] | {"precision": precision}}


def finite(value: float) -> float | None:
    """`value`, or None where JSON has no number for it."""
    return value if math.isfinite(value) else None


def digest(weights: dict[str, Tensor]) -> str:
    """SHA-256 over names and values of a state dict: equal digests mean bit-identical networks."""
    sha = hashlib.sha256()
    for name, value in weights.items():
        sha.update(name.encode() + value.contiguous().numpy().tobytes())
    return sha.hexdigest()
