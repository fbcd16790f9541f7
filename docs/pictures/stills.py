"""What stands in a widget's place without JavaScript: `python docs/pictures/stills.py` writes them as SVG.

The numbers are computed as the widgets compute them, in NumPy; PPO's widget has the diagram clip-surface.
"""

import json
from pathlib import Path

import numpy as np
from svg import Axes, Picture, write

HERE = Path(__file__).parent

# ---- generalized advantage estimation

REWARDS, VALUES = np.array([0, 1, 0, -1, 0, 2.0]), np.array([1.0, 1.6, 0.4, 0.8, 1.9, 1.2])


def gae(rewards, values, gamma: float, lam: float) -> np.ndarray:
    """The advantage estimates of an episode that ended in a terminal state."""
    delta = rewards + gamma * np.append(values[1:], 0) - values
    weights = (gamma * lam) ** np.arange(len(delta))
    return np.array([delta[t:] @ weights[: len(delta) - t] for t in range(len(delta))])


def gae_still() -> Picture:
    p = Picture(
        "Generalized advantage estimates",
        "Six steps of an episode. With lambda = 0 the estimates are the one-step errors, of both signs; with lambda = "
        "1 they are the discounted rewards-to-go minus the values, all positive; with 0.5 they lie between.",
        214,
    )
    ax = Axes(p, 36, 26, 312, 128, (0, 6), (-1, 1))
    ax.ticks([(t + 0.5, f"*t* = {t}") for t in range(6)], [(y, f"{y}".replace("-", "−")) for y in (-1, 0, 1)])
    ax.plot([0, 6], [0, 0], "line thin dotted")
    for i, (lam, kind) in enumerate(((0, "box"), (0.5, "box blue"), (1, "box red"))):
        for t, adv in enumerate(gae(REWARDS, VALUES, 0.99, lam)):
            x, y = ax.at(t + 0.08 + 0.28 * i, max(adv, 0))
            p.box(x, y, 0.27 * 52, abs(ax.at(0, adv)[1] - ax.at(0, 0)[1]), kind, 0)
        p.box(70 + 90 * i, 186, 12, 12, kind, 0)
        p.text(88 + 90 * i, 197, f"λ = {lam}", "note", "start")
    p.text(192, 14, "advantage estimates, γ = 0.99", "head-text")
    return p


# ---- the squashed Gaussian


def hills(a):
    """The action values Q(s, .) of the widget."""
    return np.exp(-(((a - 0.5) / 0.35) ** 2)) + 0.7 * np.exp(-(((a + 0.5) / 0.4) ** 2))


def log_density(u, mu, sigma):
    """log of the density of tanh(u) where u is normal."""
    normal = -0.5 * ((u - mu) / sigma) ** 2 - np.log(sigma) - 0.5 * np.log(2 * np.pi)
    return normal - 2 * (np.log(2) - u - np.logaddexp(0, -2 * u))


def soft_objective(mu, sigma, alpha):
    """E[Q] + alpha * entropy, as a sum over z = (u - mu) / sigma."""
    z = np.arange(-50, 51) / 10
    weight = np.exp(-0.5 * z * z)
    u = mu + sigma * z
    return (weight * (hills(np.tanh(u)) - alpha * log_density(u, mu, sigma))).sum() / weight.sum()


def best_squashed(alpha: float) -> tuple[float, float]:
    """mu and sigma with the largest objective, among those that the widget's sliders have."""
    grid = [(i / 20, j / 20) for i in range(-40, 41) for j in range(1, 41)]
    return max(grid, key=lambda pair: soft_objective(*pair, alpha))


def squashed_still() -> Picture:
    p = Picture(
        "The temperature of a squashed Gaussian",
        "Above, an action value with a high hill at 0.5 and a lower one at -0.5. Below, the squashed Gaussian with the "
        "largest mean value plus temperature times entropy: at temperature 0.2 it sits on the high hill, at 1 it "
        "covers all actions.",
        290,
    )
    a = np.linspace(-0.99, 0.99, 199)
    p.text(188, 13, "*Q*(*s*, *a*)", "head-text")
    Axes(p, 30, 20, 316, 62, (-1, 1), (0, 1.2)).plot(a, hills(a))
    p.text(188, 104, "the best policy at three temperatures", "head-text")
    ax = Axes(p, 30, 112, 316, 110, (-1, 1), (0, 3))
    ax.ticks([(-1, "−1"), (0, "0"), (1, "1")], [(y, f"{y}") for y in range(4)])
    for i, (alpha, kind) in enumerate(((0.2, "line blue"), (0.3, "line red"), (1, "line dashed"))):
        density = np.exp(log_density(np.arctanh(a), *best_squashed(alpha)))
        ax.plot(a, np.minimum(density, 3), kind)
        p.line([(56 + 100 * i, 272), (80 + 100 * i, 272)], kind)
        p.text(86 + 100 * i, 276, f"α = {alpha:g}", "note", "start")
    p.text(188, 256, "action *a* = tanh(*u*)")
    return p


# ---- value iteration

WORLD = ["....G", ".#..P", ".#...", "....."]  # . free, # wall, G goal (+1), P pit (-1)
MOVES = [(-1, 0), (0, 1), (1, 0), (0, -1)]  # up, right, down, left


def cell(i: int, j: int) -> str:
    inside = 0 <= i < len(WORLD) and 0 <= j < len(WORLD[0])
    return WORLD[i][j] if inside else "#"


def action_values(v: np.ndarray, i: int, j: int, gamma: float, slip: float) -> np.ndarray:
    """The value of each move, which goes to either side with the probability slip / 2."""
    outcome = []
    for di, dj in MOVES:
        to = (i, j) if cell(i + di, j + dj) == "#" else (i + di, j + dj)
        outcome.append({"G": 1, "P": -1}.get(cell(*to), 0) + gamma * v[to])
    outcome = np.array(outcome)
    return (1 - slip) * outcome + slip / 2 * (np.roll(outcome, 1) + np.roll(outcome, -1))


def sweep(v: np.ndarray, gamma: float, slip: float) -> np.ndarray:
    new = np.zeros_like(v)
    for i, j in np.ndindex(v.shape):
        if cell(i, j) == ".":
            new[i, j] = action_values(v, i, j, gamma, slip).max()
    return new


def value_iteration_still() -> Picture:
    gamma, slip, v = 0.9, 0.2, np.zeros((4, 5))
    for _ in range(100):
        v = sweep(v, gamma, slip)
    p = Picture(
        "Value iteration on a gridworld",
        "Four rows of five cells with a goal worth 1, a pit worth -1 and two walls. Values grow towards the goal; "
        "arrows show the best move, which keeps away from the pit.",
        272,
    )
    for i, j in np.ndindex(v.shape):
        kind = cell(i, j)
        x, y = 10 + 68 * j, 8 + 56 * i
        look = {"G": "box blue", "P": "box red", "#": "box wall"}.get(kind, "box open")
        p.box(x, y, 68, 56, look, 0)
        if kind in "GP":
            p.text(x + 34, y + 33, *(("goal +1", "blue") if kind == "G" else ("pit −1", "red")))
        elif kind == ".":
            p.text(x + 34, y + 23, f"{v[i, j]:.2f}")
            p.text(x + 34, y + 44, "↑→↓←"[int(action_values(v, i, j, gamma, slip).argmax())], "blue")
    p.text(180, 253, "γ = 0.9; a move slips to one side with probability 0.2", "note")
    return p


# ---- CartPole


def cartpole_still() -> Picture:
    data = json.loads((HERE / "cartpole.json").read_text())
    early = data["episodes"][0]
    steps = len(early["x"])
    p = Picture(
        "A CartPole policy and its value",
        f"An episode of {steps} steps. Above, cart and pole at five moments, upright at first and falling at the end. "
        "Below, the critic's value over the steps, which falls well before the pole does, and the discounted "
        "reward-to-go.",
        296,
    )
    togo = (1 - data["gamma"] ** (steps - np.arange(steps))) / (1 - data["gamma"])
    ax = Axes(p, 40, 112, 306, 130, (0, steps - 1), (0, 100))
    ax.ticks([(0, "0"), (steps - 1, f"{steps - 1}")], [(0, "0"), (50, "50"), (100, "100")])
    for t in np.linspace(0, steps - 1, 5).astype(int):
        x, angle = ax.at(t, 0)[0] - 10 * (t / steps), early["theta"][t]
        p.box(x - 15, 74, 30, 14, "box", 2)
        p.line([(x, 76), (x + 50 * np.sin(angle), 76 - 50 * np.cos(angle))], "line red thick")
        p.text(x, 102, f"*t* = {t}", "note")
    ax.plot(range(steps), togo, "line dashed")
    ax.plot(range(steps), early["value"], "line blue")
    p.text(193, 259, "step *t*", "note")
    p.text(193, 274, "blue: the critic’s value *V*(*s*)", "blue")
    p.text(193, 290, f"dashed: discounted reward-to-go, γ = {data['gamma']}", "note")
    return p


STILLS = {
    "gae": gae_still,
    "squashed-gaussian": squashed_still,
    "value-iteration": value_iteration_still,
    "cartpole": cartpole_still,
}


if __name__ == "__main__":
    write(STILLS)
