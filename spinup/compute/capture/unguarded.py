"""What Dynamo reads without a guard: a `Watch` notices most such changes, and code with any others runs as Python."""

import abc
import builtins
import contextlib
import dataclasses
import dis
import enum
import functools
import importlib
import operator
import sys
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

HARMLESS = {"ArithmeticError", "AssertionError", "FloatingPointError", "NotImplementedError"}
HARMLESS |= {"OverflowError", "StopIteration", "TypeError", "ValueError", "ZeroDivisionError"}
OF_OPERATIONS = {"IndexError", "RuntimeError", "finally"}  # of tensors, which a replay does without the handlers
NUMBERS = (bool, int, float, complex, str, bytes, type(None))
CONSTANTS = (*NUMBERS, type, types.FunctionType, types.BuiltinFunctionType)
HEAP_TYPE = 1 << 9  # in a class's __flags__: it can be changed
HOOKS = operator.itemgetter("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
GLOBAL_HOOKS = [x for name, x in vars(nn.modules.module).items() if name.startswith("_global") and isinstance(x, dict)]
BASES = operator.attrgetter("__mro__")
REWRITTEN = (torch.addcdiv, torch._foreach_lerp_, torch._foreach_pow)  # by operations that may round differently
REWRITTEN_METHODS = ("method_add_", "method_addcmul_", "method_addcdiv_")
PARTS = operator.attrgetter("__code__", "__defaults__", "__kwdefaults__")


class Unguarded(Exception):
    """Why an update can't be captured."""


# ---- changes that are noticed


class Watch:
    """The classes, functions and namespaces that an update uses; `changed()` says whether one has changed.

    Classes and their bases are compared entry by entry, and functions part by part. In other namespaces (of objects,
    modules and functions, and globals) a new name counts, since it may hide what was found elsewhere: Dynamo guards
    the names that it has read there. Names that the update doesn't read don't count.
    """

    def __init__(self) -> None:
        self.words = {"forward"}  # all names and strings in the update
        self.namespaces: list[Mapping] = []
        self.compared: list[Mapping] = []  # those whose values are compared
        self.labels: dict[int, str] = {}  # of the namespaces, by id
        self.hooks: set[int] = set()  # ids of the namespaces in which every name counts
        self.modules: list[Mapping] = []  # the namespaces of modules
        self.classes: list[type] = []
        self.functions: list[types.FunctionType] = []
        self.known: set[int] = set()  # ids of these classes and functions
        self.tensors: list[weakref.ref] = []
        self.reads_abc = False
        self.change: str | None = None  # what the last call of changed() has found
        for hooks in GLOBAL_HOOKS:
            self.add_hooks("global hooks", hooks)
        self.settle()

    def settle(self) -> None:
        """From here on, everything counts as a change."""
        self.sizes = [*map(len, self.namespaces)]
        self.keys = [*map(dict.fromkeys, self.namespaces)]
        self.values, self.parts = [*self.values_now()], [*self.parts_now()]
        self.entries = [*map(dict, self.compared)]
        self.token = abc.get_cache_token()  # a new one for each class that is registered with an ABC
        self.handles = RemovableHandle.next_id  # one for each hook that is registered anywhere

    def changed(self) -> bool:
        if (
            self.sizes == [*map(len, self.namespaces)]
            and all(map(operator.is_, self.values, self.values_now()))
            and all(map(operator.is_, self.parts, self.parts_now()))
            and self.token == abc.get_cache_token()
            and self.handles == RemovableHandle.next_id
        ):
            return False
        self.change = next(self.changes(), None)
        if self.change is None:
            self.settle()
        return self.change is not None

    def values_now(self) -> Iterator[Any]:
        return chain.from_iterable([namespace.values() for namespace in self.compared])

    def parts_now(self) -> Iterator[Any]:
        of_functions, of_modules = map(PARTS, self.functions), map(HOOKS, self.modules)
        return chain(map(BASES, self.classes), chain.from_iterable(of_functions), chain.from_iterable(of_modules))

    def changes(self) -> Iterator[str]:
        """Names of what has changed and may matter."""
        for namespace, keys in zip(self.namespaces, self.keys, strict=True):
            for key in keys.keys() ^ namespace.keys():
                if id(namespace) in self.hooks:
                    yield self.labels[id(namespace)]
                elif self.reads(key, namespace):
                    yield f"{self.labels[id(namespace)]}.{key}"
        for namespace, entries in zip(self.compared, self.entries, strict=True):
            for key in entries.keys() & namespace.keys():
                if entries[key] is not namespace[key] and self.reads(key, namespace):
                    yield f"{self.labels[id(namespace)]}.{key}"
        if not all(map(operator.is_, self.parts, self.parts_now())):
            yield "the code of a function, or the bases of a class, that it uses"
        if any(getattr(tensor(), "_backward_hooks", None) for tensor in self.tensors):
            yield "a hook on a tensor"
        if self.reads_abc and self.token != abc.get_cache_token():
            yield "a class registered with an ABC"

    def reads(self, name: Any, namespace: Mapping) -> bool:
        """Whether the update may read a name there: one of its words, or for an operator a class's __name__."""
        special = isinstance(namespace, types.MappingProxyType) and str(name).startswith("__")
        return name in self.words or (special and name != "__slotnames__")  # which pickling adds

    def add(self, value: Any) -> None:
        """Watch an object that the update reads, and its classes. It isn't kept alive."""
        if type(value) in NUMBERS:
            return
        for cls in (*type(value).__mro__, *(value.__mro__ if isinstance(value, type) else ())):
            if cls.__flags__ & HEAP_TYPE and id(cls) not in self.known:
                self.known.add(id(cls))
                self.classes.append(cls)
                self.add_words_of_class(cls)
                self.add_namespace(cls.__name__, vars(cls), compare=True)
        self.reads_abc |= isinstance(value, abc.ABCMeta)
        if isinstance(value, type):
            return
        if isinstance(value, types.FunctionType) and not of_torch(value) and id(value) not in self.known:
            self.known.add(id(value))
            self.add_function(value)
        if isinstance(value, Tensor):
            self.tensors.append(weakref.ref(value))
        own = vars_of(value)
        if own is not None and isinstance(value, nn.Module) and id(own) not in self.labels:
            self.modules.append(own)
            for hooks in HOOKS(own):
                self.add_hooks(f"the hooks of {type(value).__name__}", hooks)
        if own is not None:
            named = isinstance(value, types.FunctionType | types.ModuleType)
            self.add_namespace(value.__name__ if named else type(value).__name__, own)

    def add_function(self, function: types.FunctionType) -> None:
        self.functions.append(function)
        self.add_namespace(function.__name__, function.__kwdefaults__ or {}, compare=True)
        imported = sys.modules.get(function.__module__)
        unknown = vars(imported) is not function.__globals__ if imported else True  # where Dynamo's guards look
        self.add_namespace(function.__module__, function.__globals__, compare=unknown)
        self.add_namespace("builtins", vars(builtins))

    def add_hooks(self, label: str, hooks: Mapping) -> None:
        self.hooks.add(id(hooks))
        self.add_namespace(label, hooks)

    def add_namespace(self, label: str, namespace: Mapping, compare: bool = False) -> None:
        if id(namespace) in self.labels:
            return
        self.labels[id(namespace)] = label
        self.namespaces.append(namespace)
        if compare:
            self.compared.append(namespace)

    def add_words_of_class(self, cls: type) -> None:
        """The names in patterns, and those in methods that Dynamo may call by itself, such as __class_getitem__."""
        self.words |= {*getattr(cls, "__match_args__", ())}
        for name, value in vars(cls).items():
            method = getattr(value, "__func__", value)
            if name.startswith("__") and name != "__init__" and isinstance(method, types.FunctionType):
                self.add_words(method.__code__)

    def add_words(self, code: types.CodeType) -> None:
        """Remember the names and strings in a function's code, including functions within it."""
        self.words |= {*code.co_names}
        for constant in chain.from_iterable(x if isinstance(x, tuple) else (x,) for x in code.co_consts):
            if isinstance(constant, types.CodeType):
                self.add_words(constant)
            elif isinstance(constant, str):
                self.words.add(constant)


def vars_of(value: Any) -> dict | None:
    """An object's own namespace; None if it has none. Unlike getattr, it calls no __getattr__ of the user's."""
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return own if isinstance(own, dict) else None


# ---- changes that would go unnoticed


def unguarded(function: types.FunctionType, has_source: bool) -> str | None:
    """What could change unnoticed in a function that Dynamo inlines; None if nothing could.

    has_source: whether Dynamo knows how to reach the function from the update, so that it can guard what it reads
    """
    if of_torch(function):
        return None
    code = function.__code__
    place = f"{Path(code.co_filename).name}:{code.co_firstlineno} `{code.co_name}`"
    known = function.__globals__.get("__name__") in ("contextlib", "spinup.compute.capture.front")
    if code.co_name == "__exit__" and not known:
        return f"{place} wouldn't be called after a replayed operation's error; use its class outside"
    names = set() if known else handled(code) - HARMLESS
    if names and names <= OF_OPERATIONS:
        what = "runs code after errors (finally)" if "finally" in names else f"handles {min(names)}"
        return f"{place} {what}, and a replayed operation's error wouldn't get there; handle errors outside"
    if names:
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
    if issubclass(cls, types.GeneratorType):
        return (
            "it makes a generator, as torch's clip_grad_norm_ does; use a list, or FlatAdam(max_grad_norm=...) to clip"
        )
    if hasattr(cls, "__del__"):
        return f"it uses `{cls.__name__}`, whose objects do something when deleted; use it outside"
    if cls is contextlib.suppress:
        return "it uses `suppress`, and what is missing now may exist later; use get or getattr instead"
    for name in ("__instancecheck__", "__subclasscheck__"):
        check = getattr(type(cls), name)
        known = check in (getattr(type, name), getattr(abc.ABCMeta, name)) or of_torch(check) or cls is Any
        if not known:
            return f"it uses `{cls.__name__}`, which decides by itself what its instances are; use it outside"
    return None


def hashes_by_itself(value: Any) -> bool:
    """Whether an object has a hash function of its own, for which Dynamo takes another."""
    function = type(value).__hash__
    known = dataclasses.is_dataclass(value) or isinstance(value, enum.Enum)
    ours = (type(value).__module__ or "").startswith("spinup.")  # not used as keys in updates
    return isinstance(function, types.FunctionType) and not (known or ours or of_torch(function))


def of_torch(function: Any) -> bool:
    """Whether it is torch's; functools.wraps copies __module__, but not the globals."""
    module = getattr(function, "__globals__", {}).get("__name__") or function.__module__ or ""
    return module.partition(".")[0] == "torch"


def is_constant(x: Any) -> bool:
    return all(map(is_constant, x)) if isinstance(x, tuple) else isinstance(x, CONSTANTS)


def handled(code: types.CodeType) -> set[str]:
    """The names of the exceptions that a function handles: what is loaded just before a comparison. BaseException, if a
    handler compares nothing and doesn't raise it again; "finally", if it does.
    """
    loaded, found, handling = set(), set(), False
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        if name == "CHECK_EXC_MATCH":
            found |= loaded
        elif name in ("POP_EXCEPT", "RERAISE") and handling:
            found.add("BaseException" if name == "POP_EXCEPT" else "finally")
        if name == "PUSH_EXC_INFO":
            handling = True
        elif name in ("CHECK_EXC_MATCH", "WITH_EXCEPT_START", "RERAISE", "POP_EXCEPT"):
            handling = False
        if name.startswith("LOAD_"):
            loaded.add(str(instruction.argval))
        elif name not in ("BUILD_TUPLE", "CACHE", "EXTENDED_ARG"):
            loaded = set()
    return found


# ---- in Dynamo


def hooked_methods() -> list[tuple[type, str]]:
    """The methods of Dynamo's that `checking` replaces, with their classes. Raises ImportError if they have changed."""
    convert = importlib.import_module("torch._dynamo.symbolic_convert")
    functions = importlib.import_module("torch._dynamo.variables.functions")
    builder = importlib.import_module("torch._dynamo.variables.builder")
    constant = importlib.import_module("torch._dynamo.variables.constant")
    builtin = importlib.import_module("torch._dynamo.variables.builtin")
    methods = [
        (convert, "InliningInstructionTranslator", "inline_call"),  # traces the code of a called function
        (functions, "WrapperUserFunctionVariable", "call_function"),  # that of functools.cache, for example
        (builder, "VariableBuilder", "_wrap"),  # reads an object
        (builder, "SourcelessBuilder", "create"),  # reads one that Dynamo couldn't find again, to guard it
        (constant, "ConstantVariable", "__init__"),  # a constant, given or computed
        (builtin, "BuiltinVariable", "_call_min_max_binary"),  # Python's min and max
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
            watch.add_words(function.__code__)
            refuse(unguarded(function, has_source=variable.source is not None))
        return original(cls, parent, variable, *args, **kwargs)

    def call_wrapped(original, self, *args, **kwargs):
        function = self.wrapper_obj
        if hasattr(function, "cache_info") and not of_torch(function):
            refuse(f"it calls `{function.__name__}`, whose results are cached; call it outside, once")
        return original(self, *args, **kwargs)

    def read(original, builder_or_translator, value):
        watch.add(value)
        if isinstance(value, type):
            refuse(unguarded_class(value))
        elif hashes_by_itself(value):
            refuse(f"it uses an object of `{type(value).__name__}`, which has its own hash function; use it outside")
        return original(builder_or_translator, value)

    def make_constant(original, self, value, *args, **kwargs):
        if isinstance(value, str):
            watch.words.add(value)
        return original(self, value, *args, **kwargs)

    def compare(original, self, translator, *values):
        tensor = importlib.import_module("torch._dynamo.variables").TensorVariable
        if any(value is not None and isinstance(value.realize(), tensor) for value in values):
            refuse("it compares tensors by Python's `min` or `max`; use torch.minimum, torch.maximum or clamp")
        return original(self, translator, *values)

    def state_of_torch(original, self, translator, *args, **kwargs):
        name, caller = self.value.__name__, translator.f_globals.get("__name__", "")
        if name == "_is_make_fx_tracing":
            refuse("it uses `MultiheadAttention` in eval mode, which computes otherwise while Dynamo traces")
        elif caller.partition(".")[0] != "torch" and caller != "spinup.compute.capture.front":
            refuse(f"it calls `{name}`, which is true only while Dynamo traces; do without")
        return original(self, translator, *args, **kwargs)

    by_us: list[Callable] = [inline, call_wrapped, read, read, make_constant, compare]
    with contextlib.ExitStack() as stack:
        stack.callback(watch.settle)
        for (owner, method), by in zip(hooked_methods(), by_us, strict=True):
            stack.enter_context(replaced(owner, method, by))
        stack.enter_context(as_written(state_of_torch))
        yield reasons


@contextlib.contextmanager
def as_written(state_of_torch: Callable) -> Iterator[None]:
    """Keep Dynamo from replacing operators by others that round differently.

    state_of_torch: replaces Dynamo's answers to whether torch is compiling
    """
    variables = importlib.import_module("torch._dynamo.variables.torch")
    tensor = importlib.import_module("torch._dynamo.variables").TensorVariable
    handlers = variables.TorchInGraphFunctionVariable._get_handlers()
    with contextlib.ExitStack() as stack:
        stack.callback(handlers.update, dict(handlers))
        for function in REWRITTEN:
            handlers.pop(function, None)
        for function, value in variables.tracing_state_functions().items():
            if value and function in handlers:
                handlers[function] = functools.partial(state_of_torch, handlers[function])
        for method in REWRITTEN_METHODS:
            if method in vars(tensor):  # depends on torch's version
                stack.enter_context(replaced(tensor, method, lambda *args, **kwargs: None))  # None: as any other
        yield


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
