"""The figures of docs/introduction/policy-optimization.md: the noise of the four estimators, and how they learn.

    python benchmarks/policy_gradients.py variance     # about a minute
    python benchmarks/policy_gradients.py learning     # five seeds of the four programs: several minutes

Each prints its numbers as a Markdown table and writes docs/introduction/img/pg-variance.svg or pg-learning.svg.
"""

import argparse
import contextlib
import copy
import io
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import gymnasium as gym
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from spinup.examples import pg_1_simplest, pg_2_reward_to_go, pg_3_baseline, pg_4_gae

GRAY = "#808080"
COLORED = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor")
STYLE = {"svg.hashsalt": "spinup", "font.size": 9, "legend.frameon": False, **dict.fromkeys(COLORED, GRAY)}
IMAGES = Path(__file__).resolve().parents[1] / "docs" / "introduction" / "img"
STAGES = {
    "whole return": pg_1_simplest,
    "reward-to-go": pg_2_reward_to_go,
    "baseline": pg_3_baseline,
    "GAE": pg_4_gae,
}
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")  # Okabe and Ito
MARKERS = "osD^"
GAMMA, LAM = 0.99, 0.95


# ---- variance


def policies(epochs: tuple[int, ...], lr: float = 1e-2) -> dict[int, nn.Module]:
    """Copies of a policy after these epochs of pg_2_reward_to_go with seed 0."""
    torch.manual_seed(0)
    envs = [gym.make("CartPole-v1") for _ in range(10)]
    for i, env in enumerate(envs):
        env.reset(seed=i)
    policy = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(policy.parameters(), lr)
    copies = {}
    for epoch in range(max(epochs) + 1):
        if epoch in epochs:
            copies[epoch] = copy.deepcopy(policy)
        batch = pg_2_reward_to_go.play(envs, policy)
        optimizer.zero_grad()
        (sum(pg_2_reward_to_go.loss(policy, *episode) for episode in batch) / len(batch)).backward()
        optimizer.step()
    return copies


def fitted_value(batch: list, gamma: float) -> nn.Module:
    """A value function fitted to the discounted rewards-to-go of a batch of pg_4's episodes."""
    value = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
    zeros = [torch.zeros(len(rew) + 1) for _, _, rew, _ in batch]
    ret = [pg_4_gae.advantages(rew, z, gamma, 1.0) for (_, _, rew, _), z in zip(batch, zeros, strict=True)]
    obs = torch.cat([obs[:-1] for obs, _, _, _ in batch])
    pg_4_gae.fit(value, torch.optim.Adam(value.parameters(), 3e-2), obs, torch.cat(ret), steps=400)
    return value


def gradient(loss: Tensor, policy: nn.Module) -> np.ndarray:
    return -torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(policy.parameters()))]).numpy()


def noise(gradients: np.ndarray) -> float:
    """Trace of the covariance over the squared norm of the mean, from (M, P).

    It is the number of gradients whose average has as much noise as signal. The squared norm of the sample mean is
    biased by the variance divided by M, which is subtracted.
    """
    total = gradients.var(axis=0, ddof=1).sum()
    return total / max((gradients.mean(axis=0) ** 2).sum() - total / len(gradients), 1e-12)


def variance(epochs: tuple[int, ...] = (0, 10, 20, 30), episodes: int = 2000) -> dict[str, list[float]]:
    """For each stage, the noise of one episode's gradient at each policy; and the policies' "mean return"."""
    rows = {name: [] for name in ("mean return", *STAGES)}
    envs = [gym.make("CartPole-v1") for _ in range(100)]
    for i, env in enumerate(envs):
        env.reset(seed=1000 + i)
    for policy in policies(epochs).values():
        fresh = pg_4_gae.play(envs, policy)
        v, v_discounted = fitted_value(fresh, 1.0), fitted_value(fresh, GAMMA)
        gradients = {name: [] for name in STAGES}
        returns = []
        for obs, act, rew, terminated in (e for _ in range(episodes // 100) for e in pg_4_gae.play(envs, policy)):
            adv = pg_4_gae.advantages(rew, pg_4_gae.values(v_discounted, obs, terminated), GAMMA, LAM)
            losses = (
                pg_1_simplest.loss(policy, obs[:-1], act, rew),
                pg_2_reward_to_go.loss(policy, obs[:-1], act, rew),
                pg_3_baseline.loss(policy, v, obs[:-1], act, rew),
                pg_4_gae.loss(policy, obs, act, adv),
            )
            for name, loss in zip(STAGES, losses, strict=True):
                gradients[name].append(gradient(loss, policy))
            returns.append(float(rew.sum()))
        rows["mean return"].append(float(np.mean(returns)))
        for name in STAGES:
            rows[name].append(float(noise(np.stack(gradients[name]))))
    return rows


# ---- learning


def train(name: str, seed: int) -> list[float]:
    """The mean return in each epoch of one run of a program, with its defaults."""
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()):
        return STAGES[name].train(seed=seed)


def learning(seeds: int = 5, jobs: int = 1) -> dict[str, np.ndarray]:
    """The curves of each program, (seeds, epochs), from `jobs` processes at a time."""
    runs = [(name, seed) for name in reversed(STAGES) for seed in range(seeds)]  # the longest first
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        curves = dict(zip(runs, pool.map(train, *zip(*runs, strict=True)), strict=True))
    return {name: np.array([curves[name, seed] for seed in range(seeds)]) for name in STAGES}


# ---- output


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def axes():
    """A figure with a transparent background, legible on white and on black."""
    figure, ax = plt.subplots(figsize=(5.5, 3.2), layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return figure, ax


def save(figure, name: str) -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGES / name, transparent=True, metadata={"Date": None, "Creator": None})
    print(f"\n{IMAGES / name}")


@matplotlib.rc_context(STYLE)
def show_variance(rows: dict[str, list[float]]) -> None:
    """Print the table and write the figure."""
    returns = [f"return {x:.0f}" for x in rows["mean return"]]
    cells = [[name, *(f"{x:.1f}" for x in rows[name])] for name in STAGES]
    print(table(["weights", *returns], cells))
    figure, ax = axes()
    for name, color, marker in zip(STAGES, COLORS, MARKERS, strict=True):
        ax.plot(rows["mean return"], rows[name], marker=marker, color=color, label=name)
    ax.set(yscale="log", xlabel="mean return of the policy", ylabel="episodes until noise = gradient")
    figure.legend(loc="outside upper center", ncols=4)
    save(figure, "pg-variance.svg")


@matplotlib.rc_context(STYLE)
def show_learning(curves: dict[str, np.ndarray]) -> None:
    """Print the table and write the figure."""
    cells = []
    figure, ax = axes()
    for (name, y), color in zip(curves.items(), COLORS, strict=True):
        last = y[:, -10:].mean(axis=1)
        cells.append([name, *(f"{x:.0f}" for x in (last.mean(), last.min(), last.max()))])
        x = np.arange(1, y.shape[1] + 1)
        ax.fill_between(x, y.min(axis=0), y.max(axis=0), color=color, alpha=0.2, linewidth=0)
        ax.plot(x, y.mean(axis=0), color=color, label=name)
    print(table(["weights", "mean", "worst seed", "best seed"], cells))
    ax.set(xlabel="epoch (10 episodes each)", ylabel="mean return")
    ax.legend()
    save(figure, "pg-learning.svg")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("variance", "learning"))
    parser.add_argument("--jobs", type=int, default=1, help="processes for `learning`")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "variance":
        show_variance(variance())
    else:
        show_learning(learning(jobs=args.jobs))
