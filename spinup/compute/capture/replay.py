"""Replay: runs the planned operations one after another, each writing into its planned memory.

Torch has variants of its operators that write into given memory (`out=`), but these may round differently. So in its
second call, a replay does each operation both ways on the planned memory, and keeps the variant only if all bits agree;
otherwise it computes the result in new memory each time and copies it.
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
    """Runs a function without arguments on the CPU: recorded in the first call, certified in the second, then replayed.

    Each call does and returns what the function would, in memory that the next call overwrites. `refused` says why it
    can't be replayed.

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
    """Run the operation, and return a function that does the same in each replay; None if there is nothing to do."""
    op, args, kwargs, results = operation
    if op._schema.name.startswith("aten::empty"):
        return None
    if not results:
        step = functools.partial(functions.get(op) or fastest(op, args, kwargs), *args, **kwargs)
        step()
        return step
    memory = Memory(tensors_in((args, kwargs)))
    expected = [x if x is None else x.clone() for x in tree_leaves(op(*args, **kwargs))]
    after = memory.save()
    for variant in variants(op, results):
        memory.restore()
        out, sizes = out_arguments(variant, kwargs, results), [x.untyped_storage().nbytes() for x in results]
        with contextlib.suppress(RuntimeError, TypeError, Warning), warnings.catch_warnings():
            warnings.simplefilter("error")  # a variant that would resize its output warns
            poison(operation)
            variant._op(*args, **out)
            fits = sizes == [x.untyped_storage().nbytes() for x in results]
            if fits and all(map(same_bits, results, expected)) and memory.equals(after, besides=results):
                return functools.partial(fastest(variant, args, out), *args, **out)

    def compute_and_copy() -> None:
        for x, made in zip(results, tree_leaves(op(*args, **kwargs)), strict=True):
            if made is not None:
                x.copy_(made)

    memory.restore()
    compute_and_copy()
    return compute_and_copy


class Memory:
    """The storages of some tensors, and the random generator's state, as they were."""

    def __init__(self, tensors: list[Tensor]):
        self.storages = [*{x.untyped_storage()._cdata: x.untyped_storage() for x in tensors}.values()]
        self.before = self.save()

    def save(self) -> tuple:
        return torch.get_rng_state(), [x.clone() for x in self.storages]

    def restore(self, saved: tuple | None = None) -> None:
        """Restore what was saved, by default what was there in the beginning."""
        state, copies = saved or self.before
        torch.set_rng_state(state)
        for x, y in zip(self.storages, copies, strict=True):
            x.copy_(y)

    def equals(self, saved: tuple, besides: tuple = ()) -> bool:
        """Whether everything is as it was saved, except the memory of the tensors `besides`."""
        state, copies = saved
        others = {x.untyped_storage()._cdata for x in tensors_in(besides)}
        pairs = [(x, y) for x, y in zip(self.storages, copies, strict=True) if x._cdata not in others]
        return torch.equal(torch.get_rng_state(), state) and all(torch.equal(bits(x), bits(y)) for x, y in pairs)


def poison(operation: Operation) -> None:
    """Overwrite the memory for an operation's results with different values, except where an argument shares it."""
    arguments = {x.untyped_storage()._cdata for x in tensors_in((operation.args, operation.kwargs))}
    for x in operation.results:
        if x.untyped_storage()._cdata not in arguments:
            x.copy_(x.logical_not())


def bits(x) -> Tensor:
    """The bytes of a storage or tensor, (n,)."""
    if isinstance(x, Tensor):
        return x.contiguous().reshape(-1).view(torch.uint8)
    return torch.empty(0, dtype=torch.uint8).set_(x)


def same_bits(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and x.dtype == y.dtype and torch.equal(bits(x), bits(y))


# ---- variants of torch's operators


def variants(op, results: tuple) -> Iterator:
    """The variants of op that take the same inputs and write as many results into given memory."""
    if None in results or any(x._is_zerotensor() for x in results):
        return
    if not any(x.dim() for x in results) and any(a.name == "reduction" for a in op._schema.arguments):
        return  # these variants of losses enlarge the result's memory to hold the values before the reduction
    ops = [op]
    if op._overloadname == "Scalar" and hasattr(op.overloadpacket, "Tensor"):  # also takes numbers, and is faster
        ops.insert(0, op.overloadpacket.Tensor)
    overloads = [getattr(op.overloadpacket, name) for name in op.overloadpacket.overloads()]
    for x in ops:
        yield from (v for v in overloads if inputs_of(v) == inputs_of(x) and len(outs(v)) == len(results))


def inputs_of(op) -> list[tuple[str, str]]:
    """Names and types of an operator's inputs, except those that its outputs determine, such as dtype."""
    inputs = [argument for argument in op._schema.arguments if not argument.is_out]
    return [(argument.name, str(argument.type)) for argument in inputs if argument.name not in DECIDED_BY_OUT]


def outs(op) -> list[str]:
    """Names of the arguments that an operator writes its results to."""
    return [argument.name for argument in op._schema.arguments if argument.is_out]


def out_arguments(variant, kwargs: dict, results: tuple) -> dict:
    """The keyword arguments for a variant that writes into results."""
    accepted = {argument.name for argument in variant._schema.arguments}
    kwargs = {key: value for key, value in kwargs.items() if key in accepted}
    return kwargs | dict(zip(outs(variant), results, strict=True))


class Interceptor(TorchDispatchMode):
    """Records the last operation without running it."""

    call = None

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.call = op, args, kwargs or {}
        return tensors_in(self.call)[0]


def fastest(op, args: tuple, kwargs: dict) -> Callable:
    """A function that calls op with these arguments: torch's function or method of the same name, which parses them
    faster, if it makes the same call; otherwise the operator itself.
    """
    name = op._schema.name.removeprefix("aten::")
    function: Any = getattr(torch, name, None) or getattr(Tensor, name, None)
    with contextlib.suppress(TypeError, ValueError, RuntimeError, Warning), warnings.catch_warnings():
        warnings.simplefilter("error")  # such as for a deprecated order of arguments
        with torch.inference_mode(), Interceptor() as seen:
            function(*args, **kwargs)
        leaves, expected = (tree_leaves(call) for call in (seen.call, (op, args, kwargs)))
        if all(x is y or (not isinstance(x, Tensor) and x == y) for x, y in zip(leaves, expected, strict=True)):
            return function
    return op._op  # bypasses the Python of OpOverload
