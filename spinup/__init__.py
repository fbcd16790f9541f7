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

__version__ = "1.0.0.dev0"

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


def __getattr__(name: str):
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name not in _HOMES:
        raise AttributeError(f"module 'spinup' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
