"""Signatures and docstrings of functions and classes, read from their source files.

Importing an algorithm imports torch, which takes a second or more; help and the checks of flags need not wait for it.
"""

import ast
import builtins
import importlib.util
import inspect
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

PLAIN = {t.__name__: t for t in (bool, int, float, str, list, tuple, Sequence)}  # types whose defaults help shows
NAMES = {**PLAIN, "dict": dict, "Any": Any, "Callable": Callable}


class Unreadable(Exception):
    """The source alone does not tell; importing it does."""


class Reference(NamedTuple):
    """A default that is a function or class: where it is defined. `path` is None outside our package."""

    path: Path | None
    name: str


class Description(NamedTuple):
    """A function's or class's signature and docstrings, its own first, then those of the classes it is derived from."""

    name: str
    signature: inspect.Signature
    docs: list[str]


def describe(path: Path | None, name: str) -> Description:
    """The function or class `name` of a source file. Raises Unreadable where only importing it can tell."""
    if path is None:
        raise Unreadable(name)
    tree = ast.parse(path.read_text("utf-8"))
    node = definition(tree, name)
    if isinstance(node, ast.ImportFrom):
        return describe(*reference(path, tree, name))
    if isinstance(node, ast.FunctionDef) and not node.decorator_list:
        return Description(name, signature(path, tree, node.args), [ast.get_docstring(node) or ""])
    if not isinstance(node, ast.ClassDef):
        raise Unreadable(name)
    bases = [describe(path, base.id) for base in node.bases if isinstance(base, ast.Name)]
    docs = [ast.get_docstring(node) or "", *(doc for base in bases for doc in base.docs)]
    own = definition(node, "__init__")
    if isinstance(own, ast.FunctionDef):
        return Description(name, signature(path, tree, own.args, method=True), docs)
    if len(bases) != 1:
        raise Unreadable(name)
    return Description(name, bases[0].signature, docs)


def imported(function: Callable) -> Description:
    """The same of a function or class that was imported."""
    documented = function.__mro__[:-1] if isinstance(function, type) else [function]  # the last class is object
    docs = [inspect.cleandoc(x.__doc__ or "") for x in documented]
    return Description(function.__name__, inspect.signature(function), docs)


def docstring(path: Path) -> str:
    """That of a module."""
    return ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""


def keys(path: Path, name: str) -> list[str]:
    """Those of a dict that a module gives a name, as far as they are literal."""
    node = getattr(definition(ast.parse(path.read_text("utf-8")), name), "value", None)
    return [key.value for key in getattr(node, "keys", []) if isinstance(key, ast.Constant)]


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
    ours = node.module.split(".")[0] == __package__
    spec = importlib.util.find_spec(node.module) if ours else None  # imports the packages above it, which are light
    return Reference(Path(spec.origin) if spec and spec.origin else None, original)


def signature(path: Path, tree: ast.Module, arguments: ast.arguments, method: bool = False) -> inspect.Signature:
    """What a function takes; of a method without self."""
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    kinds = [inspect.Parameter.POSITIONAL_OR_KEYWORD] * len(positional)
    kinds += [inspect.Parameter.KEYWORD_ONLY] * len(arguments.kwonlyargs)
    every = zip([*positional, *arguments.kwonlyargs], [*defaults, *arguments.kw_defaults], kinds, strict=True)
    found = []
    for argument, default, kind in [*every][method:]:
        allowed = annotation(argument.annotation)
        value = inspect.Parameter.empty if default is None else default_of(path, tree, default, allowed)
        found.append(inspect.Parameter(argument.arg, kind, default=value, annotation=allowed))
    return inspect.Signature(found)


def annotation(node: ast.expr | None) -> Any:
    """The types that an annotation names; `object` for any that is not one of NAMES."""
    if node is None:
        return inspect.Parameter.empty
    if isinstance(node, ast.Constant) and node.value in (None, ...):
        return node.value
    if isinstance(node, ast.Name):
        return NAMES.get(node.id, object)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return typing.Union[annotation(node.left), annotation(node.right)]  # noqa: UP007
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in NAMES:
        inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        generic = NAMES[node.value.id]
        return generic if generic is Callable else generic[tuple(map(annotation, inside))]
    return object


def default_of(path: Path, tree: ast.Module, node: ast.expr, allowed: Any) -> Any:
    """The value of a default: a literal, a constant of its file, or a function or class as a Reference."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        pass
    assigned = definition(tree, node.id) if isinstance(node, ast.Name) else None
    if isinstance(assigned, ast.Assign):
        return default_of(path, tree, assigned.value, allowed)
    parts = typing.get_args(allowed) or (allowed,)
    if any((typing.get_origin(part) or part) in PLAIN.values() for part in parts):
        raise Unreadable(ast.unparse(node))
    if isinstance(node, ast.Name):
        return reference(path, tree, node.id)
    if allowed is inspect.Parameter.empty:
        raise Unreadable(ast.unparse(node))
    return Reference(None, ast.unparse(node))
