"""Several runs in one process, a step of each in turn: small networks fill a GPU together, not one after the other.

One ResNet-20 keeps a fraction of a large GPU busy. Here each run has a CUDA stream of its own, and a step is the launch
of one CUDA graph, so a single thread of the host feeds all of them. A run is the generator `runs.run.stepwise`: it
has its own folder, record, log and failure, and on the CPU it comes out bit-identical to the same run alone.
"""

import gc
import sys
import traceback
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace

import torch

from ablation.config.schema import Config
from ablation.errors import UserError
from ablation.interrupts import Interrupts
from ablation.runs.record.outcome import Outcome
from ablation.runs.run import Steps, stepwise
from ablation.training import devices

AT_ONCE = {"cuda": 8, "mps": 1, "cpu": 1}
"""Runs at once on a device by its type; one run keeps the cores of a CPU busy."""

ROUNDS_BETWEEN_STARTS = 16
"""A run has its CUDA graph, and all the memory that it will use, before the next one is let in."""


@dataclass
class Member:
    """A run that is being trained."""

    number: int
    steps: Steps
    device: torch.device
    stream: AbstractContextManager[object]
    deterministic: bool


class Gang:
    """The runs of `configs`, at most `at_once` of them on each device; `train` gives their outcomes in their order."""

    def __init__(self, configs: Sequence[Config], at_once: int | None) -> None:
        """`at_once`: None decides by the device and its memory."""
        self.at_once = at_once
        self.waiting = deque(enumerate(configs))
        self.members: list[Member] = []
        self.outcomes: dict[int, Outcome] = {}
        limits = [config.trainer.time_limit for config in configs if config.trainer.time_limit is not None]
        self.interrupts = Interrupts(min(limits, default=None))

    def train(self) -> list[Outcome]:
        """Advance the runs in turn until all have ended."""
        with self.interrupts, ExitStack() as stack:
            stack.callback(self.close)
            rounds = 0
            while self.waiting or self.members:
                if rounds % ROUNDS_BETWEEN_STARTS == 0 or not self.members:
                    self.start_one()
                for member in list(self.members):
                    self.advance(member)
                rounds += 1
        return [outcome for _, outcome in sorted(self.outcomes.items())]

    def start_one(self) -> None:
        """Let the run in that has waited longest, if there is a place for it."""
        if not self.waiting:
            return
        number, config = self.waiting[0]
        try:
            device = self.emptiest(devices.pick_device(config.trainer.device), config.trainer.device)
            if not self.has_room(device, config):
                return
            self.waiting.popleft()
            config = replace(config, trainer=replace(config.trainer, device=str(device)))
            steps = stepwise(config, self.interrupts, alone=self.limit(device) == 1)
            stream = devices.own_stream(device)
            self.members.append(Member(number, steps, device, stream, config.trainer.deterministic))
        except UserError as error:
            self.waiting.popleft()
            self.outcomes[number] = mistaken(error)

    def advance(self, member: Member) -> None:
        """One step of a run, on its stream; what it ends with, or dies of, is its own."""
        try:
            with member.stream:
                next(member.steps)
        except StopIteration as end:
            self.outcomes[member.number] = end.value
        except UserError as error:
            self.outcomes[member.number] = mistaken(error)
        except Exception as error:  # a fault of ours outside of what the run guards itself: the others go on
            traceback.print_exc()
            self.outcomes[member.number] = Outcome("", None, "failed", f"{type(error).__name__}: {error}")
        else:
            return
        self.members.remove(member)
        gc.collect()  # what an exception's traceback still holds: the memory on the device is for the next run

    def emptiest(self, device: torch.device, asked: str) -> torch.device:
        """The GPU with the fewest runs, if any one will do; else `device`."""
        if device.type != "cuda" or asked not in ("auto", "cuda"):
            return device
        every = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
        return min(every, key=lambda one: sum(member.device == one for member in self.members))

    def limit(self, device: torch.device) -> int:
        """How many runs may be on the device at once, memory permitting."""
        return self.at_once or AT_ONCE[device.type]

    def has_room(self, device: torch.device, config: Config) -> bool:
        """Whether another run may start: a place, enough memory, and no member with other process-wide settings."""
        if any(member.deterministic != config.trainer.deterministic for member in self.members):
            return False
        there = sum(member.device == device for member in self.members)
        if there >= self.limit(device):
            return False
        if there == 0 or device.type != "cuda" or self.at_once is not None:
            return True
        free, total = torch.cuda.mem_get_info(device)
        return free > 1.5 * (total - free) / there  # half more than a run takes there now: deeper ones may follow

    def close(self) -> None:
        """End what is still running, if an exception ends the gang: every run leaves its lock and says so."""
        for member in self.members:
            with member.stream:
                member.steps.close()


def mistaken(error: UserError) -> Outcome:
    """The outcome of a run that was never begun."""
    print(error, file=sys.stderr, flush=True)
    return Outcome("", None, "failed", str(error))
