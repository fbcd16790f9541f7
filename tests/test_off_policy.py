"""What DDPG, TD3, SAC and CrossQ share: when they learn, exploration, target networks, invalid input.

The target policy as the result is also DQN's.
"""

import copy
import itertools
import math
from collections import Counter

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from probes import (
    ALGORITHMS,
    OFF_POLICY,
    SOFT,
    CallLog,
    Discounting,
    Mixed,
    Probe,
    Replay,
    Target,
    Walk,
    fit,
    learning_rates,
    parameters,
    rows,
    taken,
    train,
)

from spinup import run

algos = pytest.mark.parametrize("algo", OFF_POLICY)
noisy = pytest.mark.parametrize("algo", ["ddpg", "td3"])

SMALL = dict(num_envs=1, epochs=1, batch_size=4, replay_size=1000, eval_freq=0, ac_kwargs=dict(hidden_sizes=(8,)))


def still(algo, **kwargs):
    """Settings with learning rates of 0."""
    return SMALL | (dict(lr=0.0) if algo in SOFT else dict(pi_lr=0.0, q_lr=0.0)) | kwargs


# ---- when and how often updates come


@algos
@pytest.mark.parametrize(
    ("num_envs", "update_every", "replay_ratio", "updates"),
    [
        # after steps 20, 21, ..., 80; with four environments 1 after step 20, then 4 after each fourth
        (1, 1, 1, dict.fromkeys(range(20, 81), 1)),
        (4, 1, 1, {20: 1, **dict.fromkeys(range(24, 81, 4), 4)}),
        (1, 1, 2, dict.fromkeys(range(20, 81), 2)),
        (4, 1, 2, {20: 2, **dict.fromkeys(range(24, 81, 4), 8)}),
        (1, 1, 0.5, dict.fromkeys(range(21, 81, 2), 1)),
        (4, 1, 0.5, dict.fromkeys(range(24, 81, 4), 2)),
        # in blocks of twenty
        (1, 20, 1, {20: 20, 40: 20, 60: 20, 80: 20}),
        (4, 20, 1, {20: 20, 40: 20, 60: 20, 80: 20}),
        (3, 20, 1, {21: 21, 42: 21, 60: 18, 81: 21}),  # at the first step that reaches a multiple of twenty
        (1, 20, 2, {20: 40, 40: 40, 60: 40, 80: 40}),
        (4, 20, 0.5, {20: 10, 40: 10, 60: 10, 80: 10}),
        (1, 1, 0, {}),
    ],
)
def test_gradient_steps_follow_replay_ratio_and_update_every(
    monkeypatch, tmp_path, algo, num_envs, update_every, replay_ratio, updates
):
    options = dict(num_envs=num_envs, update_every=update_every, replay_ratio=replay_ratio, batch_size=2)
    options = {**SMALL, **options, "steps_per_epoch": 80, "start_steps": 0, "update_after": 20}
    replay = Replay(monkeypatch, algo, fit(algo, Mixed), tmp_path, **options)
    assert dict(Counter(replay.when)) == updates
    assert {len(batch.r) for batch in replay.batches} <= {2}


@algos
@pytest.mark.parametrize(
    ("update_after", "update_every", "updates"),
    [
        (0, 1, dict.fromkeys(range(1, 61), 1)),
        (10, 40, {40: 40}),
        (25, 20, {40: 20, 60: 20}),  # the first block at a multiple of update_every
    ],
)
def test_the_first_updates_are_one_block(monkeypatch, tmp_path, algo, update_after, update_every, updates):
    options = dict(update_after=update_after, update_every=update_every, batch_size=2)
    options = {**SMALL, **options, "steps_per_epoch": 60, "start_steps": 0}
    replay = Replay(monkeypatch, algo, fit(algo, Mixed), tmp_path, **options)
    assert dict(Counter(replay.when)) == updates


@algos
def test_blocks_run_on_across_epochs(monkeypatch, tmp_path, algo):
    options = {**SMALL, "steps_per_epoch": 25, "epochs": 3, "start_steps": 0, "update_after": 20, "update_every": 20}
    replay = Replay(monkeypatch, algo, fit(algo, Mixed), tmp_path, **options)
    assert Counter(replay.when) == {20: 20, 40: 20, 60: 20}


# ---- first actions and exploration


@algos
@pytest.mark.parametrize(("num_envs", "start_steps", "drawn"), [(1, 30, 30), (4, 30, 32), (1, 0, 0)])
def test_the_policy_acts_after_start_steps(tmp_path, algo, num_envs, start_steps, drawn):
    """Before that, actions are random; afterwards, the environment gets the policy's actions."""
    calls, acted = [], []

    class Watched(ALGORITHMS[algo].defaults["actor_critic"]):
        def act(self, o, deterministic=False):
            a = super().act(o, deterministic)
            acted.append(a)
            return a

    noise = {} if algo in SOFT else dict(act_noise=0.0)
    options = still(algo, num_envs=num_envs, start_steps=start_steps, update_after=10**6, steps_per_epoch=60, **noise)
    train(algo, lambda: CallLog(Target(), calls), tmp_path, actor_critic=Watched, **options)
    actions = np.stack([a for what, a in calls if what == "step"])
    assert len(actions) == 60
    del acted[0]  # the check of the protocol
    assert num_envs * len(acted) == 60 - drawn
    if acted:
        np.testing.assert_array_equal(actions[drawn:], np.concatenate(acted))


@algos
def test_random_actions_are_uniform_within_the_bounds(tmp_path, algo):
    calls = []
    options = still(algo, num_envs=8, start_steps=4000, update_after=10**6, steps_per_epoch=4000)
    train(algo, lambda: CallLog(Target(), calls), tmp_path, **options)
    actions = np.stack([a for what, a in calls if what == "step"])
    for dimension, (low, high) in enumerate([(0, 10), (-3, 1)]):
        counts, _ = np.histogram(actions[:, dimension], bins=10, range=(low, high))
        assert counts.sum() == 4000
        assert ((counts - 400) ** 2 / 400).sum() < 27.9  # the 99.9 % point with 9 degrees of freedom
    assert abs(np.corrcoef(actions.T)[0, 1]) < 5 / 4000**0.5


def explored(algo, folder, **kwargs):
    """The noise on the actions of a fixed policy, in half-ranges, and the actions."""
    calls = []
    options = still(algo, num_envs=8, start_steps=0, update_after=10**6, steps_per_epoch=4000, **kwargs)
    ac = train(algo, lambda: CallLog(Target(), calls), folder, **options)
    actions = np.stack([a for what, a in calls if what == "step"])
    return (actions - ac.act(np.zeros((1, 1), np.float32))) / [5, 2], actions


@noisy
def test_exploration_noise_is_normal_in_half_ranges(tmp_path, algo):
    noise, _ = explored(algo, tmp_path, act_noise=0.1)
    assert abs(noise.mean(0)) == pytest.approx([0, 0], abs=5 * 0.1 / 4000**0.5)
    assert noise.std(0) == pytest.approx([0.1, 0.1], rel=5 / 8000**0.5)
    assert abs(np.corrcoef(noise.T)[0, 1]) < 5 / 4000**0.5  # independent across dimensions
    assert abs(np.corrcoef(noise[:-8, 0], noise[8:, 0])[0, 1]) < 5 / 4000**0.5  # across steps
    assert abs(np.corrcoef(noise[:-1, 0], noise[1:, 0])[0, 1]) < 5 / 4000**0.5  # and across environments


@noisy
def test_noise_corr_is_the_correlation_of_successive_noise(tmp_path, algo):
    noise, _ = explored(algo, tmp_path, act_noise=0.1, noise_corr=0.9)
    each = noise.reshape(500, 8, 2)  # steps, environments, dimensions
    late = each[50:]  # it starts at 0
    assert late.std((0, 1)) == pytest.approx([0.1, 0.1], rel=0.25)
    for lag in (1, 2, 5):
        correlation = (late[lag:] * late[:-lag]).mean() / (late**2).mean()
        assert correlation == pytest.approx(0.9**lag, abs=0.08)
    fresh = (each[1:] - 0.9 * each[:-1]).reshape(-1, 2)  # the innovations are independent
    assert fresh.std(0) == pytest.approx([0.1 * (1 - 0.9**2) ** 0.5] * 2, rel=5 / 8000**0.5)
    for one, other in ((fresh[:, 0], fresh[:, 1]), (fresh[1:, 0], fresh[:-1, 0]), (fresh[8:, 0], fresh[:-8, 0])):
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / 3900**0.5


@noisy
def test_exploration_stays_within_the_bounds(tmp_path, algo):
    _, actions = explored(algo, tmp_path, act_noise=3.0)
    assert all(Target.action_space.contains(a) for a in actions)
    at_an_end = (actions == Target.action_space.low) | (actions == Target.action_space.high)
    assert (at_an_end.mean(0) > 0.6).all()  # P(|N(0, 3)| > 1) = 0.74


# ---- transitions


class Told(Probe):
    """Four steps. o is the step number, and the reward reveals observation and action: r = 100 o + a."""

    observation_space = spaces.Box(0, 10, (1,), np.float32)
    action_space = spaces.Box(0, 1, (1,), np.float32)

    def __init__(self):
        super().__init__(length=4)

    def observe(self):
        return np.full(1, self.t, np.float32)

    def reward(self, a):
        return float(100 * self.o[0] + a[0])


@algos
@pytest.mark.parametrize("num_envs", [1, 3])
def test_batches_contain_the_transitions(monkeypatch, tmp_path, algo, num_envs):
    """Also when noise is clipped at the bounds: the stored action is the one taken."""
    options = {**SMALL, "num_envs": num_envs, "start_steps": 10, "update_after": 20, "steps_per_epoch": 60}
    options |= {} if algo in SOFT else dict(act_noise=1.0)
    replay = Replay(monkeypatch, algo, Told, tmp_path, **options, gamma=0.9)
    o, a, r, o2, terminated, discount = (torch.cat(x) for x in zip(*replay.batches, strict=True))
    assert set(o.flatten().tolist()) == {0, 1, 2, 3}
    torch.testing.assert_close(r, (100 * o + a).squeeze(1), rtol=0, atol=1e-4)
    assert algo in SOFT or ((a == 0) | (a == 1)).float().mean() > 0.2
    assert torch.equal(o2, o + 1)
    assert torch.equal(terminated, (o2 == 4).float().squeeze(1))
    assert discount.tolist() == pytest.approx([0.9] * len(discount))


@algos
def test_n_step_and_gamma_reach_the_buffer(monkeypatch, tmp_path, algo):
    """With rewards of 1 the sum of k of them is (1 - gamma^k) / (1 - gamma)."""
    options = {**SMALL, "start_steps": 0, "update_after": 20, "steps_per_epoch": 60, "n_step": 3, "gamma": 0.5}
    replay = Replay(monkeypatch, algo, fit(algo, lambda: Probe(length=5)), tmp_path, **options)
    batch = [torch.cat(x) for x in zip(*replay.batches, strict=True)]
    r, terminated, discount = batch[2], batch[4], batch[5]
    assert set(discount.tolist()) == {0.5, 0.25, 0.125}
    assert torch.equal(r, 2 * (1 - discount))
    assert (discount[terminated == 0] == 0.125).float().mean() > 0.8  # fewer only at the newest transition
    assert abs(terminated.mean().item() - 0.6) < 0.15  # three of five starts reach the end


@algos
def test_replay_size_limits_the_age_of_transitions(monkeypatch, tmp_path, algo):
    class Counting(Probe):
        observation_space = spaces.Box(0, 1000, (1,), np.float32)

        def observe(self):
            return np.full(1, self.t, np.float32)

    options = {**SMALL, "start_steps": 0, "update_after": 100, "steps_per_epoch": 120, "replay_size": 10}
    replay = Replay(monkeypatch, algo, fit(algo, lambda: Counting(length=10**6)), tmp_path, **options)
    for batch, t in zip(replay.batches, replay.when, strict=True):
        assert batch.o.min() >= t - 10
        assert batch.o.max() < t
    seen = torch.cat([batch.o[:, 0] - t for batch, t in zip(replay.batches, replay.when, strict=True)])
    assert set(seen.tolist()) == set(range(-10, 0))


# ---- target networks


@algos
@pytest.mark.parametrize("polyak", [0.9, 0.0, 1.0])
def test_targets_follow_all_parameters_by_polyak_averaging(monkeypatch, tmp_path, algo, polyak):
    """Exact for a single update (of TD3 with a delay of 1)."""
    rates = dict(lr=0.1) if algo in SOFT else dict(pi_lr=0.1, q_lr=0.1)
    delay = dict(policy_delay=1) if algo in ("td3", "sac", "crossq") else {}
    options = {**SMALL, "start_steps": 0, "update_after": 20, "steps_per_epoch": 20, "polyak": polyak, **rates, **delay}
    replay = Replay(monkeypatch, algo, Walk, tmp_path, **options)
    assert len(replay.batches) == 1
    averaged = {"actor", "critic"} if algo not in SOFT else {"critic"} if algo == "sac" or polyak else set()
    assert set(replay.targets) == averaged  # CrossQ has none with polyak 0
    for part, target in replay.targets.items():
        old, new = (parameters(getattr(ac, part)) for ac in (replay.first, replay.ac))
        assert len(parameters(target)) == len(old)
        assert ((new - old).abs() > 0.05).float().mean() > 0.5  # so that the two terms can be told apart
        expected = polyak * old.double() + (1 - polyak) * new.double()
        torch.testing.assert_close(parameters(target).double(), expected, rtol=0, atol=1e-7)


@algos
def test_targets_start_as_copies(monkeypatch, tmp_path, algo):
    replay = Replay(
        monkeypatch, algo, Walk, tmp_path, **still(algo, update_after=20, start_steps=0, steps_per_epoch=30)
    )
    for part, target in replay.targets.items():
        torch.testing.assert_close(parameters(target), parameters(getattr(replay.first, part)), rtol=0, atol=0)


@pytest.mark.parametrize("algo", ["ddpg", "td3", "dqn"])
def test_target_policy_replaces_the_learned_one(tmp_path, algo):
    """It is evaluated, saved and returned; the learned policy acts, learns and is logged as without it."""
    options = SMALL | dict(start_steps=0, update_after=20, steps_per_epoch=40, epochs=2, eval_freq=1, seed=1)
    options |= dict(num_test_episodes=2, pi_lr=0.1, q_lr=0.02 if algo == "dqn" else 1e-3)

    def run_with(name, **kwargs):
        ac = train(algo, "CartPole-v1" if algo == "dqn" else Walk, tmp_path / name, **taken(algo, options | kwargs))
        saved = torch.load(tmp_path / name / "model.pt", weights_only=True)
        for key, value in ac.state_dict().items():
            torch.testing.assert_close(saved[key], value, rtol=0, atol=0)
        table = rows(tmp_path / name)
        others = [{key: x for key, x in row.items() if "Test" not in key and "Time" not in key} for row in table]
        return parameters(ac.q if algo == "dqn" else ac.actor), [row["AverageTestEpRet"] for row in table], others

    first, first_tests, _ = run_with("first", pi_lr=0.0, q_lr=0.0)
    for polyak in (0.0, 0.9, 1.0):
        learned, learned_tests, learned_others = run_with(f"learned{polyak}", polyak=polyak, target_policy=False)
        averaged, tests, others = run_with(f"averaged{polyak}", polyak=polyak, target_policy=True)
        assert others == learned_others
        assert (learned - first).abs().max() > 0.1
        if polyak == 0:  # the targets are the learned networks
            assert tests == learned_tests
            torch.testing.assert_close(averaged, learned, rtol=0, atol=0)
        elif polyak == 1:  # they stay as initialized
            assert tests == first_tests != learned_tests
            torch.testing.assert_close(averaged, first, rtol=0, atol=0)
        else:
            assert all((averaged - other).abs().max() > 0.01 for other in (first, learned))
            assert tests not in (first_tests, learned_tests)


@pytest.mark.parametrize("algo", SOFT)
def test_an_average_of_the_policies_is_the_result(tmp_path, algo):
    """It is tested, saved and returned; the learned policy acts, learns and is logged as without it."""
    options = SMALL | dict(epochs=2, start_steps=0, update_after=20, steps_per_epoch=40, lr=0.1)
    runs = {}
    for average in (0.0, 0.5, 0.999):
        folder = tmp_path / str(average)
        options |= dict(eval_freq=1, num_test_episodes=2, policy_average=average)
        ac = train(algo, Walk, folder, **options)
        saved = torch.load(folder / "model.pt", weights_only=True)
        assert all(torch.equal(saved[key], value) for key, value in ac.state_dict().items())
        table = rows(folder)
        others = [{key: x for key, x in row.items() if "Test" not in key and "Time" not in key} for row in table]
        runs[average] = [row["AverageTestEpRet"] for row in table], ac, others
    for (tests, ac, others), (tests2, ac2, others2) in itertools.combinations(runs.values(), 2):
        assert tests != tests2
        assert (parameters(ac.actor) - parameters(ac2.actor)).abs().max() > 0.01
        assert torch.equal(parameters(ac.critic), parameters(ac2.critic))
        assert others == others2


# ---- n-step returns and terminal states in the target


@algos
def test_discounting_over_two_steps(monkeypatch, tmp_path, algo):
    """A reward of 1 at the end of two steps is worth gamma at the start: by bootstrapping, or within one sum."""
    options = {**SMALL, "start_steps": 0, "update_after": 20, "steps_per_epoch": 40, "gamma": 0.5}
    for n_step, rewards in ((1, {(0, 0): 0.0, (1, 1): 1.0}), (2, {(0, 1): 0.5, (1, 1): 1.0, (0, 0): 0.0})):
        replay = Replay(monkeypatch, algo, fit(algo, Discounting), tmp_path / str(n_step), **options, n_step=n_step)
        seen = Counter()
        for batch in replay.batches:
            for o, r, terminated in zip(
                batch.o[:, 0].tolist(), batch.r.tolist(), batch.terminated.tolist(), strict=True
            ):
                assert rewards[o, terminated] == r
                seen[o, terminated] += 1
        assert len(seen) >= 2
        assert n_step == 1 or seen[0, 1] > 10 * seen[0, 0]  # only the newest transition can be


# ---- learning rates


@pytest.mark.parametrize("algo", SOFT)
@pytest.mark.parametrize(
    ("anneal_lr", "factors"), [(0.0, [1, 1, 1, 1, 1]), (0.4, [1, 1, 1, 1, 0.5]), (1.0, [1, 0.8, 0.6, 0.4, 0.2])]
)
def test_learning_rates_fall_in_the_last_part_of_the_run(monkeypatch, tmp_path, algo, anneal_lr, factors):
    """An epoch has 20 updates, of critics, policy and temperature."""
    rates = learning_rates(monkeypatch)
    options = {**SMALL, "epochs": 5, "steps_per_epoch": 20, "start_steps": 0, "policy_delay": 1}
    train(algo, Target, tmp_path, **options, update_every=20, lr=0.5, anneal_lr=anneal_lr)
    last_of_each_epoch, first_of_the_last = rates[::-60][::-1], rates[-60]
    assert last_of_each_epoch == pytest.approx([0.5 * factor for factor in factors])
    assert first_of_the_last == rates[-1]


# ---- settings of the original

TABLE = dict(steps_per_epoch=4000, epochs=100, replay_size=1_000_000, gamma=0.99, polyak=0.995, batch_size=100)
TABLE |= dict(start_steps=10_000, update_after=1000, update_every=50, num_test_episodes=10, max_ep_len=1000)
TABLE |= dict(save_freq=1, seed=0)
NOISE = dict(pi_lr=1e-3, q_lr=1e-3, act_noise=0.1, noise_corr=0.0, target_policy=False)
OWN = {
    "ddpg": NOISE,
    "td3": NOISE | dict(target_noise=0.2, noise_clip=0.5, policy_delay=2),
    "sac": dict(lr=1e-3, anneal_lr=0.0, alpha=0.2, policy_delay=1, policy_average=0.0),
}
OFF = dict(num_envs=1, n_step=1, replay_ratio=1.0, normalize_obs=False, eval_freq=1, matmul_precision="highest")


@pytest.mark.parametrize("algo", OWN)
def test_spinningup_preset(algo):
    """The original's settings, without our departures."""
    preset = ALGORITHMS[algo].presets["spinningup"]
    settings = {**ALGORITHMS[algo].defaults, **preset}
    wanted = TABLE | OWN[algo] | OFF
    assert {key: settings[key] for key in wanted} == wanted
    rest = set(settings) - set(wanted) - {"actor_critic"}
    assert rest <= {"env_kwargs", "vectorization", "device", "threads", "checkpoint_freq", "logger_kwargs"} | {
        *("capture", "target_entropy", "ac_kwargs", "wrappers", "reseed", "log_info", "num_test_envs"),
        *("init_from", "stop_at", "patience", "on_epoch", "hindsight"),
    }
    assert preset["ac_kwargs"] == {"layer_norm": False}  # otherwise (256, 256), ReLU: see test_nets.py


@algos
@pytest.mark.parametrize(("num_envs", "update_after", "learns"), [(1, 30, True), (1, 31, False), (4, 31, True)])
def test_a_run_without_gradient_steps_warns(tmp_path, capfd, algo, num_envs, update_after, learns):
    options = {**SMALL, "num_envs": num_envs, "steps_per_epoch": 30, "start_steps": 30, "update_after": update_after}
    train(algo, Walk, tmp_path, **options)
    settings = "update_after is 31, replay_ratio is 1.0"
    warning = f"warning: the run took no gradient step in its 30 environment steps: {settings}\n"
    assert capfd.readouterr().err == ("" if learns else warning)


@pytest.mark.parametrize("algo", SOFT)
def test_without_update_after_learning_starts_when_the_policy_acts(tmp_path, capfd, algo):
    steps = {"steps_per_epoch": 40, "start_steps": 30}
    default, same, later = (
        parameters(train(algo, Walk, tmp_path / str(after), **SMALL | steps | {"update_after": after}))
        for after in (None, 30, 31)
    )
    assert torch.equal(default, same)
    assert not torch.equal(default, later)
    for start_steps, first in ((31, 31), (0, 4)):  # with fewer random steps than a batch has, when there is a batch
        short = {"steps_per_epoch": first - 1, "start_steps": start_steps, "update_after": None}
        train(algo, Walk, tmp_path / str(first), **SMALL | short)
        assert f"update_after is {first}," in capfd.readouterr().err


@pytest.mark.parametrize("algo", OWN)
def test_spinningup_preset_trains(tmp_path, algo):
    options = {
        **ALGORITHMS[algo].presets["spinningup"],
        "epochs": 1,
        "steps_per_epoch": 60,
        "start_steps": 30,
        "update_after": 50,
        "batch_size": 8,
    }
    ac = train(algo, Walk, tmp_path, **options, eval_freq=0, replay_size=100)
    assert all(p.isfinite().all() for p in ac.parameters())


# ---- invalid input on the command line


class Multi(Probe):
    action_space = spaces.MultiDiscrete([2, 3])


class Unbounded(Probe):
    action_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)


class HalfBounded(Probe):
    action_space = spaces.Box(np.zeros(2, np.float32), np.array([1, np.inf], np.float32))


UNSUPPORTED = [(algo, env) for algo in OFF_POLICY for env in (Multi, Unbounded, HalfBounded)]
UNSUPPORTED += [("ddpg", Probe), ("td3", Probe)]
MESSAGES = {
    Multi: "not MultiDiscrete([2 3]); ",
    Unbounded: "these are unbounded: Box(-inf, inf, (2,), float32); ppo, ppo_rnn, trpo and vpg take",
    HalfBounded: "needs bounded actions, and these are unbounded: Box(",
    Probe: "needs a bounded Box of actions, not Discrete(2); dqn, ppo, ppo_rnn, sac, trpo and vpg take these",
}


@pytest.mark.parametrize(("algo", "env"), UNSUPPORTED)
def test_unsupported_actions_are_reported_in_one_line(capsys, data_dir, algo, env):
    gym.register("Unsupported-v0", entry_point=env)
    try:
        with pytest.raises(SystemExit) as stop:
            run.main([algo, "--env", "Unsupported-v0", "--quiet"])
    finally:
        gym.registry.pop("Unsupported-v0")
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"spinup: error: {algo} needs ")
    assert MESSAGES[env] in err
    assert err.count("\n") == 1
    assert not data_dir.exists() or not any(data_dir.rglob("*.*"))


def test_too_large_a_buffer_is_reported_in_one_line(capsys, data_dir):
    with pytest.raises(SystemExit) as stop:
        run.main(["sac", "--env", "Pendulum-v1", "--replay_size", "1e12", "--quiet"])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("spinup: error: replay_size 1000000000000 needs ")
    assert err.count("\n") == 1


# ---- independent runs


@algos
def test_two_runs_share_nothing(tmp_path, algo):
    """A second run doesn't change the first one's policy."""
    options = {**SMALL, "start_steps": 0, "update_after": 20, "steps_per_epoch": 40}
    ac = train(algo, Walk, tmp_path / "a", **options)
    before = copy.deepcopy(ac.state_dict())
    train(algo, Walk, tmp_path / "b", **options, seed=1)
    assert all(torch.equal(x, before[name]) for name, x in ac.state_dict().items())
    assert math.isfinite(parameters(ac).sum().item())
