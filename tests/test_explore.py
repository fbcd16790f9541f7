"""spinup/examples/explore.py: the maze, bonuses worked out by hand, and who reaches the goal of a small maze."""

import itertools
import re
import sys

import numpy as np
import pytest
import torch

from spinup.examples import explore

SMALL = (
    "#######",
    "#S#   #",
    "# # #G#",
    "#   ###",
    "#######",
)
UP, RIGHT, DOWN, LEFT = range(4)


def shortest(maze: explore.Maze) -> int:
    """Steps from start to goal, by breadth-first search."""
    seen, ring = {maze.start}, {maze.start}
    for steps in itertools.count():
        if maze.goal in ring:
            return steps
        ring = {maze.step(s, a)[0] for s in ring for a in range(4)} - seen
        seen |= ring
    raise AssertionError


# ---- the maze


def test_steps_by_hand():
    maze = explore.Maze(SMALL)
    assert (maze.start, maze.goal) == (8, 19)
    assert [maze.step(8, a)[0] for a in (UP, RIGHT, DOWN, LEFT)] == [8, 8, 15, 8]
    assert maze.step(12, DOWN) == (19, 1.0, True)
    assert maze.step(11, RIGHT) == (12, 0.0, False)


def test_shortest_paths():
    """What the page says: 36 steps, of at most 150."""
    assert shortest(explore.Maze(SMALL)) == 9
    maze = explore.Maze()
    assert shortest(maze) == 36
    assert "".join(explore.MAZE).count(" ") + 2 == 103
    assert explore.LIMIT == 150


def test_observations():
    """Row and column, one-hot: cells of the same row share a number."""
    maze = explore.Maze(SMALL)
    x = maze.observations()
    assert x.shape == (35, 5 + 7)
    assert x[19].nonzero().flatten().tolist() == [2, 5 + 5]
    assert (x.sum(1) == 2).all()


# ---- bonuses by hand


def test_count_bonus_by_hand():
    give = explore.CountBonus(explore.Maze(SMALL))
    assert [give(8), give(8), give(15), give(8), give(8)] == pytest.approx([1, 2**-0.5, 1, 3**-0.5, 0.5])


def make_rnd(**options) -> explore.RND:
    torch.manual_seed(0)
    return explore.RND(explore.Maze(SMALL), **options)


def test_rnd_error_by_hand():
    """Both networks' outputs written out, for a single cell."""
    rnd = make_rnd()

    def output(net, x):
        first, _, last = net
        return last.weight @ (first.weight @ x + first.bias).clamp(min=0) + last.bias

    x = rnd.x[15]
    wanted = (output(rnd.predictor, x) - output(rnd.target, x)).square().mean()
    assert rnd.error(rnd.x)[15].item() == pytest.approx(wanted.item())
    assert rnd.errors[15] == pytest.approx(wanted.item())


def test_rnd_normalizes_by_hand():
    """The standard deviation of 2 and 4 is 1, of 2, 4 and 9 it is sqrt(26 / 3)."""
    rnd = make_rnd()
    assert [rnd.normalize(x) for x in (2.0, 4.0, 9.0)] == pytest.approx([1, 4, 9 / (26 / 3) ** 0.5])


def test_rnd_takes_a_step_for_each_batch():
    """And only the predictor does, down the gradient of the batch's mean error."""
    rnd, twin = make_rnd(batch_size=3), make_rnd(batch_size=3)
    for s in (8, 15):
        rnd(s)
    assert rnd.errors == twin.errors
    rnd(8)
    loss = twin.error(twin.x[[8, 15, 8]]).mean()
    loss.backward()
    twin.optimizer.step()
    assert rnd.errors == pytest.approx(twin.error(twin.x).tolist())
    assert rnd.errors[8] < make_rnd().errors[8]
    assert all(map(torch.equal, rnd.target.parameters(), make_rnd().target.parameters()))


def test_rnd_forgets_the_rare():
    """After 500 visits to one corner its error has nearly vanished, and that of a cell far away has not."""
    rnd, before = make_rnd(), make_rnd().errors
    for _ in range(500):
        rnd(8)
    assert rnd.errors[8] < 0.05 * before[8]
    assert rnd.errors[19] > 0.3 * before[19]


# ---- learning


def test_choose_is_epsilon_greedy_and_breaks_ties_at_random():
    rng = np.random.default_rng(0)
    q = np.array([1.0, 3.0, 2.0, 3.0])
    counts = np.bincount([explore.choose(q, 0.4, rng) for _ in range(20_000)])
    np.testing.assert_allclose(counts / 20_000, [0.1, 0.4, 0.1, 0.4], atol=0.02)


def test_q_learning_by_hand(monkeypatch):
    """A corridor of three steps, with alpha = 1 and no chance: after three episodes, the values back to the start."""
    maze = explore.Maze(("######", "#S  G#", "######"))
    monkeypatch.setattr(explore, "choose", lambda q, epsilon, rng: RIGHT)
    tables = []
    full = np.full
    monkeypatch.setattr(np, "full", lambda *words: tables.append(full(*words)) or tables[-1])
    explore.train("none", episodes=3, alpha=1.0, gamma=0.5, maze=maze)
    assert tables[0][[7, 8, 9], RIGHT].tolist() == [0.25, 0.5, 1]


def test_nothing_follows_the_goal(monkeypatch):
    """Its values are never updated: with first values of 1, they would count otherwise."""
    maze = explore.Maze(("######", "#S  G#", "######"))
    monkeypatch.setattr(explore, "choose", lambda q, epsilon, rng: RIGHT)
    tables, full = [], np.full
    monkeypatch.setattr(np, "full", lambda *words: tables.append(full(*words)) or tables[-1])
    explore.train("none", episodes=1, alpha=1.0, gamma=0.5, q0=1.0, maze=maze)
    assert tables[0][[7, 8, 9], RIGHT].tolist() == [0.5, 0.5, 1]


def test_bonus_and_its_mean_by_hand(monkeypatch):
    """Bonuses 1, 1 and 1 (new cells) and then 0.7, 0.7 and 0.7, of weight 0.1; with gamma = 0 a value is a reward."""
    maze = explore.Maze(("######", "#S  G#", "######"))
    monkeypatch.setattr(explore, "choose", lambda q, epsilon, rng: RIGHT)
    second, full = 2**-0.5, np.full
    means = [(3 + second * i) / (3 + i) for i in (1, 2, 3)]  # of all bonuses so far
    for center in (False, True):
        tables = []
        monkeypatch.setattr(np, "full", lambda *words, t=tables: t.append(full(*words)) or t[-1])
        explore.train("count", 0.1, center, episodes=2, alpha=1.0, gamma=0.0, maze=maze)
        wanted = [0.1 * (second - center * mean) + goal for mean, goal in zip(means, (0, 0, 1), strict=True)]
        assert tables[0][[7, 8, 9], RIGHT].tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("bonus", ["count", "rnd"])
def test_bonuses_find_the_goal_of_a_small_maze(bonus, monkeypatch, capsys):
    """And end on the shortest path, but for epsilon's random steps."""
    monkeypatch.setattr(explore, "LIMIT", 20)
    maze = explore.Maze(SMALL)
    rows, visits = explore.train(bonus, seed=0, episodes=120, maze=maze)
    assert all(reached for _, reached, _ in rows[-20:])
    assert np.mean([steps for steps, _, _ in rows[-20:]]) < 9 + 3
    assert rows[-1][2] == (visits > 0).sum() <= 13
    assert visits.sum() == sum(steps for steps, _, _ in rows)


@pytest.mark.parametrize("options", [{"bonus": "none"}, {"bonus": "count", "center": False}])
def test_who_stays_in_the_first_rooms(options, capsys):
    rows, visits = explore.train(seed=0, episodes=60, **options)
    assert not any(reached for _, reached, _ in rows)
    assert all(steps == explore.LIMIT for steps, _, _ in rows)
    assert visits[explore.Maze().goal] == 0


@pytest.mark.parametrize("options", [{"bonus": "count"}, {"bonus": "none", "q0": 1.0}])
def test_who_finds_the_goal(options, capsys):
    rows, _ = explore.train(seed=0, **options)
    assert np.mean([reached for _, reached, _ in rows[-20:]]) > 0.9
    assert np.mean([steps for steps, _, _ in rows[-20:]]) < 50


def test_same_seed_same_run(capsys):
    options = {"bonus": "rnd", "episodes": 3}
    (rows, visits), (again, visits_again) = (explore.train(seed=1, **options) for _ in range(2))
    assert rows == again
    assert (visits == visits_again).all()
    assert rows != explore.train(seed=2, **options)[0]


def test_program(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["explore", "--episodes", "21"])
    explore.main()
    out = capsys.readouterr().out
    assert re.match(r"episode  steps  goal  cells\n      0    150     0 +\d+\n     20 ", out)
    maze = out.splitlines()[3:]
    assert [len(line) for line in maze] == [25] * 7
    assert set("".join(maze)) <= set("#.1234")


def test_cli_refuses_episodes(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["explore", "--episodes", "-3"])
    with pytest.raises(SystemExit, match="2"):
        explore.main()
    assert "argument --episodes: must be at least 0 and below 2**31, got -3" in capsys.readouterr().err
