"""Replay on a GPU: a CUDA graph takes the place of record, memory and replay."""

from collections.abc import Callable

import torch

WARM_UP = 3  # calls before the graph is captured, in which libraries choose their kernels and take their memory


class CudaGraph:
    """torch.cuda.CUDAGraph, as GraphReplay uses it; tests on a CPU put something else in its place."""

    def warm_up(self, function: Callable):
        """Call function on a stream of its own, as capturing asks for."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            results = function()
        torch.cuda.current_stream().wait_stream(stream)
        return results

    def capture(self, function: Callable):
        """Take down what function does, without doing it; its results hold after each replay."""
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            return function()

    def replay(self) -> None:
        self.graph.replay()


class GraphReplay:
    """What a function of no arguments does on a GPU: as it is in the first calls, and then one graph.

    Each call does what the function would, and returns what it would, in memory that the next overwrites. `refused`
    says why there can be no graph.
    """

    def __init__(self, function: Callable, free: dict, graph: type = CudaGraph):
        self.function, self.graph, self.calls = function, graph(), 0
        self.refused: str | None = None

    def run(self):
        self.calls += 1
        if self.refused or self.calls <= WARM_UP:
            return self.graph.warm_up(self.function)
        if self.calls == WARM_UP + 1:
            try:
                self.results = self.graph.capture(self.function)
            except RuntimeError as error:  # as for what must come back to the CPU; nothing has been done
                self.refused = f"it does what a CUDA graph can't hold ({str(error).splitlines()[0]})"
                return self.function()
        self.graph.replay()
        return self.results
