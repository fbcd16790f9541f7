"""The decorator: Dynamo in front of the replay, and the way back to Python."""

import contextlib
import functools
import importlib
import logging
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode
from torch.utils._pytree import tree_map_only
from torch.utils.hooks import RemovableHandle

from spinup.compute import mpi
from spinup.compute.capture.program import Program, why_not
from spinup.compute.capture.reasons import explain
from spinup.errors import first_line
from spinup.system.terminal import say

PATIENCE = 5.0  # seconds of updates as Python before the first trace, which takes a second or two itself
MAX_GRAPHS = 3  # of an update for batches of one shape; one that needs more reads something new in each call
MAX_LOOKS = 8  # from the beginning, since hooks were registered
MAX_TRACES = 8  # of an update, each for other options or shapes

# How Dynamo reads an update: gradients as part of it; nothing of Python's state changed, since it would do that after
# the graph; numpy left alone, since it would compute by torch, with torch's random numbers.
SETTINGS = dict(
    trace_autograd_ops=True,
    side_effect_replay_policy="error",
    trace_numpy=False,
    recompile_limit=MAX_GRAPHS,
    record_runtime_overhead=False,
)


def captured(on: bool = True) -> Callable:
    """Decorates update(batch, *options): later calls replay what it does to tensors, on the CPU and on CUDA devices.

    batch: a tuple of tensors; options: hashable; on=False: plain Python

    What the update returns may hold tensors: these are new in each call, and detached. All that Python reads in it may
    change between calls. An update that changes Python's state or can't be traced runs as Python, and so does one that
    reads something new in each call; a line on stderr says what made it so. Not seen is only a method that is replaced
    on its class while a run goes on.
    """

    def decorate(update: Callable) -> Callable:
        @functools.wraps(update)
        def as_python(batch, *options):
            return tree_map_only(Tensor, Tensor.detach, update(batch, *options))

        return Captured(as_python) if on else as_python

    return decorate


class Captured:
    """An update, traced for each combination of options and shapes."""

    def __init__(self, as_python: Callable):
        self.as_python = as_python
        self.patience = PATIENCE
        self.traces: dict[tuple, Trace] = {}
        self.free: dict[int, list] = {}  # storages that no replay is using, by size
        self.stays_python = False
        self.lock = threading.Lock()  # replays of several threads would share memory
        self.__name__ = self.__qualname__ = type(as_python).__name__  # of what has no name, as a partial
        functools.update_wrapper(self, as_python)

    def __call__(self, batch: tuple[Tensor, ...], *options):
        # Within the trace of another captured update, this one becomes part of it.
        if torch.compiler.is_compiling() or self.stays_python or observed():
            return self.as_python(batch, *options)
        if self.patience > 0:
            began = time.perf_counter()
            results = self.as_python(batch, *options)
            self.patience -= time.perf_counter() - began
            return results
        if not self.lock.acquire(blocking=False):  # another thread's call, or one that calls itself
            return self.as_python(batch, *options)
        try:
            trace = self.find_trace(batch, options)
            return self.as_python(batch, *options) if trace is None else trace(batch)
        finally:
            self.lock.release()

    def __get__(self, instance, owner=None):
        if instance is None:
            return self
        if not self.stays_python:
            self.stay_python("it is a method; decorate a function, as in self.update = captured()(self.update)")
        return types.MethodType(self.as_python, instance)

    def __reduce__(self) -> str:
        return self.__qualname__  # pickled by name and copied as it is, like any function

    def find_trace(self, batch: tuple[Tensor, ...], options: tuple) -> "Trace | None":
        """The trace for options and shapes like these; None, with a line, where there can be none."""
        try:
            if not isinstance(batch, tuple | list):
                raise TypeError
            key = (*options, *map(type, options), *[(x.shape, x.dtype) for x in batch])  # types: 1 == 1.0 == True
            trace = self.traces.get(key)
        except (AttributeError, TypeError):
            self.stay_python("its batch is not a tuple of tensors, or its options are not hashable")
            return None
        if trace is None and len(self.traces) == MAX_TRACES:
            self.stay_python("its options, or the shapes of its batch, differ again and again; keep to a few")
            return None
        if trace is None:
            trace = self.traces[key] = Trace(self, options)
        return trace

    def stay_python(self, reason: str) -> None:
        """Run as Python from now on, and say why."""
        self.stays_python = True
        self.traces.clear()
        if mpi.proc_id() == 0:
            say(f"capture: {self.__name__} runs as Python from here on: {reason}", error=True)


class Trace:
    """What Dynamo makes of one update with given options, for batches of one shape."""

    def __init__(self, owner: Captured, options: tuple):
        self.owner, self.options = owner, options
        self.looks = 0
        self.compiled: Any = None  # what torch.compile made
        self.hooks = -1  # how many had been registered at the last look
        self.holds = False  # whether one of the graphs did for the last call

    def __call__(self, batch: tuple[Tensor, ...]):
        if not self.holds or RemovableHandle.next_id != self.hooks:
            return self.look(batch)
        self.holds = False  # the program says otherwise
        return run_compiled(self.call, batch)

    def look(self, batch: tuple[Tensor, ...]):
        """A call in which Dynamo reads the update, unless the guards of a graph hold again."""
        try:
            if (
                self.compiled is None or RemovableHandle.next_id != self.hooks
            ):  # a module without hooks is not guarded against new ones
                self.compile()
            results = with_settings(self.compiled, batch)
        except Untraceable as error:  # nothing has happened yet
            self.owner.stay_python(str(error))
            return self.owner.as_python(batch, *self.options)
        finally:
            self.hooks = RemovableHandle.next_id
        if not self.holds:
            self.owner.stay_python("Dynamo makes nothing of it, or is switched off")
        return results

    def compile(self) -> None:
        self.looks += 1
        if self.looks > MAX_LOOKS:
            raise Untraceable("hooks are registered again and again, and each may change it")
        update, options = self.owner.as_python, self.options

        def call(captured_batch):  # the name by which a program knows its arguments
            return update(captured_batch, *options)

        # Dynamo counts graphs for a code object: without one of its own, those of earlier runs would count too.
        self.call = types.FunctionType(call.__code__.replace(), call.__globals__, closure=call.__closure__)
        try:
            with without_triton():
                import_dynamo()
                self.compiled = torch.compile(self.call, backend=self.make_program, fullgraph=True, dynamic=False)
        except Exception as error:  # an old torch, a new Python, an odd platform
            raise Untraceable(f"torch's Dynamo does not load here ({first_line(error)})") from error

    def make_program(self, graph: torch.fx.GraphModule, inputs: list) -> Program:
        if reason := why_not(graph, inputs):
            raise Untraceable(reason)
        return Program(graph, self)

    @property
    def free(self) -> dict[int, list]:
        return self.owner.free

    def stay_python(self, reason: str) -> None:
        self.owner.stay_python(reason)


# ---- Dynamo


def observed() -> bool:
    """Whether something looks on that would not see what a replay does: a debugger, a coverage tool, one of torch's
    modes, anomaly detection or hooks on saved tensors.
    """
    debugger = sys.version_info >= (3, 12) and sys.monitoring.get_tool(sys.monitoring.DEBUGGER_ID)
    modes = is_in_torch_dispatch_mode() or torch._C._len_torch_function_stack() > 0
    autograd = torch.is_anomaly_enabled() or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
    return bool(debugger) or sys.gettrace() is not None or modes or autograd


class Untraceable(Exception):
    """Why an update has to run as Python."""


@functools.cache
def import_dynamo():
    """torch._dynamo, if it has what is used of it."""
    dynamo = importlib.import_module("torch._dynamo")
    if missing := [name for name in SETTINGS if not hasattr(dynamo.config, name)]:
        raise ImportError(f"torch {torch.__version__} does not know {missing[0]}")
    return dynamo


@contextlib.contextmanager
def without_triton() -> Iterator[None]:
    """Let torch, which imports parts of Dynamo when it first uses them, find no triton. Captured updates need none,
    and loaded after Mesa's OpenGL has drawn it ends the process, as both bring an LLVM.

    On a machine with a GPU, where torch.compile may want it later, only once Mesa's LLVM is there.
    """
    if hide := "triton" not in sys.modules and (not torch.cuda.is_available() or mesa_has_drawn()):
        sys.modules["triton"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hide:
            del sys.modules["triton"]


def mesa_has_drawn() -> bool:
    """Whether Mesa's LLVM is loaded; triton is there for Linux alone."""
    maps = Path("/proc/self/maps")
    return maps.exists() and "/libLLVM" in maps.read_text()


def with_settings(compiled: Callable, batch: tuple[Tensor, ...]):
    """Call what torch.compile made, and say in plain words what Dynamo refuses."""
    dynamo = import_dynamo()
    refusals = dynamo.exc.TorchDynamoException, dynamo.exc.FailOnRecompileLimitHit
    with without_triton(), dynamo.config.patch(**SETTINGS), warnings.catch_warnings(), logs() as logged:
        warnings.simplefilter("ignore")
        try:
            return compiled(batch)
        except refusals as error:
            if isinstance(ours := getattr(error, "inner_exception", None), Untraceable):
                raise ours from error
            raise Untraceable(explain(error, logged)) from error


@contextlib.contextmanager
def logs() -> Iterator[list[str]]:
    """What torch logs meanwhile, as a list in the place of lines on stderr."""
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
    """Call a function with what Dynamo has compiled of it; as plain Python where none of the guards hold.

    As torch._dynamo.run, which takes longer than an update's guards.
    """
    from torch._C._dynamo.eval_frame import set_eval_frame

    prior = set_eval_frame(False)
    try:
        return function(*args)
    finally:
        set_eval_frame(prior)
