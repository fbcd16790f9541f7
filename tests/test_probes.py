"""Each algorithm on environments whose values and best actions are known; what each asks is in probes.py."""

import numpy as np
import pytest
import torch
from probes import OFF_POLICY, PLAIN, ByAction, ByBoth, ByObservation, Discounting, Probe, Target, fit, train

SHARED = dict(num_envs=16, steps_per_epoch=64, vf_lr=1e-2, train_v_iters=5, ac_kwargs=dict(hidden_sizes=(16,)))
SETTINGS = {
    "vpg": dict(pi_lr=3e-2, **SHARED),
    "ppo": dict(pi_lr=1e-2, train_pi_iters=5, minibatch_size=None, normalize_adv=True, **SHARED),
    "trpo": dict(delta=0.03, **SHARED),
    "npg": dict(delta=0.03, algo="npg", **SHARED),
}

algos = pytest.mark.parametrize("algo", SETTINGS)
# Values are in units of rewards only without scaling; what to do must be found with it as well.
scaling = pytest.mark.parametrize("options", [PLAIN, {}], ids=["plain", "scaled"])


def learn(algo, env, folder, **kwargs):
    return train("trpo" if algo == "npg" else algo, env, folder, **{**SETTINGS[algo], **kwargs})


def values(ac, *observations) -> list[float]:
    return ac.v(torch.tensor(observations, dtype=torch.float32)[:, None]).tolist()


def probabilities(ac, *observations) -> list[list[float]]:
    """pi(a|o), a row for each observation."""
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
    "sac": dict(lr=2e-2, **OFF_SHARED),
}
off_policy = pytest.mark.parametrize("algo", OFF_POLICY)


def learn_off_policy(algo, env, folder, steps, **kwargs):
    return train(algo, env, folder, **{**OFF_SETTINGS[algo], "steps_per_epoch": steps, **kwargs})


@torch.no_grad()
def assert_values(algo, ac, values: dict[float, float], tol: float) -> None:
    """Every critic's value of each observation, whatever the action."""
    for o, value in values.items():
        o = torch.tensor([[float(o)]])
        q = ac.critic(o) if algo == "sac" else ac.critic(o.expand(3, 1), torch.tensor([[0.0], [0.3], [1.0]]))
        assert q.flatten().tolist() == pytest.approx([value] * q.numel(), abs=tol), o


def without_entropy(algo):
    return dict(alpha=0.0) if algo == "sac" else {}


@off_policy
def test_constant_reward_until_the_end(tmp_path, algo):
    ac = learn_off_policy(algo, fit(algo, Probe), tmp_path, 250, **without_entropy(algo))
    assert_values(algo, ac, {0: 1.0}, 0.1)


@off_policy
@pytest.mark.parametrize(("n_step", "steps"), [(1, 500), (3, 300)])
def test_constant_reward_without_an_end(tmp_path, algo, n_step, steps):
    """Episodes are cut after three steps, and no state is terminal: 1 / (1 - gamma)."""
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
    """The action taken at o: a number from 0 to 1, or the probability of 1 of two."""
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
    slower = dict(lr=1e-2) if algo == "sac" else dict(pi_lr=3e-3, q_lr=1e-2, act_noise=0.5)
    options = dict(ac_kwargs=dict(hidden_sizes=(32,)), batch_size=64, **slower)
    ac = learn_off_policy(algo, Target, tmp_path, 700, **options)
    a = ac.act(np.zeros((1, 1), np.float32), deterministic=True)[0]
    assert a.tolist() == pytest.approx([8, -2], abs=0.7)
