"""Several runs in one process, a step of each in turn: small networks fill a GPU together, not one after the other.

Each run has a CUDA stream of its own, and a step is the launch of one CUDA graph, so one host thread feeds all of them.
The failure of a run ends no other, and on the CPU its result is bit-identical to that of the same run alone.
"""

import gc
import traceback
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch

from ablation.config.schema import Config
from ablation.errors import UserError
from ablation.interrupts import Interrupts
from ablation.launching.sweep import left_out, not_begun
from ablation.runs.record.status import Outcome
from ablation.runs.run import Steps, stepwise
from ablation.training import devices

AT_ONCE = {"cuda": 8, "mps": 1, "cpu": 1}  # runs on a device, by its type; one keeps the cores of a CPU busy
ROUNDS_BETWEEN_STARTS = 16  # a run has its CUDA graph, and all the memory that it will use, before the next one starts


@dataclass
class Member:
    """A run that is being trained; `index` is its place among the configurations, `place` that on its device."""

    index: int
    config: Config
    steps: Steps
    place: int
    stream: AbstractContextManager[object]


def train(configs: Sequence[Config], at_once: int | None, max_failures: int | None = None) -> list[Outcome]:
    """Train the runs, at most `at_once` on each device (None: as the device and its memory allow)."""
    limits = [config.trainer.time_limit for config in configs if config.trainer.time_limit is not None]
    with Interrupts(min(limits, default=None)) as interrupts:
        return Gang(configs, at_once, interrupts).train(max_failures)


class Gang:
    """The runs that wait, are being trained and have ended."""

    def __init__(self, configs: Sequence[Config], at_once: int | None, interrupts: Interrupts) -> None:
        self.at_once, self.interrupts = at_once, interrupts
        self.waiting = deque(enumerate(configs))
        self.members: list[Member] = []
        self.outcomes: dict[int, Outcome] = {}

    def train(self, max_failures: int | None) -> list[Outcome]:
        """Take steps of the runs in turn until all have ended; their outcomes in the order of `configs`."""
        rounds = 0
        try:
            while self.waiting or self.members:
                if self.waiting and (rounds % ROUNDS_BETWEEN_STARTS == 0 or not self.members):
                    if left := left_out(self.outcomes.values(), max_failures):
                        self.outcomes |= {index: left for index, _ in self.waiting}
                        self.waiting.clear()
                    else:
                        self.start_one()
                for member in list(self.members):
                    self.take_step(member)
                rounds += 1
        finally:  # if an exception ends the gang, each run left writes its status and releases its lock
            for member in self.members:
                with member.stream:
                    member.steps.close()
        return [outcome for _, outcome in sorted(self.outcomes.items())]

    def start_one(self) -> None:
        index, config = self.waiting[0]
        try:
            device = devices.pick_device(config.trainer.device)
            if device.type == "cuda" and config.trainer.device in ("auto", "cuda"):
                device = min((torch.device("cuda", i) for i in range(torch.cuda.device_count())), key=self.runs_on)
            limit = self.at_once or AT_ONCE[device.type]
            if not self.has_room(device, config, limit):
                return
            config = replace(config, trainer=replace(config.trainer, device=str(device)))
            steps = stepwise(config, self.interrupts, alone=limit == 1)
            taken = {member.place for member in self.members if member.config.trainer.device == str(device)}
            place = next(place for place in range(limit) if place not in taken)
            self.members.append(Member(index, config, steps, place, devices.own_stream(device, place)))
        except UserError as error:
            self.outcomes[index] = not_begun(error)
        self.waiting.popleft()

    def take_step(self, member: Member) -> None:
        try:
            with member.stream:
                next(member.steps)
            return
        except StopIteration as end:
            self.outcomes[member.index] = end.value
        except UserError as error:
            self.outcomes[member.index] = not_begun(error)
        except Exception as error:  # a fault that the run itself does not catch: the others go on
            traceback.print_exc()
            self.outcomes[member.index] = Outcome("", None, "failed", f"{type(error).__name__}: {error}")
        self.members.remove(member)
        gc.collect()  # free the device memory that an exception's traceback still holds, for the next run

    def runs_on(self, device: torch.device) -> int:
        return sum(member.config.trainer.device == str(device) for member in self.members)

    def has_room(self, device: torch.device, config: Config, limit: int) -> bool:
        """Whether another run may start: a place, enough memory, and no member with other process-wide settings."""
        present, deterministic = self.runs_on(device), config.trainer.deterministic
        if present >= limit or any(member.config.trainer.deterministic != deterministic for member in self.members):
            return False
        if present == 0 or device.type != "cuda" or self.at_once is not None:
            return True
        free, total = torch.cuda.mem_get_info(device)
        return free > 1.5 * (total - free) / present  # 1.5 times the mean of the runs there: the next may be deeper
