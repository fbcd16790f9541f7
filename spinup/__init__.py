"""Deep reinforcement learning you can read, in PyTorch.

    import spinup
    ac = spinup.ppo("CartPole-v1", epochs=20)

Everything here is imported when first used, so that `import spinup` needs no torch.
"""

from importlib import import_module

__version__ = "1.0.0.dev0"

_HOMES = {
    "vpg": "spinup.algos.vpg",
    "trpo": "spinup.algos.trpo",
    "ppo": "spinup.algos.ppo",
    "ddpg": "spinup.algos.ddpg",
    "td3": "spinup.algos.td3",
    "sac": "spinup.algos.sac",
    "ActorCritic": "spinup.nets",
    "evaluate": "spinup.envs",
    "make_env": "spinup.envs",
    "Logger": "spinup.logger",
    "EpochLogger": "spinup.logger",
    "ExperimentGrid": "spinup.grid",
    "load": "spinup.watch",
    "resume": "spinup.restart",
    "UserError": "spinup.errors",
}
_MODULES = ("plot", "probes")
__all__ = [*_MODULES, *_HOMES]


def __getattr__(name: str):
    if name in _MODULES:
        return import_module(f"spinup.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'spinup' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
