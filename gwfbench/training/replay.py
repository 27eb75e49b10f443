"""A piece of a loop that reads and writes buffers alone: called on the CPU, replayed from a CUDA graph on a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch

WARM = 3  # calls on a stream of their own before the capture: libraries set themselves up in them


class Replayed:
    """Calls of a body without arguments or result.

    On a GPU the first calls are made as they are, the next is captured, and from then on a call is one launch: whatever
    the body has read from Python by then (numbers, lengths, which branch it takes) stays as it was. A body whose reads
    are all from buffers gives the same numbers either way.
    """

    def __init__(self, body: Callable[[], None], device: torch.device):
        self._body, self._device, self._calls = body, device, 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self._device.type != "cuda":
            self._body()
            return
        if self._graph is None and self._calls == WARM:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._body()
        if self._graph is not None:
            self._graph.replay()
            return
        self._calls += 1
        side = torch.cuda.Stream(self._device)
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            self._body()
        torch.cuda.current_stream(self._device).wait_stream(side)
