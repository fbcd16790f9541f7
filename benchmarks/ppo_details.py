"""Ablations of PPO for docs/algorithms/ppo-details.md: its default settings with one detail changed at a time.

    python benchmarks/ppo_details.py              # the runs that are not recorded yet
    python benchmarks/ppo_details.py --seeds 0    # only this seed
    python benchmarks/ppo_details.py --report     # the page's tables, and the time that the runs took

A run is a line of data/benchmarks/ppo-details.jsonl: task, ablation, seed, seconds of processor time on one thread, and
for each epoch a row of (steps, mean return of the training episodes that ended in it, mean return of 10 test episodes).
The second is null if no episode ended, the third in all epochs but the last. docs/pictures/details.py draws the page's
figures from these records.

A run's area is its mean training return over all steps, the area under its learning curve per step. An effect is the
mean with the change minus that of the default, with the 95% bootstrap interval of this difference.
"""

import argparse
import functools
import itertools
import math
import sys
import tempfile
from unittest import mock

import gymnasium as gym
import numpy as np
import torch
from chapters import FOLDER, ROOT, mean_and_interval, read, record, timing

sys.path.insert(0, str(ROOT))

from spinup import algorithm
from spinup.algos.ppo import ppo
from spinup.analysis import stats
from spinup.compute.optim import FlatAdam
from spinup.nets import ActorCritic, Gaussian
from spinup.nets.actors import GaussianActor
from spinup.nets.layers import network, orthogonal_

PATH = FOLDER / "ppo-details.jsonl"


# ---- details without a switch


class TruncationTerminates(gym.Wrapper):
    """Reports the end of the time limit as a terminal state, whose value is 0."""

    def step(self, action):
        o, r, terminated, truncated, info = self.env.step(action)
        return o, r, terminated or truncated, False, info


class LastLayerGain(ActorCritic):
    """The policy's last layer starts with gain 1 rather than 0.01."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        orthogonal_(self.actor.net[-1][-1], 1.0)


class StateStdActor(GaussianActor):
    """The network outputs the log standard deviation too, to which the parameter is added."""

    def policy(self, x, o):
        mu, log_std = x.chunk(2, -1)
        return Gaussian(torch.addcmul(self.middle, self.half_range, mu), self.log_std + log_std + self.log_half_range)


class StateStd(ActorCritic):
    def __init__(self, observation_space, action_space, **kwargs):
        super().__init__(observation_space, action_space, **kwargs)
        net = network(observation_space, 2 * action_space.shape[0], (64, 64), "Tanh", torch.nn.Linear, 0.01)
        self.actor = StateStdActor(net, action_space, log_std_init=-0.5)


# ---- the ablations

ABLATIONS: dict[str, dict] = {  # what is given to ppo; adam_eps is not an argument of it
    "default": {},
    "1 environment": {"num_envs": 1},
    "raw observations": {"normalize_obs": False},
    "raw rewards": {"normalize_rew": False},
    "truncated = terminal": {"wrappers": [TruncationTerminates]},
    "lambda 0": {"lam": 0},
    "lambda 1": {"lam": 1},
    "normalized advantages": {"normalize_adv": True},
    "fixed advantages": {"recompute_adv": False},
    "rewards-to-go targets": {"value_target": "rtg"},
    "PyTorch's init": {"ac_kwargs": {"orthogonal": False}},
    "last layer: gain 1": {"actor_critic": LastLayerGain},
    "ReLU": {"ac_kwargs": {"activation": "ReLU"}},
    "initial std 1": {"ac_kwargs": {"log_std_init": 0}},
    "state-dependent std": {"actor_critic": StateStd},
    "squashed actions": {"ac_kwargs": {"squash": True}},
    "no clip": {"clip_ratio": 1e9},
    "clipped values": {"vf_clip": 0.2},
    "entropy bonus": {"ent_coef": 0.01},
    "stop by KL": {"target_kl": 0.01},
    "1 pass": {"train_pi_iters": 1, "train_v_iters": 1},
    "whole batch": {"minibatch_size": None},
    "constant learning rate": {"anneal_lr": False},
    "gradients not clipped": {"max_grad_norm": None},
    "Adam's epsilon 1e-5": {"adam_eps": 1e-5},
    "all extras off": {
        "normalize_obs": False,
        "normalize_rew": False,
        "ac_kwargs": {"orthogonal": False},
        "recompute_adv": False,
        "anneal_lr": False,
        "max_grad_norm": None,
    },
}
BOX_ONLY = ("initial std 1", "state-dependent std", "squashed actions")
TASKS = {  # the task's epochs, and its ablations
    "CartPole-v1": (16, [name for name in ABLATIONS if name not in BOX_ONLY]),
    "Pendulum-v1": (20, list(ABLATIONS)),
}
SETTINGS = [{"task": task, "ablation": name} for task, (_, names) in TASKS.items() for name in names]


def seeds_of(ablation: str) -> range:
    """More of the default, since every comparison is with it."""
    return range(10 if ablation == "default" else 5)


def run(seed: int, task: str, ablation: str) -> list:
    arguments, epochs, rows = dict(ABLATIONS[ablation]), TASKS[task][0], []
    adam = functools.partial(FlatAdam, eps=arguments.pop("adam_eps", 1e-8))
    with tempfile.TemporaryDirectory() as folder, mock.patch("spinup.algos.ppo.FlatAdam", adam):
        ppo(
            task,
            seed=seed,
            epochs=epochs,
            eval_freq=epochs,
            num_test_episodes=10,
            checkpoint_freq=0,
            on_epoch=rows.append,
            logger_kwargs={"output_dir": f"{folder}/run", "quiet": True},
            **arguments,
        )
    columns = ("TotalEnvInteracts", "AverageEpRet", "AverageTestEpRet")
    return [[None if math.isnan(row[name]) else round(row[name], 2) for name in columns] for row in rows]


# ---- what the runs say


def results() -> dict[tuple[str, str], np.ndarray]:
    """{(task, ablation): its runs as (area, return of the last test)}, (runs, 2) each."""
    found = {(s["task"], s["ablation"]): [run["rows"] for run in runs] for s, runs in read(PATH, SETTINGS)}
    return {key: np.array([[area(rows), rows[-1][2]] for rows in runs]) for key, runs in found.items() if runs}


def filled(rows: list) -> np.ndarray:
    """A run's training return in each epoch, (epochs,); where no episode ended, interpolated between its neighbors."""
    known = [i for i, row in enumerate(rows) if row[1] is not None]
    return np.interp(np.arange(len(rows)), known, [rows[i][1] for i in known])


def area(rows: list) -> float:
    """Mean training return over a run's steps."""
    return float(filled(rows).mean())


def difference(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """The mean of x, (n,), minus that of y, (m,), and its bootstrap interval; both are resampled independently."""
    draws = stats.resample(np.zeros(len(x))) @ x / len(x) - stats.resample(np.zeros(len(y)), seed=1) @ y / len(y)
    return x.mean() - y.mean(), *stats.interval(draws)


def false_alarms(x: np.ndarray) -> float:
    """How often the interval of a difference excludes 0 if there is none: over all halves of the runs x, (n,)."""
    halves = [np.isin(np.arange(len(x)), half) for half in itertools.combinations(range(len(x)), len(x) // 2)]
    intervals = [difference(x[half], x[~half])[1:] for half in halves]
    return float(np.mean([low > 0 or high < 0 for low, high in intervals]))


def number(x: float, digits: int = 0) -> str:
    return f"{round(x, digits) + 0.0:.{digits}f}".replace("-", "\u2212")


def span(values: tuple[float, float, float], digits: int = 0) -> str:
    mean, low, high = (number(x, digits) for x in values)
    return f"{mean} ({low} to {high})"


def flags(ablation: str) -> str:
    """The flags that make the change, with their defaults; "" if there is no switch."""
    known, words, defaults = algorithm.find("ppo").arguments, [], []
    for name, value in ABLATIONS[ablation].items():
        if name == "ac_kwargs":
            ((name, value),) = value.items()
            words.append(f"--ac_kwargs:{name} {value}")
            defaults.append(ActorCritic.arguments[name].default)
        elif name in ("actor_critic", "wrappers", "adam_eps"):
            return ""
        else:
            words.append(f"--{name} {f'{value:g}'.replace('e+0', 'e') if isinstance(value, float) else value}")
            defaults.append(known[name].default)
    return f"`{' '.join(words)}` (default: {', '.join(f'`{x}`' for x in dict.fromkeys(defaults))})"


def effect(found: dict[tuple[str, str], np.ndarray], ablation: str) -> str:
    """The page's line on a change: its flags, and its effect on the area in each task."""
    effects = [
        f"{task.partition('-')[0]} {span(difference(found[task, ablation][:, 0], found[task, 'default'][:, 0]))}"
        for task in TASKS
        if (task, ablation) in found
    ]
    return f"{flags(ablation) or f'{ablation[0].upper()}{ablation[1:]} (no flag)'}: {', '.join(effects)}."


def report(found: dict[tuple[str, str], np.ndarray], task: str) -> str:
    """A Markdown table: the default's means, and then each change's effects."""
    lines = [f"| {task} | runs | area | last test | P(better) |", "| --- | --- | --- | --- | --- |"]
    default = found[task, "default"]
    for name in TASKS[task][1]:
        if name == "default":
            cells = [span(mean_and_interval(x)) for x in default.T] + [""]
        elif (task, name) in found:
            x = found[task, name]
            cells = [span(difference(*columns)) for columns in zip(x.T, default.T, strict=True)]
            better = stats.improvement(x[:, 0], default[:, 0], np.zeros(len(x)), np.zeros(len(default)))
            cells.append(span(better, 2))
        else:
            continue
        lines.append(f"| {name} | {len(found[task, name])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=range(10))
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    for seed in args.seeds if not args.report else ():
        for setting in SETTINGS:
            if seed in seeds_of(setting["ablation"]):
                record(PATH, run, setting, seed)
    found = results()
    for task in TASKS:
        print(f"{report(found, task)}\n")
    for name in ABLATIONS:
        if name != "default":
            print(f"{name}: {effect(found, name)}")
    alarms = {task: false_alarms(found[task, "default"][:, 0]) for task in TASKS}
    print(f"\ndifferences within the default that exclude 0: {alarms}\n{timing(read(PATH, SETTINGS))}")


if __name__ == "__main__":
    main()
