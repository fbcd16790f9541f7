"""The figures of docs/algorithms/ppo-details.md: `python docs/pictures/details.py` writes them.

The numbers are the records in data/benchmarks/ppo-details.jsonl, which benchmarks/ppo_details.py made.
"""

import sys
from pathlib import Path

import numpy as np
from svg import Axes, Picture, write

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import ppo_details
from chapters import read

RANGES = {"CartPole-v1": (-350, 50), "Pendulum-v1": (-450, 300)}  # of the effects, in the tasks with all changes
ROW = 15
CURVES = [  # (task, change, ends of the return's axis)
    ("CartPole-v1", "all extras off", (0, 500)),
    ("Pendulum-v1", "all extras off", (-1800, 0)),
    ("CartPole-v1", "raw rewards", (0, 500)),
    ("Pendulum-v1", "raw rewards", (-1800, 0)),
]
SYMBOLS = {"lambda": "\u03bb", "epsilon": "\u03b5", "1e-5": "1e\u22125"}


def symbols(text: str) -> str:
    for word, symbol in SYMBOLS.items():
        text = text.replace(word, symbol)
    return text


def minus(number: int) -> str:
    return f"{number}".replace("-", "\u2212")


def effects() -> Picture:
    """A row for each change: its effect on the area with the interval, in each task."""
    found, names = ppo_details.results(), [name for name in ppo_details.ABLATIONS if name != "default"]
    clear: dict[str, list[str]] = {task: [] for task in RANGES}
    p = Picture("Effects of PPO's details", "", 100 + ROW * len(names))
    for row, name in enumerate(names):
        p.text(142, 38 + ROW * (row + 0.5), symbols(name), "note", "end")
    for i, (task, ends) in enumerate(RANGES.items()):
        ax = Axes(p, 150 + 108 * i, 34, 96, ROW * len(names), ends, (len(names), 0))
        ax.ticks([(x, minus(x)) for x in (ends[0], 0)])
        ax.plot([0, 0], [0, len(names)], "line thin dashed")
        p.text(ax.left + ax.width / 2, 18, task, "head-text")
        for row, name in enumerate(names):
            if (task, name) in found:
                mean, low, high = ppo_details.difference(found[task, name][:, 0], found[task, "default"][:, 0])
                outside = low > 0 or high < 0
                clear[task] += [f"{name} {mean:.0f}"] if outside else []
                ax.plot(np.clip([low, high], *ends), [row + 0.5, row + 0.5], "line blue")
                p.circle(*ax.at(np.clip(mean, *ends), row + 0.5), 3.5, "dot blue" if outside else "box blue")
    told = "; ".join(f"{task}: {', '.join(words) or 'none'}" for task, words in clear.items())
    p.description = f"Change of the mean training return, with 95% intervals. Those that exclude 0: {told}."
    p.text(180, p.height - 26, "change of the mean training return, by one change", "note")
    p.text(180, p.height - 8, "filled: the 95% interval of the difference excludes 0", "note")
    return p


def curves(task: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, training returns of each run), the latter (runs, epochs)."""
    (_, runs), = read(ppo_details.PATH, [{"task": task, "ablation": name}])  # fmt: skip
    rows = np.array([run["rows"] for run in runs], float)
    return rows[0, :, 0], np.array([ppo_details.filled(run["rows"]) for run in runs])


def learning() -> Picture:
    p, told = Picture("Learning curves with and without some details", "", 392), []
    for i, (task, name, ends) in enumerate(CURVES):
        drawn = {kind: curves(task, kind) for kind in ("default", name)}
        steps = drawn["default"][0]
        ax = Axes(p, 46 + 180 * (i % 2), 44 + 174 * (i // 2), 126, 104, (0, steps[-1]), ends)
        ax.ticks([(0, "0"), (steps[-1], f"{steps[-1] / 1000:.0f}k")], [(y, minus(y)) for y in ends])
        p.text(ax.left + ax.width / 2, ax.top - 26, task, "head-text")
        p.text(ax.left + ax.width / 2, ax.top - 10, symbols(name), "note")
        for color, (x, returns) in zip(("blue", "red"), drawn.values(), strict=True):
            for run in returns:
                ax.plot(x, run, f"line {color} dotted thin")
        for color, (x, returns) in zip(("blue thick", "red thick dashed"), drawn.values(), strict=True):
            ax.plot(x, returns.mean(axis=0), f"line {color}")
        ends_at = " and ".join(f"{kind} {returns[:, -1].mean():.0f}" for kind, (_, returns) in drawn.items())
        told.append(f"{task}: {ends_at}")
    p.description = f"Training return over steps. Mean of the runs in the last epoch: {'; '.join(told)}."
    p.text(180, 366, "training return over steps; blue: default", "note")
    p.text(180, 384, "dashed red: the change; dotted: one run each", "note")
    return p


FIGURES = {"ppo-details-effects": effects, "ppo-details-curves": learning}


if __name__ == "__main__":
    write(FIGURES)
