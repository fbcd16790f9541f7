"""Signatures and docstrings of functions and classes, read from their source files without importing them.

Importing an algorithm imports torch, which takes a second or more. Help and the checks of flags don't need it.
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

PLAIN = {
    t.__name__: t for t in (bool, int, float, str, list, tuple, Sequence)
}  # types whose defaults are shown in help
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
    """The source is not enough: the module has to be imported."""


class Reference(NamedTuple):
    """Where a default that is a function or class is defined. `path` is None outside this package."""

    path: Path | None
    name: str


class Description(NamedTuple):
    """The arguments of a function or class, and the first line of its docstring."""

    name: str
    arguments: dict[str, Argument]
    doc: str


def describe(path: Path | None, name: str) -> Description:
    """Describe the function or class `name` in a source file. Raises Unreadable if that requires importing it."""
    if path is None:
        raise Unreadable(name)
    tree = ast.parse(path.read_text("utf-8"))
    node = find_definition(tree, name)
    if isinstance(node, ast.ImportFrom):
        return describe(*reference(path, tree, name))
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        raise Unreadable(name)
    doc = (ast.get_docstring(node) or "").partition("\n")[0]
    if isinstance(node, ast.FunctionDef) and not node.decorator_list:
        return Description(name, arguments.read(signature(path, tree, node.args)), doc)
    if not isinstance(node, ast.ClassDef):
        raise Unreadable(name)
    own = find_definition(node, "__init__")
    if isinstance(own, ast.FunctionDef):
        return Description(name, arguments.read(signature(path, tree, own.args, method=True)), doc)
    if len(node.bases) != 1 or not isinstance(node.bases[0], ast.Name):
        raise Unreadable(name)
    return Description(name, describe(path, node.bases[0].id).arguments, doc)


def describe_imported(function: Callable) -> Description:
    """Describe an imported function or class."""
    found = getattr(function, "arguments", None) or arguments.read(inspect.signature(function))
    return Description(function.__name__, found, inspect.cleandoc(function.__doc__ or "").partition("\n")[0])


def arguments_of(path: Path, name: str) -> list[Argument]:
    """The arguments of a file's algorithm; an empty list if it would have to be imported."""
    with contextlib.suppress(Unreadable):
        return [*describe(path, name).arguments.values()]
    return []


def docstring(path: Path) -> str:
    """A module's docstring."""
    return ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""


def presets(path: Path) -> list[str]:
    """The names of an algorithm's presets, from its ALGORITHM; only those given literally."""
    call = getattr(find_definition(ast.parse(path.read_text("utf-8")), "ALGORITHM"), "value", None)
    found = next((k.value for k in getattr(call, "keywords", []) if k.arg == "presets"), None)
    return [str(key.value) for key in getattr(found, "keys", []) if isinstance(key, ast.Constant)]


def find_definition(tree: ast.Module | ast.ClassDef, name: str) -> ast.AST | None:
    """The statement that defines a name; None if none or several do."""
    found = []
    for node in tree.body:
        targets = [t.id for t in getattr(node, "targets", []) if isinstance(t, ast.Name)]
        targets += [alias.asname or alias.name for alias in getattr(node, "names", [])]
        if name in (*targets, getattr(node, "name", None)):
            found.append(node)
    return found[0] if len(found) == 1 else None


def reference(path: Path, tree: ast.Module, name: str) -> Reference:
    """Where a function or class used in a file is defined."""
    node = find_definition(tree, name)
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return Reference(path, name)
    if node is None and hasattr(builtins, name):
        return Reference(None, name)
    if not isinstance(node, ast.ImportFrom) or node.level or not node.module:
        raise Unreadable(name)
    original = next(alias.name for alias in node.names if name in (alias.asname, alias.name))
    return Reference(find_our_file(node.module), original)


def find_our_file(module: str) -> Path | None:
    """The source file of a module in this package, found without importing its parents; None for other modules."""
    package, *parts = module.split(".")
    here = ROOT.joinpath(*parts)
    found = [path for path in (here.with_suffix(".py"), here / "__init__.py") if path.is_file()]
    return found[0] if package == "spinup" and found else None


def signature(path: Path, tree: ast.Module, arguments: ast.arguments, method: bool = False) -> inspect.Signature:
    """The signature of a function, or of a method without self."""
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    kinds: list = [inspect.Parameter.POSITIONAL_OR_KEYWORD] * len(positional)
    kinds += [inspect.Parameter.KEYWORD_ONLY] * len(arguments.kwonlyargs)
    every = zip([*positional, *arguments.kwonlyargs], [*defaults, *arguments.kw_defaults], kinds, strict=True)
    found = []
    for argument, default, kind in [*every][method:]:
        allowed = parse_annotation(argument.annotation)
        value = inspect.Parameter.empty if default is None else default_of(path, tree, default, allowed)
        found.append(inspect.Parameter(argument.arg, kind, default=value, annotation=allowed))
    return inspect.Signature(found)


def parse_annotation(node: ast.expr | None) -> Any:
    """An annotation's value, if its names are in NAMES or in spinup.arguments; `object` for other names."""
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
        return typing.Union[parse_annotation(node.left), parse_annotation(node.right)]  # noqa: UP007
    if isinstance(node, ast.Subscript) and (generic := parse_annotation(node.value)) is not object:
        inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if generic is Callable:
            return generic
        if generic is Literal:
            return Literal[tuple(map(ast.literal_eval, inside))]
        if generic is Annotated:
            return Annotated[(parse_annotation(inside[0]), *map(parse_note, inside[1:]))]
        return generic[tuple(map(parse_annotation, inside))]
    return object


def parse_note(node: ast.expr) -> Any:
    """The value of a note in Annotated: a line of help, a Range or a Mark."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "Range":
        return Range(*map(parse_number, node.args))
    return parse_annotation(node) if isinstance(node, ast.Name) else ast.literal_eval(node)


def parse_number(node: ast.expr) -> float:
    """The value of a number, or of a constant in spinup.arguments, with or without a minus sign."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -parse_number(node.operand)
    return getattr(arguments, node.id) if isinstance(node, ast.Name) else ast.literal_eval(node)


def default_of(path: Path, tree: ast.Module, node: ast.expr, allowed: Any) -> Any:
    """A default's value: a literal, a constant of the file, or a Reference to a function or class."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        pass
    assigned = find_definition(tree, node.id) if isinstance(node, ast.Name) else None
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
