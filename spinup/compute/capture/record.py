"""Recording a function's tensor operations in order: forward pass, backward pass and optimizer steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

READ_BY_PYTHON = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
OTHER_GRADIENT = {"aten::prod", "aten::cumprod"}  # while operations are recorded, torch uses other formulas for it
LIFT = torch.ops.aten.lift_fresh.default  # how torch.tensor creates a tensor from Python numbers


class Operation(NamedTuple):
    """One call of an operator, torch's or ours."""

    op: torch._ops.OpOverload
    args: tuple
    kwargs: dict
    results: tuple = ()  # the tensors that it creates, None for an omitted one; () if it changes its arguments


class Recorder(TorchDispatchMode):
    """Records operations below autograd as they run. Views, which only share memory, aren't recorded."""

    def __init__(self):
        super().__init__()
        self.operations: list[Operation] = []
        self.refused: str | None = None  # why the recording can't be replayed

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        results = op(*args, **kwargs)
        self.refused = self.refused or why_not(op, args, kwargs, results)
        if op is LIFT:
            self.operations.append(Operation(op, (args[0].clone(),), {}, (results,)))
        elif op._schema.is_mutable:
            self.operations.append(Operation(op, *snapshot((args, kwargs))))
        elif not is_view(op, args, kwargs, results):
            self.operations.append(Operation(op, *snapshot((args, kwargs, tuple(tree_leaves(results))))))
        return results


def record(function: Callable[[], Any]) -> tuple[Any, list[Operation], str | None]:
    """Call the function once: what it returns, its operations, and why they can't be replayed (None if they can)."""
    with Recorder() as recorder:
        results = function()
    return results, recorder.operations, recorder.refused


def why_not(op, args: tuple, kwargs: dict, results) -> str | None:
    """Why an operation can't be replayed; None if it can."""
    if READ_BY_PYTHON & set(op.tags) and not indexes_by_number(op, args):
        return "it reads a tensor's value in Python; return the tensor, and read it outside"
    if any(x.is_conj() or x.is_neg() for x in tensors_in((args, kwargs, results))):
        return "it conjugates complex numbers, which sets a flag instead of changing memory"
    if kwargs.get("generator") is not None:
        return "it draws from a generator of its own"
    if op._schema.name in OTHER_GRADIENT:
        return f"it calls {op}, whose gradient would differ in its last digits"
    if op._schema.is_mutable and makes_memory(args, kwargs, results):
        return f"it calls {op}, which changes its arguments and also returns a new tensor"
    if not (op._schema.is_mutable or tensors_in(results)):
        return f"it calls {op}, which returns no tensor"
    return None


def indexes_by_number(op, args: tuple) -> bool:
    """Whether this is x[i] with indices, so that the result's shape is known, and not with a mask."""
    masks = torch.bool, torch.uint8
    return op is torch.ops.aten.index.Tensor and all(i is None or i.dtype not in masks for i in args[1])


def is_view(op, args, kwargs, results) -> bool:
    """Whether the results share memory with the arguments, according to the schema or in fact, like _unsafe_view's."""
    return any(x.alias_info for x in op._schema.returns) or not makes_memory(args, kwargs, results)


def makes_memory(args, kwargs, results) -> bool:
    """Whether some of the results lie in other memory than the arguments."""
    made, given = ({storage(x) for x in tensors_in(tree)} for tree in (results, (args, kwargs)))
    return not made <= given


def written(operation: Operation) -> list[Tensor]:
    """The arguments that an operation changes in place."""
    arguments = operation.op._schema.arguments
    given = dict(zip([x.name for x in arguments], operation.args, strict=False)) | operation.kwargs
    return tensors_in([given.get(x.name) for x in arguments if x.alias_info and x.alias_info.is_write])


def snapshot(tree):
    """The same tree with new tensor objects over the same memory, since x.squeeze_() changes the shape of x itself."""
    return tree_map_only(Tensor, Tensor.detach, tree)


def tensors_in(tree) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def storage(x: Tensor) -> int:
    """An id for the memory of x and all its views, valid as long as that memory is alive."""
    return x.untyped_storage()._cdata
