"""The training of a run: steps, evaluations, checkpoints, early stopping, and going on from a checkpoint.

`Trainer.train` is the loop, to be read from top to bottom.
"""

import math
import time
from collections.abc import Generator
from contextlib import closing
from typing import Any

import torch

from ablation import data
from ablation.analysis.layers import gradient_norms
from ablation.config.schema import Config
from ablation.errors import UserError
from ablation.interrupts import Interrupts
from ablation.networks.fused import fuse, fusible
from ablation.runs.build import build_training, load_data
from ablation.runs.environment import CODE
from ablation.runs.progress import Display
from ablation.runs.record import checkpoints, history
from ablation.runs.record.checkpoints import State
from ablation.runs.record.folder import RunFolder
from ablation.runs.record.record import finite
from ablation.tracking import tracker
from ablation.training import devices
from ablation.training.evaluation import Evaluation


class Diverged(Exception):
    """The loss is not finite; the message names the step, the learning rate and the last good checkpoint."""


KEPT = ("gradients_at_start", "best", "history", "train_seconds")
"""The attributes of a Trainer that a checkpoint holds as they are."""


class Trainer:
    """One run: what it is built from, how far it is, and the files that it writes while it trains."""

    def __init__(self, config: Config, folder: RunFolder, device: torch.device, precision: str) -> None:
        """Build everything; write nothing. Raises UserError for wrong input."""
        self.config, self.folder, self.device, self.precision = config, folder, device, precision
        tracker.check_installed(config.tracker.mode)
        devices.set_deterministic(config.trainer.deterministic)
        self.data = load_data(config)
        normalization = data.fit_normalization(config.data.normalization, self.data.train)
        self.fused = fusible(config.trainer.fused, device, config.trainer.strict)
        self.training = build_training(config, self.data, normalization, device, precision)
        if self.fused:
            fuse(self.training.network)
        self.gradients_at_start: dict[str, float] = {}
        self.best: dict[str, Any] = {"error": math.inf, "step": 0, "evaluations_since": 0, "weights": None}
        self.history: list[history.Row] = []
        self.parts: list[dict[str, Any]] = []
        self.train_seconds = 0.0
        self.resumed_at = self.saved_at = 0
        self.began = self.window_began = time.perf_counter()
        """When the run, and the history row under way, would have begun had this process done all of it."""

    @property
    def stopped_early(self) -> bool:
        patience = self.config.early_stopping
        return patience is not None and self.best["evaluations_since"] >= patience

    def train(self, checkpoint: State | None, interrupts: Interrupts, alone: bool) -> Generator[None, None, str | None]:
        """Train from `checkpoint`, or from the start, to the last step; a checkpoint is written at the end.

        Yields after every step and while the device works, so that several runs can share a process. Returns None, or
        how to go on if `interrupts` ended it early. Raises Diverged, or UserError (start, checkpoints.save).
        """
        config, training = self.config, self.training
        self.start(checkpoint)
        if config.data.name == "image_folder" and config.trainer.progress is not False:
            counts = (
                f"{len(self.data.train)} training, {len(self.data.val or ())} validation, {len(self.data.test)} test"
            )
            print(f"{self.folder.label}: {counts} images; the test images: {self.data.split}", flush=True)
        tracker.follow(self.folder.path, config.tracker.mode, config.tracker.timeout)
        steps, every = config.schedule.steps, config.trainer.evaluate_every or training.steps_per_epoch
        with closing(Display(self.folder.label, training.step, steps, config.trainer.progress, alone)) as display:
            while training.step < steps and not self.stopped_early:
                if reason := interrupts.reason:
                    self.save_checkpoint()
                    command = "the same command" + (" without overwrite=true" if config.overwrite else "")
                    return f"{reason}; left at step {training.step}; {command} goes on from there"
                while training.far_ahead():
                    yield
                training.take_step()
                display.step(training.step)
                if training.draws_on_device and not alone:  # its numbers would depend on the other runs
                    allowed = "draws random numbers on the GPU, which one run at a time may: hydra.launcher.at_once=1"
                    raise UserError("shortcut", config.shortcut["name"], allowed)
                yield
                if training.step % every == 0 or training.step == steps:
                    display.row((yield from self.evaluate()))
                if training.step % config.trainer.checkpoint_every == 0:
                    yield from self.settled()
                    self.save_checkpoint()
        self.save_checkpoint()  # so that a fault while the record is made loses nothing
        return None

    def start(self, checkpoint: State | None) -> None:
        """Go on from `checkpoint`, or begin. Raises UserError if it is of another run, data set or version."""
        training, folder = self.training, self.folder
        if checkpoint is None:
            self.began = self.window_began = time.perf_counter()
            self.gradients_at_start = gradient_norms(training.network, self.data.train, training.normalization)
        else:
            try:
                checkpoints.check(checkpoint, self.config, training.network)
                if checkpoint["id"] != folder.identity:
                    raise UserError("checkpoint", folder.path, f"belongs to run {checkpoint['id']}, not to this one")
                if checkpoint["data"] != self.data.checksum:
                    raise UserError("data.root", self.config.data_root, "its data is not what this run began with")
                training.load_state_dict(checkpoint["training"])
                vars(self).update({key: checkpoint[key] for key in KEPT})
                self.parts = [*checkpoint.get("parts", [])]
                if self.parts and self.device.type == "cpu":
                    devices.take_threads(self.parts[-1]["threads"])
                self.began = time.perf_counter() - checkpoint["seconds"]
                self.window_began = time.perf_counter() - checkpoint["window_seconds"]
            except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
                allowed = f"does not fit this version ({type(error).__name__}: {error}); {checkpoints.START_ANEW}"
                raise UserError("checkpoint", folder.path, allowed) from error
            self.resumed_at = self.saved_at = training.step
            print(f"{folder.name}: goes on at step {training.step} of {self.config.schedule.steps}", flush=True)
        made = {"threads": torch.get_num_threads(), "fused": self.fused, "device": str(self.device), "code": CODE}
        self.parts.append({"from_step": training.step} | made)  # whose rounding may differ
        history.write(folder.path, self.history)  # without rows that a cut-off process wrote: their steps come again
        self.folder.status("running", training.step)

    def save_checkpoint(self) -> None:
        """Write all that is needed to go on, unless the last checkpoint is of this very step.

        Raises Diverged rather than save a broken network.
        """
        if self.training.step == self.saved_at:
            return
        self.stop_if_diverged()
        state = {"id": self.folder.identity, "data": self.data.checksum, "training": self.training.state_dict()}
        times = {"seconds": self.seconds(), "window_seconds": time.perf_counter() - self.window_began}
        kept = {key: getattr(self, key) for key in (*KEPT, "parts")}
        checkpoints.save(self.folder.path, state | kept | times)
        self.saved_at = self.training.step
        self.folder.status("running", self.training.step)

    def settled(self) -> Generator[None, None, None]:
        """Let other runs go on until the device is done with this one's work."""
        while not self.training.idle():
            yield

    def evaluate(self) -> Generator[None, None, history.Row]:
        """Evaluate on the test and validation set; return the row that is added to the history. Raises Diverged."""
        training = self.training
        yield from self.settled()
        self.stop_if_diverged()
        sums = training.read_sums()
        seconds = time.perf_counter() - self.window_began
        self.train_seconds += seconds
        sets = [self.data.test, *([self.data.val] if self.data.val else [])]
        for images in sets:
            training.begin_evaluation(images)
        yield from self.settled()
        test, *val = (training.evaluation(images) for images in sets)
        row = {
            "step": training.step,
            "epoch": training.epoch,
            "lr": float(training.schedule.rate),
            "running_train_loss": sums.loss,
            "running_train_error": sums.error,
            "objective": sums.objective,
            "test_loss": finite(test.loss),
            "test_error": test.error,
            "val_loss": finite(val[0].loss) if val else None,
            "val_error": val[0].error if val else None,
            "images_per_second": sums.steps * training.batch_size / seconds,
            "wall_seconds": self.seconds(),
        }
        history.append(self.folder.path, row)
        self.history.append(row)
        self.note_best(test)
        if training.step % training.steps_per_epoch == 0:
            training.schedule.end_epoch(sums.objective)
        self.folder.status("running", training.step)
        self.window_began = time.perf_counter()
        return row

    def stop_if_diverged(self) -> None:
        """Raise Diverged if the loss was not finite at a step so far, or a weight is not finite now."""
        training, what = self.training, "loss"
        bad_step = int(training.first_bad_step)
        if bad_step < 0:
            values = [value for value in training.network.state_dict().values() if value.is_floating_point()]
            if math.isfinite(float(torch.stack(torch._foreach_norm(values, math.inf)).max())):
                return
            bad_step, what = training.step - 1, "network"  # the update broke it although the loss was finite
        good = self.folder.path / checkpoints.NEWEST
        kept = f"last good checkpoint: {good}" if good.exists() else "there is no checkpoint before it"
        rate = training.schedule.rate_at(bad_step)
        raise Diverged(f"the {what} is not finite at step {bad_step}, learning rate {rate:g}; {kept}")

    def note_best(self, test: Evaluation) -> None:
        """Remember the least test error so far and, if it selects the result, its weights."""
        if test.error >= self.best["error"]:
            self.best["evaluations_since"] += 1
            return
        self.best |= {"error": test.error, "step": self.training.step, "evaluations_since": 0}
        if self.config.selection == "best_test":
            network = self.training.network
            self.best["weights"] = {name: value.clone() for name, value in network.state_dict().items()}

    def seconds(self) -> float:
        """Seconds of the run so far, in all the processes that worked on it."""
        return time.perf_counter() - self.began
