"""One of Dynamo's graphs, with its inputs in fixed memory."""

import contextlib
import functools
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spinup.compute import mpi
from spinup.compute.accel import ALIGNMENT
from spinup.compute.capture.cuda import GraphReplay
from spinup.compute.capture.record import record, storage, tensors_in, written
from spinup.compute.capture.replay import Memory, Replay

ASSERTIONS = torch._assert, torch._assert_async
DIFFERS = "Dynamo computes something else than Python; please report it"
MAX_RECORDS = 4  # per graph; it is recorded again when tensors that it reads have moved in memory


class Unchecked(Exception):
    """A graph's first call ended in an error or Ctrl-C before the graph was compared with Python."""


class Program:
    """Runs a graph by replay, and records it again if tensors that the update reads have moved in memory.

    The graph's arguments are the batch, which is copied to where the replay reads it; all other tensors that the update
    reads (from closures, modules or globals), which are used where they are; and integers.

    The first call, and the first one after such a move, runs the graph on the arguments themselves and records it; the
    next one starts the replay.

    owner: the Trace, whose `holds` each call sets
    """

    def __init__(self, graph: torch.fx.GraphModule, owner):
        # Dynamo's own module would compile its code in its first call, call global module hooks, and find its functions
        # by name, so that one that was replaced by a function that calls it would be replaced twice.
        self.graph, self.owner = torch.fx.Interpreter(torch.fx.GraphModule(graph, graph.graph)), owner
        self.graph.extra_traceback = False  # which would change an error's message
        self.key: tuple | None = None
        self.replay: Any = None  # Replay or GraphReplay
        self.records, self.memory, self.checked = 0, set(), False

    def __call__(self, *args) -> list[Tensor | None]:
        self.owner.holds, grad_enabled = True, torch.is_grad_enabled()
        try:
            return self.run(args)
        except BaseException:
            torch.set_grad_enabled(grad_enabled)  # the graph would have done that at its end
            raise

    def run(self, args: tuple) -> list[Tensor | None]:
        if self.key is None:
            self.classify(args)
        batch = self.batch(args)
        key = [*map(Tensor.data_ptr, self.state(args))], self.numbers(args), [x.data_ptr() % ALIGNMENT for x in batch]
        moved = key != self.key
        if moved:
            self.memory = {storage(x) for x in self.state(args)}
        if not self.memory.isdisjoint(map(storage, batch)):
            self.owner.stay_python("its batch holds memory that it also reads elsewhere; give it a copy, by clone()")
            return self.graph.run(*args)
        if moved:
            return self.run_and_record(args, key)
        if self.replay is None:
            self.prepare(args)
        if batch:
            torch._foreach_copy_(self.inputs, batch)
        results = self.replay.run()
        if self.replay.refused:
            self.owner.stay_python(self.replay.refused)
        return [
            x if x is None else x.detach() if kept else x.clone() for x, kept in zip(results, self.kept, strict=True)
        ]

    def classify(self, args: tuple) -> None:
        """Set the functions that pick each kind of arguments."""
        tensors = [i for i, x in enumerate(args) if isinstance(x, Tensor)]
        names = placeholders(self.graph.module)
        batch = [i for i in tensors if of_batch(names[i])]
        state = [i for i in tensors if i not in batch]
        numbers = [i for i in range(len(args)) if i not in tensors]
        self.batch_indices = batch
        self.batch, self.state, self.numbers = map(picker, (batch, state, numbers))

    def run_and_record(self, args: tuple, key: tuple) -> list[Tensor | None]:
        """Run the graph on the arguments, and check whether it can be replayed.

        Before that, the first time, the update runs as Python from the same state: both must do the same, bit for bit.
        (Not on a GPU, where sums may differ from call to call.)
        """
        check = not self.checked and all(x.device.type == "cpu" for x in tensors_in(args))
        twice = mpi.Twice()
        if check:
            memory = Memory(tensors_in(args))
            with twice.run():
                self.owner.run_as_python()
            after = memory.save()
            memory.restore()
        self.records += 1
        with twice.run() if check else contextlib.nullcontext():
            results, operations, refused = record(functools.partial(self.graph.run, *args))
        if check and not (twice.same() and memory.equals(after)):
            refused = refused or DIFFERS
            memory.restore(after)
        self.checked = True
        inputs = {storage(x) for x in self.batch(args)}
        returned = [x is not None and storage(x) for x in results]
        self.kept = [at is False or at in self.memory for at in returned]
        self.kinds = {x.device.type for x in tensors_in((args, operations))}
        if self.records > MAX_RECORDS and self.key and key[:2] == self.key[:2]:
            refused = "its batch is aligned differently in each call, as NumPy's may be; give it a copy, by clone()"
        elif self.records > MAX_RECORDS:
            refused = "it reads tensors that are created again for each call; change them in place, by copy_"
        elif inputs & {storage(x) for o in operations for x in written(o)}:
            refused = "it changes its arguments in place"
        elif not inputs.isdisjoint(returned):
            refused = "it returns a view of its arguments; return a copy, by clone()"
        elif self.kinds != {"cpu"} and any(x.device.type != "cuda" for x in tensors_in(args)):
            refused = f"it computes on {' and '.join(sorted(self.kinds))}; keep to the CPU or to one CUDA device"
        self.key, self.replay = key, None
        if refused:
            self.owner.stay_python(refused)
        return results

    def prepare(self, args: Sequence) -> None:
        args = list(args)
        for i in self.batch_indices:
            args[i] = empty_like(args[i])
        self.inputs = [args[i] for i in self.batch_indices]
        replay = Replay if self.kinds == {"cpu"} else GraphReplay
        self.replay = replay(functools.partial(self.graph.run, *args), self.owner.free)


def why_not(graph: torch.fx.GraphModule, args: list) -> str | None:
    """Why a graph with arguments like these can't be replayed; None if no reason shows before the first call."""
    if any(getattr(x, "_backward_hooks", None) for x in args):  # a replay wouldn't call them
        return "a hook on a parameter or another tensor that it reads; change the gradient in the update"
    batch = [x for name, x in zip(placeholders(graph), args, strict=True) if of_batch(name) and isinstance(x, Tensor)]
    if any(x.requires_grad for x in batch):
        return "its batch requires gradients; detach it, or call requires_grad_ on a clone of it in the update"
    if any(n > 1 and stride == 0 for x in batch for n, stride in zip(x.shape, x.stride(), strict=True)):
        return "its batch holds an expanded tensor; give it a copy, by contiguous()"
    for node in graph.graph.nodes:
        source = repr(node.meta.get("grapharg"))  # of a tensor with which Python computes as a number
        if "NumpyTensorSource" in source:
            return "it reads a NumPy number or array; make it a tensor"
        if "RandomValueSource" in source:
            return "it draws a number by Python's random; draw it by torch.rand"
        if node.target in ASSERTIONS:  # fail with another exception than Python's
            return "it asserts something of a tensor; return the tensor, and check it outside"
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            return f"it calls torch's {node.target.name()}, which contains functions"
    return None


def placeholders(graph: torch.fx.GraphModule) -> list[str]:
    """Names of a graph's arguments."""
    return [node.name for node in graph.graph.nodes if node.op == "placeholder"]


def of_batch(name: str) -> bool:
    return name.lower().startswith("l_captured_batch")


def picker(indices: list[int]):
    """A function that picks the elements at these indices of a tuple, as a tuple."""
    if len(indices) == 1:
        return lambda args: (args[indices[0]],)
    return operator.itemgetter(*indices) if indices else lambda args: ()


def empty_like(x: Tensor) -> Tensor:
    """Memory for a copy of x, with the same strides and the same address modulo ALIGNMENT."""
    gap = x.data_ptr() % ALIGNMENT // x.element_size()
    span = sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True)) + 1
    return x.new_empty(gap + max(span, 0)).as_strided(x.shape, x.stride(), gap)
