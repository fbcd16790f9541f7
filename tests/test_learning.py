"""Learning tests: CartPole-v1 with default settings but fewer epochs, Pendulum-v1 by SAC with small networks, and
MountainCarContinuous-v0 by TD3 with correlated noise.
"""

import pytest
from probes import ON_POLICY, train

from spinup.envs import evaluate

EPOCHS = {"vpg": 100, "ppo": 20, "trpo": 80}  # 51k, 41k and 82k steps, over which learning rates decay to 0
slow = pytest.mark.slow


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=slow)])
@pytest.mark.parametrize("algo", ON_POLICY)
def test_cartpole(tmp_path, algo, seed):
    ac = train(algo, "CartPole-v1", tmp_path, seed=seed, epochs=EPOCHS[algo])
    ep_ret = evaluate(ac, "CartPole-v1", episodes=20, deterministic=True)["EpRet"]
    assert len(ep_ret) == 20
    assert sum(ep_ret) / 20 >= 475


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=slow) for seed in (1, 2))])
def test_pendulum(tmp_path, seed):
    """Seeds 0 to 4 reached -149 to -156; untrained policies get -1190 to -1370."""
    options = dict(steps_per_epoch=1000, epochs=5, start_steps=500, eval_freq=0, ac_kwargs=dict(hidden_sizes=(64, 64)))
    ac = train("sac", "Pendulum-v1", tmp_path, seed=seed, **options)
    ep_ret = evaluate(ac, "Pendulum-v1", episodes=20, deterministic=True)["EpRet"]
    assert len(ep_ret) == 20
    assert sum(ep_ret) / 20 >= -250


@slow
@pytest.mark.parametrize("seed", [0, 1])
def test_mountain_car(tmp_path, seed):
    """With the settings of docs/algorithms/td3.md. Standing still has a return of 0."""
    options = dict(epochs=10, start_steps=0, act_noise=0.7, noise_corr=0.95, eval_freq=0)
    ac = train("td3", "MountainCarContinuous-v0", tmp_path, seed=seed, ac_kwargs=dict(hidden_sizes=(64, 64)), **options)
    ep_ret = evaluate(ac, "MountainCarContinuous-v0", episodes=20, deterministic=True)["EpRet"]
    assert len(ep_ret) == 20
    assert sum(ep_ret) / 20 > 90
