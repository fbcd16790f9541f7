"""Custom operators, torch.ops.spinup.NAME, for parts of an update that aren't torch calls.

A graph can contain them, since their schema says what they do: which tensors they read, and with (a!) which ones they
change in place. They return nothing.
"""

from collections.abc import Callable

import torch

library = torch.library.Library("spinup", "FRAGMENT")
functions: dict[torch._ops.OpOverload, Callable] = {}  # a replay calls these, bypassing the dispatcher


def operator(schema: str) -> Callable:
    """Decorates a function of tensors and numbers, which then becomes torch.ops.spinup.NAME.

    schema: as in "scale_(Tensor(a!) x, float factor) -> ()"; at least one argument must be marked as changed, since an
        operator without effects may be removed from a graph
    """

    def register(function: Callable) -> Callable:
        name = library.define(schema)
        library.impl(name, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"spinup::{name}", lambda *args: None, lib=library)
        functions[getattr(torch.ops.spinup, name).default] = function
        return function

    return register
