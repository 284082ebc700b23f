"""A function that asks nothing of the host, captured once as a CUDA graph and replayed."""

import gc
from collections.abc import Callable

import torch

from ablation.errors import first_line

Capture = Callable[[Callable[[], None]], Callable[[], None]]  # such as `cuda_graph`
CALLS_BEFORE_CAPTURE = 3  # cuDNN chooses algorithms, optimizers make state, Triton compiles: nothing to be captured


def cuda_graph(function: Callable[[], None]) -> Callable[[], None]:
    """Capture, without executing it, what `function` does on the current stream, and return what replays it.

    Raises RuntimeError if `function` asks something of the host.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    gc.collect()
    gc.disable()  # collecting the graph of an earlier run would break a capture
    try:
        # thread_local: what other threads of the process do (a progress bar) must not break it either
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            function()
    finally:
        gc.enable()
    return graph.replay


class Replayed:
    """Calls a function that uses only what lies on the device: a few times as it is, then captured, if at all.

    A capture that fails costs one line, and the calls go on as they are; with `strict` its error is raised.
    The function is passed at every call and not kept, so that its owner's memory on the device can be freed.
    """

    def __init__(self, capture: Capture | None, strict: bool = False) -> None:
        self.capture, self.strict, self.calls = capture, strict, 0
        self.replay: Callable[[], None] | None = None

    def __call__(self, function: Callable[[], None]) -> None:
        """Execute it once; `function` must be the same at every call."""
        if self.capture is not None and self.replay is None and self.calls >= CALLS_BEFORE_CAPTURE:
            try:
                self.replay = self.capture(function)
            except Exception as error:  # torch's RuntimeError, Triton's own, an AssertionError of Inductor
                if self.strict:
                    raise
                self.capture = None
                reason = first_line(error.__context__ or error)  # a broken capture's error hides what broke it
                print(f"no CUDA graph, going on with one kernel at a time: {reason}", flush=True)
        self.calls += 1
        (self.replay or function)()
