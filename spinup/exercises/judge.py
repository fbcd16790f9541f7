"""What the checkers share: loading the user's file, comparing its results with the right ones, naming mistakes."""

import ast
import importlib.util
import random
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from spinup.errors import UserError


class Wrong(Exception):
    """The user's file is not right yet; the message says what is wrong in a sentence."""


def load(path: Path, starter: Path) -> ModuleType:
    """The user's file as a module. Raises UserError if there is none, Wrong if it no longer matches `starter`.

    Every function and class of the starter file must be there and take the same arguments.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}; `python -m spinup.exercises start` copies the starter file")
    spec = importlib.util.spec_from_file_location(starter.stem, path)
    if spec is None:
        raise UserError(f"{path} is not a Python file; its name must end in .py")
    try:
        wanted, given = signatures(starter), signatures(path)
    except ValueError:  # no UTF-8, or a null byte
        raise UserError(f"{path} is not a text file") from None
    for name, arguments in wanted.items():
        if name not in given:
            raise Wrong(f"{path.name} has no {name}; keep the names of the starter file")
        if given[name] != arguments:
            ours, yours = ", ".join(arguments), ", ".join(given[name])
            raise Wrong(f"{name} takes ({yours}); keep the arguments of the starter file: ({ours})")
    module = importlib.util.module_from_spec(spec)
    seed()
    old, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # no folder beside the user's file
    sys.modules[starter.stem] = module
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = old
        del sys.modules[starter.stem]
    return module


def signatures(path: Path) -> dict[str, list[str]]:
    """The functions and methods of a file, "f" and "Class.f", and the names of their arguments."""
    found = {}

    def collect(body: Sequence[ast.stmt], prefix: str = "") -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef):
                arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                found[prefix + node.name] = [a.arg for a in arguments]
            elif isinstance(node, ast.ClassDef):
                collect(node.body, f"{node.name}.")

    collect(ast.parse(path.read_text(encoding="utf-8"), str(path)).body)
    return found


def seed(n: int = 0) -> None:
    """The same random numbers for every check."""
    random.seed(n)
    np.random.seed(n)
    torch.manual_seed(n)


def own_traceback(error: BaseException, path: Path) -> str | None:
    """A traceback of the lines of the user's file alone; None where the error did not pass through it."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
    if not frames and not (isinstance(error, SyntaxError) and error.filename == str(path)):
        return None
    return "".join([*traceback.format_list(frames), *traceback.format_exception_only(error)]).rstrip()


# ---- comparing

Mistakes = Iterable[tuple[Tensor | float, str]]


def first_difference(got: Tensor, right: Tensor, tol: float, axes: str) -> str:
    """Where two tensors of one shape differ first, for a message: "at (t, n) = (2, 0) it is 1; 3 is right"."""
    wrong = ~torch.isclose(got, right, rtol=tol, atol=tol)
    if got.numel() == 1:
        return f"is {got.item():.4g}; {right.item():.4g} is right"
    index = tuple(wrong.nonzero()[0].tolist())
    place = f"{axes} = ({', '.join(map(str, index))})" if axes else f"index {index if len(index) > 1 else index[0]}"
    return f"is wrong: at {place} it is {got[index]:.4g}; {right[index]:.4g} is right"


def pair(what: str, output) -> Sequence:
    """What a function with two results returned. Raises Wrong(what) for anything but two, in a tuple or a list."""
    if not isinstance(output, tuple | list) or len(output) != 2:
        raise Wrong(what)
    return output


def as_tensor(what: str, x) -> Tensor:
    """What the user's function returned, without its gradient. Raises Wrong for anything but a tensor or number."""
    if x is None:
        raise Wrong(f"{what} returned nothing; is there a return at its end?")
    if not isinstance(x, Tensor | float | int | np.ndarray | np.number):
        raise Wrong(f"{what} returned a {type(x).__name__}; it must be a tensor")
    return torch.as_tensor(x).detach().float()


def close(x: Tensor, y: Tensor, tol: float = 1e-4) -> bool:
    return x.shape == y.shape and torch.allclose(x, y, rtol=tol, atol=tol)


def compare(what: str, got, right: Tensor, mistakes: Mistakes = (), tol: float = 1e-4, axes: str = "") -> None:
    """Raise Wrong if `got` isn't `right`, naming the known mistake that gives the same value, or else both numbers.

    axes: the names of the tensors' indices, as "(t, n)"
    """
    got, right = as_tensor(what, got), torch.as_tensor(right).detach().float()
    if close(got, right, tol):
        return
    for wrong, sentence in mistakes:
        if close(got, torch.as_tensor(wrong).detach().float(), tol):
            raise Wrong(f"{what}: {sentence}")
    if got.shape != right.shape:
        raise Wrong(f"{what} has the shape {tuple(got.shape)}; it must be {tuple(right.shape)}")
    if not torch.isfinite(got).all():
        what = f"{what} is not finite, and"
    raise Wrong(f"{what} {first_difference(got, right, tol, axes)}")


def gradients(what: str, loss, inputs: Sequence[Tensor], message: str) -> list[Tensor]:
    """Gradients of the scalar `loss` by the inputs, 0 by those it does not depend on. Raises Wrong(message) for all."""
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        raise Wrong(f"{what}: {message}")
    found = torch.autograd.grad(loss.sum(), inputs, allow_unused=True, retain_graph=True)
    if all(g is None for g in found):
        raise Wrong(f"{what}: {message}")
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]


class Swap:
    """Puts another function in the place of one of a module's, as `with Swap(module, "f", function):`."""

    def __init__(self, module: ModuleType, name: str, function: Callable):
        self.module, self.name, self.function = module, name, function

    def __enter__(self) -> None:
        self.old = getattr(self.module, self.name)
        setattr(self.module, self.name, self.function)

    def __exit__(self, *_) -> None:
        setattr(self.module, self.name, self.old)
