"""Operators of our own: what an update does inside that is not a torch call, as torch.ops.spinup.NAME.

A graph can hold them as they are, since all they do is written in their schema: the tensors they read, and with (a!)
those they change in place. They return nothing.
"""

from collections.abc import Callable

import torch

library = torch.library.Library("spinup", "FRAGMENT")
functions: dict[torch._ops.OpOverload, Callable] = {}  # what a replay calls, without the dispatcher in between


def operator(schema: str) -> Callable:
    """Decorates a function of tensors and numbers: torch.ops.spinup.NAME then calls it.

    schema: as in "scale_(Tensor(a!) x, float factor) -> ()"; some argument must be marked as changed, since what
        changes nothing may be removed from a graph
    """

    def register(function: Callable) -> Callable:
        name = library.define(schema)
        library.impl(name, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"spinup::{name}", lambda *args: None, lib=library)
        functions[getattr(torch.ops.spinup, name).default] = function
        return function

    return register
