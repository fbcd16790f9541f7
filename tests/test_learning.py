"""CartPole-v1 is solved, by the settings that a newcomer gets, in a part of the steps that the defaults would take."""

import pytest
from probes import ALGOS, train

from spinup.envs import evaluate

EPOCHS = {"vpg": 100, "ppo": 20, "trpo": 80}  # 51k, 41k and 82k steps; learning rates fall to 0 within them


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("algo", ALGOS)
def test_cartpole(tmp_path, algo, seed):
    ac = train(algo, "CartPole-v1", tmp_path, seed=seed, epochs=EPOCHS[algo])
    ep_ret = evaluate(ac, "CartPole-v1", episodes=20, deterministic=True)["EpRet"]
    assert len(ep_ret) == 20
    assert sum(ep_ret) / 20 >= 475
