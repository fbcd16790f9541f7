"""Helpers that the algorithms' tests share, besides spinup.probes: environments, networks, training and inspection."""

import copy
import importlib
import json
from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from spinup.algorithm import files, find
from spinup.compute.optim import FlatAdam
from spinup.nets import ActorCritic, Gaussian
from spinup.probes import PLAIN, Boxed, ByBoth, Probe, Target
from spinup.probes import ByAction as ByAction  # for tests that import it from here
from spinup.probes import ByObservation as ByObservation
from spinup.probes import Discounting as Discounting
from spinup.runs import checkpoint
from spinup.system.files import newest_checkpoint

ALGORITHMS = {name: find(name) for name in files()}
# Those with an ActorCritic; recurrent PPO has its own versions of their tests.
ON_POLICY = {
    name: algorithm.function
    for name, algorithm in ALGORITHMS.items()
    if algorithm.on_policy and algorithm.defaults["actor_critic"] is ActorCritic
}
# Those with an actor and critics; DQN has its own versions of their tests.
OFF_POLICY = {
    name: algorithm.function
    for name, algorithm in ALGORITHMS.items()
    if not algorithm.on_policy and "Box" in algorithm.actions
}
WITH_TARGETS = {name: function for name, function in OFF_POLICY.items() if ALGORITHMS[name].defaults.get("polyak")}
ALGOS = ON_POLICY | OFF_POLICY
SOFT = [name for name in OFF_POLICY if "alpha" in ALGORITHMS[name].arguments]  # with an entropy bonus
NO_DISCRETE = [name for name, algorithm in ALGORITHMS.items() if "Discrete" not in algorithm.actions]


def taken(algo: str, options: dict) -> dict:
    """The options that the algorithm has as arguments."""
    return {name: value for name, value in options.items() if name in ALGORITHMS[algo].arguments}


# ---- environments


class Mixed(ByBoth):
    """Everything at once: three steps, and a reward that depends on time, observation and action."""

    def __init__(self):
        super().__init__(length=3)

    def reward(self, a) -> float:
        return super().reward(a) * (self.t + 1)


class Spaces(Probe):
    """Any spaces, with sampled observations and reward 1."""

    def __init__(self, observation_space=None, action_space=None, length: int = 5):
        super().__init__(length)
        self.observation_space = observation_space or self.observation_space
        self.action_space = action_space or self.action_space

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.observation_space.seed(seed)
        return super().reset(seed=seed)

    def observe(self):
        return self.observation_space.sample()


class Walk(Probe):
    """Random observations, rewards that depend on observation and action, and random terminations and truncations."""

    observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)

    def __init__(self, action_space: spaces.Space = Target.action_space):
        super().__init__()
        self.action_space = action_space

    def observe(self):
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)

    def reward(self, a) -> float:
        return float(self.o[0] + self.o[1] * np.sum(a))

    def step(self, a):
        o, r, *_ = super().step(a)
        terminated, truncated = self.np_random.random(2) < 0.15
        return o, r, bool(terminated), bool(truncated), {}


def fit(algo: str, env_fn: Callable) -> Callable:
    """An environment with two actions, Boxed for algorithms that don't support Discrete ones."""
    return (lambda **kwargs: Boxed(env_fn(**kwargs))) if algo in NO_DISCRETE else env_fn


class CallLog(gym.Wrapper):
    """Appends the calls of an environment, ("reset", seed) and ("step", action), to a list shared by all copies."""

    def __init__(self, env: gym.Env, calls: list):
        super().__init__(env)
        self.calls = calls

    def reset(self, *, seed=None, options=None):
        self.calls.append(("reset", seed))
        return super().reset(seed=seed, options=options)

    def step(self, a):
        self.calls.append(("step", a))
        return super().step(a)


# ---- networks


class Constant(nn.Module):
    """A value function that is `c` everywhere."""

    def __init__(self, c: float = 0.0):
        super().__init__()
        self.c = nn.Parameter(torch.tensor(c))

    def forward(self, o):
        return self.c + torch.zeros(*o.shape[:-1], 1)


def constant_critic(c: float = 0.0) -> Callable:
    """An actor_critic whose value function starts as the constant c and stays constant."""

    def make(*args, **kwargs):
        ac = ActorCritic(*args, **kwargs)
        ac.critic = Constant(c)
        return ac

    return make


class Line(nn.Module):
    """Q(o, a) = c + w a for one-dimensional actions; its parameter has no effect, so it never changes."""

    def __init__(self, c: float, w: float = 0.0):
        super().__init__()
        self.c, self.w, self.unused = c, w, nn.Parameter(torch.zeros(()))

    def forward(self, o, a, training=False):
        return self.c + self.w * a.squeeze(-1) + 0 * self.unused


def lines(algo: str, *critics: Line) -> Callable:
    """The actor_critic of an off-policy algorithm with these action-value functions."""

    def make(*args, **kwargs):
        ac = ALGORITHMS[algo].defaults["actor_critic"](*args, **kwargs)
        assert len(ac.critic) == len(critics)
        ac.critic = type(ac.critic)(critics)
        return ac

    return make


class RawActor(nn.Module):
    """As a user might write it: log_std is the parameter itself, not a tensor computed from it."""

    def __init__(self, net: nn.Module, size: int):
        super().__init__()
        self.net, self.log_std = net, nn.Parameter(torch.zeros(size))

    def forward(self, o):
        return Gaussian(self.net(o), self.log_std)


class RawActorCritic(ActorCritic):
    """An ActorCritic with a RawActor, for Box actions."""

    def __init__(self, observation_space, action_space, **kwargs):
        super().__init__(observation_space, action_space, **kwargs)
        self.actor = RawActor(self.actor.net, action_space.shape[0])


# ---- training


def train(algo: str, env_fn, folder: Path, /, **kwargs):
    """Train and return the actor-critic; the run is in `folder`."""
    return ALGORITHMS[algo].function(env_fn, logger_kwargs=dict(output_dir=folder, quiet=True), **kwargs)


def rows(folder: Path) -> list[dict[str, float]]:
    """progress.txt, one dict per row."""
    header, *lines = (folder / "progress.txt").read_text().splitlines()
    return [dict(zip(header.split("\t"), map(float, line.split("\t")), strict=True)) for line in lines]


def column(folder: Path, key: str) -> list[float]:
    return [row[key] for row in rows(folder)]


TIMES = ("Time", "EvalTime")


def without_time(folder: Path) -> list[list[str]]:
    """The cells of progress.txt as written, without the columns of times."""
    lines = [line.split("\t") for line in (folder / "progress.txt").read_text().splitlines()]
    kept = [i for i, key in enumerate(lines[0]) if key not in TIMES]
    return [[line[i] for i in kept] for line in lines]


def config(folder: Path) -> dict:
    """config.json; NaN and Infinity, which aren't valid JSON, are an error."""

    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    return json.loads((folder / "config.json").read_text(), parse_constant=refuse)


class Epoch:
    """The first epoch of a run, for inspection: its data, and the networks before and after it.

    Observations aren't normalized, so that only parameters change.
    """

    def __init__(self, monkeypatch, algo: str, env_fn, folder: Path, /, **kwargs):
        module = importlib.import_module(f"spinup.algos.{algo}")
        make, before, rollouts = kwargs.pop("actor_critic", ActorCritic), [], []

        class Recorder(module.RolloutBuffer):
            def get(self, device="cpu"):
                data = super().get(device)
                rollouts.append(type(data)(*(x.clone() for x in data)))
                return data

        def actor_critic(*args, **kw):
            ac = make(*args, **kw)
            before.extend((ac, {key: x.clone() for key, x in ac.state_dict().items()}))
            return ac

        monkeypatch.setattr(module, "RolloutBuffer", Recorder)
        options = {**PLAIN, **kwargs, "epochs": 1, "actor_critic": actor_critic}
        self.ac = train(algo, env_fn, folder, **options)
        self.data, self.row, self.before, self.folder = rollouts[0], rows(folder)[0], before[1], folder
        self.after = {key: x.clone() for key, x in self.ac.state_dict().items() if key in self.before}

    def at(self, when: str) -> nn.Module:
        """The actor-critic with its parameters "before" or "after" the update."""
        self.ac.load_state_dict(getattr(self, when), strict=False)
        return self.ac

    def moved(self, part: str = "actor") -> torch.Tensor:
        """What the update added to the parameters of `part`, as one vector."""
        keys = [key for key, _ in self.ac.named_parameters() if key.startswith(part)]
        return torch.cat([(self.after[key] - self.before[key]).reshape(-1) for key in keys])


class Replay:
    """A run of an off-policy algorithm, for inspection.

    first: a copy of its initial networks; batches, when, random: for each update, its batch, the environment steps
    before it, and torch's random state; targets: the target networks at the end, by "actor" or "critic", from the run's
    checkpoint; ac, row: the run's actor-critic and the first row of its progress.txt
    """

    def __init__(self, monkeypatch, algo: str, env_fn, folder: Path, /, **kwargs):
        module = importlib.import_module(f"spinup.algos.{algo}")
        make = kwargs.pop("actor_critic", ALGORITHMS[algo].defaults["actor_critic"])
        self.batches, self.when, self.random, self.targets = [], [], [], {}

        class Recorder(module.ReplayBuffer):
            def sample(buffer, batch_size):
                batch = super().sample(batch_size)
                self.batches.append(batch)
                self.when.append(buffer.t * buffer.num_envs)
                self.random.append(torch.get_rng_state())
                return batch

        def actor_critic(*args, **kw):
            ac = make(*args, **kw)
            self.first = copy.deepcopy(ac)
            return ac

        with monkeypatch.context() as patch:
            patch.setattr(module, "ReplayBuffer", Recorder)
            self.ac = train(algo, env_fn, folder, **kwargs, actor_critic=actor_critic)
        self.row = rows(folder)[0]
        saved = checkpoint_parts(folder)
        for part, name in {"actor": "pi_targ", "critic": "q_targ"}.items():
            if name in saved:
                target = copy.deepcopy(getattr(self.first, part))
                (target[0] if algo == "ddpg" and part == "critic" else target).load_state_dict(saved[name])
                self.targets[part] = target


def learning_rates(monkeypatch) -> list[float]:
    """The learning rate of each optimizer step from now on."""
    steps, minimize = [], FlatAdam.minimize

    def recorded(self, loss):
        steps.append(self.lr)
        minimize(self, loss)

    monkeypatch.setattr(FlatAdam, "minimize", recorded)
    return steps


def checkpoint_parts(folder: Path) -> dict:
    """The state of everything in a run's newest checkpoint, by name."""
    newest = newest_checkpoint(folder)
    manifest = json.loads((newest / "manifest.json").read_text())
    return checkpoint.read_state(newest / "rank0.pt", manifest["sha256"][0])["parts"]


def optimizer_steps(folder: Path) -> dict[str, int]:
    """The number of steps that each optimizer had taken at a run's newest checkpoint, by name."""
    parts = checkpoint_parts(folder)
    return {name: int(parts[name]["t"]) for name in parts if name.endswith("optimizer")}


def parameters(module: nn.Module) -> torch.Tensor:
    """All parameters in one vector, a copy."""
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def polyak_loop(target: nn.Module, source: nn.Module, polyak: float) -> None:
    """Polyak averaging as in the papers, parameter by parameter."""
    for p, q in zip(target.parameters(), source.parameters(), strict=True):
        p.data.copy_(polyak * p.data + (1 - polyak) * q.data)


def assert_follows(replay: Replay, networks: dict[str, nn.Module]) -> None:
    """Check the run's networks, "actor", "critic", and with "_targ" the targets, against these."""
    for name, expected in networks.items():
        part, targ, _ = name.partition("_targ")
        ours = replay.targets[part] if targ else getattr(replay.ac, part)
        for (key, p), q in zip(ours.named_parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-6, msg=lambda m, key=f"{name}.{key}": f"{key}: {m}")
