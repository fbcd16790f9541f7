"""Memory planning: where each recorded operation writes its results, so that a replay allocates nothing.

A storage is live from the operation that produces it to the last one that uses it; after that, another result may reuse
it. Storages that existed before the recording (parameters, moments, the batch) stay where they are.
"""

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from spinup.compute.capture.record import Operation, storage, tensors_in, written

CONSTANTS = {
    torch.ops.aten.ones_like,
    torch.ops.aten.zeros_like,
    torch.ops.aten.new_zeros,
    torch.ops.aten.scalar_tensor,
}


def plan_memory(operations: list[Operation], results, free: dict[int, list]) -> tuple[list[Operation], object]:
    """The same operations and results, with every tensor that they produce placed in planned memory.

    free: unused storages, by size; the plan takes from these and returns them
    """
    changed = {storage(x) for operation in operations for x in written(operation)}
    operations = [o for o in operations if not makes_constant(o) or storage(o.results[0]) in changed]
    producer, last_use, assigned = producer_index(operations), last_use_index(operations, results), {}

    def planned(x: Tensor) -> Tensor:
        key, size = storage(x), x.untyped_storage().nbytes()
        if key not in producer:
            return x.detach()
        if key not in assigned:
            unused = free.setdefault(size, [])
            assigned[key] = unused.pop() if unused else torch.empty(size, dtype=torch.uint8).untyped_storage()
        return torch.empty(0, dtype=x.dtype).set_(assigned[key], x.storage_offset(), x.shape, x.stride())

    def release(keys) -> None:
        for key in keys:
            free.setdefault(assigned[key].nbytes(), []).append(assigned[key])

    plan = []
    for i, operation in enumerate(operations):
        dead = {storage(x) for x in tensors_in(operation) if last_use[storage(x)] == i} & producer.keys()
        plan.append(Operation(*tree_map_only(Tensor, planned, tuple(operation))))
        release(dead)
    results = tree_map_only(Tensor, planned, results)
    release({key for key in assigned if last_use[key] == len(operations)})
    return plan, results


def producer_index(operations: list[Operation]) -> dict[int, int]:
    """For each storage that the operations produce, the index of the one that does."""
    return {storage(x): i for i, o in reversed(list(enumerate(operations))) for x in tensors_in(o.results)}


def last_use_index(operations: list[Operation], results) -> dict[int, int]:
    """For each storage, the index of the last operation that uses it; for those in results, len(operations)."""
    last_use = {storage(x): i for i, operation in enumerate(operations) for x in tensors_in(operation)}
    return last_use | {storage(x): len(operations) for x in tensors_in(results)}


def makes_constant(operation: Operation) -> bool:
    """Whether its result is the same each time, like that of torch.ones_like."""
    return operation.op.overloadpacket in CONSTANTS
