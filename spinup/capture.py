"""Repeating an update without Python's and autograd's part in it: what CUDA graphs do on GPUs, for the CPU.

A third of an update of small networks is not computing: Python runs their modules, autograd takes down what they do and
walks back through it, and each result looks for memory. That comes out the same every time; only the numbers differ. So
an update decorated by `captured` takes down the operations on tensors that its first call does, forward, backward and
optimizer steps, and later calls do just these, one after another, each into memory chosen beforehand. The results are
the same to the bit, but for the gradients of two operations that docs/performance.md names.

What else Python does in the update is not repeated, a print or an `if` for instance, and so calls 1, 2, 4, 8, ... and
every thousandth run as Python and are compared with the first: a difference ends the training.
"""

import contextlib
import functools
import itertools
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

from spinup.errors import UserError

COPY = torch.ops.aten._foreach_copy_.default
FROM_PYTHON = torch.ops.aten.lift_fresh.default  # makes a tensor of numbers, in torch.tensor
DECIDED_BY_OUT = {"dtype", "layout", "device", "pin_memory"}
CONSTANTS = {
    torch.ops.aten.ones_like,
    torch.ops.aten.zeros_like,
    torch.ops.aten.new_zeros,
    torch.ops.aten.scalar_tensor,
}
READ_BY_PYTHON = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class Call(NamedTuple):
    """One operation on tensors, or one function marked by `every_time`."""

    function: Callable
    args: tuple
    kwargs: dict
    results: tuple = ()  # the tensors that it makes, None for one left out; () where it changes its arguments
    writer: Callable | None = None  # the variant of the operation that writes them into given memory


def tensors_in(tree) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


class Recorder(TorchDispatchMode):
    """Takes down the calls below autograd, those of the backward pass included, while they are done."""

    active = None  # the one that records now

    def __init__(self, first: bool):
        super().__init__()
        self.first, self.calls, self.reads, self.declined = first, [], None, False

    def __enter__(self):
        Recorder.active = self
        return super().__enter__()

    def __exit__(self, *exception):
        Recorder.active = None
        return super().__exit__(*exception)

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        random_state = torch.get_rng_state() if self.first else None
        results = op(*args, **kwargs)
        if Recorder.active is None:  # within a function marked by every_time
            return results
        # x.conj() of complex numbers is a flag beside the memory of x, which a repetition would not see.
        self.declined |= any(x.is_conj() or x.is_neg() for x in tensors_in((args, kwargs, results)))
        changes_arguments = op._schema.is_mutable
        # Some give back the memory of an argument and do not say so, as _unsafe_view, of which matmul makes use.
        made, given = ({storage(x) for x in tensors_in(tree)} for tree in (results, (args, kwargs)))
        makes_view = not changes_arguments and (made <= given or any(x.alias_info for x in op._schema.returns))
        if READ_BY_PYTHON & set(op.tags) and not indexes_by_number(op, args):
            self.reads = op
        elif op is FROM_PYTHON:
            self.calls.append(Call(op, (args[0].clone(),), {}, (results,)))
        elif changes_arguments:
            self.calls.append(Call(op, *as_they_are((args, kwargs))))
        elif not makes_view and tensors_in(results):
            call = Call(op, *as_they_are((args, kwargs, tuple(tree_leaves(results)))))
            self.calls.append(call._replace(writer=find_writer(call, random_state)) if self.first else call)
        return results


def as_they_are(tree):
    """The same with tensors of their own over the same memory: x.squeeze_() changes the shape of a tensor itself."""
    return tree_map_only(Tensor, Tensor.detach, tree)


def indexes_by_number(op, args: tuple) -> bool:
    """Whether this is x[i] where the result's shape is that of i, and not a choice by a mask."""
    masks = torch.bool, torch.uint8
    return op is torch.ops.aten.index.Tensor and all(i is None or i.dtype not in masks for i in args[1])


def every_time(function: Callable) -> Callable:
    """Marks a function of tensors whose Python takes part in each repetition; it must return nothing."""

    @functools.wraps(function)
    def wrapper(*args) -> None:
        recorder = Recorder.active
        if recorder:
            recorder.calls.append(Call(function, args, {}))
        Recorder.active = None
        try:
            function(*args)
        finally:
            Recorder.active = recorder

    return wrapper


def not_repeatable() -> None:
    """Says, from within an update, that it has to run as Python each time."""
    if Recorder.active:
        Recorder.active.declined = True


def captured(on: bool = True) -> Callable:
    """Decorates update(batch, *options), which returns tensors: it then repeats what its first call did to tensors.

    batch: a tuple of tensors; options: hashable; each combination of options and of shapes has a first call of its own
    The returned tensors hold until the next call. On other devices than CPUs, and where Python reads a tensor in the
    update, it is run as it is, and always if not `on`. Raises UserError where a call that is compared differs from the
    first.
    """

    def decorate(update: Callable) -> Callable:
        programs = {}
        memory = {}  # free pieces by size, common to all programs

        @functools.wraps(update)
        def wrapper(batch: tuple[Tensor, ...], *options):
            if not batch[0].is_cpu:
                return update(batch, *options)
            key = (*options, *((x.shape, x.dtype) for x in batch))
            if key not in programs:
                programs[key] = Program(update, batch, options, memory)
            return programs[key](batch)

        return wrapper if on else update

    return decorate


class Program:
    """What update(batch, *options) does to tensors, and to which."""

    def __init__(self, update: Callable, batch: tuple[Tensor, ...], options: tuple, memory: dict):
        self.update, self.options, self.memory = update, options, memory
        self.inputs = tree_map_only(Tensor, torch.empty_like, batch)
        self.count, self.repeatable = 0, True

    def __call__(self, batch: tuple[Tensor, ...]):
        if not self.repeatable:
            return self.update(batch, *self.options)
        torch._foreach_copy_(self.inputs, batch)
        self.count += 1
        if self.count & (self.count - 1) == 0 or self.count % 1000 == 0:
            return self.record()
        with torch.inference_mode():
            for step in self.steps:
                step()
        return self.results

    def record(self):
        """A call as Python: the first one, or one that must do what the first did."""
        with Recorder(first=self.count == 1) as recorder:
            results = self.update(self.inputs, *self.options)
        calls, sign = recorder.calls, signature(recorder.calls, results)
        if self.count == 1:
            self.sign, self.repeatable = sign, not (recorder.reads or recorder.declined)
            if self.repeatable:
                calls, self.results = place(calls, results, self.memory)
                self.steps = [step for step in map(in_place, calls) if step]
            elif not recorder.declined:
                told = f"each update runs as Python, for it reads a tensor there ({recorder.reads})"
                warnings.warn(told, stacklevel=4)
        elif sign != self.sign or recorder.reads:
            raise UserError(
                f"update {self.count} does other operations than the first, which the updates between repeated; make "
                "what decides this an argument of update(), or set capture to False"
            )
        return results


def is_operation(call: Call) -> bool:
    """Whether it is one of torch's, which uses no other tensors than its arguments."""
    return isinstance(call.function, torch._ops.OpOverload)


def storage(x: Tensor) -> int:
    """Names the memory of x, and of all views of it, while it is held."""
    return x.untyped_storage()._cdata


def memory(x: Tensor) -> int:
    """Where x's storage lies: that of two may be the same, as of two tensors made from one numpy array.

    Nowhere is 0: where autograd knows that a gradient is 0, it may be a tensor without memory.
    """
    return 0 if x._is_zerotensor() else x.untyped_storage().data_ptr()


def births(calls: list[Call]) -> dict[int, int]:
    """For each storage that a call makes, the number of the first such call; all others were there before."""
    return {storage(x): i for i, call in reversed(list(enumerate(calls))) for x in tensors_in(call.results)}


def signature(calls: list[Call], results) -> list:
    """What two recordings have in common where they do the same: functions, numbers, shapes, and which memory."""
    born = births(calls)
    numbers = {storage(call.args[0]): call.args[0].tolist() for call in calls if call.function is FROM_PYTHON}

    def describe(x: Tensor) -> tuple:
        if storage(x) in numbers:
            return x.dtype, numbers[storage(x)]
        origin = born.get(storage(x), ("before", memory(x)))
        return x.dtype, x.shape, x.stride(), x.storage_offset(), origin

    return tree_map_only(Tensor, describe, [*(call[:3] for call in calls), results])


def makes_constant(call: Call) -> bool:
    """Whether its result is the same each time, as that of torch.ones_like is."""
    return getattr(call.function, "overloadpacket", None) in CONSTANTS


def can_overwrite(call: Call, key: int) -> bool:
    """Whether the result can take the place of the arguments in this storage, number by number."""
    if len(call.results) != 1 or torch.Tag.pointwise not in call.function.tags:
        return False

    def layout(x: Tensor) -> tuple:
        return x.dtype, x.shape, x.stride(), x.storage_offset(), x.untyped_storage().nbytes()

    return all(layout(x) == layout(call.results[0]) for x in tensors_in(call.args) if storage(x) == key)


def last_uses(calls: list[Call], results) -> dict[int, int]:
    """For each storage, the number of the last call that has to do with it; of those in results, their number."""
    last_use = {storage(x): i for i, call in enumerate(calls) for x in tensors_in(call)}
    return last_use | {storage(x): len(calls) for x in tensors_in(results)}


def apart(destinations: list[Tensor], sources: list[Tensor]) -> bool:
    """Whether a copy's pairs may be done in any order: nothing is written twice, or both read and written."""
    spans = sorted((x.data_ptr(), x.data_ptr() + x.nbytes) for x in destinations)
    disjoint = all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
    whole = all(x.is_contiguous() for x in destinations)
    return disjoint and whole and not {memory(x) for x in destinations} & {memory(x) for x in sources}


def without_copies(calls: list[Call], results) -> tuple[list[Call], dict[int, Tensor]]:
    """The calls without the copies of what can be made where it is copied to, as gradients in the flat one; and where
    that is, by the storage that was copied.
    """
    born, last_use, made_in, kept = births(calls), last_uses(calls, results), {}, []

    def can_be_made_in(to: Tensor, x: Tensor, i: int) -> bool:
        """Whether all of x is copied in call i and not used later, and `to` not used since x is made."""
        alike = (to.dtype, to.shape, to.stride()) == (x.dtype, x.shape, x.stride())
        whole = x.untyped_storage().nbytes() == x.nbytes
        if not (alike and whole) or storage(x) not in born or last_use[storage(x)] > i or storage(to) in born:
            return False
        between = calls[born[storage(x)] : i]
        used = [y for call in between for y in tensors_in(call)]
        as_other_type = any(storage(y) == storage(x) and y.dtype != x.dtype for y in used)
        return memory(to) not in map(memory, used) and not as_other_type and all(map(is_operation, between))

    for i, call in enumerate(calls):
        if call.function is not COPY or not apart(*call.args):
            kept.append(call)
            continue
        stay = []
        for to, x in zip(*call.args, strict=True):
            if storage(x) not in made_in and can_be_made_in(to, x, i):
                made_in[storage(x)] = to
            else:
                stay.append((to, x))
        if stay:
            kept.append(call._replace(args=tuple(map(list, zip(*stay, strict=True)))))
    return kept, made_in


def place(calls: list[Call], results, free: dict[int, list]) -> tuple:
    """Both with all tensors that calls make in memory of their own, which the next takes over after the last use.

    free: such memory by its size, from which it is taken and into which it is given back
    """
    changed = {storage(x) for call in calls if not call.results for x in tensors_in(call)}
    calls = [call for call in calls if not makes_constant(call) or storage(call.results[0]) in changed]
    calls, made_in = without_copies(calls, results)
    born, last_use, pieces = births(calls), last_uses(calls, results), {}

    def move(x: Tensor) -> Tensor:
        key, size = storage(x), x.untyped_storage().nbytes()
        if key not in born:
            return x.detach()
        if key in made_in:
            to = made_in[key].detach()
            return to.as_strided(x.shape, x.stride(), to.storage_offset() + x.storage_offset())
        if key not in pieces:
            unused = free.setdefault(size, [])
            pieces[key] = unused.pop() if unused else torch.empty(size, dtype=torch.uint8).untyped_storage()
        return torch.empty(0, dtype=x.dtype).set_(pieces[key], x.storage_offset(), x.shape, x.stride())

    def give_back(keys) -> None:
        for key in keys:
            free[pieces[key].nbytes()].append(pieces[key])

    placed = []
    for i, call in enumerate(calls):
        done_with = {storage(x) for x in tensors_in(call) if storage(x) in born and last_use[storage(x)] == i}
        done_with -= made_in.keys()
        for key in done_with & pieces.keys():
            if can_overwrite(call, key) and storage(call.results[0]) not in made_in:
                pieces[storage(call.results[0])] = pieces[key]
                done_with.remove(key)
                break
        placed.append(Call(*tree_map_only(Tensor, move, tuple(call))))
        give_back(done_with)
    results = tree_map_only(Tensor, move, results)
    give_back({key for key in pieces if last_use[key] == len(calls)})
    return placed, results


def arguments(op) -> list[tuple[str, str]]:
    """Names and types of what an operation takes, but for the tensors it writes into and what these decide."""
    every = [argument for argument in op._schema.arguments if not argument.is_out]
    return [(argument.name, str(argument.type)) for argument in every if argument.name not in DECIDED_BY_OUT]


class Intercepted(TorchDispatchMode):
    """Takes down the last call of an operation, which is not done."""

    call = None

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.call = op, args, kwargs or {}
        return tensors_in(self.call)[0]


def fastest(op, args: tuple, kwargs: dict) -> Callable:
    """What does the operation with these arguments: torch's function or method of this name, which reads its arguments
    faster, if it comes to the same.
    """
    name = op._schema.name.removeprefix("aten::")
    function = getattr(torch, name, None) or getattr(Tensor, name, None)
    with contextlib.suppress(TypeError, ValueError, RuntimeError, Warning), warnings.catch_warnings():
        warnings.simplefilter("error")  # as for arguments in an order that is deprecated
        with torch.inference_mode(), Intercepted() as asked:
            function(*args, **kwargs)
        leaves, wanted = (tree_leaves(call) for call in (asked.call, (op, args, kwargs)))
        if all(x is y or (not isinstance(x, Tensor) and x == y) for x, y in zip(leaves, wanted, strict=True)):
            return function
    return op._op  # without OpOverload's own Python


def find_writer(call: Call, random_state: Tensor) -> Callable | None:
    """The variant of the operation that writes into given memory, where there is one that gives the same to the bit.

    Tried while the arguments are as the call found them; random_state: that before it
    """
    op, results = call.function, call.results
    if None in results or any(x._is_zerotensor() for x in results) or call.kwargs.get("generator") is not None:
        return None
    ops = [op]
    if op._overloadname == "Scalar" and hasattr(op.overloadpacket, "Tensor"):  # takes numbers too, and writes faster
        ops.insert(0, op.overloadpacket.Tensor)
    variants = [getattr(op.overloadpacket, name) for name in op.overloadpacket.overloads()]
    for variant in (x for op in ops for x in variants if arguments(x) == arguments(op)):
        if len(outs(variant)) != len(results):
            continue
        # In memory of no size first: that the variant has another shape in mind would be warned of otherwise.
        if all(writes_the_same(variant, call, new, random_state) for new in (no_memory, other_numbers)):
            return variant
    return None


def writes_the_same(variant, call: Call, new: Callable, random_state: Tensor) -> bool:
    """Whether the variant writes the call's results into what `new` makes for each."""
    random = torch.random.fork_rng(devices=())
    with _disable_current_modes(), torch.no_grad(), random, contextlib.suppress(RuntimeError, TypeError):
        torch.set_rng_state(random_state)
        args, kwargs = tree_map_only(Tensor, copy_of, (call.args, call.kwargs))  # batch_norm, for one, changes its own
        trial = [new(x) for x in call.results]
        variant._op(*args, **out_arguments(variant, kwargs, trial))
        return all(map(same_numbers, trial, call.results))
    return False


def no_memory(x: Tensor) -> Tensor:
    return torch.empty(0, dtype=x.dtype)


def other_numbers(x: Tensor) -> Tensor:
    return copy_of(x).copy_(x.logical_not())


def copy_of(x: Tensor) -> Tensor:
    """The same numbers in the same layout, in memory of their own."""
    return torch.empty(0, dtype=x.dtype).set_(x.untyped_storage().clone(), x.storage_offset(), x.shape, x.stride())


def same_numbers(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and x.dtype == y.dtype and bool(((x == y) | ((x != x) & (y != y))).all())


def outs(variant) -> list[str]:
    """Names of the arguments that an operation writes into."""
    return [argument.name for argument in variant._schema.arguments if argument.is_out]


def out_arguments(variant, kwargs: dict, results: tuple) -> dict:
    """Those of kwargs that the variant takes, and what it is to write into."""
    taken = {argument.name for argument in variant._schema.arguments}
    kwargs = {key: value for key, value in kwargs.items() if key in taken}
    return kwargs | dict(zip(outs(variant), results, strict=True))


def in_place(call: Call) -> Callable | None:
    """What does the call into the memory of its results; None where nothing is to be done."""
    op, args, kwargs, results, writer = call
    if not is_operation(call):
        return functools.partial(op, *args, **kwargs)
    if op._schema.name.startswith("aten::empty"):
        return None
    if writer:
        op, kwargs = writer, out_arguments(writer, kwargs, results)
    if writer or not results:
        return functools.partial(fastest(op, args, kwargs), *args, **kwargs)

    def compute_and_copy() -> None:
        for x, made in zip(results, tree_leaves(op(*args, **kwargs)), strict=True):
            if made is not None:
                x.copy_(made)

    return compute_and_copy
