"""Environments so small that the right values and actions are known: the first thing to try on a failing algorithm.

Each tests one thing more than the one before, so the first failure shows where to look. For our algorithms:

    python -m spinup.run probe ppo

For your own algorithm, train(env_fn, gamma) makes its environments by env_fn() and returns two functions (see `check`):

    results = spinup.probes.check(train)
    print(spinup.probes.table(results))
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from spinup.algorithm import Algorithm, files, find
from spinup.envs import Player, has_memory
from spinup.errors import Fault, UserError, closest

# ---- environments


class Probe(gym.Env):
    """Episodes of `length` steps with the observation (0,), reward 1 and two actions without effect.

    length: steps per episode; truncates: episodes end by truncation instead of a terminal state
    """

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, length: int = 1, truncates: bool = False):
        self.length, self.truncates = length, truncates

    def observe(self):
        return np.zeros(1, np.float32)

    def reward(self, a) -> float:
        return 1.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.o = self.observe()
        return self.o, {}

    def step(self, a):
        r = self.reward(a)
        self.t += 1
        self.o = self.observe()
        end = self.t == self.length
        return self.o, r, end and not self.truncates, end and self.truncates, {}


class TimeLimit(Probe):
    """Reward 1 in each step, truncated after three steps: V = 1 / (1 - gamma)."""

    def __init__(self):
        super().__init__(length=3, truncates=True)


class ByObservation(Probe):
    """The reward is the observation, -1 or 1 at random: V(o) = o."""

    def observe(self):
        return np.full(1, 2 * self.np_random.integers(2) - 1, np.float32)

    def reward(self, a) -> float:
        return float(self.o[0])


class Discounting(Probe):
    """Two steps, with o = 0 and reward 0, then o = 1 and reward 1: V(0) = gamma, V(1) = 1."""

    def __init__(self):
        super().__init__(length=2)

    def observe(self):
        return np.full(1, min(self.t, 1), np.float32)

    def reward(self, a) -> float:
        return float(self.t == 1)


class ByAction(Probe):
    """The reward is 1 for action 1 and -1 for action 0."""

    def reward(self, a) -> float:
        return 2.0 * a - 1


class ByBoth(ByObservation):
    """The reward is 1 for action 1 at o = 1 and for action 0 at o = -1, otherwise -1."""

    def reward(self, a) -> float:
        return float(self.o[0]) * (2.0 * a - 1)


class Target(Probe):
    """The reward falls with the squared distance from a target point, in an asymmetric Box of actions."""

    action_space = spaces.Box(np.array([0, -3], np.float32), np.array([10, 1], np.float32))
    target = np.array([8, -2])

    def reward(self, a) -> float:
        return -float((((a - self.target) / [5, 2]) ** 2).sum())  # in half-ranges


class Boxed(gym.ActionWrapper):
    """Replaces the two actions by a number from 0 to 1; the rewards above are linear in it."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.action_space = spaces.Box(0.0, 1.0, (1,), np.float32)

    def action(self, a):
        return float(a[0])


# ---- what each one tests


class Case(NamedTuple):
    """One environment and what a working algorithm learns in it.

    shows: what a success shows; values, actions: the right ones, by observation; blame: where to look after a failure;
    suspects: known wrong answers, as (values or actions by observation, their cause)
    """

    name: str
    env: type[Probe]
    shows: str
    blame: str
    suspects: Sequence[tuple[Mapping, str]]
    values: Mapping[float, float] = {}
    actions: Mapping[float, Sequence[float]] = {}
    gamma: float = 0.9
    tolerance: float = 0.1


STUCK = "nothing is learned: does the loss depend on the network's output, and does the optimizer step on its gradient?"
CUT_OFF = "truncated is treated as terminated: only terminated may stop the bootstrapping"
CASES = (
    Case(
        "constant reward",
        Probe,
        "values are fitted, terminal ones are 0",
        "the value function's loss and its optimizer, and the target at the end of an episode",
        [
            ({0: 10.0}, "the value of a terminal state is counted: multiply it by (1 - terminated)"),
            ({0: 0.0}, STUCK),
        ],
        values={0: 1.0},
    ),
    Case(
        "reward by observation",
        ByObservation,
        "values depend on the observation",
        "how observations and rewards are stored, indexed and shaped on their way to the value function's loss",
        [
            (
                {-1: 0.0, 1: 0.0},
                "each observation gets the mean of all rewards: a loss of (B, 1) against (B,) broadcasts to (B, B)",
            ),
            ({-1: 1.0, 1: -1.0}, "the sign is wrong, or a reward is stored with another step's observation"),
        ],
        values={-1: -1.0, 1: 1.0},
    ),
    Case(
        "discounting",
        Discounting,
        "later rewards count, discounted",
        "the target: how the next state's value and gamma enter",
        [
            ({0: 1.0, 1: 1.0}, "the later reward isn't discounted: gamma is not used"),
            ({0: 0.0, 1: 1.0}, "the later reward does not count: the next state's value is missing in the target"),
            ({0: 0.49, 1: 0.7}, "gamma is applied once too often, to the step's own reward"),
        ],
        values={0: 0.7, 1: 1.0},
        gamma=0.7,
    ),
    Case(
        "time limit",
        TimeLimit,
        "truncation isn't termination",
        "the target of a truncated episode: it must bootstrap from the value of the true next observation",
        [
            ({0: 1 / (1 - 0.8 * 2 / 3)}, CUT_OFF),  # one-step targets that bootstrap in two of three steps
            ({0: (1 + 1.8 + 2.44) / 3}, CUT_OFF),  # the mean of the returns up to the truncation
            ({0: 0.0}, STUCK),
        ],
        values={0: 5.0},
        gamma=0.8,
        tolerance=0.4,
    ),
    Case(
        "reward by action",
        ByAction,
        "the policy finds the better action",
        "the policy's loss: its sign, the log-probability or the critic's gradient by the action, and its optimizer",
        [
            ({0: [0.0]}, "the policy seeks the worst action: the sign of its loss is wrong"),
            (
                {0: [0.5]},
                "the policy does not change: does its loss depend on its parameters, and does an optimizer step them?",
            ),
        ],
        actions={0: [1.0]},
        tolerance=0.2,
    ),
    Case(
        "action by observation",
        ByBoth,
        "the policy depends on the observation",
        "whether observation, action and advantage of one step stay together: shuffling, flattening, axes",
        [
            ({-1: [1.0], 1: [0.0]}, "the policy seeks the worst action: the sign of its loss is wrong"),
            ({-1: [0.5], 1: [0.5]}, "observations and rewards are mixed up, or the policy ignores the observation"),
        ],
        actions={-1: [0.0], 1: [1.0]},
        tolerance=0.2,
    ),
    Case(
        "point in a box",
        Target,
        "actions cover asymmetric bounds",
        "how actions are scaled and clipped to the bounds of each dimension, and the density of continuous actions",
        [({0: [5.0, -1.0]}, "the policy stays in the middle of the bounds: it does not learn from continuous actions")],
        actions={0: [8.0, -2.0]},
        tolerance=0.7,
    ),
)


class Result(NamedTuple):
    """The outcome of one case; got: values or actions by observation; passed: None if it couldn't be tried."""

    case: Case
    got: Mapping
    passed: bool | None
    message: str
    seconds: float


# ---- running them

Train = Callable[[Callable[[], gym.Env], float], tuple[Callable | None, Callable | None]]


NOT_FINITE = "not a finite number: a division by a standard deviation of 0, a log of 0, or steps that grow"


def check(
    train: Train, *, discrete: bool = True, box: bool = False, only: Sequence[str] = (), tell: Callable | None = None
) -> list[Result]:
    """Train on each case and compare the learned values or actions with the right ones.

    train(env_fn, gamma) trains in environments made by env_fn(), and returns (value, act); either may be None.
    value(o) is the estimate of V(o), or of Q at the policy's action, one number or several; act(o) is the policy's
    action. Observations have shape (1,). If act samples a Discrete action, the samples are averaged.
    discrete, box: the supported actions: two Discrete ones, a Box (which adds the last case), or both
    only: names of cases; default: all; tell: function called with each result
    """
    unknown = [name for name in only if name not in [case.name for case in CASES]]
    if unknown or not (discrete or box):
        what = f"there is no probe '{unknown[0]}'" if unknown else "an algorithm must take discrete actions or a box"
        raise UserError(f"{what}; the probes are {', '.join(case.name for case in CASES)}")
    results = []
    for case in CASES:
        if (not only or case.name in only) and (box or case.env is not Target):
            results.append(run_case(case, train, boxed=not discrete and case.env is not Target))
            if tell:
                tell(results[-1])
    return results


def run_case(case: Case, train: Train, boxed: bool = False) -> Result:
    """Train on one case; boxed: with a Box of actions instead of two Discrete ones."""
    start = time.monotonic()
    try:
        value, act = train((lambda: Boxed(case.env())) if boxed else case.env, case.gamma)
    except Fault:  # training stops at the first NaN
        return Result(case, {}, False, NOT_FINITE, time.monotonic() - start)
    function = value if case.values else act
    if function is None:
        return Result(case, {}, None, "", time.monotonic() - start)
    got, expected = {}, case.values or case.actions
    for o in expected:
        observation = np.full(1, o, np.float32)
        calls = [np.ravel(function(observation)).astype(np.float64) for _ in range(1 if case.values else 200)]
        got[o] = np.mean(calls, axis=0)
    passed = near(got, expected, case.tolerance)
    return Result(case, got, passed, "" if passed else explain(case, got), time.monotonic() - start)


def near(got: Mapping, expected: Mapping, tolerance: float) -> bool:
    """Whether every number is within the tolerance; NaN never is."""
    return all(bool(np.all(np.abs(got[o] - np.asarray(expected[o])) <= tolerance)) for o in expected)


def explain(case: Case, got: Mapping) -> str:
    """The likely cause of a failure, in one sentence."""
    if not all(np.isfinite(x).all() for x in got.values()):
        return NOT_FINITE
    for wrong, cause in case.suspects:
        if near(got, wrong, 1.5 * case.tolerance):
            return cause
    return f"look at {case.blame}"


# ---- our algorithms

# Without reward scaling, values are in units of rewards.
PLAIN = {"normalize_obs": False, "normalize_rew": False, "anneal_lr": False}
ON_POLICY = {
    **{"num_envs": 16, "steps_per_epoch": 64, "vf_lr": 1e-2, "train_v_iters": 10, "ac_kwargs": {"hidden_sizes": (16,)}},
    **PLAIN,
}
OFF_POLICY = {
    **{"num_envs": 4, "epochs": 1, "steps_per_epoch": 700, "start_steps": 100, "update_after": 100, "batch_size": 64},
    **{"replay_size": 5000, "polyak": 0.8, "eval_freq": 0, "ac_kwargs": {"hidden_sizes": (32,)}},
}


def settings_of(algorithm: Algorithm) -> dict:
    """The arguments that let an algorithm learn the probes quickly."""
    common = ON_POLICY if algorithm.on_policy else OFF_POLICY
    return {**{name: value for name, value in common.items() if name in algorithm.arguments}, **algorithm.probe}


def trainer(algo: str, settings: Mapping | None = None) -> Train:
    """The `train` function that `check` needs, for one of our algorithms; settings: default: `settings_of` it."""
    import torch

    algorithm = find(algo)

    def train(env_fn, gamma):
        with tempfile.TemporaryDirectory() as folder:
            logger_kwargs = dict(output_dir=Path(folder) / "run", quiet=True)
            arguments = settings or settings_of(algorithm)
            ac = algorithm.function(env_fn, gamma=gamma, logger_kwargs=logger_kwargs, **arguments)

        def act(o):
            discrete = isinstance(env_fn().action_space, spaces.Discrete)
            return Player(ac, 1).act(o[None], deterministic=not discrete)[0]

        @torch.no_grad()
        def value(o):
            if has_memory(ac):
                *before, o = map(torch.as_tensor, observations_until(o, env_fn()))
                state = torch.as_tensor(ac.initial_state(1))
                for earlier in before:
                    state = ac.v(earlier[None], state)[1]
                return ac.v(o[None], state)[0].numpy()
            if hasattr(ac, "v"):
                return ac.v(torch.as_tensor(o)).numpy()
            o, q = torch.as_tensor(o[None]), ac.q if hasattr(ac, "q") else ac.critic
            return q(o, torch.as_tensor(ac.act(o.numpy(), deterministic=True))).numpy()

        return value, act

    return train


def observations_until(o: np.ndarray, env: gym.Env) -> list[np.ndarray]:
    """The observations of the beginning of an episode, up to the first equal to o: what a memory has seen there."""
    while True:
        seen, done = [env.reset()[0]], False
        while not done:
            if np.array_equal(seen[-1], o):
                return seen
            seen_o, _, terminated, truncated, _ = env.step(env.action_space.sample())
            seen, done = [*seen, seen_o], terminated or truncated


# ---- the table


def format_numbers(by_observation: Mapping) -> str:
    """{-1: -1.0, 1: 1.0} as "-1.00 at -1, 1.00 at 1"; several numbers that look the same are shown as one."""

    def show(x) -> str:
        shown = [f"{v:.2f}" for v in np.atleast_1d(np.asarray(x, float))]
        return shown[0] if len(set(shown)) == 1 else "/".join(shown)

    if len(by_observation) == 1:
        return show(*by_observation.values())
    return ", ".join(f"{show(x)} at {o:g}" for o, x in by_observation.items())


COLUMNS = "{:<22} {:<41} {:<26} {:<30} {}"
HEAD = COLUMNS.format("probe", "what it shows", "expected", "got", "verdict")


def line(result: Result) -> str:
    """A result's line of the table and, after a failure, a second one with its likely cause."""
    case = result.case
    what = "V " if case.values else "a "
    verdict = {True: "right", False: "WRONG", None: "no such function"}[result.passed]
    got = what + format_numbers(result.got) if result.got else "-"
    text = COLUMNS.format(case.name, case.shows, what + format_numbers(case.values or case.actions), got, verdict)
    return f"{text}\n  -> {result.message}" if result.message else text


def table(results: Sequence[Result]) -> str:
    """All results, and a last line that counts the failures."""
    return "\n".join([HEAD, *map(line, results), last_line(results)])


def last_line(results: Sequence[Result]) -> str:
    tried = [result for result in results if result.passed is not None]
    wrong = sum(not result.passed for result in tried)
    verdict = f"{wrong} wrong; start with the first one" if wrong else "all right"
    return f"{len(tried)} probes in {sum(result.seconds for result in results):.0f} s: {verdict}"


def main(words: Sequence[str]) -> int:
    """The command `probe ALGORITHM`; returns 1 if a probe fails. Raises UserError for anything but one algorithm."""
    usage = f"python -m spinup.run probe ALGORITHM, one of {', '.join(files())}"
    if {"-h", "--help"} & set(words):
        print(f"Usage: {usage}\nTrain in environments whose values and best actions are known, and compare.")
        return 0
    algo = words[0].removesuffix("_pytorch") if words else ""
    if len(words) != 1 or algo not in files():
        wrong = (
            f"there is no algorithm '{words[0]}'{closest(algo, files())}" if len(words) == 1 else "name one algorithm"
        )
        raise UserError(f"probe: {wrong}; usage: {usage}")
    print(HEAD)
    algorithm = find(algo)
    box = "Box" in algorithm.actions
    discrete = algorithm.on_policy or not box
    results = check(trainer(algo), discrete=discrete, box=box, tell=lambda result: print(line(result), flush=True))
    print(last_line(results))
    return int(any(result.passed is False for result in results))
