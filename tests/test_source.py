"""Signatures and docstrings from source files: what inspect says of the imported function, or Unreadable."""

import importlib.util

import pytest

from spinup.experiments import cli, source

SAMPLE = '''
"""A module."""
import functools, math
from collections.abc import Callable, Sequence
from spinup.nets import ActorCritic as Networks

GAMMA = 0.99
SIZES = (64, -64)

class Base:
    """Of others.

    width: of all
    """
    def __init__(self, width: int = 3, act: str | type = "Tanh", linear: Callable | dict = math.sqrt): ...

class Own(Base):
    """Its own.

    act: which
    """

class Wider(Base):
    def __init__(self, width: int = 9): ...

def train(env_fn, actor_critic=Own, ac_kwargs: dict | None = None, seed: int = 0, /, *more, gamma: float = GAMMA,
    sizes: Sequence[int] = SIZES, low: float = -1e-3, names: list[str] | None = None, pair: tuple[int, ...] = (1, 2),
    other=print, nets=Networks, kind: Base | None = None, any_=None, flag=True, **rest):
    """Train.

    gamma: how far
    """

@functools.cache
def decorated(a: int = 1): ...

def computed(a: float = math.inf): ...

def twice(a: int = 1): ...
def twice(a: int = 2): ...
'''


@pytest.fixture
def sample(tmp_path):
    """The sample's file, and the module that it is when imported."""
    path = tmp_path / "sample.py"
    path.write_text(SAMPLE)
    spec = importlib.util.spec_from_file_location("sample", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return path, module


@pytest.mark.parametrize("name", ["train", "Own", "Base", "Wider"])
def test_the_flags_are_those_of_the_imported_function(sample, name):
    path, module = sample
    read, imported = source.describe(path, name), source.imported(getattr(module, name))
    assert read.docs == imported.docs
    flags, expected = (cli.parameters(x.signature, *x.docs) for x in (read, imported))
    assert [flags.pop("linear", None) and "a function"] == [expected.pop("linear", None) and "a function"]
    assert flags == expected
    assert flags


def test_networks_are_found_where_they_are_defined(sample):
    path, _ = sample
    parameters = source.describe(path, "train").signature.parameters
    assert parameters["actor_critic"].default == source.Reference(path, "Own")
    where, name = parameters["nets"].default
    assert (where.name, name) == ("nets.py", "ActorCritic")
    assert "hidden_sizes" in source.describe(path, "Networks").signature.parameters


@pytest.mark.parametrize("name", ["decorated", "computed", "twice", "nowhere", "GAMMA"])
def test_what_only_importing_tells(sample, name):
    with pytest.raises(source.Unreadable):
        source.describe(sample[0], name)
