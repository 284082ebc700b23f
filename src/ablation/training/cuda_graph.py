"""A function that asks nothing of the host, captured once as a CUDA graph and replayed."""

import gc
from collections.abc import Callable

import torch


def cuda_graph(function: Callable[[], None]) -> Callable[[], None]:
    """Capture what `function` does on the current stream as a CUDA graph, and return what replays it.

    Nothing is executed by capturing. Raises RuntimeError if `function` asks something of the host.
    """
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.current_stream()
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # a graph of an earlier run that is collected during a capture would spoil it
    try:
        # thread_local: another thread of the process (a progress display, a tracker) must not spoil it either
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            function()
    finally:
        if collecting:
            gc.enable()
    return graph.replay


class Replayed:
    """A function of nothing but what lies on the device: called a few times as it is, then captured and replayed.

    The first calls do their work like all others; they let cuDNN choose, optimizers make their state, and Triton
    compile, none of which can be captured. Without a `capture` every call is the function's own. The function is handed
    over at every call, and not kept: its owner, and with it the memory on the device, is to go when nobody needs it.
    """

    def __init__(self, capture: "Capture | None") -> None:
        self.capture = capture
        self.calls = 0
        self.replay: Callable[[], None] | None = None

    def __call__(self, function: Callable[[], None]) -> None:
        """Do it once; `function` is always the same."""
        if self.capture is not None and self.replay is None and self.calls >= CALLS_BEFORE_CAPTURE:
            try:
                self.replay = self.capture(function)
            except RuntimeError as error:
                self.capture = None
                fault = error.__context__ or error  # a capture that is broken off hides what broke it
                reason = (str(fault).splitlines() or [type(fault).__name__])[0]
                print(f"no CUDA graph, going on with one kernel at a time: {reason}", flush=True)
        self.calls += 1
        (self.replay or function)()


Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Takes a function and returns one that does the same: `cuda_graph`."""

CALLS_BEFORE_CAPTURE = 3
