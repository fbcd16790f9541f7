"""Normalized observations of the off-policy algorithms: statistics, what networks see, saving, resume, capture."""

import csv
import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from probes import ALGORITHMS, taken
from test_algos import OwnQActorCritic

import spinup
from spinup.buffers import ReplayBuffer
from spinup.nets import NoNorm, RunningNorm

ALGOS = [name for name, algorithm in ALGORITHMS.items() if not algorithm.on_policy]
WITH_TARGET_POLICY = [algo for algo in ALGOS if "target_policy" in ALGORITHMS[algo].arguments]
SMALL = dict(num_envs=2, steps_per_epoch=40, epochs=2, start_steps=10, update_after=10, batch_size=8, replay_size=60)
SMALL |= dict(num_test_episodes=1, ac_kwargs=dict(hidden_sizes=[16, 16]), normalize_obs=True)


class Far(gym.Env):
    """One feature near 100 and one of a few hundredths. The best action has the sign of the first one's deviation.

    log: a list that gets (observation, whether an action was taken for it) at each reset and step
    """

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, log=None):
        self.log = [] if log is None else log

    def observe(self):
        self.x = self.np_random.normal(size=2)
        self.o = np.array([100 + self.x[0], 0.01 * self.x[1]], np.float32)
        self.log.append((self.o, False))
        return self.o

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def step(self, action):
        self.log.append((self.o, True))
        reward = float(action[0] * np.sign(self.x[0]))
        self.t += 1
        return self.observe(), reward, False, self.t == 9, {}


class TwoActions(gym.ActionWrapper):
    """Far with two actions, -1 and 1."""

    def __init__(self, log=None):
        super().__init__(Far(log))
        self.action_space = spaces.Discrete(2)

    def action(self, a):
        return np.array([2.0 * a - 1])


def env_of(algo):
    return Far if "Box" in ALGORITHMS[algo].actions else TwoActions


def train(algo, folder, resume=False, env_fn=None, **kwargs):
    logger_kwargs = dict(output_dir=str(folder), quiet=True, resume=resume)
    return getattr(spinup, algo)(env_fn or env_of(algo), logger_kwargs=logger_kwargs, **taken(algo, SMALL | kwargs))


def table(folder):
    with open(Path(folder) / "progress.txt", newline="") as file:
        return [{k: v for k, v in row.items() if "Time" not in k} for row in csv.DictReader(file, delimiter="\t")]


@pytest.mark.parametrize("algo", ALGOS)
def test_statistics_cover_every_observation_acted_on(algo, tmp_path):
    """At each update, the critic gets observations normalized by the statistics of all steps so far."""
    log, inputs = [], []

    class Watched(ALGORITHMS[algo].defaults["actor_critic"]):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            critic = self.critic[0] if hasattr(self, "critic") else self.q
            critic.register_forward_pre_hook(lambda _, args: inputs.append((args[0].detach().numpy(), len(log))))

    ac = train(algo, tmp_path, env_fn=lambda: env_of(algo)(log), actor_critic=Watched, capture=False, eval_freq=0)
    batch = SMALL["batch_size"] * (2 if algo == "crossq" else 1)  # CrossQ's critics also get the next observations
    updates = [(o, n) for o, n in inputs if len(o) == batch]
    assert len(updates) > 60  # about 70 gradient steps, with at least one pass each
    for o, n in updates:
        acted_on = np.array([x for x, acted in log[:n] if acted], np.float64)
        seen = np.array([x for x, _ in log[:n]])
        wanted = (seen - acted_on.mean(0)) / acted_on.std(0)
        assert (abs(o[:, None] - wanted).max(-1).min(1) < 0.01).all()
    acted_on = np.array([x for x, acted in log if acted], np.float64)
    assert isinstance(ac.obs_norm, RunningNorm)
    assert ac.obs_norm.count == len(acted_on) == 2 * 40
    np.testing.assert_allclose(ac.obs_norm.mean, acted_on.mean(0), rtol=1e-5)
    np.testing.assert_allclose(ac.obs_norm.std, acted_on.std(0), rtol=1e-3)


@pytest.mark.parametrize("algo", ALGOS)
def test_statistics_are_saved(algo, tmp_path):
    ac = train(algo, tmp_path)
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    assert torch.equal(saved["obs_norm.mean"], ac.obs_norm.mean)
    loaded, o = spinup.load(tmp_path, env_fn=env_of(algo)), np.array([[101, 0.01], [99, 0]], np.float32)
    np.testing.assert_array_equal(loaded.act(o, True), ac.act(o, True))
    assert json.loads((tmp_path / "config.json").read_text())["normalize_obs"] is True


@pytest.mark.parametrize("algo", ALGOS)
def test_captured_updates_see_the_same_observations(algo, tmp_path):
    for capture in (False, True):
        train(algo, tmp_path / str(capture), capture=capture)
    assert table(tmp_path / "True") == table(tmp_path / "False")


MORE = {"td3": {"target_policy": True}, "ddpg": {"n_step": 3}}


@pytest.mark.parametrize("algo", ALGOS)
def test_resumed_runs_are_exact(algo, tmp_path, monkeypatch):
    more = MORE.get(algo, {})
    whole = train(algo, tmp_path / "whole", epochs=3, **more)
    store = ReplayBuffer.store

    def store_and_end(self, *args):
        store(self, *args)
        if self.t == 47:
            raise KeyboardInterrupt

    monkeypatch.setattr(ReplayBuffer, "store", store_and_end)
    with pytest.raises(KeyboardInterrupt):
        train(algo, tmp_path / "half", epochs=3, checkpoint_freq=1, **more)
    monkeypatch.undo()
    half = train(algo, tmp_path / "half", resume=True, epochs=3, checkpoint_freq=1, **more)
    assert table(tmp_path / "half") == table(tmp_path / "whole")
    for (name, x), y in zip(whole.state_dict().items(), half.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


@pytest.mark.parametrize("algo", WITH_TARGET_POLICY)
def test_the_target_policy_has_the_same_statistics(algo, tmp_path):
    plain, target = (train(algo, tmp_path / str(x), target_policy=x, eval_freq=0) for x in (False, True))
    assert torch.equal(plain.obs_norm.mean, target.obs_norm.mean)
    assert target.obs_norm.count == 80
    learned, averaged = ((ac.q if algo == "dqn" else ac.actor).parameters() for ac in (plain, target))
    assert not all(torch.equal(x, y) for x, y in zip(learned, averaged, strict=True))


def test_far_observations_become_learnable(tmp_path):
    """The best return is 9, a random policy gets 0. Without normalization all observations look almost alike."""
    kwargs = dict(
        steps_per_epoch=1000, epochs=1, lr=3e-3, batch_size=64, num_test_episodes=20, gamma=0.0, replay_ratio=0.5
    )
    train("sac", tmp_path, **kwargs, replay_size=1000, policy_delay=1)
    assert float(table(tmp_path)[0]["AverageTestEpRet"]) > 6


@pytest.mark.parametrize("algo", ["ddpg", "td3", "sac"])
def test_custom_networks_need_no_obs_norm(algo, tmp_path):
    kwargs = dict(soft=algo == "sac", n=1 if algo == "ddpg" else 2)
    more = dict(actor_critic=OwnQActorCritic, ac_kwargs=kwargs)

    class Unit(Far):
        action_space = spaces.Box(0, 1, (1,), np.float32)

    ac = train(algo, tmp_path, env_fn=Unit, **more, normalize_obs=False)
    assert not hasattr(ac, "obs_norm") or isinstance(ac.obs_norm, NoNorm)
    spinup.load(tmp_path, actor_critic=OwnQActorCritic, env_fn=Unit)


@pytest.mark.parametrize("algo", ["vpg", "trpo", "ppo"])
def test_on_policy_statistics_cover_every_observation_acted_on(algo, tmp_path):
    options = dict(epochs=2, steps_per_epoch=40, num_envs=2, normalize_obs=True)
    ac = getattr(spinup, algo)("CartPole-v1", **options, logger_kwargs=dict(output_dir=str(tmp_path), quiet=True))
    assert ac.obs_norm.count == 80
