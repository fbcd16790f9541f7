"""The figures of the chapters with benchmarks/chapters.py's records: `python docs/pictures/programs.py` writes them.

The numbers are the committed records in data/benchmarks; an interval is the 95% bootstrap interval of the mean.
"""

import sys
from pathlib import Path

import numpy as np
from svg import Axes, Picture, write

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from chapters import mean_and_interval, records

from spinup.examples.explore import Maze

ALPHAS = {
    "0": "cloning, \u03b1 = 0",
    "0.25": "\u03b1 = 0.25",
    "1": "\u03b1 = 1",
    "4": "\u03b1 = 4",
    "inf": "TD3, \u03b1 = \u221e",
}


def runs_of(chapter: str) -> dict[tuple, list[dict]]:
    return {tuple(setting.values()): runs for setting, runs in records(chapter)}


def rows_of(chapter: str) -> dict[tuple, np.ndarray]:
    """{the values of a setting: the rows of its runs, (seeds, rows, columns)}."""
    return {key: np.array([run["rows"] for run in runs], float) for key, runs in runs_of(chapter).items()}


def interval_dot(ax: Axes, y: float, values: np.ndarray) -> None:
    """Gray: each seed; blue: the mean of the seeds, with its interval."""
    for x in values:
        ax.picture.circle(*ax.at(x, y), 2.5, "box open")
    mean, low, high = mean_and_interval(values)
    ax.plot([low, high], [y, y], "line blue thick")
    ax.picture.circle(*ax.at(mean, y), 4.5, "dot blue")


def offline_returns() -> Picture:
    found = {setting: rows[:, -1, 1] for setting, rows in rows_of("offline").items()}  # (seeds,)
    told = "; ".join(f"{ALPHAS[alpha]} on {data} data: {x.mean():.0f}" for (data, alpha), x in found.items())
    p = Picture("Returns of offline learning", f"Mean return of each \u03b1 on two data sets. {told}.", 214)
    for i, (data, title) in enumerate((("expert", "expert data"), ("noisy", "noisy data"))):
        ax = Axes(p, 98 + 144 * i, 28, 106, 126, (-1800, 0), (-0.5, 4.5))
        ax.ticks([(-1800, "\u22121800"), (-900, "\u2212900"), (0, "0")])
        p.text(ax.left + ax.width / 2, 16, title, "head-text")
        for row, (alpha, name) in enumerate(reversed(ALPHAS.items())):
            interval_dot(ax, row, found[data, alpha])
            if i == 0:
                p.text(ax.left - 7, ax.at(0, row)[1] + 4, name, "note", "end")
    p.text(180, 190, "return; gray: one seed each", "note")
    p.text(180, 206, "blue: their mean, with its 95% interval", "note")
    return p


def offline_expected() -> Picture:
    found = {alpha: rows_of("offline")["expert", alpha].mean(axis=0) for alpha in ("inf", "0.25")}  # (rows, columns)
    told = "; ".join(
        f"with {ALPHAS[alpha]} it expects {rows[-1, 3]:.0f} and gets {rows[-1, 2]:.0f}" for alpha, rows in found.items()
    )
    p = Picture("What the critics expect", f"Discounted return from the first step, on expert data: {told}.", 196)
    for i, (alpha, rows) in enumerate(found.items()):
        updates = rows[:, 0]
        ax = Axes(p, 44 + 180 * i, 28, 128, 108, (0, updates[-1]), (-400, 0))
        ax.ticks(
            [(x, f"{x:g}") for x in (0, updates[-1])], [(y, f"{y}".replace("-", "\u2212")) for y in (-400, -200, 0)]
        )
        p.text(ax.left + ax.width / 2, 16, {"inf": "TD3", "0.25": "TD3+BC"}[alpha], "head-text")
        p.text(ax.left + ax.width / 2, 153, "updates", "note")
        ax.plot(updates, rows[:, 3], "line red dashed")
        ax.plot(updates, rows[:, 2], "line blue thick")
    p.text(180, 174, "discounted return on expert data, mean of the seeds", "note")
    p.text(180, 190, "dashed red: expected by the critics; blue: real", "note")
    return p


EXPLORERS = {"epsilon-greedy": "\u03b5-greedy", "plain count": "plain count", "count": "count", "RND": "RND"}


def exploration_cells() -> Picture:
    """The maze, shaded where the first seed of a method ever went."""
    maze, found = Maze(), {method: runs[0] for (method,), runs in runs_of("exploration").items()}
    visits = {name: np.array(found[method]["rows"][-1]) for method, name in EXPLORERS.items()}
    told = "; ".join(f"{name}: {(x > 0).sum()} of 103" for name, x in visits.items())
    p = Picture("Cells that were ever visited", f"A maze of four rooms in a row, after 300 episodes. {told}.", 204)
    side = 6.6
    for i, (name, seen) in enumerate(visits.items()):
        left, top = 5 + 182 * (i % 2), 26 + 84 * (i // 2)
        p.text(left + maze.width * side / 2, top - 9, name, "head-text")
        for s, cell in enumerate(maze.text):
            row, column = divmod(s, maze.width)
            kind = "box wall" if cell == "#" else "box blue" if seen[s] else "box open"
            p.box(left + column * side, top + row * side, side, side, kind, radius=0)
        for s, letter in ((maze.start, "S"), (maze.goal, "G")):
            row, column = divmod(s, maze.width)
            p.circle(left + (column + 0.5) * side, top + (row + 0.5) * side, 2.4, "dot" if letter == "S" else "dot red")
    p.text(180, 176, "blue: visited in 300 episodes, first seed", "note")
    p.text(180, 194, "dark dot: start; red dot: goal", "note")
    return p


def exploration_progress() -> Picture:
    rows = {method: [run["rows"][:-1] for run in runs] for (method,), runs in runs_of("exploration").items()}
    cells = {name: np.array(rows[method])[:, :, 2] for method, name in EXPLORERS.items()}  # (seeds, episodes)
    told = "; ".join(f"{name}: {x[:, -1].mean():.0f}" for name, x in cells.items())
    p = Picture("How exploration proceeds", f"Cells seen over episodes, of 103; mean of the seeds. {told}.", 196)
    for i, (name, x) in enumerate(cells.items()):
        episodes = np.arange(1, x.shape[1] + 1)
        ax = Axes(p, 34 + 84 * i, 28, 64, 108, (0, len(episodes)), (0, 103))
        ax.ticks([(len(episodes), f"{len(episodes)}")], [(y, f"{y}") for y in (0, 103)] if i == 0 else [])
        p.text(ax.left + ax.width / 2, 16, name, "note")
        for seed in x:
            ax.plot(episodes[::5], seed[::5], "line thin")
        ax.plot(episodes[::5], x.mean(axis=0)[::5], "line blue thick")
    p.text(180, 170, "cells seen, over episodes", "note")
    p.text(180, 187, "gray: one seed each; blue: their mean", "note")
    return p


LEARNERS = {(5, 20): "*K* = 5, *H* = 20", (1, 20): "*K* = 1, *H* = 20", (5, 5): "*K* = 5, *H* = 5"}


def model_returns() -> Picture:
    found = rows_of("model-based")
    told = "; ".join(f"{k} networks, {h} steps ahead: {found[k, h][:, -1, 1].mean():.0f}" for k, h in LEARNERS)
    p = Picture("Learning with a model", f"Return of each episode; the first is random. In the last, {told}.", 196)
    for i, (key, name) in enumerate(LEARNERS.items()):
        steps, returns = found[key][0, :, 0], found[key][:, :, 1]
        ax = Axes(p, 50 + 106 * i, 28, 82, 108, (0, steps[-1]), (-1800, 0))
        labels = [(y, f"{y}".replace("-", "\u2212")) for y in (-1800, -900, 0)] if i == 0 else []
        ax.ticks([(x, f"{x:g}") for x in (0, steps[-1])], labels)
        p.text(ax.left + ax.width / 2, 16, name, "note")
        for seed in returns:
            ax.plot(steps, seed, "line thin")
        ax.plot(steps, returns.mean(axis=0), "line blue thick")
    p.text(180, 170, "return of an episode, over environment steps; *K*: networks", "note")
    p.text(180, 187, "gray: one seed each; blue: their mean", "note")
    return p


def model_exploitation() -> Picture:
    found = {members: rows.mean(axis=0) for (members, _), rows in rows_of("model-exploitation").items()}
    names = {1: "one network", 5: "five networks"}
    told = "; ".join(
        f"{names[members]}, {rows[-1, 0]:.0f} steps ahead: plans imagine {rows[-1, 1]:.1f} and get {rows[-1, 2]:.1f}, "
        f"random actions imagine {rows[-1, 3]:.1f} and get {rows[-1, 4]:.1f}"
        for members, rows in found.items()
    )
    p = Picture("Plans exploit the model", f"Reward per step after 600 random steps of experience. {told}.", 214)
    for i, (members, rows) in enumerate(found.items()):
        ax = Axes(p, 44 + 180 * i, 28, 128, 118, (0, rows[-1, 0]), (-7, 0))
        ax.ticks([(x, f"{x:g}") for x in rows[1:, 0]], [(-7, "\u22127"), (0, "0")])
        p.text(ax.left + ax.width / 2, 16, names[members], "head-text")
        p.text(ax.left + ax.width / 2, 178, "horizon *H*", "note")
        for column, kind in ((1, "line red dashed"), (2, "line blue thick"), (3, "line thin dashed"), (4, "line thin")):
            ax.plot(rows[:, 0], rows[:, column], kind)
    p.text(180, 193, "reward per step; plans: imagined (dashed red), real (blue)", "note")
    p.text(180, 208, "random actions: imagined (dashed gray), real (gray)", "note")
    return p


FIGURES = {
    "offline-returns": offline_returns,
    "offline-expected": offline_expected,
    "exploration-cells": exploration_cells,
    "exploration-progress": exploration_progress,
    "model-returns": model_returns,
    "model-exploitation": model_exploitation,
}


if __name__ == "__main__":
    write(FIGURES)
