"""Seconds of a run over all the processes that worked on it."""

import time


class Clock:
    """Seconds of a run over all the processes that worked on it: `earlier` is what the checkpoint brought along."""

    def __init__(self, earlier: float = 0.0) -> None:
        self.earlier, self.start = earlier, time.perf_counter()

    def seconds(self) -> float:
        return self.earlier + time.perf_counter() - self.start
