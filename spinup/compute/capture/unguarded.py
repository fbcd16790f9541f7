"""What Dynamo reads without a guard: a `Watch` notices most such changes, and code with any others runs as Python."""

import abc
import builtins
import contextlib
import copyreg
import dis
import importlib
import operator
import types
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from torch import nn

MISSING_NAMES = {"KeyError", "AttributeError", "LookupError", "NameError", "Exception", "BaseException"}
NUMBERS = (bool, int, float, complex, str, bytes, type(None))
CONSTANTS = (*NUMBERS, type, types.FunctionType, types.BuiltinFunctionType)
HEAP_TYPE = 1 << 9  # in a class's __flags__: it can be changed
HOOKS = ["_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"]  # dicts of each module
BASES = operator.attrgetter("__mro__")
PARTS = operator.attrgetter("__code__", "__defaults__", "__kwdefaults__")


class Unguarded(Exception):
    """Why an update can't be captured."""


# ---- changes that are noticed


class Watch:
    """The classes, functions and namespaces that an update uses; `changed()` says whether one has changed.

    Classes and their bases are compared entry by entry, and functions part by part. In other namespaces (of objects,
    modules and functions, and globals) a new name counts, since it may hide what was found elsewhere: Dynamo guards
    the names that it has read there.
    """

    def __init__(self) -> None:
        self.seen: dict[int, Any] = {}  # by id; holding the objects keeps the ids valid
        self.namespaces: list[Mapping] = []
        self.compared: list[Mapping] = []  # those whose values are compared
        self.classes: list[type] = []
        self.functions: list[types.FunctionType] = []
        self.names: dict[int, str] = {}  # of the namespaces, by id
        self.settle()

    def settle(self) -> None:
        """From here on, everything counts as a change."""
        self.sizes = [*map(len, self.namespaces)]
        self.values, self.parts = [*self.values_now()], [*self.parts_now()]
        self.token = abc.get_cache_token()  # a new one for each class that is registered with an ABC

    def changed(self) -> bool:
        return not (
            self.sizes == [*map(len, self.namespaces)]
            and all(map(operator.is_, self.values, self.values_now()))
            and all(map(operator.is_, self.parts, self.parts_now()))
            and self.token == abc.get_cache_token()
        )

    def values_now(self) -> Iterator[Any]:
        return chain.from_iterable([namespace.values() for namespace in self.compared])

    def parts_now(self) -> Iterator[Any]:
        return chain(map(BASES, self.classes), chain.from_iterable(map(PARTS, self.functions)))

    def what_changed(self) -> str:
        for namespace, size in zip(self.namespaces, self.sizes, strict=True):
            if len(namespace) != size:
                return f"the names in {self.names[id(namespace)]}"
        names = [f"{self.names[id(namespace)]}.{key}" for namespace in self.compared for key in namespace]
        names += [f"the bases of {cls.__name__}" for cls in self.classes]
        names += [name for function in self.functions for name in 3 * [f"the function {function.__name__}"]]
        pairs = zip(names, [*self.values, *self.parts], [*self.values_now(), *self.parts_now()], strict=True)
        return next((name for name, before, now in pairs if before is not now), "an ABC's registered classes")

    def add(self, value: Any) -> None:
        """Watch an object that the update reads, and its classes."""
        if isinstance(value, NUMBERS):
            return
        for cls in (*type(value).__mro__, *(value.__mro__ if isinstance(value, type) else ())):
            if cls.__flags__ & HEAP_TYPE and id(cls) not in self.seen:
                self.seen[id(cls)] = cls
                self.classes.append(cls)
                copyreg._slotnames(cls)  # type: ignore[attr-defined]  # pickling would add a name to the class later
                self.add_namespace(cls.__name__, vars(cls), compare=True)
        if isinstance(value, type) or id(value) in self.seen:
            return
        self.seen[id(value)] = value
        if isinstance(value, types.FunctionType) and not of_torch(value):
            self.functions.append(value)
            self.add_namespace(value.__name__, value.__kwdefaults__ or {}, compare=True)
            self.add_namespace(value.__module__, value.__globals__)
            self.add_namespace("builtins", vars(builtins))
        if isinstance(value, nn.Module):
            for name in HOOKS:
                self.add_namespace(f"{name} of {type(value).__name__}", vars(value)[name])
        with contextlib.suppress(AttributeError):  # no __dict__; getattr might call a __getattr__ of the user's
            own = object.__getattribute__(value, "__dict__")
            named = isinstance(value, types.FunctionType | types.ModuleType)
            self.add_namespace(value.__name__ if named else f"an object of {type(value).__name__}", own)

    def add_namespace(self, name: str, namespace: Mapping, compare: bool = False) -> None:
        if id(namespace) in self.names:
            return
        self.names[id(namespace)] = name
        self.namespaces.append(namespace)
        if compare:
            self.compared.append(namespace)


# ---- changes that would go unnoticed


def unguarded(function: types.FunctionType, has_source: bool) -> str | None:
    """What a change of would go unnoticed in a function that Dynamo inlines; None if there is no such thing.

    has_source: whether Dynamo knows how to reach the function from the update, so that it can guard what it reads
    """
    if of_torch(function):
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


def unguarded_class(cls: type) -> str | None:
    """What Dynamo would miss in a class; None if there is no such thing."""
    if hasattr(cls, "__del__"):
        return f"it uses `{cls.__name__}`, whose objects do something when deleted; use it outside"
    for name in ("__instancecheck__", "__subclasscheck__"):
        check = getattr(type(cls), name)
        known = check in (getattr(type, name), getattr(abc.ABCMeta, name)) or of_torch(check) or cls is Any
        if not known:
            return f"it uses `{cls.__name__}`, which decides by itself what its instances are; use it outside"
    return None


def of_torch(function: Any) -> bool:
    return (function.__module__ or "").partition(".")[0] == "torch"


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


# ---- in Dynamo


def hooked_methods() -> list[tuple[type, str]]:
    """The methods of Dynamo's that `checking` replaces, with their classes. Raises ImportError if they have changed."""
    convert = importlib.import_module("torch._dynamo.symbolic_convert")
    functions = importlib.import_module("torch._dynamo.variables.functions")
    builder = importlib.import_module("torch._dynamo.variables.builder")
    methods = [
        (convert, "InliningInstructionTranslator", "inline_call"),  # traces the code of a called function
        (functions, "WrapperUserFunctionVariable", "call_function"),  # that of functools.cache, for example
        (builder, "VariableBuilder", "_wrap"),  # reads an object
        (builder, "SourcelessBuilder", "create"),  # reads one that Dynamo couldn't find again, to guard it
    ]
    for module, owner, method in methods:
        if method not in getattr(getattr(module, owner, None), "__dict__", {}):
            raise ImportError(f"its method {owner}.{method} has changed")
    return [(getattr(module, owner), method) for module, owner, method in methods]


@contextlib.contextmanager
def checking(watch: Watch) -> Iterator[list[str]]:
    """While Dynamo traces: watch what it reads, and raise Unguarded if a change of it would still go unnoticed.

    Gives a list for the reason: Dynamo hides the exception in one of its own.
    """
    reasons: list[str] = []

    def refuse(reason: str | None) -> None:
        if reason:
            reasons.append(reason)
            raise Unguarded(reason)

    def inline(original, cls, parent, variable, *args, **kwargs):
        function = getattr(variable, "fn", None)
        if isinstance(function, types.FunctionType):
            watch.add(function)
            refuse(unguarded(function, has_source=variable.source is not None))
        return original(cls, parent, variable, *args, **kwargs)

    def call_wrapped(original, self, *args, **kwargs):
        function = self.wrapper_obj
        if hasattr(function, "cache_info") and not of_torch(function):
            refuse(f"it calls `{function.__name__}`, whose results are cached; call it outside, once")
        return original(self, *args, **kwargs)

    def read(original, builder_or_translator, value):
        watch.add(value)
        refuse(unguarded_class(value) if isinstance(value, type) else None)
        return original(builder_or_translator, value)

    by_us: list[Callable] = [inline, call_wrapped, read, read]
    with contextlib.ExitStack() as stack:
        for (owner, method), by in zip(hooked_methods(), by_us, strict=True):
            stack.enter_context(replaced(owner, method, by))
        yield reasons
    watch.settle()


@contextlib.contextmanager
def replaced(owner: type, method: str, by: Callable) -> Iterator[None]:
    """Replace a method by a function that gets the original first."""
    original = vars(owner)[method]
    kind = type(original) if isinstance(original, classmethod | staticmethod) else lambda function: function
    function = getattr(original, "__func__", original)
    setattr(owner, method, kind(lambda *args, **kwargs: by(function, *args, **kwargs)))
    try:
        yield
    finally:
        setattr(owner, method, original)


def forget_operators() -> None:
    """Empty Dynamo's cache of which operators, such as `bool` and `len`, a class has."""
    cached = getattr(importlib.import_module("torch._dynamo.variables.object_protocol"), "_get_cached_slots", None)
    if cached is not None:
        cached.cache_clear()
