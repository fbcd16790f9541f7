"""A figure of results for each algorithm's page: `python docs/pictures/results.py` writes results-<algo>.svg.

The numbers are the committed records of runs with default settings, or with the flags that the page names: curves from
data/reference, and the returns at some numbers of steps from data/benchmarks/results.jsonl.
"""

import json
import shlex
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from svg import Axes, Picture, write

DATA = Path(__file__).parents[2] / "data"


class Panel(NamedTuple):
    """Where the records are, the ends of the axes, what was not a default, and a title; by default the environment."""

    source: str
    env: str
    steps: int
    returns: tuple[float, float]
    flags: str = ""
    title: str = ""


POSITIONS = "spinup.wrappers:SelectObservation(0,2)"  # CartPole without its two velocities
SMALL = "--hid 64,64 --steps_per_epoch 1000 --start_steps 1000"
CARTPOLE = Panel("reference", "CartPole-v1", 60_000, (0, 500))
PANELS = {
    "vpg": [CARTPOLE, Panel("reference", "Pendulum-v1", 120_000, (-1500, 0), "--steps_per_epoch 1600")],
    "trpo": [CARTPOLE, Panel("benchmarks", "HalfCheetah-v5", 1_000_000, (0, 6000))],
    "ppo": [CARTPOLE, Panel("benchmarks", "HalfCheetah-v5", 1_000_000, (0, 6000))],
    "ppo_rnn": [Panel("benchmarks", "CartPole-v1", 100_000, (0, 500), f'--wrapper "{POSITIONS}"')],
    "dqn": [Panel("benchmarks", "LunarLander-v3", 300_000, (-200, 300))],
    "ddpg": [Panel("benchmarks", "HalfCheetah-v5", 100_000, (0, 10_000))],
    "td3": [Panel("benchmarks", "HalfCheetah-v5", 100_000, (0, 10_000))],
    "sac": [
        Panel("reference", "Pendulum-v1", 10_000, (-1800, 0), SMALL),
        Panel("benchmarks", "Hopper-v5", 100_000, (0, 3500)),
    ],
    "crossq": [Panel("benchmarks", "Pendulum-v1", 10_000, (-1800, 0), SMALL)],
}
FORMER = (
    "--polyak 0.995 --policy_delay 1 --start_steps 10000 --update_after 1000 --normalize_obs False "
    "--ac_kwargs:layer_norm False --target_entropy -3 --anneal_lr 0"
)
HOPPER = [
    Panel("benchmarks", "Hopper-v5", 100_000, (0, 3500), flags, title)
    for title, flags in {"former defaults": FORMER, "defaults": ""}.items()
]


def curves(algo: str, panel: Panel) -> list[tuple[np.ndarray, np.ndarray]]:
    """(steps, returns) of each seed with the panel's flags."""
    found = []
    if panel.source == "reference":
        for file in sorted((DATA / "reference" / panel.env / algo).glob("*/progress.txt")):
            table = pd.read_csv(file, sep="\t")
            column = "AverageTestEpRet" if "AverageTestEpRet" in table else "AverageEpRet"
            rows = table[table[column].notna()]
            found.append((rows["TotalEnvInteracts"].to_numpy(float), rows[column].to_numpy(float)))
        return found
    flags = shlex.split(panel.flags)
    for line in (DATA / "benchmarks" / "results.jsonl").read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        if (run["algo"], run["env"], run["budget"], run["flags"]) == (algo, panel.env, panel.steps, flags):
            points = [(int(steps), value) for steps, value in run["return_at"].items() if value is not None]
            found.append(tuple(np.array(sorted(points), float).T))
    return found


def mean_curve(seeds: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The mean over seeds, at the steps that all of them reached; between a seed's points it is a straight line."""
    start, end = max(steps[0] for steps, _ in seeds), min(steps[-1] for steps, _ in seeds)
    grid = np.unique(np.concatenate([steps for steps, _ in seeds]))
    grid = grid[(grid >= start) & (grid <= end)]
    return grid, np.mean([np.interp(grid, *seed) for seed in seeds], axis=0)


def short(number: float) -> str:
    """1500 as 1.5k, -750 with a minus sign."""
    text = f"{number / 1e6:g}M" if abs(number) >= 1e6 else f"{number / 1e3:g}k" if abs(number) >= 1e3 else f"{number:g}"
    return text.replace("-", "−")


def results(algo: str, panels: list[Panel]) -> Picture:
    drawn = [(panel, curves(algo, panel)) for panel in panels]
    finals = [
        f"{panel.title or panel.env}: {len(seeds)} seed{'s' * (len(seeds) > 1)}, "
        f"mean return {mean_curve(seeds)[1][-1]:.0f} after {panel.steps:,} steps"
        for panel, seeds in drawn
    ]
    description = f"Return over environment steps. {'; '.join(finals)}."
    name = {"ppo_rnn": "recurrent PPO", "crossq": "CrossQ"}.get(algo, algo.upper())
    p = Picture(f"Results of {name}", description, 214)
    width = 300 if len(panels) == 1 else 128
    for i, (panel, seeds) in enumerate(drawn):
        ax = Axes(p, 44 + 180 * i, 28, width, 118, (0, panel.steps), panel.returns)
        ends = panel.returns
        ax.ticks([(x, short(x)) for x in (0, panel.steps)], [(y, short(y)) for y in (ends[0], sum(ends) / 2, ends[1])])
        p.text(ax.left + width / 2, 16, panel.title or panel.env, "head-text")
        for steps, values in seeds:
            ax.plot(steps, values, "line thin")
        ax.plot(*mean_curve(seeds), "line blue thick")
        p.text(ax.left + width / 2, 163, "steps", "note")
    counts = " and ".join(f"{len(seeds)}" for _, seeds in drawn)
    p.text(180, 187, f"return; gray: one seed each ({counts}); blue: their mean", "note")
    test = {True: "test episodes, no exploration noise", False: "training episodes, actions sampled"}
    p.text(180, 205, test[algo in ("dqn", "ddpg", "td3", "sac", "crossq")], "note")
    return p


HINDSIGHT = {"BitFlip dqn": "15 bits, DQN", "Reach sac": "Reach, SAC"}


def success(task: str, hindsight: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """(steps, share of test episodes that succeed) of each seed in data/benchmarks/hindsight.jsonl."""
    lines = (DATA / "benchmarks" / "hindsight.jsonl").read_text(encoding="utf-8").splitlines()
    runs = [run for run in map(json.loads, lines) if (run["task"], run["hindsight"]) == (task, hindsight)]
    return [tuple(np.array([(int(steps), x) for steps, x in run["success"].items()], float).T) for run in runs]


def hindsight() -> Picture:
    """Success with and without hindsight replay."""
    drawn = {task: (success(task, 0.8), success(task, 0.0)) for task in HINDSIGHT}
    finals = [
        f"{HINDSIGHT[task]}: {len(new)} seeds with hindsight, mean success {mean_curve(new)[1][-1]:.2f} at the end; "
        f"{len(old)} without, {mean_curve(old)[1][-1]:.2f}"
        for task, (new, old) in drawn.items()
    ]
    p = Picture("Success with and without hindsight", f"Success over environment steps. {'. '.join(finals)}.", 192)
    width = 300 if len(drawn) == 1 else 128
    for i, (task, curves) in enumerate(drawn.items()):
        ax = Axes(p, 44 + 180 * i, 28, width, 118, (0, max(steps[-1] for steps, _ in curves[0])), (0, 1))
        ax.ticks([(x, short(x)) for x in ax.x_range], [(y, short(y)) for y in (0, 0.5, 1)])
        p.text(ax.left + width / 2, 16, HINDSIGHT[task], "head-text")
        for seeds, color in zip(curves, ("blue", "red"), strict=True):
            for steps, values in seeds:
                ax.plot(steps, values, f"line {color} dotted")
            ax.plot(*mean_curve(seeds), f"line {color}")
        p.text(ax.left + width / 2, 163, "steps", "note")
    p.text(180, 185, "success of test episodes; dotted: one seed each; line: mean", "note")
    return p


def policy_steps() -> Picture:
    """The return of a policy after each of its gradient steps, with two learning rates."""
    lines = (DATA / "benchmarks" / "policy-steps.jsonl").read_text(encoding="utf-8").splitlines()
    runs = [json.loads(line) for line in lines]
    (task,) = {f"SAC on {run['env']}, seed {run['seed']}, after {run['start']:,} environment steps" for run in runs}
    parts = []
    for run in runs:
        returns = np.array(run["returns"])
        parts.append(
            f"With the learning rate {run['lr']:g}, {np.mean(returns > 2000):.0%} of {len(returns)} returns are above "
            f"2000; the largest change in one of the last 250 steps is {np.abs(np.diff(returns[-250:])).max():.0f}."
        )
    description = f"{task}: the return of a test episode after each gradient step of the policy. {' '.join(parts)}"
    p = Picture("The return after each step of the policy", description, 192)
    for i, run in enumerate(runs):
        ax = Axes(p, 44 + 180 * i, 28, 128, 118, (0, len(run["returns"])), (0, 3500))
        ax.ticks([(x, f"{x:g}") for x in ax.x_range], [(y, short(y)) for y in (0, 1000, 2000, 3000)])
        p.text(ax.left + 64, 16, f"lr {run['lr']:g}", "head-text")
        ax.plot(np.arange(1, len(run["returns"]) + 1), np.array(run["returns"]), "line thin blue")
        p.text(ax.left + 64, 163, "policy steps", "note")
    p.text(180, 185, "return of one test episode, always from the same state", "note")
    return p


RESULTS = {f"results-{algo}": partial(results, algo, panels) for algo, panels in PANELS.items()}
RESULTS |= {"hopper": partial(results, "sac", HOPPER), "hindsight": hindsight, "policy-steps": policy_steps}


if __name__ == "__main__":
    write(RESULTS)
