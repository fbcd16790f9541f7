"""Deep reinforcement learning you can read, in PyTorch.

    import spinup
    ac = spinup.ppo("CartPole-v1", epochs=20)

Everything here is imported when first used, so that `import spinup` needs no torch.
"""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors, which don't run __getattr__
    from spinup import probes as probes
    from spinup.algos.crossq import crossq as crossq
    from spinup.algos.ddpg import ddpg as ddpg
    from spinup.algos.dqn import dqn as dqn
    from spinup.algos.ppo import ppo as ppo
    from spinup.algos.ppo_rnn import ppo_rnn as ppo_rnn
    from spinup.algos.sac import sac as sac
    from spinup.algos.td3 import td3 as td3
    from spinup.algos.trpo import trpo as trpo
    from spinup.algos.vpg import vpg as vpg
    from spinup.analysis import plot as plot
    from spinup.analysis.play import load as load
    from spinup.envs import evaluate as evaluate
    from spinup.envs import make_env as make_env
    from spinup.errors import UserError as UserError
    from spinup.experiments.grid import ExperimentGrid as ExperimentGrid
    from spinup.experiments.resume import resume as resume
    from spinup.nets import ActorCritic as ActorCritic
    from spinup.runs.logger import EpochLogger as EpochLogger
    from spinup.runs.logger import Logger as Logger

__version__ = "1.0.0.dev1"

_HOMES = {
    **{file.stem: f"spinup.algos.{file.stem}" for file in sorted(Path(__file__).with_name("algos").glob("[!_]*.py"))},
    "ActorCritic": "spinup.nets",
    "evaluate": "spinup.envs",
    "make_env": "spinup.envs",
    "Logger": "spinup.runs.logger",
    "EpochLogger": "spinup.runs.logger",
    "ExperimentGrid": "spinup.experiments.grid",
    "load": "spinup.analysis.play",
    "resume": "spinup.experiments.resume",
    "UserError": "spinup.errors",
}
_MODULES = {"plot": "spinup.analysis.plot", "probes": "spinup.probes"}
# Modules by names that earlier versions had for them.
_RENAMED = {
    **{f"spinup.{name}": f"spinup.compute.{name}" for name in ("accel", "capture", "mpi", "optim")},
    **{f"spinup.{name}": f"spinup.runs.{name}" for name in ("checkpoint", "config", "logger")},
    "spinup.grid": "spinup.experiments.grid",
    "spinup.plot": "spinup.analysis.plot",
    "spinup.results": "spinup.analysis.results",
    "spinup.stats": "spinup.analysis.stats",
    "spinup.watch": "spinup.analysis.play",
}
__all__ = [*_MODULES, *_HOMES]


class _Renamed(MetaPathFinder, Loader):
    """Imports a module by its earlier name: the same module object."""

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name in _RENAMED else None

    def create_module(self, spec):
        module = import_module(_RENAMED[spec.name])
        self.own_spec = module.__spec__
        return module

    def exec_module(self, module):
        module.__spec__ = self.own_spec  # the import system has set the earlier name's


sys.meta_path.insert(0, _Renamed())  # before the finder of an editable install


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name not in _HOMES:
        raise AttributeError(f"module 'spinup' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
