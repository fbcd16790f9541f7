"""Replay: the planned operations one after another, each written into its memory by torch's variant for that.

Torch has variants of its operators that write into given memory (`out=`), and their sums may round differently. So in
its second call a replay does each operation both ways on the very memory of the plan, and keeps the variant only if all
bits agree; otherwise it computes the result anew each time and copies it.
"""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spinup.compute.capture.memory import plan_memory
from spinup.compute.capture.operators import functions
from spinup.compute.capture.record import Operation, record, tensors_in

DECIDED_BY_OUT = {"dtype", "layout", "device", "pin_memory"}


class Replay:
    """What a function of no arguments does on the CPU: recorded in its first call, certified in its second.

    Each call does what the function would, and returns what it would, in memory that the next overwrites. `refused`
    says why it can't be replayed.

    free: storages that no replay is using, by size
    """

    def __init__(self, function: Callable, free: dict[int, list]):
        self.function, self.free = function, free
        self.refused: str | None = None
        self.run = self.record

    def record(self):
        results, operations, self.refused = record(self.function)
        if not self.refused:
            self.plan, self.results = plan_memory(operations, results, self.free)
            self.run = self.certify
        return results

    @torch.inference_mode()
    def certify(self):
        self.steps = [step for step in map(certified_step, self.plan) if step]
        self.run = self.replay
        del self.plan, self.function
        return self.results

    def replay(self):
        with torch.inference_mode():
            for step in self.steps:
                step()
        return self.results


def certified_step(operation: Operation) -> Callable | None:
    """Does the operation, and returns what will do the same in each replay; None if there is nothing to do."""
    op, args, kwargs, results = operation
    if op._schema.name.startswith("aten::empty"):
        return None
    if not results:
        step = functools.partial(functions.get(op) or fastest(op, args, kwargs), *args, **kwargs)
        step()
        return step
    memory = Memory(operation)
    expected = [x if x is None else x.clone() for x in tree_leaves(op(*args, **kwargs))]
    after = memory.save()
    for variant in variants(op, results):
        memory.restore()
        out, sizes = out_arguments(variant, kwargs, results), [x.untyped_storage().nbytes() for x in results]
        with contextlib.suppress(RuntimeError, TypeError, Warning), warnings.catch_warnings():
            warnings.simplefilter("error")  # a variant that has another shape in mind warns
            memory.poison(results)
            variant._op(*args, **out)
            fits = sizes == [x.untyped_storage().nbytes() for x in results]
            if fits and all(map(same_bits, results, expected)) and memory.equals(after):
                return functools.partial(fastest(variant, args, out), *args, **out)

    def compute_and_copy() -> None:
        for x, made in zip(results, tree_leaves(op(*args, **kwargs)), strict=True):
            if made is not None:
                x.copy_(made)

    memory.restore()
    compute_and_copy()
    return compute_and_copy


class Memory:
    """What an operation may read or change: the storages of its arguments, and the state of the random generator."""

    def __init__(self, operation: Operation):
        self.arguments = [x.untyped_storage() for x in tensors_in((operation.args, operation.kwargs))]
        self.results = {x.untyped_storage()._cdata for x in tensors_in(operation.results)}
        self.before = self.save()

    def save(self) -> tuple:
        return torch.get_rng_state(), [x.clone() for x in self.arguments]

    def restore(self) -> None:
        state, saved = self.before
        torch.set_rng_state(state)
        for x, y in zip(self.arguments, saved, strict=True):
            x.copy_(y)

    def poison(self, results: tuple) -> None:
        """Other bits where the results will be, unless an argument is there."""
        arguments = {x._cdata for x in self.arguments}
        for x in results:
            if x.untyped_storage()._cdata not in arguments:
                x.copy_(x.logical_not())

    def equals(self, saved: tuple) -> bool:
        """Whether all but the results is as it was saved."""
        state, storages = saved
        pairs = [(x, y) for x, y in zip(self.arguments, storages, strict=True) if x._cdata not in self.results]
        return torch.equal(torch.get_rng_state(), state) and all(torch.equal(bits(x), bits(y)) for x, y in pairs)


def bits(x) -> Tensor:
    """A storage's bytes, (n,), or a tensor's."""
    if isinstance(x, Tensor):
        return x.contiguous().reshape(-1).view(torch.uint8)
    return torch.empty(0, dtype=torch.uint8).set_(x)


def same_bits(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and x.dtype == y.dtype and torch.equal(bits(x), bits(y))


# ---- variants of torch's operators


def variants(op, results: tuple) -> Iterator:
    """Those that take what op does, and write as many results into given memory."""
    if None in results or any(x._is_zerotensor() for x in results):
        return
    if not any(x.dim() for x in results) and any(a.name == "reduction" for a in op._schema.arguments):
        return  # of losses: they put what they reduce into the memory for the result, and enlarge it for that
    ops = [op]
    if op._overloadname == "Scalar" and hasattr(op.overloadpacket, "Tensor"):  # takes numbers too, and writes faster
        ops.insert(0, op.overloadpacket.Tensor)
    overloads = [getattr(op.overloadpacket, name) for name in op.overloadpacket.overloads()]
    for x in ops:
        yield from (v for v in overloads if inputs_of(v) == inputs_of(x) and len(outs(v)) == len(results))


def inputs_of(op) -> list[tuple[str, str]]:
    """Names and types of what an operator takes, without the tensors it writes into and what these decide."""
    every = [argument for argument in op._schema.arguments if not argument.is_out]
    return [(argument.name, str(argument.type)) for argument in every if argument.name not in DECIDED_BY_OUT]


def outs(op) -> list[str]:
    """Names of the arguments that an operator writes into."""
    return [argument.name for argument in op._schema.arguments if argument.is_out]


def out_arguments(variant, kwargs: dict, results: tuple) -> dict:
    """The keyword arguments of a variant that writes into results."""
    taken = {argument.name for argument in variant._schema.arguments}
    kwargs = {key: value for key, value in kwargs.items() if key in taken}
    return kwargs | dict(zip(outs(variant), results, strict=True))


class Intercepted(TorchDispatchMode):
    """Notes the last operation, which is not done."""

    call = None

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.call = op, args, kwargs or {}
        return tensors_in(self.call)[0]


def fastest(op, args: tuple, kwargs: dict) -> Callable:
    """What calls op with these arguments: torch's function or method of this name, which parses them faster than the
    operator does, if it comes to the same call.
    """
    name = op._schema.name.removeprefix("aten::")
    function: Any = getattr(torch, name, None) or getattr(Tensor, name, None)
    with contextlib.suppress(TypeError, ValueError, RuntimeError, Warning), warnings.catch_warnings():
        warnings.simplefilter("error")  # as for arguments in an order that is deprecated
        with torch.inference_mode(), Intercepted() as asked:
            function(*args, **kwargs)
        leaves, wanted = (tree_leaves(call) for call in (asked.call, (op, args, kwargs)))
        if all(x is y or (not isinstance(x, Tensor) and x == y) for x, y in zip(leaves, wanted, strict=True)):
            return function
    return op._op  # without OpOverload's own Python
