"""Policies in environments: episodes to test them, and actions for single observations."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from spinup import arguments as arg
from spinup.envs.constructors import env_name
from spinup.envs.spaces import flat_observation, layout, to_env_actions
from spinup.envs.vector import VecEnv, columns_without_nan, evaluation_columns, make_envs
from spinup.errors import UserError

DEFAULT_LENGTH = 1000  # default of max_ep_len


def evaluate(
    ac,
    env_fn: str | Callable[[], gym.Env],
    episodes: int = 10,
    deterministic: bool = True,
    seed: int = 1_000_000,
    max_ep_len: int | None = None,
    env_kwargs: dict | None = None,
    vectorization: str = "sync",
    wrappers: Sequence | str | None = None,
    reseed: bool = True,
    log_info: Sequence[str] | str | None = None,
    num_envs: int | None = None,
) -> dict[str, list]:
    """Play episodes seeded with seed, seed + 1, ...

    max_ep_len: longest episode; None: that of the run that trained the policy
    num_envs: environments that play at the same time, one episode each per round; None: one for each episode
    vectorization, wrappers, reseed, log_info: as in `make_envs`

    Returns the lists EpRet, EpLen and those of log_info, in the order of the seeds; NaN if no info had the number.
    """
    check_numbers(episodes=episodes, num_envs=num_envs, seed=seed, max_ep_len=max_ep_len)
    num_envs = min(episodes, num_envs or episodes)
    max_ep_len = longest_episode(ac) if max_ep_len is None else max_ep_len
    envs = make_envs(env_fn, num_envs, seed, max_ep_len, env_kwargs, vectorization, wrappers, reseed, log_info)
    played = []
    with contextlib.closing(envs), evaluation_mode(ac):
        check_fits(ac, envs)
        for first in range(0, episodes, num_envs):
            envs.seed = seed + first
            played += play_round(ac, envs, deterministic)
    return envs.columns(played[:episodes])


def play_test_episodes(ac, envs: VecEnv, episodes: int, num_envs: int | None = None) -> dict[str, list]:
    """`evaluate` in new environments made like `envs`; the columns are TestEpRet, TestEpLen and Test_NAME.

    num_envs: environments played at a time; None: one for each episode, or with "async" as many as in training
    """
    if num_envs is None and envs.made["vectorization"] == "async":
        num_envs = envs.num_envs
    played = evaluate(ac, episodes=episodes, num_envs=num_envs, **envs.made)
    names = ("TestEpRet", "TestEpLen", *evaluation_columns(envs.log_info))
    return columns_without_nan(list(zip(*played.values(), strict=True)), names)


def play_round(ac, envs: VecEnv, deterministic: bool) -> list[tuple]:
    """Play one episode in each environment. Counting only the first of each avoids a bias toward short episodes."""
    played: list[tuple | None] = [None] * envs.num_envs
    o, player = envs.reset(), Player(ac, envs.num_envs)
    while True:
        envs.step(player.act(o, deterministic))
        for i in np.flatnonzero(envs.done):
            played[i] = played[i] or envs.episodes(np.arange(envs.num_envs) == i)[0]
        if all(played):
            return [episode for episode in played if episode]
        o = envs.reset_done()


@contextlib.contextmanager
def evaluation_mode(policy) -> Iterator[None]:
    """Dropout and the like act as in a saved policy, and each module returns to its mode afterwards.

    A policy that isn't a torch module stays as it is. torch isn't imported here, so that `probe --help` is fast.
    """
    modules = list(policy.modules()) if hasattr(policy, "modules") else []
    before = [module.training for module in modules]
    if modules:
        policy.eval()
    try:
        yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.training = training


def check_numbers(**numbers: Any) -> None:
    """Raise UserError if a number of episodes, environments or steps, or a seed, is not a whole number in its range."""
    for name, number in numbers.items():
        kind = int | None if name in ("num_envs", "max_ep_len") else int
        arg.argument(name, Annotated[kind, arg.Range(0 if name == "seed" else 1)]).check(number)


def longest_episode(policy) -> int:
    """The max_ep_len of the run that trained the policy, or the default."""
    return getattr(policy, "max_ep_len", DEFAULT_LENGTH)


def has_memory(policy) -> bool:
    """Whether the policy's `act` also takes and returns the state of a memory (spinup.nets)."""
    return hasattr(policy, "initial_state")


class Player:
    """A policy that acts in N environments from the first steps of their episodes on, with its memory if it has one."""

    def __init__(self, policy, num_envs: int):
        self.policy = policy
        self.state = policy.initial_state(num_envs) if has_memory(policy) else None

    def act(self, o: np.ndarray, deterministic: bool) -> np.ndarray:
        """Actions at observations o, (N, *obs_shape): (N, *act_shape)."""
        if self.state is None:
            return self.policy.act(o, deterministic)
        a, self.state = self.policy.act(o, self.state, deterministic)
        return a


def bind(policy, envs: VecEnv, max_ep_len: int) -> None:
    """Give a policy the method policy.action, which works in the environment's own spaces, its run's max_ep_len, and
    policy.trained_on, the spaces of its observations and actions in VecEnv's format.
    """
    if not hasattr(policy, "action"):  # a user's network may have an attribute of that name
        function = env_action_and_state if has_memory(policy) else env_action
        policy.action = functools.partial(function, policy, envs.raw_observation_space, envs.raw_action_space)
    policy.max_ep_len = max_ep_len
    policy.trained_on = {"observations": envs.observation_space, "actions": envs.action_space}


def check_fits(policy, envs: VecEnv) -> None:
    """Raise UserError if a policy can't act, or was trained on other spaces than these environments have."""
    if not hasattr(policy, "act"):
        raise UserError(f"a {type(policy).__name__} can't play: it has no act(observations, deterministic)")
    here = {"observations": envs.observation_space, "actions": envs.action_space}
    for what, space in getattr(policy, "trained_on", {}).items():
        if (ours := layout(space)) != (theirs := layout(here[what])):
            name = env_name(envs.made["env_fn"])
            raise UserError(f"the policy's {what} are {ours:.80}, those of {name} {theirs:.80}; they must be the same")


def env_action(policy, observation_space: spaces.Space, action_space: spaces.Space, observation, deterministic=False):
    """The policy's action for one observation, both as the environment's own spaces have them.

    Raises UserError if the observation doesn't fit the space.
    """
    return to_env_actions(action_space, policy.act(flat_observation(observation_space, observation), deterministic))[0]


def env_action_and_state(
    policy, observation_space: spaces.Space, action_space: spaces.Space, observation, state=None, deterministic=False
) -> tuple:
    """For a policy with memory: the action, as in `env_action`, and the state for the next step of the episode.

    state: that which the step before returned; None at the first step
    """
    a, state = policy.act(flat_observation(observation_space, observation), state, deterministic)
    return to_env_actions(action_space, a)[0], state
