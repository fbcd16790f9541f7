"""The description of an algorithm that commands, probes, benchmarks, docs and tests read."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spinup import arguments
from spinup.arguments import Argument

FOLDER = Path(__file__).parent / "algos"


@dataclass(frozen=True)
class Algorithm:
    """One algorithm; its file ends with ALGORITHM = Algorithm(function, ...).

    function: trains and returns a policy; its signature is its configuration (spinup.arguments)
    on_policy: learns only from the newest rollout; otherwise it learns from a replay buffer
    actions: supported action spaces: "Box" (only bounded ones if off-policy), "Discrete", "MultiDiscrete"
    spreads: quantities logged with mean, standard deviation, maximum and minimum
    means: quantities logged with their mean only
    probe: arguments that learn the probe environments quickly (spinup.probes)
    presets: alternative sets of defaults, by name
    """

    function: Callable
    on_policy: bool
    actions: Sequence[str]
    spreads: Sequence[str] = ()
    means: Sequence[str] = ()
    probe: Mapping = field(default_factory=dict)
    presets: Mapping[str, Mapping] = field(default_factory=dict)

    def __post_init__(self):
        arguments.document(self.function)

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def arguments(self) -> dict[str, Argument]:
        return vars(self.function)["arguments"]

    @property
    def defaults(self) -> dict:
        """The value of each argument that has one."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty}

    @property
    def changeable(self) -> list[str]:
        """The arguments that `resume` may change."""
        return [name for name, argument in self.arguments.items() if argument.changeable]


def files() -> dict[str, Path]:
    """The algorithms' files by algorithm name, found without importing them."""
    return {path.stem: path for path in sorted(FOLDER.glob("[!_]*.py"))}


def find(name: str) -> Algorithm:
    """The algorithm of that name. Raises KeyError if there is none."""
    if name not in files():
        raise KeyError(name)
    return importlib.import_module(f"spinup.algos.{name}").ALGORITHM
