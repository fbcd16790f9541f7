"""The diagrams of the pages, one function each: `python docs/pictures/diagrams.py` writes docs/pictures/<name>.svg.

What a diagram shows to scale is computed here; tests/test_pictures.py checks that the files are what this writes.
"""

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
from svg import Axes, Picture

from spinup.examples import tabular

HERE = Path(__file__).parent
EPSILON = 0.2  # PPO's clip_ratio


def agent_environment() -> Picture:
    p = Picture(
        "Agent and environment",
        "A loop. The agent, a policy, sends an action to the environment; the environment answers with a reward and "
        "the next state, from which the agent chooses its next action.",
        206,
    )
    p.box(85, 12, 190, 54, "box blue")
    p.text(180, 35, "Agent", "head-text")
    p.text(180, 54, "policy π(*a*|*s*)")
    p.box(85, 140, 190, 54)
    p.text(180, 163, "Environment", "head-text")
    p.text(180, 182, "P(*s*_{t+1} | *s*_{t}, *a*_{t})")
    p.line([(275, 39), (318, 39), (318, 167), (277, 167)], "line blue", arrow=True)
    p.line([(85, 167), (42, 167), (42, 39), (83, 39)], "line red", arrow=True)
    p.text(310, 107, "action *a*_{t}", "blue", "end")
    p.text(50, 96, "reward *r*_{t}", "red", "start")
    p.text(50, 117, "state *s*_{t+1}", "red", "start")
    return p


def return_discount() -> Picture:
    gamma, steps = 0.8, 10
    p = Picture(
        "Return and discount",
        f"Ten rewards of 1 as outlined bars. Filled bars inside show what each adds to the discounted return with "
        f"gamma = {gamma}: 1, 0.8, 0.64 and so on. All later rewards together weigh as much as "
        f"{1 / (1 - gamma):.0f} undiscounted ones, the effective horizon.",
        232,
    )
    ax = Axes(p, 24, 44, 320, 110, (0, steps), (0, 1.1))
    for k in range(steps):
        for height, kind in ((1, "box open"), (gamma**k, "box blue")):
            x, y = ax.at(k + 0.15, height)
            p.box(x, y, 0.7 * 32, ax.top + ax.height - y, kind, 2)
        x, y = ax.at(k + 0.5, 1)
        p.text(x, ax.top + ax.height + 17, ("*r*_{t}", "*r*_{t+1}", "*r*_{t+2}", "*r*_{t+3}", "…")[k] if k < 5 else "")
        p.text(x, y - 7, ("1", "γ", "γ^{2}", "γ^{3}", "γ^{4}")[k] if k < 5 else "", "blue")
    horizon = 1 / (1 - gamma)
    x = ax.at(horizon, 0)[0]
    p.line([(x, 20), (x, ax.top + ax.height)], "line red dashed")
    p.text(x + 6, 27, "1/(1 − γ) = 5 steps", "red", "start")
    p.text(180, 198, "*R*_{t} = *r*_{t} + γ *r*_{t+1} + γ^{2} *r*_{t+2} + …", "")
    p.text(180, 220, "outlined: rewards; filled: weighted, γ = 0.8", "note")
    return p


def backup(p: Picture, left: float, top: float, name: str, actions_first: bool, best: bool) -> None:
    """One panel: a root, its children and theirs; an arc where the maximum is taken."""
    middle = left + 85
    roots = {True: "box", False: "dot"}  # states are open, actions filled
    leaves = [middle + 52 * side + 18 * half for side in (-1, 1) for half in (-1, 1)]
    for side in (-1, 1):
        child = (middle + 52 * side, top + 62)
        p.line([(middle, top + 26), child])
        for leaf in [x for x in leaves if (x - middle) * side > 0]:
            p.line([child, (leaf, top + 104)])
            p.circle(leaf, top + 104, 6 if actions_first else 4, roots[actions_first])
        p.circle(*child, 4 if actions_first else 6, roots[not actions_first])
        if best and not actions_first:
            x, y = child
            p.path(f"M{x - 8:g} {y + 18.7:g} Q{x:g} {y + 25:g} {x + 8:g} {y + 18.7:g}", "line red")
    p.circle(middle, top + 26, 6 if actions_first else 4, roots[actions_first])
    if best and actions_first:
        p.path(f"M{middle - 23:g} {top + 42:g} Q{middle:g} {top + 56:g} {middle + 23:g} {top + 42:g}", "line red")
    p.text(middle, top + 10, name, "head-text")


def backup_diagrams() -> Picture:
    p = Picture(
        "Backup diagrams",
        "Four trees. The value of a state under a policy averages over its actions and then over next states; the "
        "value of an action averages over next states and then over their actions. The optimal values take the maximum "
        "over actions, marked by an arc, in place of the average.",
        300,
    )
    backup(p, 5, 8, "V^{π}", True, False)
    backup(p, 185, 8, "Q^{π}", False, False)
    backup(p, 5, 136, "V^{∗}", True, True)
    backup(p, 185, 136, "Q^{∗}", False, True)
    for i, (radius, kind, words) in enumerate(((6, "box", "state"), (4, "dot", "action"))):
        p.circle(50 + 78 * i, 278, radius, kind)
        p.text(62 + 78 * i, 282, words, "note", "start")
    p.path("M200 274 Q212 286 224 274", "line red")
    p.text(232, 282, "maximum", "note", "start")
    return p


def trust_region() -> Picture:
    """KL ~ d'Hd / 2 <= delta is an ellipse; g'd is largest at its boundary in the direction of H^-1 g."""
    h, g, delta = np.array([[1.1, 0.75], [0.75, 0.9]]), np.array([0.12, 1.0]), 0.5
    step = np.linalg.solve(h, g)
    step *= np.sqrt(2 * delta / (step @ h @ step))
    plain = g / np.linalg.norm(g) * np.linalg.norm(step)
    angles = np.linspace(0, 2 * np.pi, 73)
    circle = np.stack([np.cos(angles), np.sin(angles)])
    ellipse = np.linalg.solve(np.linalg.cholesky(h).T, circle * np.sqrt(2 * delta)).T
    p = Picture(
        "A trust region",
        "The policies within a mean KL divergence of delta form an ellipse around the current parameters. The step in "
        "the direction of the natural gradient ends on the ellipse, where the linear objective is largest. A step of "
        "the same length along the plain gradient leaves the ellipse.",
        302,
    )
    scale, center = 66, np.array([180.0, 142.0])

    def place(xy):
        return center + np.asarray(xy) * [scale, -scale]

    along = np.array([g[1], -g[0]]) / np.linalg.norm(g)
    p.polygon([place(xy) for xy in ellipse], "box blue")
    for k in (-1, 0, 1, 2):  # contours of g'd, the last through the step's end
        middle = g * (g @ step) / (g @ g) * k / 2
        p.line([place(middle - 2.3 * along), place(middle + 2.1 * along)], "line thin dotted")
    p.line([place((0, 0)), place(plain)], "line red", arrow=True)
    p.line([place((0, 0)), place(step)], "line blue", arrow=True)
    p.circle(*center, 4, "dot")
    p.text(center[0] + 6, center[1] + 19, "θ_{k}", anchor="start")
    x, y = place(step)
    p.text(x - 8, y - 8, "*H*^{−1}*g*", "blue", "end")
    x, y = place(plain)
    p.text(x + 8, y + 4, "*g*", "red", "start")
    p.text(center[0] + 54, center[1] + 78, "KL ≤ δ", "blue")
    p.text(180, 272, "dotted: equal values of the linear objective *g*ᵀ*d*", "note")
    p.text(180, 291, "blue: TRPO’s step; red: the plain gradient’s", "note")
    return p


def clipped(ratio, adv, epsilon=EPSILON):
    """One sample's term of PPO's objective."""
    return np.minimum(ratio * adv, np.clip(ratio, 1 - epsilon, 1 + epsilon) * adv)


def clip_surface() -> Picture:
    p = Picture(
        "PPO's clipped objective",
        "Two panels with the objective over the probability ratio. For a positive advantage it rises until the ratio "
        "is 1 + epsilon and is flat beyond. For a negative advantage it is flat below 1 - epsilon and falls beyond it, "
        "with no bound. Dashed: without clipping.",
        236,
    )
    ratio = np.array([0, 1 - EPSILON, 1 + EPSILON, 2])
    for left, adv in ((36, 1), (212, -1)):
        ax = Axes(p, left, 34, 138, 140, (0, 2), (0, 2) if adv > 0 else (-2, 0))
        p.text(left + 69, 20, f"advantage A = {'+' if adv > 0 else '−'}1", "head-text")
        ax.ticks([(1, "1")], [(y, f"{y}".replace("-", "−")) for y in (0, adv, 2 * adv)])
        for edge, words, anchor in ((1 - EPSILON, "1−ε", "end"), (1 + EPSILON, "1+ε", "start")):
            p.text(ax.at(edge, 0)[0] + (2 if anchor == "start" else -2), 191, words, "note", anchor)
            ax.plot([edge, edge], ax.y_range, "line thin dotted")
        ax.plot([0, 2], [0, 2 * adv], "line dashed")
        ax.plot(ratio, clipped(ratio, adv), "line blue thick")
        p.circle(*ax.at(1, adv), 4.5, "dot red")
    p.text(180, 211, "ratio *r*(θ) = π_{θ}(*a*|*s*) / π_{k}(*a*|*s*)")
    p.text(180, 230, "blue: the objective; dashed: without the clip; dot: start", "note")
    return p


def twin_critics() -> Picture:
    p = Picture(
        "Twin critics",
        "The next state goes to the target policy, whose action gets clipped noise. Two target critics value it. The "
        "smaller value, discounted, plus the reward is the one target that both critics are fitted to.",
        292,
    )
    p.text(180, 20, "next state *s*′")
    p.line([(180, 27), (180, 42)], "line", arrow=True)
    p.box(75, 43, 210, 34)
    p.text(180, 65, "*a*′ = μ_{target}(*s*′) + noise")
    for x, name, way in ((20, "*Q*_{1,target}(*s*′, *a*′)", 95), (190, "*Q*_{2,target}(*s*′, *a*′)", 265)):
        p.line([(180, 77), (x + 75, 104)], "line", arrow=True)
        p.box(x, 105, 150, 34, "box blue")
        p.text(x + 75, 127, name, "blue")
        p.line([(way, 139), (180, 165)], "line blue", arrow=True)
    p.box(32, 166, 296, 34, "box red")
    p.text(180, 188, "*y* = *r* + γ (1 − *d*) min(*Q*_{1,target}, *Q*_{2,target})", "red")
    for x, name in ((95, "1"), (265, "2")):
        p.line([(180, 200), (x, 226)], "line red", arrow=True)
        p.box(x - 75, 227, 150, 34, "box blue")
        p.text(x, 249, f"(*Q*_{{{name}}}(*s*, *a*) − *y*)^{{2}}", "blue")
    p.text(180, 283, "one target; each critic has its own error", "note")
    return p


def terminated_truncated() -> Picture:
    p = Picture(
        "Terminated against truncated",
        "Two episodes. The first ends in a terminal state, after which no reward follows: the target of the last step "
        "is its reward. The second is cut off by a time limit although it would go on: its target adds the discounted "
        "value of the next state.",
        268,
    )
    xs = [34, 96, 158, 220]
    for top, end in ((28, "terminated"), (160, "truncated")):
        y = top + 34
        p.text(14, top, f"{end} = True", "head-text", "start")
        for i, x in enumerate(xs):
            p.line([(x + 17, y), (x + 45, y)], "line", arrow=True)
            p.circle(x, y, 17)
            p.text(x, y + 4, ("*s*_{0}", "*s*_{1}", "…", "*s*_{T−1}")[i], "" if i < 3 else "note")
        if end == "terminated":
            p.box(267, y - 14, 28, 28, "box red", 2)
            p.text(281, y + 4, "end", "red note")
            p.text(14, y + 44, "nothing follows:", "note", "start")
            p.text(124, y + 44, "target *r*_{T−1}", "red", "start")
        else:
            p.line([(258, y - 28), (258, y + 24)], "line red dashed")
            p.text(262, y - 22, "time limit", "red", "start")
            p.circle(284, y, 18, "box open dashed")
            p.text(284, y + 3, "*s*_{T}")
            p.line([(302, y), (346, y)], "line dashed", arrow=True)
            p.text(14, y + 44, "more would follow:", "note", "start")
            p.text(136, y + 44, "target *r*_{T−1} + γ *V*(*s*_{T})", "blue", "start")
    p.line([(14, 132), (346, 132)], "line thin dotted")
    return p


def replay() -> Picture:
    p = Picture(
        "Replay",
        "The policy acts and each transition is written into a ring of cells, over the oldest one. Updates draw random "
        "cells, old and new, as a minibatch, and change the policy that acts.",
        250,
    )
    p.box(14, 14, 150, 34, "box blue")
    p.text(89, 36, "policy acts")
    drawn, cells, newest = {1, 4, 9, 10}, 12, 2
    x = 20 + 27 * newest + 12
    p.line([(x, 48), (x, 97)], "line blue", arrow=True)
    p.text(x + 9, 68, "(*s*, *a*, *r*, *s*′, *d*)", "blue", "start")
    p.text(x - 8, 90, "newest", "blue", "end")
    p.text(x + 17, 90, "oldest: overwritten next", "note", "start")
    for i in range(cells):
        p.box(20 + 27 * i, 98, 24, 34, "box red" if i in drawn else "box blue" if i == newest else "box", 2)
    for i in sorted(drawn):
        p.line([(32 + 27 * i, 132), (268, 194)], "line red thin")
    p.box(190, 196, 156, 34, "box red")
    p.text(268, 218, "random minibatch", "red")
    p.line([(190, 213), (164, 213)], "line", arrow=True)
    p.box(14, 196, 150, 34)
    p.text(89, 218, "update Q, then π")
    p.line([(14, 213), (6, 213), (6, 31), (13, 31)], "line", arrow=True)
    p.text(180, 36, "the new policy acts next", "note", "start")
    return p


def block_sparse() -> Picture:
    size, side = 6, 23
    kept = {(0, 1), (0, 4), (1, 0), (1, 2), (2, 3), (2, 5), (3, 1), (3, 2), (4, 0), (4, 5), (5, 3), (5, 4)}
    row = 3
    p = Picture(
        "A block-sparse product",
        "A weight matrix of 6 by 6 blocks of which 12 are stored. A block row of the output is the sum of its stored "
        "blocks times the matching block rows of the input; the other blocks cost neither memory nor time.",
        226,
    )
    top, left, right, result = 40, 14, 196, 290
    for i in range(size):
        for j in range(size):
            here = (i, j) in kept
            kind = f"box {('red' if i == row else 'blue') if here else 'open thin'}"
            p.box(left + side * j, top + side * i, side, side, kind, 0)
        used = (row, i) in kept
        p.box(right, top + side * i, 58, side, f"box {'red' if used else ''}".strip(), 0)
        p.box(result, top + side * i, 58, side, f"box {'red' if i == row else ''}".strip(), 0)
    middle = top + size * side / 2 + 5
    p.text(174, middle, "×")
    p.text(272, middle, "=")
    for x, name in ((left + 69, "weight *W*"), (right + 29, "input *x*"), (result + 29, "*W x*")):
        p.text(x, 26, name, "head-text")
    p.text(180, 200, "red: one block row of the output, and all it is made of", "note")
    p.text(180, 218, "white blocks are 0: neither stored nor multiplied", "note")
    return p


def cliff_walk() -> Picture:
    """The paths that spinup/examples/tabular.py learns."""
    env, side, left, top = gym.make("CliffWalking-v1", max_episode_steps=1000), 28, 12, 10
    p = Picture(
        "The cliff walk",
        "A grid of 4 by 12 cells with the start at the lower left, the goal at the lower right and the cliff between "
        "them. Q-learning's path runs along the edge of the cliff. SARSA's keeps one row away from it and is two steps "
        "longer.",
        176,
    )
    for i, j in np.ndindex(4, 12):
        p.box(left + side * j, top + side * i, side, side, "box open thin", 0)
    p.box(left + side, top + 3 * side, 10 * side, side, "box red", 0)
    p.text(180, top + side * 3.5 + 5, "the cliff: −100, and back to the start", "red")
    for learn, color, shift in ((tabular.sarsa, "blue", 5), (tabular.q_learning, "red", -5)):
        rows, columns = np.divmod(tabular.path(tabular.greedy(learn(env, 0.99, 500)[0]), env), 12)
        x, y = left + side * (columns + 0.5), top + side * (rows + 0.5)
        x[columns == 0] -= shift  # beside each other in the columns that both climb and descend
        x[columns == 11] += shift
        p.line(zip(x, y, strict=True), f"line {color}", arrow=True)
    for j, word in ((0, "start"), (11, "goal")):
        p.text(left + side * (j + 0.5), top + side * 4 + 16, word, "note")
    p.text(180, 160, "blue: SARSA, 15 steps; red: Q-learning, 13 steps", "note")
    return p


DIAGRAMS = {
    "agent-environment": agent_environment,
    "return-discount": return_discount,
    "backup-diagrams": backup_diagrams,
    "trust-region": trust_region,
    "clip-surface": clip_surface,
    "twin-critics": twin_critics,
    "terminated-truncated": terminated_truncated,
    "replay": replay,
    "block-sparse": block_sparse,
    "cliff-walk": cliff_walk,
}


def main(names: list[str]) -> None:
    for name in names or DIAGRAMS:
        file = HERE / f"{name}.svg"
        file.write_text(DIAGRAMS[name]().svg(name), encoding="utf-8")
        print(f"{file.name}  {file.stat().st_size / 1000:.1f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
