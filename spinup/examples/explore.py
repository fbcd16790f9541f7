"""Exploration: a maze with a single reward, by epsilon-greedy, a count bonus or random network distillation (RND).

    python -m spinup.examples.explore
    python -m spinup.examples.explore --bonus none
    python -m spinup.examples.explore --bonus rnd

Counts: arXiv:1606.01868; RND: arXiv:1810.12894. Equations exp-1 to exp-6: docs/introduction/exploration.md. All three
use the same Q-learning with a table; only the bonus that is added to the reward differs. Departures from the papers:
one table holds the values of reward and bonus together, counts are exact, bonuses are centered, and RND's errors are
divided by their own standard deviation, not by that of their discounted sums.
"""

import argparse
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from spinup.nets import mlp

MAZE = (
    "#########################",
    "#S    #     #     #    G#",
    "#     #           #     #",
    "#     #     #     #     #",
    "#     #     #     #     #",
    "#           #           #",
    "#########################",
)
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left
LIMIT = 150  # steps in an episode


class Maze:
    """Cells are numbered row by row. A move into a wall stays; reaching G earns 1 and ends the episode."""

    def __init__(self, rows: tuple[str, ...] = MAZE):
        self.text, self.height, self.width = "".join(rows), len(rows), len(rows[0])
        self.start, self.goal, self.size = self.text.index("S"), self.text.index("G"), len(self.text)

    def step(self, s: int, a: int) -> tuple[int, float, bool]:
        """The next cell, the reward, and whether the episode ends."""
        down, right = MOVES[a]
        s2 = s + self.width * down + right
        s2 = s if self.text[s2] == "#" else s2
        return s2, float(s2 == self.goal), s2 == self.goal

    def observations(self) -> Tensor:
        """What RND sees of each cell: its row and its column, both one-hot. (size, height + width)"""
        rows, columns = torch.eye(self.height), torch.eye(self.width)
        return torch.cat([rows.repeat_interleave(self.width, dim=0), columns.repeat(self.height, 1)], dim=1)


# ---- bonuses: each is called with the cell that a step leads to


def no_bonus(s: int) -> float:
    return 0.0


class CountBonus:
    """The rarer a cell, the larger; it falls slowly and never vanishes."""

    def __init__(self, maze: Maze):
        self.visits = np.zeros(maze.size)

    def __call__(self, s: int) -> float:
        self.visits[s] += 1
        return self.visits[s] ** -0.5  # exp-3


class RND:
    """The error of a network that learns to agree with a random one: large for what it has rarely seen."""

    def __init__(self, maze: Maze, features: int = 16, lr: float = 1e-3, batch_size: int = 10):
        self.x = maze.observations()  # (cells, inputs)
        sizes = self.x.shape[1], 64, features
        self.target, self.predictor = mlp(sizes, "ReLU").requires_grad_(False), mlp(sizes, "ReLU")
        self.optimizer = torch.optim.Adam(self.predictor.parameters(), lr)
        self.batch_size, self.batch = batch_size, []
        self.n, self.mean, self.squares = 0, 0.0, 0.0  # of the errors so far
        self.errors = self.error(self.x).tolist()

    def error(self, x: Tensor) -> Tensor:
        """Squared distance of the two outputs. x (B, inputs), result (B,)"""
        return (self.predictor(x) - self.target(x)).square().mean(-1)  # exp-4

    def __call__(self, s: int) -> float:
        """The bonus. Each time that a batch is full, the predictor takes a step, and the errors are computed anew."""
        self.batch.append(s)
        if len(self.batch) == self.batch_size:
            self.optimizer.zero_grad()
            self.error(self.x[self.batch]).mean().backward()  # exp-5
            self.optimizer.step()
            self.batch, self.errors = [], self.error(self.x).tolist()
        return self.normalize(self.errors[s])

    def normalize(self, error: float) -> float:
        """The error in units of the standard deviation of all errors so far (Welford's method)."""
        self.n += 1
        delta = error - self.mean
        self.mean += delta / self.n
        self.squares += delta * (error - self.mean)
        return error / (self.squares / self.n) ** 0.5 if self.squares else 1.0  # exp-6


BONUSES: dict[str, Callable] = {"none": lambda maze: no_bonus, "count": CountBonus, "rnd": RND}

# ---- learning


def choose(q: np.ndarray, epsilon: float, rng: np.random.Generator) -> int:
    """Epsilon-greedy; among equally good actions a random one, or equal values would mean always going up. q (A,)"""
    if rng.random() < epsilon:
        return int(rng.integers(len(q)))
    return int(rng.choice(np.flatnonzero(q == q.max())))


def train(
    bonus: str = "count",
    beta: float = 0.1,
    center: bool = True,
    seed: int = 0,
    episodes: int = 300,
    epsilon: float = 0.1,
    alpha: float = 0.5,
    gamma: float = 0.99,
    q0: float = 0.0,
    maze: Maze | None = None,
) -> tuple[list[tuple[int, int, int]], np.ndarray]:
    """Q-learning. Returns rows of (steps, goal reached, cells seen) and the visits to each cell; prints each 20th row.

    center: subtract the mean of the bonuses so far; q0: the first value of every action
    """
    torch.manual_seed(seed)
    rng, maze = np.random.default_rng(seed), maze or Maze()
    give, mean, n = BONUSES[bonus](maze), 0.0, 0
    Q, visits = np.full((maze.size, len(MOVES)), q0), np.zeros(maze.size, int)
    rows: list[tuple[int, int, int]] = []
    print("episode  steps  goal  cells")
    for i in range(episodes):
        s, terminated, t = maze.start, False, 0
        while not terminated and t < LIMIT:
            a = choose(Q[s], epsilon, rng)
            s2, r, terminated = maze.step(s, a)
            b, n = give(s2), n + 1
            mean += (b - mean) / n
            r += beta * (b - center * mean)  # exp-1
            Q[s, a] += alpha * (r + gamma * (not terminated) * Q[s2].max() - Q[s, a])  # exp-2
            s, t, visits[s2] = s2, t + 1, visits[s2] + 1
        rows.append((t, int(terminated), int((visits > 0).sum())))
        if i % 20 == 0:
            print("{:7} {:6} {:5} {:6}".format(i, *rows[-1]), flush=True)
    return rows, visits


def show(maze: Maze, visits: np.ndarray) -> None:
    """The maze, with the number of digits of each cell's visits: 3 is a hundred or more; a dot is a cell never seen."""
    cells = [c if c == "#" else "." if v == 0 else str(len(str(v))) for c, v in zip(maze.text, visits, strict=True)]
    for row in np.array(cells).reshape(-1, maze.width):
        print("".join(row))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], argument_default=argparse.SUPPRESS)
    parser.add_argument("--bonus", choices=[*BONUSES])
    parser.add_argument("--beta", type=float, help="weight of the bonus")
    parser.add_argument("--plain", dest="center", action="store_false", help="don't subtract the bonuses' mean")
    parser.add_argument("--q0", type=float, help="the first value of every action")
    parser.add_argument("--episodes", type=int)
    parser.add_argument("--seed", type=int)
    args = vars(parser.parse_args())  # what is given: the defaults are those of train
    for name in {"episodes", "seed"} & set(args):
        if not 0 <= args[name] < 2**31:
            parser.error(f"argument --{name}: must be at least 0 and below 2**31, got {args[name]}")
    _, visits = train(**args)
    show(Maze(), visits)


if __name__ == "__main__":
    main()
