"""Replay on a GPU: a CUDA graph instead of record, memory and replay."""

from collections.abc import Callable

import torch

WARM_UP = 3  # calls before the graph is captured, in which libraries choose kernels and allocate memory


class CudaGraph:
    """A thin wrapper of torch.cuda.CUDAGraph, which tests on a CPU replace."""

    def warm_up(self, function: Callable):
        """Call function on a side stream, as capturing requires."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            results = function()
        torch.cuda.current_stream().wait_stream(stream)
        return results

    def capture(self, function: Callable):
        """Record function's operations without running them; returns its results, which each replay fills."""
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            return function()

    def replay(self) -> None:
        self.graph.replay()


class GraphReplay:
    """Runs a function without arguments on a GPU: directly in the first calls, then as one graph.

    Each call does and returns what the function would, in memory that the next call overwrites. `refused` says why
    there can't be a graph.
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
            except RuntimeError as error:  # such as for a copy to the CPU; no operation has run yet
                self.refused = f"it does what a CUDA graph can't hold ({str(error).splitlines()[0]})"
                return self.function()
        self.graph.replay()
        return self.results
