"""What Dynamo reads without a guard in the functions that it inlines: an update that has any of it runs as Python."""

import contextlib
import dis
import importlib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MISSING_NAMES = {"KeyError", "AttributeError", "LookupError", "NameError", "Exception", "BaseException"}
CONSTANTS = (bool, int, float, complex, str, bytes, type(None), type, types.FunctionType, types.BuiltinFunctionType)


class Unguarded(Exception):
    """Why an update can't be captured."""


def unguarded(function: types.FunctionType, has_source: bool) -> str | None:
    """What a change of would go unnoticed in a function that Dynamo inlines; None if there is no such thing.

    has_source: whether Dynamo knows how to reach the function from the update, so that it can guard what it reads
    """
    if (function.__module__ or "").partition(".")[0] == "torch":
        return None
    code = function.__code__
    place = f"{Path(code.co_filename).name}:{code.co_firstlineno} `{code.co_name}`"
    if names := MISSING_NAMES & handled(code):
        return f"{place} handles {min(names)}, and what is missing now may exist later; use get or getattr instead"
    if has_source:
        return None
    if names := {*code.co_freevars} - {"__class__"}:
        return f"{place} belongs to an object made in the update, and reads {min(names)} from outside; pass it instead"
    defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    if changeable := [x for x in defaults if not is_constant(x)]:
        what = f"a {type(changeable[0]).__name__} as default argument"
        return f"{place} belongs to an object made in the update, and has {what}; pass it instead"
    return None


def is_constant(x: Any) -> bool:
    return all(map(is_constant, x)) if isinstance(x, tuple) else isinstance(x, CONSTANTS)


def handled(code: types.CodeType) -> set[str]:
    """The names of the exceptions in a function's `except` clauses: what is loaded just before a comparison."""
    loaded, found = set(), set()
    for instruction in dis.get_instructions(code):
        if instruction.opname == "CHECK_EXC_MATCH":
            found |= loaded
        elif instruction.opname.startswith("LOAD_"):
            loaded.add(str(instruction.argval))
        elif instruction.opname not in ("BUILD_TUPLE", "CACHE", "EXTENDED_ARG"):
            loaded = set()
    return found


def hooked_classes() -> tuple[Any, Any]:
    """Dynamo's class that inlines functions, and the one for functions in a wrapper. Raises ImportError if they have
    changed.
    """
    inliner = getattr(importlib.import_module("torch._dynamo.symbolic_convert"), "InliningInstructionTranslator", None)
    wrapper = getattr(importlib.import_module("torch._dynamo.variables.functions"), "WrapperUserFunctionVariable", None)
    if not isinstance(getattr(inliner, "__dict__", {}).get("inline_call"), classmethod):
        raise ImportError("its function inline_call has changed")
    if not hasattr(wrapper, "call_function"):
        raise ImportError("its class WrapperUserFunctionVariable has changed")
    return inliner, wrapper


@contextlib.contextmanager
def refusing_unguarded_code() -> Iterator[list[str]]:
    """While Dynamo traces: raise Unguarded for a function that it would inline, and then not notice a change.

    Gives a list for the reason: Dynamo hides the exception in one of its own.
    """
    reasons: list[str] = []

    def refuse(reason: str | None) -> None:
        if reason:
            reasons.append(reason)
            raise Unguarded(reason)

    inliner, wrapper = hooked_classes()
    inline_call, call_function = inliner.__dict__["inline_call"], wrapper.call_function

    def checked_inline_call(cls, parent, variable, *args, **kwargs):
        function = getattr(variable, "fn", None)
        if isinstance(function, types.FunctionType):
            refuse(unguarded(function, has_source=variable.source is not None))
        return inline_call.__func__(cls, parent, variable, *args, **kwargs)

    def checked_call_function(self, *args, **kwargs):
        function = self.wrapper_obj
        if hasattr(function, "cache_info") and (function.__module__ or "").partition(".")[0] != "torch":
            refuse(f"it calls `{function.__name__}`, whose results are cached; call it outside, once")
        return call_function(self, *args, **kwargs)

    inliner.inline_call, wrapper.call_function = classmethod(checked_inline_call), checked_call_function
    try:
        yield reasons
    finally:
        inliner.inline_call, wrapper.call_function = inline_call, call_function
