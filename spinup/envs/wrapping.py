"""Wrappers of environments: functions, or classes that the command line and config.json name."""

import ast
import itertools
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import gymnasium as gym

from spinup.envs.constructors import import_module, is_signature_error
from spinup.errors import UserError, closest, first_line

WRAPPER_SPEC = re.compile(r"([\w.]+):(\w+)(?:\((.*)\))?", re.DOTALL)


def as_wrappers(wrappers: Sequence | str | None) -> list:
    """The wrappers as a list; also reads the command line's `[a:A, b:B(1)]`."""
    if wrappers is None:
        return []
    if isinstance(wrappers, str):
        inside = wrappers.strip()
        inside = inside[1:-1] if inside[:1] == "[" and inside[-1:] == "]" else inside
        return [spec.strip() for spec in split_specs(inside)]
    if not (callable(wrappers) or isinstance(wrappers, list | tuple)):
        raise UserError(f"wrappers is {wrappers!r:.80}; it must be a list of functions or of strings as module:Name")
    return [wrappers] if callable(wrappers) else list(wrappers)


def split_specs(text: str) -> list[str]:
    """Split at each comma before a module:Name that isn't within brackets."""
    commas = [match.start() for match in re.finditer(r",(?=\s*[\w.]+:\w+\s*(?:[(,]|$))", text)]
    outside = [i for i in commas if all(text[:i].count(a) == text[:i].count(b) for a, b in ("()", "[]", "{}"))]
    ends = [-1, *outside, len(text)]
    return [text[begin + 1 : end] for begin, end in itertools.pairwise(ends)]


def wrap(env: gym.Env, wrapper: str | Callable[[gym.Env], gym.Env]) -> gym.Env:
    """Apply a wrapper: a function of the environment, or a class by name, as in "module:Name(1, name=2)"."""
    if callable(wrapper):
        return wrapper(env)
    cls, args, kwargs = find_wrapper(wrapper)
    try:
        return cls(env, *args, **kwargs)
    except Exception as error:
        unfit = isinstance(error, AssertionError | ValueError | gym.error.Error) or is_signature_error(error)
        if not (unfit or wrapper.startswith("gymnasium.")):  # a fault in the user's wrapper
            raise
        raise UserError(f"wrapper '{wrapper}' does not fit {env}: {first_line(error)}") from None


def find_wrapper(wrapper: str) -> tuple[Callable, list, dict]:
    """The class and arguments that "module:Name(1, name=2)" stands for. Raises UserError if it can't be resolved."""
    match = WRAPPER_SPEC.fullmatch(wrapper) if isinstance(wrapper, str) else None
    if not match:
        hint = "; it must be a function of an environment or module:Name, as in gymnasium.wrappers:TimeLimit(50)"
        raise UserError(f"wrapper {wrapper!r:.200} names no module{hint}")
    module, name, arguments = match.groups()
    imported = import_module(module, f"wrapper '{wrapper}'", "MyWrapper")
    try:
        cls = getattr(imported, name, None)
    except ImportError as error:  # Gymnasium imports some of its wrappers only now
        raise UserError(f"wrapper '{wrapper}': {first_line(error)}") from None
    if not callable(cls):
        hint = closest(name, dir(sys.modules[module]), f"{module}:")
        raise UserError(f"wrapper '{wrapper}': module {module} has no '{name}'{hint}")
    try:
        call = NamesToStrings().visit(ast.parse(f"f({arguments or ''})", mode="eval")).body
        if not isinstance(call.func, ast.Constant):  # f(1)(2)
            raise ValueError
        args = [ast.literal_eval(value) for value in call.args]
        return cls, args, {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (ValueError, SyntaxError, AttributeError, RecursionError, MemoryError):
        raise UserError(f"wrapper '{wrapper:.200}': its arguments must be literals: {name}(1, name=[2, 'x'])") from None


class NamesToStrings(ast.NodeTransformer):
    """Turns bare names into strings, so that the command line needs no quotes."""

    def visit_Name(self, node: ast.Name) -> ast.Constant:
        return ast.copy_location(ast.Constant(node.id), node)


def saved_wrappers(folder: Path, config: Mapping, given: Sequence | None = None) -> list:
    """A run's wrappers: those given, or the ones in its config.json.

    Raises UserError if config.json names wrappers other than Gymnasium's and ours: code that a folder names isn't
    trusted.
    """
    if given is not None:
        return as_wrappers(given)
    wrappers = as_wrappers(config.get("wrappers"))
    if flags := wrapper_flags(wrappers):
        named = all(WRAPPER_SPEC.fullmatch(str(wrapper)) for wrapper in wrappers)
        allow = f"allow its wrappers with{flags} (wrappers=)" if named else "in Python: wrappers=[...]"
        raise UserError(f"{folder}: its wrappers {wrappers} are not all Gymnasium's or spinup's; {allow}")
    return wrappers


def wrapper_flags(wrappers: Sequence | str | None) -> str:
    """The flags that allow a run's wrappers on the command line; "" if all are Gymnasium's or ours."""
    specs = [str(wrapper) for wrapper in as_wrappers(wrappers)]
    if all(spec.startswith(("gymnasium.wrappers:", "spinup.wrappers:")) for spec in specs):
        return ""
    return "".join(f" --wrapper {shlex.quote(spec)}" for spec in specs)
