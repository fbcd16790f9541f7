"""One graph of Dynamo's on the memory that it is given."""

import functools
import operator

import torch
from torch import Tensor

from spinup.accel import ALIGNMENT
from spinup.capture.cuda import GraphReplay
from spinup.capture.record import storage
from spinup.capture.replay import Replay

MAX_RECORDS = 4  # of one graph, each for tensors in other memory


class Program:
    """Calls a graph by a replay, and records anew when tensors that the update reads lie in other memory.

    The graph's arguments are those of the batch, which are copied to where the replay reads them; all other tensors
    that the update reads, in closures, modules or globals, which it finds where they are; and whole numbers.

    owner: the Trace; told in each call that a graph of it holds
    """

    def __init__(self, graph: torch.fx.GraphModule, owner):
        self.graph, self.owner = graph, owner
        self.names = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
        self.key, self.records = None, 0

    def __call__(self, *args) -> list[Tensor | None]:
        self.owner.holds = True
        if self.key is None:
            self.sort(args)
        batch = self.batch(args)
        key = [*map(Tensor.data_ptr, self.state(args))], self.numbers(args), [x.data_ptr() % ALIGNMENT for x in batch]
        if key != self.key:
            self.key = key
            self.record(args)
        if batch:
            torch._foreach_copy_(self.inputs, batch)
        results = self.replay.run()
        if self.kept is None:
            self.look_at(results)
        if self.replay.refused:
            self.owner.stay_python(self.replay.refused)
        return [x if kept else x.clone() for x, kept in zip(results, self.kept, strict=True)]

    def sort(self, args: tuple) -> None:
        """Functions that pick the arguments of each kind."""
        tensors = [i for i, x in enumerate(args) if isinstance(x, Tensor)]
        batch = [i for i in tensors if self.names[i].lower().startswith("l_captured_batch")]
        state = [i for i in tensors if i not in batch]
        numbers = [i for i in range(len(args)) if i not in tensors]
        self.where = batch
        self.batch, self.state, self.numbers = map(picker, (batch, state, numbers))

    def record(self, args: tuple) -> None:
        self.records += 1
        if self.records > MAX_RECORDS:
            self.owner.stay_python("it reads tensors that are made anew for each call; change them in place, by copy_")
        args = list(args)
        for i in self.where:
            args[i] = empty_like(args[i])
        self.inputs = [args[i] for i in self.where]
        kinds = {x.device.type for x in args if isinstance(x, Tensor)}
        replay = GraphReplay if kinds == {"cuda"} else Replay
        self.replay = replay(functools.partial(self.graph.forward, *args), self.inputs, self.owner.free)
        self.kept, self.memory = None, {storage(x) for x in self.state(args)}

    def look_at(self, results: list) -> None:
        """Which results are kept as they are: views of what the update reads beside the batch, and None."""
        self.kept = [x is None or storage(x) in self.memory for x in results]
        if {storage(x) for x in results if x is not None} & {storage(x) for x in self.inputs}:
            self.replay.refused = "it returns a view of its arguments; return a copy, by clone()"


def picker(indices: list[int]):
    """The function of a tuple that gives its elements there, as a tuple."""
    if len(indices) == 1:
        return lambda args: (args[indices[0]],)
    return operator.itemgetter(*indices) if indices else lambda args: ()


def empty_like(x: Tensor) -> Tensor:
    """Memory for a copy of x, with its strides, that begins where x does within ALIGNMENT."""
    gap = x.data_ptr() % ALIGNMENT // x.element_size()
    span = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True)) + 1
    return x.new_empty(gap + max(span, 0)).as_strided(x.shape, x.stride(), gap)
