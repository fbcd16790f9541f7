"""Signatures and docstrings of functions and classes, read from their source files.

Importing an algorithm imports torch, which takes a second or more; help and the checks of flags need not wait for it.
"""

import ast
import builtins
import contextlib
import inspect
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from spinup import arguments
from spinup.arguments import Argument, Range

PLAIN = {t.__name__: t for t in (bool, int, float, str, list, tuple, Sequence)}  # types whose defaults help shows
NAMES = {
    **PLAIN,
    "dict": dict,
    "type": type,
    "Any": Any,
    "Callable": Callable,
    "Annotated": Annotated,
    "Literal": Literal,
}


ROOT = Path(__file__).parents[1]


class Unreadable(Exception):
    """The source alone does not tell; importing it does."""


class Reference(NamedTuple):
    """A default that is a function or class: where it is defined. `path` is None outside our package."""

    path: Path | None
    name: str


class Description(NamedTuple):
    """A function's or class's arguments and the first line of its docstring."""

    name: str
    arguments: dict[str, Argument]
    doc: str


def describe(path: Path | None, name: str) -> Description:
    """The function or class `name` of a source file. Raises Unreadable where only importing it can tell."""
    if path is None:
        raise Unreadable(name)
    tree = ast.parse(path.read_text("utf-8"))
    node = definition(tree, name)
    if isinstance(node, ast.ImportFrom):
        return describe(*reference(path, tree, name))
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        raise Unreadable(name)
    doc = (ast.get_docstring(node) or "").partition("\n")[0]
    if isinstance(node, ast.FunctionDef) and not node.decorator_list:
        return Description(name, arguments.read(signature(path, tree, node.args)), doc)
    if not isinstance(node, ast.ClassDef):
        raise Unreadable(name)
    own = definition(node, "__init__")
    if isinstance(own, ast.FunctionDef):
        return Description(name, arguments.read(signature(path, tree, own.args, method=True)), doc)
    if len(node.bases) != 1 or not isinstance(node.bases[0], ast.Name):
        raise Unreadable(name)
    return Description(name, describe(path, node.bases[0].id).arguments, doc)


def imported(function: Callable) -> Description:
    """The same of a function or class that was imported."""
    found = getattr(function, "arguments", None) or arguments.read(inspect.signature(function))
    return Description(function.__name__, found, inspect.cleandoc(function.__doc__ or "").partition("\n")[0])


def arguments_of(path: Path, name: str) -> list[Argument]:
    """The arguments of a file's algorithm; none if only importing it tells."""
    with contextlib.suppress(Unreadable):
        return [*describe(path, name).arguments.values()]
    return []


def docstring(path: Path) -> str:
    """That of a module."""
    return ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""


def presets(path: Path) -> list[str]:
    """The names of the presets in the description of an algorithm's file, as far as they are literal."""
    call = getattr(definition(ast.parse(path.read_text("utf-8")), "ALGORITHM"), "value", None)
    found = next((k.value for k in getattr(call, "keywords", []) if k.arg == "presets"), None)
    return [str(key.value) for key in getattr(found, "keys", []) if isinstance(key, ast.Constant)]


def definition(tree: ast.Module | ast.ClassDef, name: str) -> ast.AST | None:
    """The statement that gives a name its value; None where there is none, or more than one."""
    found = []
    for node in tree.body:
        targets = [t.id for t in getattr(node, "targets", []) if isinstance(t, ast.Name)]
        targets += [alias.asname or alias.name for alias in getattr(node, "names", [])]
        if name in (*targets, getattr(node, "name", None)):
            found.append(node)
    return found[0] if len(found) == 1 else None


def reference(path: Path, tree: ast.Module, name: str) -> Reference:
    """Where a function or class that the file names is defined."""
    node = definition(tree, name)
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return Reference(path, name)
    if node is None and hasattr(builtins, name):
        return Reference(None, name)
    if not isinstance(node, ast.ImportFrom) or node.level or not node.module:
        raise Unreadable(name)
    original = next(alias.name for alias in node.names if name in (alias.asname, alias.name))
    return Reference(our_file(node.module), original)


def our_file(module: str) -> Path | None:
    """The source file of a module of ours, found without importing the packages above it; None for others' modules."""
    package, *parts = module.split(".")
    here = ROOT.joinpath(*parts)
    found = [path for path in (here.with_suffix(".py"), here / "__init__.py") if path.is_file()]
    return found[0] if package == "spinup" and found else None


def signature(path: Path, tree: ast.Module, arguments: ast.arguments, method: bool = False) -> inspect.Signature:
    """What a function takes; of a method without self."""
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    kinds: list = [inspect.Parameter.POSITIONAL_OR_KEYWORD] * len(positional)
    kinds += [inspect.Parameter.KEYWORD_ONLY] * len(arguments.kwonlyargs)
    every = zip([*positional, *arguments.kwonlyargs], [*defaults, *arguments.kw_defaults], kinds, strict=True)
    found = []
    for argument, default, kind in [*every][method:]:
        allowed = annotation(argument.annotation)
        value = inspect.Parameter.empty if default is None else default_of(path, tree, default, allowed)
        found.append(inspect.Parameter(argument.arg, kind, default=value, annotation=allowed))
    return inspect.Signature(found)


def annotation(node: ast.expr | None) -> Any:
    """What an annotation says, in the names of NAMES and of spinup.arguments; `object` for any other name."""
    if node is None:
        return inspect.Parameter.empty
    if isinstance(node, ast.Constant) and node.value in (None, ...):
        return node.value
    anything: Any = object
    if isinstance(node, ast.Name):
        return NAMES.get(node.id) or getattr(arguments, node.id, anything)
    if isinstance(node, ast.Attribute):
        return getattr(arguments, node.attr, object) if ast.unparse(node.value) == "arg" else object
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return typing.Union[annotation(node.left), annotation(node.right)]  # noqa: UP007
    if isinstance(node, ast.Subscript) and (generic := annotation(node.value)) is not object:
        inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if generic is Callable:
            return generic
        if generic is Literal:
            return Literal[tuple(map(ast.literal_eval, inside))]
        if generic is Annotated:
            return Annotated[(annotation(inside[0]), *map(note, inside[1:]))]
        return generic[tuple(map(annotation, inside))]
    return object


def note(node: ast.expr) -> Any:
    """A note of Annotated: a line of help, a Range or a Mark."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "Range":
        return Range(*map(number, node.args))
    return annotation(node) if isinstance(node, ast.Name) else ast.literal_eval(node)


def number(node: ast.expr) -> float:
    """A number, or one that spinup.arguments has a name for, with a minus or without."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -number(node.operand)
    return getattr(arguments, node.id) if isinstance(node, ast.Name) else ast.literal_eval(node)


def default_of(path: Path, tree: ast.Module, node: ast.expr, allowed: Any) -> Any:
    """The value of a default: a literal, a constant of its file, or a function or class as a Reference."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        pass
    assigned = definition(tree, node.id) if isinstance(node, ast.Name) else None
    if isinstance(assigned, ast.Assign):
        return default_of(path, tree, assigned.value, allowed)
    parts = arguments.argument("", allowed).types
    if any((typing.get_origin(part) or part) in PLAIN.values() for part in parts):
        raise Unreadable(ast.unparse(node))
    if isinstance(node, ast.Name):
        return reference(path, tree, node.id)
    if allowed is inspect.Parameter.empty:
        raise Unreadable(ast.unparse(node))
    return Reference(None, ast.unparse(node))
