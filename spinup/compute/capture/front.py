"""The decorator: Dynamo traces an update, and whatever it can't trace falls back to Python."""

import contextlib
import functools
import importlib
import inspect
import logging
import sys
import threading
import time
import types
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.utils._python_dispatch import is_in_torch_dispatch_mode
from torch.utils._pytree import tree_flatten, tree_map_only

from spinup.compute import mpi
from spinup.compute.capture.program import DIFFERS, Program, Unchecked, why_not
from spinup.compute.capture.reasons import explain
from spinup.compute.capture.replay import same_bits
from spinup.compute.capture.unguarded import NUMBERS, Watch, checking, forget_operators, hooked_methods
from spinup.errors import first_line
from spinup.system.terminal import say

PATIENCE = 5.0  # seconds that updates run as Python before the first trace, which itself takes a second or two
MAX_GRAPHS = 3  # per trace; an update that needs more reads something new in each call
MAX_COMPILES = 4  # per trace; one for each change of what Dynamo doesn't guard
MAX_TRACES = 8  # per update, one for each combination of options and shapes

CHECKING = threading.local()  # .now: whether an update runs as Python to be compared with a graph
TRACING = threading.RLock()  # since Dynamo's settings hold for all threads

# How Dynamo traces an update: including gradients; refusing changes of Python's state, which it would apply after the
# graph; without numpy, which it would compute by torch, with torch's random numbers.
SETTINGS = dict(
    trace_autograd_ops=True,
    side_effect_replay_policy="error",
    trace_numpy=False,
    recompile_limit=MAX_GRAPHS,
    record_runtime_overhead=False,
)


def captured(on: bool = True) -> Callable:
    """Decorates update(batch, *options): after the first calls, only its tensor operations are replayed (CPU and CUDA).

    batch: a tuple of tensors; options: hashable; on=False: plain Python

    Tensors in the update's result are new in each call, and detached. Everything that the update's Python reads may
    change between calls. An update that changes Python's state, can't be traced, or reads something new in each call
    runs as Python, and a line on stderr says why.
    """
    if callable(on):
        raise TypeError("captured needs parentheses: @captured()")

    def decorate(update: Callable) -> Callable:
        @functools.wraps(update)
        def as_python(*args, **named):
            return tree_map_only(Tensor, Tensor.detach, update(*args, **named))

        if not hasattr(update, "__name__"):  # such as a functools.partial
            as_python.__name__ = as_python.__qualname__ = type(update).__name__
        return Captured(as_python) if on else as_python

    return decorate


class Captured:
    """An update, traced for each combination of options and shapes."""

    __name__: str
    __qualname__: str

    def __init__(self, as_python: Callable):
        self.as_python = as_python
        self.patience = PATIENCE
        self.traces: dict[tuple, Trace] = {}
        self.free: dict[int, list] = {}  # storages that no replay is using, by size
        self.stays_python = False
        self.lock = threading.Lock()  # since replays in several threads would share memory
        functools.update_wrapper(self, as_python)

    def __call__(self, *args, **named):
        # While another captured update is being traced, this one becomes part of it.
        if torch.compiler.is_compiling() or self.stays_python or is_observed():
            return self.as_python(*args, **named)
        if self.patience > 0:
            began = time.perf_counter()
            results = self.as_python(*args, **named)
            self.patience -= time.perf_counter() - began
            return results
        if not self.lock.acquire(blocking=False):  # another thread's call, or one that calls itself
            return self.as_python(*args, **named)
        try:
            if named:
                args, named = self.in_order(args, named)
            if named:
                results = self.as_python(*args, **named)
                self.stay_python("some of its arguments can only be passed by name")
                return results
            trace = self.find_trace(args)
            return self.as_python(*args) if trace is None else trace(args[0])
        finally:
            self.lock.release()

    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        self.stay_python("it is a method; decorate a function, as in self.update = captured()(self.update)")
        return types.MethodType(self.as_python, instance)

    def __reduce__(self) -> str:
        return self.__qualname__  # pickled by name, and copied by reference, like any function

    def in_order(self, args: tuple, named: dict) -> tuple[tuple, dict]:
        """The arguments, with those passed by name at their positions; unchanged if they don't fit the signature."""
        try:
            bound = inspect.signature(self.as_python).bind(*args, **named)
        except (TypeError, ValueError):  # the latter for built-in functions without a signature
            return args, named
        bound.apply_defaults()
        return bound.args, bound.kwargs

    def find_trace(self, args: tuple) -> "Trace | None":
        """The trace for these options and shapes; None, after a line on stderr, if there can't be one."""
        try:
            batch, *options = args
            if not isinstance(batch, tuple | list):
                raise TypeError
            key = (*map(exactly, options), *[(x.shape, x.dtype) for x in batch])
            trace = self.traces.get(key)
        except (AttributeError, TypeError, ValueError):
            self.stay_python("its batch is not a tuple of tensors, or its options are not hashable")
            return None
        if trace is None and len(self.traces) == MAX_TRACES:
            self.stay_python("its options, or the shapes of its batch, differ again and again; keep to a few")
            return None
        if trace is None:
            trace = self.traces[key] = Trace(self, tuple(options))
        return trace

    def stay_python(self, reason: str) -> None:
        """Run as Python from now on, and report the first reason."""
        if self.stays_python:
            return
        self.stays_python = True
        self.traces.clear()
        if mpi.proc_id() == 0:
            say(f"capture: {self.__name__} runs as Python from here on: {reason}", error=True)


def same_results(ours: Any, expected: Any) -> bool:
    """Whether what two runs of an update returned has the same tensors, bit for bit, in the same places."""
    (a, tree), (b, other) = tree_flatten(ours), tree_flatten(expected)
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if isinstance(y, Tensor)] if tree == other else []
    return tree == other and all(isinstance(x, Tensor) and same_bits(x, y) for x, y in pairs)


def exactly(option: Any) -> tuple:
    """A key for an option, and for nothing that is only equal to it, as are 1, 1.0 and True."""
    hash(option)
    if type(option) is tuple:
        return tuple, *map(exactly, option)
    return type(option), repr(option) if type(option) in NUMBERS else id(option)  # a Trace keeps its options alive


class Trace:
    """Dynamo's graphs of one update with given options, for batches of one shape."""

    def __init__(self, owner: Captured, options: tuple):
        self.owner, self.options = owner, options
        self.compiles = 0
        self.compiled: Any = None  # from torch.compile
        self.watch = Watch()
        self.holds = False  # whether one of the graphs ran in the last call
        self.as_python: Callable | None = None  # the current call
        self.expected: Any = None  # what it returned

    def __call__(self, batch: tuple[Tensor, ...]):
        if not self.holds or self.watch.changed():
            return self.trace(batch)
        self.holds = False  # until a program sets it
        try:
            return run_compiled(self.call, batch)
        except Unchecked:
            return self.trace(batch)

    def trace(self, batch: tuple[Tensor, ...]):
        """A call in which Dynamo traces the update, unless the guards of a graph hold again."""
        self.holds = False
        try:
            if self.compiled is None or self.watch.changed():
                self.compile()
            self.as_python = functools.partial(self.owner.as_python, batch, *self.options)
            results = with_settings(self.compiled, batch, self.watch)
        except Exception as error:
            if self.holds:  # the update's own error; otherwise it hasn't had any effect yet
                raise
            known = isinstance(error, Untraceable)
            self.owner.stay_python(str(error) if known else f"it can't be traced ({first_line(error)})")
            return self.owner.as_python(batch, *self.options)
        finally:
            expected, self.expected, self.as_python = self.expected, None, None
        if not self.holds:
            self.owner.stay_python("Dynamo makes no graph of it, or is switched off")
        if expected is not None and not same_results(results, expected):
            self.owner.stay_python(DIFFERS)
        return results if expected is None else expected

    def compile(self) -> None:
        self.compiles += 1
        if self.compiles > MAX_COMPILES:
            raise Untraceable(f"{self.watch.change} changed again and again; it may use the new value")
        self.watch = Watch()
        update, options = self.owner.as_python, self.options

        def call(captured_batch):  # programs recognize their batch by this name
            return update(captured_batch, *options)

        trace = weakref.ref(self)  # Dynamo keeps backends forever

        def backend(graph, inputs):
            return trace().make_program(graph, inputs)

        # Dynamo counts graphs per code object: without a new one, those of earlier runs would count too. And it stores
        # names in the function's globals.
        self.call = types.FunctionType(call.__code__.replace(), {**call.__globals__}, closure=call.__closure__)
        try:
            with without_triton(), validating():
                import_dynamo()
                forget_operators()
                self.compiled = torch.compile(self.call, backend=backend, fullgraph=True, dynamic=False)
        except Exception as error:  # an old torch, a new Python, an odd platform
            raise Untraceable(f"torch's Dynamo does not load here ({first_line(error)})") from error

    def make_program(self, graph: torch.fx.GraphModule, inputs: list) -> Program:
        if reason := why_not(graph, inputs):
            raise Untraceable(reason)
        return Program(graph, weakref.proxy(self))  # Dynamo holds it where the garbage collector doesn't look

    def run_as_python(self) -> None:
        """Run the current call as Python, before the graph's first run, to compare them."""
        if self.as_python is None:
            raise Unchecked
        CHECKING.now = True
        try:
            self.expected = self.as_python()
        finally:
            CHECKING.now = False

    @property
    def free(self) -> dict[int, list]:
        return self.owner.free

    def stay_python(self, reason: str) -> None:
        self.owner.stay_python(reason)


# ---- Dynamo


def is_observed() -> bool:
    """Whether something is active that couldn't see a replay's operations: a debugger, a coverage tool, one of torch's
    modes, anomaly detection, hooks on saved tensors, or the check of a graph that this update is part of.
    """
    if getattr(CHECKING, "now", False):
        return True
    debugger = sys.version_info >= (3, 12) and sys.monitoring.get_tool(sys.monitoring.DEBUGGER_ID)
    modes = is_in_torch_dispatch_mode() or torch._C._len_torch_function_stack() > 0
    autograd = torch.is_anomaly_enabled() or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
    return bool(debugger) or sys.gettrace() is not None or modes or autograd


class Untraceable(Exception):
    """Why an update has to run as Python."""


@functools.cache
def import_dynamo():
    """torch._dynamo. Raises ImportError if it lacks a setting or a method that is needed."""
    dynamo = importlib.import_module("torch._dynamo")
    if missing := [name for name in SETTINGS if not hasattr(dynamo.config, name)]:
        raise ImportError(f"torch {torch.__version__} does not know {missing[0]}")
    hooked_methods()
    return dynamo


@contextlib.contextmanager
def without_triton() -> Iterator[None]:
    """Hide triton from torch, which imports parts of Dynamo on first use. Captured updates don't need it, and loading
    it after Mesa's OpenGL has drawn crashes the process, since both contain an LLVM.

    On a machine with a GPU, where torch.compile may need triton later, it is hidden only once Mesa's LLVM is loaded.
    """
    if hide := "triton" not in sys.modules and (not torch.cuda.is_available() or mesa_has_drawn()):
        sys.modules["triton"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hide:
            del sys.modules["triton"]


@contextlib.contextmanager
def validating() -> Iterator[None]:
    """Keep the validation of torch.distributions as it is: torch.compile switches it off for the whole process."""
    before = Distribution._validate_args
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


def mesa_has_drawn() -> bool:
    """Whether Mesa's LLVM is loaded. Checked only on Linux, the one platform with triton."""
    maps = Path("/proc/self/maps")
    return maps.exists() and "/libLLVM" in maps.read_text()


def with_settings(compiled: Callable, batch: tuple[Tensor, ...], watch: Watch):
    """Call a compiled update with our Dynamo settings. Raises Untraceable, with an explanation, if Dynamo refuses."""
    dynamo = import_dynamo()
    refusals = dynamo.exc.TorchDynamoException, dynamo.exc.FailOnRecompileLimitHit
    with (
        TRACING,
        without_triton(),
        dynamo.config.patch(**SETTINGS),
        checking(watch) as reasons,
        warnings.catch_warnings(action="ignore"),
        logs() as logged,
    ):
        try:
            return compiled(batch)
        except refusals as error:
            if isinstance(ours := getattr(error, "inner_exception", None), Untraceable):
                raise ours from error
            if reasons:
                raise Untraceable(reasons[0]) from error
            raise Untraceable(explain(error, logged)) from error


@contextlib.contextmanager
def logs() -> Iterator[list[str]]:
    """Collects torch's log messages in a list, instead of printing them to stderr."""
    lines, handler = [], logging.Handler()
    vars(handler)["emit"] = lambda record: lines.append(record.getMessage())
    loggers = [logging.getLogger(name) for name in ("torch", "torch._dynamo")]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
    try:
        yield lines
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate


def run_compiled(function: Callable, *args):
    """Call a function using what Dynamo has compiled for it, or as plain Python if no guards hold.

    It does what torch._dynamo.run does, whose overhead exceeds the cost of an update's guards.
    """
    from torch._C._dynamo.eval_frame import set_eval_frame

    prior = set_eval_frame(False)
    try:
        return function(*args)
    finally:
        set_eval_frame(prior)
