"""Each algorithm on environments whose values and best actions are known; what each asks is in probes.py."""

import numpy as np
import pytest
import torch
from probes import PLAIN, ByAction, ByBoth, ByObservation, Discounting, Probe, Target, train

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
