"""Each algorithm in environments whose values and best actions are known, and the command `probe`."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from probes import ALGORITHMS, SOFT, WITH_TARGETS, fit, train

from spinup import algorithm, buffers, probes, run
from spinup.errors import UserError
from spinup.probes import PLAIN, ByAction, ByBoth, ByObservation, Discounting, Probe, Target

SHARED = dict(num_envs=16, steps_per_epoch=64, vf_lr=1e-2, train_v_iters=5, ac_kwargs=dict(hidden_sizes=(16,)))
SETTINGS = {
    "vpg": dict(pi_lr=3e-2, **SHARED),
    "ppo": dict(pi_lr=1e-2, train_pi_iters=5, minibatch_size=None, normalize_adv=True, **SHARED),
    "trpo": dict(delta=0.03, **SHARED),
    "npg": dict(delta=0.03, algo="npg", **SHARED),
}

algos = pytest.mark.parametrize("algo", SETTINGS)
# Values are in units of rewards only without scaling; the best actions must be found with it, too.
scaling = pytest.mark.parametrize("options", [PLAIN, {}], ids=["plain", "scaled"])


def learn(algo, env, folder, **kwargs):
    return train("trpo" if algo == "npg" else algo, env, folder, **{**SETTINGS[algo], **kwargs})


def values(ac, *observations) -> list[float]:
    return ac.v(torch.tensor(observations, dtype=torch.float32)[:, None]).tolist()


def probabilities(ac, *observations) -> list[list[float]]:
    """pi(a|o), one row per observation."""
    return ac.pi(torch.tensor(observations, dtype=torch.float32)[:, None]).logp.exp().tolist()


@algos
def test_constant_reward(tmp_path, algo):
    ac = learn(algo, Probe, tmp_path, epochs=20, train_v_iters=20, **PLAIN)
    assert values(ac, 0) == pytest.approx([1], abs=0.05)


@algos
def test_reward_by_observation(tmp_path, algo):
    ac = learn(algo, ByObservation, tmp_path, epochs=20, train_v_iters=20, **PLAIN)
    assert values(ac, -1, 1) == pytest.approx([-1, 1], abs=0.05)


@algos
def test_discounting(tmp_path, algo):
    ac = learn(algo, Discounting, tmp_path, epochs=20, train_v_iters=20, gamma=0.7, **PLAIN)
    assert values(ac, 0, 1) == pytest.approx([0.7, 1], abs=0.05)


@algos
@scaling
def test_reward_by_action(tmp_path, algo, options):
    ac = learn(algo, ByAction, tmp_path, epochs={"vpg": 25}.get(algo, 15), **options)
    assert probabilities(ac, 0)[0][1] > 0.9


@algos
@scaling
def test_action_by_observation(tmp_path, algo, options):
    ac = learn(algo, ByBoth, tmp_path, epochs=30, **options)
    (left, _), (_, right) = probabilities(ac, -1, 1)
    assert left > 0.9
    assert right > 0.9


@algos
def test_continuous_action(tmp_path, algo):
    ac = learn(algo, Target, tmp_path, epochs={"vpg": 80}.get(algo, 40), **PLAIN)
    a = ac.act(np.zeros((1, 1), np.float32), deterministic=True)[0]
    assert a.tolist() == pytest.approx([8, -2], abs=0.7)


# ---- action values

OFF_SHARED = dict(num_envs=4, epochs=1, start_steps=100, update_after=100, batch_size=32, replay_size=5000, polyak=0.8)
OFF_SHARED |= dict(eval_freq=0, ac_kwargs=dict(hidden_sizes=(16,)))
OFF_SETTINGS = {
    "ddpg": dict(pi_lr=1e-2, q_lr=2e-2, **OFF_SHARED),
    "td3": dict(pi_lr=1e-2, q_lr=2e-2, **OFF_SHARED),
    "sac": dict(lr=2e-2, policy_delay=1, normalize_obs=False, **OFF_SHARED),
}
off_policy = pytest.mark.parametrize("algo", WITH_TARGETS)


def learn_off_policy(algo, env, folder, steps, **kwargs):
    return train(algo, env, folder, **{**OFF_SETTINGS[algo], "steps_per_epoch": steps, **kwargs})


@torch.no_grad()
def assert_values(algo, ac, values: dict[float, float], tol: float) -> None:
    """Check every critic's value of each observation, for several actions."""
    for o, value in values.items():
        o = torch.tensor([[float(o)]])
        q = ac.critic(o) if algo == "sac" else ac.critic(o.expand(3, 1), torch.tensor([[0.0], [0.3], [1.0]]))
        assert q.flatten().tolist() == pytest.approx([value] * q.numel(), abs=tol), o


def without_entropy(algo):
    return dict(alpha=0.0) if algo in SOFT else {}


@off_policy
def test_constant_reward_with_termination(tmp_path, algo):
    ac = learn_off_policy(algo, fit(algo, Probe), tmp_path, 250, **without_entropy(algo))
    assert_values(algo, ac, {0: 1.0}, 0.1)


@off_policy
@pytest.mark.parametrize(("n_step", "steps"), [(1, 500), (3, 300)])
def test_constant_reward_with_truncation(tmp_path, algo, n_step, steps):
    """Episodes are truncated after three steps, and no state is terminal: 1 / (1 - gamma)."""
    env = fit(algo, lambda: Probe(length=3, truncates=True))
    ac = learn_off_policy(algo, env, tmp_path, steps, gamma=0.9, n_step=n_step, **without_entropy(algo))
    assert_values(algo, ac, {0: 10.0}, 0.7)


@off_policy
def test_action_values_by_observation(tmp_path, algo):
    ac = learn_off_policy(algo, fit(algo, ByObservation), tmp_path, 300, **without_entropy(algo))
    assert_values(algo, ac, {-1: -1.0, 1: 1.0}, 0.15)


@off_policy
@pytest.mark.parametrize("n_step", [1, 2])
def test_action_values_are_discounted(tmp_path, algo, n_step):
    options = dict(gamma=0.7, n_step=n_step, **without_entropy(algo))
    ac = learn_off_policy(algo, fit(algo, Discounting), tmp_path, 300, **options)
    assert_values(algo, ac, {0: 0.7, 1: 1.0}, 0.1)


def choice(ac, o: float) -> float:
    """The policy at o: its action, a number from 0 to 1, or the probability of action 1 of two."""
    pi = ac.actor(torch.tensor([[o]]))
    return float(pi.logp.detach().exp()[0, 1] if hasattr(pi, "logp") else pi.detach()[0, 0])


@off_policy
def test_best_action(tmp_path, algo):
    ac = learn_off_policy(algo, fit(algo, ByAction), tmp_path, 300)
    assert choice(ac, 0.0) > 0.8


@off_policy
def test_best_action_by_observation(tmp_path, algo):
    ac = learn_off_policy(algo, fit(algo, ByBoth), tmp_path, 500)
    assert choice(ac, -1.0) < 0.2
    assert choice(ac, 1.0) > 0.8


@off_policy
def test_best_point_of_a_box(tmp_path, algo):
    slower = dict(lr=1e-2) if algo in SOFT else dict(pi_lr=3e-3, q_lr=1e-2, act_noise=0.5)
    options = dict(ac_kwargs=dict(hidden_sizes=(32,)), batch_size=64, **slower)
    ac = learn_off_policy(algo, Target, tmp_path, 700, **options)
    a = ac.act(np.zeros((1, 1), np.float32), deterministic=True)[0]
    assert a.tolist() == pytest.approx([8, -2], abs=0.7)


# ---- the command


FAST = ("ppo", "dqn")


@pytest.mark.parametrize("algo", [a if a in FAST else pytest.param(a, marks=pytest.mark.slow) for a in ALGORITHMS])
def test_command(capsys, algo):
    """Every algorithm gets every probe right, and the table says so."""
    run.main(["probe", algo])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == probes.HEAD.split()
    cases = [case.name for case in probes.CASES if "Box" in ALGORITHMS[algo].actions or case.env is not Target]
    assert [line[:22].rstrip() for line in lines[1:-1]] == cases
    assert all(line.endswith(" right") for line in lines[1:-1])
    assert lines[-1].startswith(f"{len(cases)} probes in ")
    assert lines[-1].endswith(" s: all right")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("pp0", "there is no algorithm 'pp0'; did you mean 'ppo'?; usage: "),
        ("", "name one algorithm; usage: "),
        ("ppo td3", "name one algorithm; usage: "),
    ],
)
def test_command_needs_one_algorithm(capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        run.main(["probe", *words.split()])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"spinup: error: probe: {message}")
    assert error.count("\n") == 1


def test_probes_are_an_attribute_of_the_package():
    import spinup

    assert spinup.probes is probes
    assert "probes" in dir(spinup)


def test_help_needs_no_torch():
    code = "import sys; from spinup.run import main; main(['probe', '--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: python -m spinup.run probe")


def ignore_terminated(r, v, v2, terminated, done, gamma, lam):
    return buffers.gae(r, v, v2, terminated & False, done, gamma, lam)


def treat_truncated_as_terminated(r, v, v2, terminated, done, gamma, lam):
    return buffers.gae(r, v, v2, done, done, gamma, lam)


def ignore_gamma(r, v, v2, terminated, done, gamma, lam):
    return buffers.gae(r, v, v2, terminated, done, 1.0, lam)


def flip_sign(*args):
    return -importlib.import_module("spinup.algos.vpg").policy_loss(*args)


def broadcast(v, ret):
    return (v.reshape(-1, 1) - ret.reshape(-1)).square().mean()


BROKEN = [
    ("vpg", "gae", ignore_terminated, "constant reward", "the value of a terminal state is counted"),
    ("vpg", "gae", treat_truncated_as_terminated, "time limit", "truncated is treated as terminated"),
    ("trpo", "gae", treat_truncated_as_terminated, "time limit", "truncated is treated as terminated"),
    ("ppo", "gae", ignore_gamma, "discounting", "gamma is not used"),
    ("vpg", "value_loss", broadcast, "reward by observation", "(B, 1) against (B,)"),
    ("vpg", "value_loss", lambda v, ret: 0 * v.mean(), "constant reward", "nothing is learned"),
    ("trpo", "value_loss", lambda v, ret: v.mean() / 0, "constant reward", "not a finite number"),
    ("ppo", "policy_loss", lambda logp, *_: 0 * logp.mean(), "reward by action", "the policy does not change"),
    ("vpg", "policy_loss", lambda logp, adv: (logp * adv).mean(), "reward by action", "the sign of its loss is wrong"),
    ("td3", "target", lambda r, terminated, discount, q2: r + discount * q2.min(0).values, "constant reward",
     "the value of a terminal state is counted"),
    ("ddpg", "target", lambda r, terminated, discount, q2: r + (1 - terminated) * q2, "discounting",
     "gamma is not used"),
    ("sac", "target", lambda r, terminated, discount, v2: r, "discounting", "the next state's value is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("algo", "name", "function", "probe", "message"), BROKEN)
def test_broken_algorithms_fail_the_right_probe(monkeypatch, algo, name, function, probe, message):
    """The preceding probe succeeds, so the first failure is the one that points to the bug."""
    monkeypatch.setattr(f"spinup.algos.{algo}.{name}", function)
    names = [case.name for case in probes.CASES]
    order = names[max(0, names.index(probe) - 1) : names.index(probe) + 1]
    results = probes.check(probes.trainer(algo), discrete=algorithm.find(algo).on_policy, box=True, only=order)
    assert [result.passed for result in results] == [True] * (len(order) - 1) + [False]
    assert message in results[-1].message
    assert message in probes.line(results[-1])
    assert probes.table(results).endswith("1 wrong; start with the first one")


def test_a_failed_probe_is_the_exit_status(monkeypatch, capsys):
    monkeypatch.setattr("spinup.algos.vpg.gae", ignore_terminated)
    monkeypatch.setattr(probes, "CASES", probes.CASES[:1])
    with pytest.raises(SystemExit) as stop:
        run.main(["probe", "vpg"])
    assert stop.value.code == 1
    assert "WRONG\n  -> the value of a terminal state is counted" in capsys.readouterr().out


# ---- a user's own algorithm


def tabular(env_fn, gamma, gamma_used=None, best=max):
    """Tabular Q-learning."""
    env, random, q = env_fn(), np.random.default_rng(0), {}
    gamma = gamma if gamma_used is None else gamma_used

    def row(o):
        return q.setdefault(float(o[0]), [0.0, 0.0])

    o, _ = env.reset(seed=0)
    for _ in range(3000):
        a = int(random.integers(2))
        o2, r, terminated, truncated, _ = env.step(a)
        row(o)[a] += 0.1 * (r + gamma * (not terminated) * max(row(o2)) - row(o)[a])
        o = env.reset()[0] if terminated or truncated else o2
    return (lambda o: best(row(o))), (lambda o: row(o).index(best(row(o))))


def test_check_of_a_users_algorithm():
    results = probes.check(tabular)
    assert [result.case.name for result in results] == [case.name for case in probes.CASES if case.env is not Target]
    assert all(result.passed for result in results), probes.table(results)
    assert probes.table(results).splitlines()[1].endswith("right")


def test_the_pages_program(tmp_path):
    """The page's example of a user's own algorithm."""
    page = (Path(__file__).parents[1] / "docs" / "exercises" / "probes.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for change, wrong in ((("", ""), []), (("not terminated", "not (terminated or truncated)"), ["time limit"])):
        done = subprocess.run(
            [sys.executable, "-c", program.replace(*change)], capture_output=True, text=True, timeout=120, cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        )  # fmt: skip
        assert done.stderr == ""
        rows = [line for line in done.stdout.splitlines()[:-1] if line.endswith((" right", "WRONG"))]
        assert len(rows) == 6
        assert [line[:22].rstrip() for line in rows if line.endswith("WRONG")] == wrong


def test_check_finds_bugs_in_a_users_algorithm():
    results = probes.check(lambda env_fn, gamma: tabular(env_fn, gamma, gamma_used=0.0))
    assert [result.case.name for result in results if not result.passed] == ["discounting", "time limit"]
    assert "the next state's value is missing" in results[2].message
    results = probes.check(lambda env_fn, gamma: tabular(env_fn, gamma, best=min), only=["reward by action"])
    assert "the policy seeks the worst action" in results[0].message


def test_check_without_values_or_actions():
    results = probes.check(lambda env_fn, gamma: (None, tabular(env_fn, gamma)[1]))
    assert [result.passed for result in results] == [None] * 4 + [True] * 2
    assert "no such function" in probes.table(results)
    assert probes.last_line(results).startswith("2 probes")


def test_check_refuses_wrong_arguments():
    with pytest.raises(UserError, match="there is no probe 'constant'"):
        probes.check(tabular, only=["constant"])
    with pytest.raises(UserError, match="must take discrete actions or a box"):
        probes.check(tabular, discrete=False)


@pytest.mark.parametrize("case", probes.CASES, ids=lambda case: case.name)
def test_every_suspect_is_wrong_and_identified(case):
    """Known wrong answers are outside the tolerance, and those with different causes aren't confused."""
    right = case.values or case.actions
    for wrong, cause in case.suspects:
        assert wrong.keys() == right.keys()
        assert not probes.near(wrong, right, case.tolerance)
        assert probes.explain(case, {o: np.atleast_1d(x) for o, x in wrong.items()}) == cause
