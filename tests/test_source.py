"""Signatures and docstrings read from source files: equal to those of the imported function, or Unreadable."""

import importlib.util

import pytest

from spinup.experiments import cli, source

SAMPLE = '''
"""A module."""
import functools, math
from collections.abc import Callable, Sequence
from typing import Annotated, Literal
from spinup import arguments as arg
from spinup.arguments import CHANGEABLE, Range
from spinup.nets import ActorCritic as Networks

GAMMA = 0.99
SIZES = (64, -64)

class Base:
    """Of others."""
    def __init__(self, width: Annotated[int, "of all"] = 3, act: str | type = "Tanh",
        linear: Callable | dict = math.sqrt): ...

class Own(Base):
    """Its own."""

class Wider(Base):
    def __init__(self, width: int = 9): ...

def train(env_fn, actor_critic=Own, ac_kwargs: dict | None = None, seed: int = 0, /, *more, gamma: arg.Gamma = GAMMA,
    sizes: Sequence[int] = SIZES, low: float = -1e-3, names: list[str] | None = None, pair: tuple[int, ...] = (1, 2),
    other=print, nets=Networks, kind: Base | None = None, any_=None, flag=True,
    word: Annotated[Literal["a", "b"] | None, Range(0, 3), "which " "one", CHANGEABLE] = "a", **rest):
    """Train.

    At length.
    """

@functools.cache
def decorated(a: int = 1): ...

def computed(a: float = math.inf): ...

def twice(a: int = 1): ...
def twice(a: int = 2): ...
'''


@pytest.fixture
def sample(tmp_path):
    """The sample's file, and the imported module."""
    path = tmp_path / "sample.py"
    path.write_text(SAMPLE)
    spec = importlib.util.spec_from_file_location("sample", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return path, module


@pytest.mark.parametrize("name", ["train", "Own", "Base", "Wider"])
def test_flags_equal_those_of_the_imported_function(sample, name):
    path, module = sample
    read, imported = source.describe(path, name), source.describe_imported(getattr(module, name))
    assert read.doc == imported.doc
    flags, expected = (cli.parameters(x.arguments.values()) for x in (read, imported))
    assert [(a.help, a.range, a.changeable, a.shared) for a in read.arguments.values()] == [
        (a.help, a.range, a.changeable, a.shared) for a in imported.arguments.values()
    ]
    assert [flags.pop("linear", None) and "a function"] == [expected.pop("linear", None) and "a function"]
    assert flags == expected
    assert flags


def test_networks_are_traced_to_their_definition(sample):
    path, _ = sample
    parameters = source.describe(path, "train").arguments
    assert parameters["actor_critic"].default == source.Reference(path, "Own")
    where, name = parameters["nets"].default
    assert (where.parent.name, where.name, name) == ("nets", "__init__.py", "ActorCritic")
    assert "hidden_sizes" in source.describe(path, "Networks").arguments


@pytest.mark.parametrize("name", ["decorated", "computed", "twice", "nowhere", "GAMMA"])
def test_sources_that_must_be_imported_are_unreadable(sample, name):
    with pytest.raises(source.Unreadable):
        source.describe(sample[0], name)
