"""What the original did wrong, or its users asked for, does not come back. Each test names the item of the list.

Items 13 to 17, the command line and the tools, have theirs with those.
"""

import importlib
import inspect
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from probes import (
    ALGOS,
    OFF_POLICY,
    ON_POLICY,
    PLAIN,
    SOFT,
    ByBoth,
    CallLog,
    Epoch,
    Line,
    Mixed,
    Probe,
    RawActorCritic,
    Replay,
    Spaces,
    Target,
    column,
    config,
    constant_critic,
    fit,
    lines,
    optimizer_steps,
    parameters,
    rows,
    train,
)

from spinup.algos.ppo import approx_kl
from spinup.buffers import normalize
from spinup.envs import make_envs
from spinup.nets import ActorCritic
from spinup.runs.logger import EpochLogger

algos = pytest.mark.parametrize("algo", ALGOS)
on_policy = pytest.mark.parametrize("algo", ON_POLICY)
off_policy = pytest.mark.parametrize("algo", OFF_POLICY)

OFF = dict(num_envs=2, steps_per_epoch=20, epochs=2, start_steps=4, update_after=4, batch_size=8, replay_size=100)
OFF |= dict(eval_freq=0, normalize_obs=False, ac_kwargs=dict(hidden_sizes=(16,)))
SMALL = {
    "vpg": dict(num_envs=2, steps_per_epoch=20, epochs=2, train_v_iters=3),
    "ppo": dict(num_envs=2, steps_per_epoch=20, epochs=2, train_pi_iters=2, train_v_iters=2, minibatch_size=None),
    "trpo": dict(num_envs=2, steps_per_epoch=20, epochs=2, train_v_iters=3),
    **dict.fromkeys(OFF_POLICY, OFF),
    "sac": OFF | dict(policy_delay=1),
}


# ---- 1: bootstrapping


def first_loss_v(algo, env_fn, folder, **kwargs) -> float:
    """LossV of the first epoch for V = 3 everywhere and gamma = 1/2: the mean of (3 - R)^2."""
    options = {**PLAIN, **SMALL[algo], "epochs": 1, "gamma": 0.5, "lam": 0.0, **kwargs}
    train(algo, env_fn, folder, actor_critic=constant_critic(3.0), **options)
    return column(folder, "LossV")[0]


@on_policy
@pytest.mark.parametrize("value_target", ["gae", "rtg"])
def test_1_a_terminal_state_has_no_value_also_at_the_end_of_an_epoch(tmp_path, algo, value_target):
    # Every step, and so the epoch's last, is terminal: R = 1.
    assert first_loss_v(algo, Probe, tmp_path, value_target=value_target) == pytest.approx((3 - 1) ** 2)


@on_policy
def test_1_a_time_limit_is_not_terminal(tmp_path, algo):
    # R = 1 + 3 / 2 whether the environment says that it is truncated, a wrapper, max_ep_len or the epoch's end.
    truncating = [
        (lambda: Probe(truncates=True), {}),
        (lambda: gym.wrappers.TimeLimit(Probe(length=50), 1), {}),
        (lambda: Probe(length=50), dict(max_ep_len=1)),
        (lambda: Probe(length=50), dict(steps_per_epoch=2)),
    ]
    for i, (env_fn, options) in enumerate(truncating):
        assert first_loss_v(algo, env_fn, tmp_path / str(i), **options) == pytest.approx((3 - 2.5) ** 2), i


@on_policy
def test_1_a_terminal_state_at_the_time_limit_is_terminal(tmp_path, algo):
    assert first_loss_v(algo, Probe, tmp_path, max_ep_len=1) == pytest.approx((3 - 1) ** 2)


@on_policy
def test_1_the_value_after_a_cut_is_that_of_the_true_next_observation(monkeypatch, tmp_path, algo):
    """Not of the next episode's first one: o counts the steps of an episode, and V(o) = o."""

    class Steps(Probe):
        observation_space = spaces.Box(0, 10, (1,), np.float32)

        def observe(self):
            return np.full(1, self.t, np.float32)

    class Identity(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(()))

        def forward(self, o):
            return self.w * o

    def actor_critic(*args, **kwargs):
        ac = ActorCritic(*args, **kwargs)
        ac.critic = Identity()
        return ac

    options = dict(num_envs=1, steps_per_epoch=7, gamma=0.5, lam=0.0, value_target="gae", actor_critic=actor_critic)
    epoch = Epoch(monkeypatch, algo, lambda: Steps(length=3, truncates=True), tmp_path, **options)
    assert epoch.data.o[:, 0, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert epoch.data.o2[:, 0, 0].tolist() == [1, 2, 3, 1, 2, 3, 1]
    # V - R = o - (1 + (o + 1) / 2) = o / 2 - 3/2: squares 9/4, 1 and 1/4 for o = 0, 1, 2
    assert epoch.row["LossV"] == pytest.approx((3 * 2.25 + 2 * 1 + 2 * 0.25) / 7)


def first_loss_q(algo, env_fn, folder, **kwargs) -> float:
    """LossQ of each critic in the first epoch for Q = 3 everywhere and gamma = 1/2: the mean of (3 - y)^2."""
    options = {**SMALL[algo], "epochs": 1, "gamma": 0.5, **(dict(alpha=0.0) if algo in SOFT else {}), **kwargs}
    critics = [Line(3.0)] if algo == "ddpg" else [Line(3.0), Line(3.0)]
    train(algo, fit("td3", env_fn), folder, actor_critic=lines(algo, *critics), **options)  # a box for SAC too
    return column(folder, "LossQ")[0] / len(critics)


@off_policy
@pytest.mark.parametrize("steps_per_epoch", [20, 6])  # the second ends right after a terminal state, too
def test_1_a_terminal_state_has_no_value_for_the_critics(tmp_path, algo, steps_per_epoch):
    assert first_loss_q(algo, Probe, tmp_path, steps_per_epoch=steps_per_epoch) == pytest.approx((3 - 1) ** 2)


@off_policy
def test_1_a_time_limit_is_not_terminal_for_the_critics(tmp_path, algo):
    truncating = [
        (lambda: Probe(truncates=True), {}),
        (lambda: gym.wrappers.TimeLimit(Probe(length=50), 1), {}),
        (lambda: Probe(length=50), dict(max_ep_len=1)),
        (lambda: Probe(length=50), {}),
    ]
    for i, (env_fn, options) in enumerate(truncating):
        assert first_loss_q(algo, env_fn, tmp_path / str(i), **options) == pytest.approx((3 - 2.5) ** 2), i


@off_policy
def test_1_a_terminal_state_at_the_time_limit_is_not_erased(tmp_path, algo):
    assert first_loss_q(algo, Probe, tmp_path, max_ep_len=1) == pytest.approx((3 - 1) ** 2)


@off_policy
def test_1_critics_learn_from_the_true_next_observation(monkeypatch, tmp_path, algo):
    """Not from the next episode's first one: o counts the steps of an episode, which is cut after three."""

    class Steps(Probe):
        observation_space = spaces.Box(0, 10, (1,), np.float32)

        def observe(self):
            return np.full(1, self.t, np.float32)

    env = fit(algo, lambda: Steps(length=3, truncates=True))
    batches = Replay(monkeypatch, algo, env, tmp_path, **SMALL[algo]).batches
    o, _, _, o2, terminated, _ = (torch.cat(x) for x in zip(*batches, strict=True))
    assert set(o.flatten().tolist()) == {0, 1, 2}
    assert torch.equal(o2, o + 1)
    assert not terminated.any()


# ---- 2: what the policy's loss and the critics' leave alone


@off_policy
def test_2_a_step_of_one_network_changes_no_other(monkeypatch, tmp_path, algo):
    module = importlib.import_module(f"spinup.algos.{algo}")
    acs, changes = [], []

    def actor_critic(*args, **kwargs):
        acs.append(module_default(algo)(*args, **kwargs))
        return acs[0]

    def state():
        parts = {"actor": acs[0].actor, "critic": acs[0].critic, "temperature": getattr(acs[0], "temperature", None)}
        return {name: parameters(part) for name, part in parts.items() if part is not None}

    class Watched(module.FlatAdam):
        def minimize(self, loss):
            before = state()
            super().minimize(loss)
            changes.append([name for name, x in state().items() if not torch.equal(x, before[name])])

    monkeypatch.setattr(module, "FlatAdam", Watched)
    train(algo, fit(algo, Mixed), tmp_path, actor_critic=actor_critic, **SMALL[algo], capture=False)
    turn = {"ddpg": "critic actor", "td3": "critic critic actor", "sac": "critic actor temperature"}
    turn = turn.get(algo, "critic critic critic actor temperature").split()  # CrossQ's delay is 3, and TD3's 2
    updates = 40 - 4 + 1  # one for each step from update_after on
    policies = updates // turn.count("critic")
    assert len(changes) == updates + policies * (len(turn) - turn.count("critic"))
    assert changes == [[turn[i % len(turn)]] for i in range(len(changes))]


def module_default(algo):
    return inspect.signature(ALGOS[algo]).parameters["actor_critic"].default


def test_2_sac_has_no_target_policy(monkeypatch, tmp_path):
    replay = Replay(monkeypatch, "sac", Target, tmp_path, **SMALL["sac"])
    assert set(replay.targets) == {"critic"}
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    assert {name.partition(".")[0] for name in saved} == {"actor", "critic", "temperature"}


# ---- 3: TD3's delay


@pytest.mark.parametrize("update_every", [1, 3, 10])
def test_3_policy_delay_counts_across_blocks(tmp_path, update_every):
    options = {**SMALL["td3"], "num_envs": 1, "update_after": 30, "steps_per_epoch": 60, "epochs": 1}
    train("td3", Target, tmp_path, **options, update_every=update_every, policy_delay=4)
    updates = 30 + update_every  # one for each step after update_after, and the block there
    assert optimizer_steps(tmp_path) == {"q_optimizer": updates, "pi_optimizer": updates // 4}


# ---- 4: KL


@on_policy
def test_4_kl_is_that_of_this_epochs_step(monkeypatch, tmp_path, algo):
    options = {**SMALL[algo], "steps_per_epoch": 400, "ac_kwargs": dict(orthogonal=False)}
    epoch = Epoch(monkeypatch, algo, ByBoth, tmp_path, **options)
    o = epoch.data.o
    with torch.no_grad():
        old, new = (torch.distributions.Categorical(logits=epoch.at(when).pi(o).logp) for when in ("before", "after"))
    kl = torch.distributions.kl_divergence(old, new).mean().item()
    assert kl > 0
    assert epoch.row["KL"] == pytest.approx(kl, rel=0.5 if algo == "ppo" else 1e-2)  # PPO's is an estimate


@on_policy
def test_4_kl_of_a_policy_that_shares_tensors_with_its_parameters(monkeypatch, tmp_path, algo):
    """What is kept of the old policy must not change with the parameters."""
    options = {**SMALL[algo], "steps_per_epoch": 1000, "normalize_adv": True}
    epoch = Epoch(monkeypatch, algo, Target, tmp_path, actor_critic=RawActorCritic, **options)
    pis = []
    for when in ("before", "after"):
        pi = epoch.at(when).pi(epoch.data.o)
        pis.append(torch.distributions.Normal(pi.mu, pi.log_std.exp().expand_as(pi.mu).clone()))
    kl = torch.distributions.kl_divergence(*pis).sum(-1).mean().item()
    assert kl > 0
    assert epoch.row["KL"] == pytest.approx(kl, rel=0.5 if algo == "ppo" else 1e-2)


@on_policy
def test_4_delta_columns_are_those_of_this_epochs_step(tmp_path, algo):
    """Without steps they are 0 and KL too, in the row itself and not one later."""
    still = {"vpg": dict(pi_lr=0.0), "ppo": dict(pi_lr=0.0), "trpo": dict(delta=0.0)}[algo]
    train(algo, Mixed, tmp_path, **still, **{**SMALL[algo], "vf_lr": 0.0})
    for key in ("KL", "DeltaLossPi", "DeltaLossV"):
        assert column(tmp_path, key) == pytest.approx([0, 0], abs=1e-6), key
    train(algo, Mixed, tmp_path / "moving", **SMALL[algo])
    for row in rows(tmp_path / "moving"):
        assert row["KL"] > 0
        assert row["DeltaLossPi"] < 0
        assert row["DeltaLossV"] != 0


def test_4_the_estimate_of_the_kl_is_not_negative():
    """Where the mean of logp_old - logp is: for a sample of which the new policy thinks more likely."""
    logp_old = torch.tensor([-1.0, -1.0, -3.0])
    logp = torch.tensor([-0.5, -0.9, -2.9])
    assert (logp_old - logp).mean() < 0
    assert approx_kl(logp, logp_old) > 0


# ---- 5: constant advantages


def test_5_constant_advantages_are_normalized_to_zero():
    assert normalize(torch.full((4, 2), 7.3)).abs().max() < 1e-5


@on_policy
def test_5_constant_advantages_train_on(tmp_path, algo):
    train(algo, Probe, tmp_path, actor_critic=constant_critic(), normalize_adv=True, **{**SMALL[algo], **PLAIN})
    assert all(math.isfinite(x) for row in rows(tmp_path) for x in row.values())
    assert column(tmp_path, "LossPi") == pytest.approx([0, 0], abs=1e-6)


# ---- 6: bounds


@on_policy
def test_6_actions_stay_within_bounds_that_differ(tmp_path, algo):
    calls = []
    space = spaces.Box(np.array([0, -3, -0.1], np.float32), np.array([10, 1, 0.2], np.float32))
    options = {**SMALL[algo], "steps_per_epoch": 400, "epochs": 1, "ac_kwargs": dict(log_std_init=1.0)}
    train(algo, lambda: CallLog(Spaces(action_space=space), calls), tmp_path, **options)
    actions = np.stack([a for what, a in calls if what == "step"])
    assert all(space.contains(a) for a in actions)
    assert actions.min(0) == pytest.approx(space.low)  # the noise is wide enough to reach each bound
    assert actions.max(0) == pytest.approx(space.high)


@on_policy
def test_6_the_first_policy_covers_each_dimension_alike(tmp_path, algo, monkeypatch):
    epoch = Epoch(monkeypatch, algo, Target, tmp_path, num_envs=8, steps_per_epoch=2000)
    a = epoch.data.a.flatten(0, 1)
    assert a.mean(0).tolist() == pytest.approx([5, -1], abs=0.4)  # the middle of [0, 10] and [-3, 1]
    assert (a.std(0) / torch.tensor([5, 2])).tolist() == pytest.approx([math.exp(-0.5)] * 2, rel=0.1)
    assert ((a < torch.tensor([0, -3])) | (a > torch.tensor([10, 1]))).any()  # learned from as drawn, before clipping


@off_policy
def test_6_off_policy_actions_stay_within_bounds_that_differ(tmp_path, algo):
    calls = []
    space = spaces.Box(np.array([0, -3, -0.1], np.float32), np.array([10, 1, 0.2], np.float32))
    noise = {} if algo in SOFT else dict(act_noise=2.0)
    options = {**SMALL[algo], "steps_per_epoch": 400, "epochs": 1, "start_steps": 0, "update_after": 1000, **noise}
    train(algo, lambda: CallLog(Spaces(action_space=space), calls), tmp_path, **options)
    actions = np.stack([a for what, a in calls if what == "step"])
    assert all(space.contains(a) for a in actions)
    near = dict(abs=0.0) if noise else dict(rel=0.1, abs=0.1)  # a tanh comes near to 1
    assert actions.min(0) == pytest.approx(space.low, **near)
    assert actions.max(0) == pytest.approx(space.high, **near)


# ---- 7: seeds


@algos
def test_7_environments_are_seeded(tmp_path, algo):
    calls = []
    options = {**SMALL[algo], "num_envs": 3, "eval_freq": 1, "num_test_episodes": 2}
    train(algo, fit(algo, lambda: CallLog(Probe(), calls)), tmp_path, seed=40, **options)
    seeds = [seed for what, seed in calls if what == "reset"]
    assert None not in seeds
    assert seeds[:3] == [40, 41, 42]
    tests = [i for i, seed in enumerate(seeds) if seed in (1_000_000, 1_000_001)]
    assert [seeds[i] for i in tests] == [1_000_000, 1_000_001] * 2  # the same episodes each time
    training = seeds[: tests[0]]
    assert len(set(training)) == len(training)  # every episode has a seed of its own
    assert not set(training) & set(seeds[tests[0] :][:4])  # and those of tests are others


@off_policy
def test_7_the_first_actions_are_seeded(tmp_path, algo):
    calls = {}
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        options = {**SMALL[algo], "start_steps": 100, "seed": seed}
        log = calls[name] = []
        train(algo, lambda log=log: CallLog(Spaces(action_space=Target.action_space), log), tmp_path / name, **options)
    actions = {name: np.stack([a for what, a in log if what == "step"]) for name, log in calls.items()}
    np.testing.assert_array_equal(actions["a"], actions["b"])
    assert (actions["a"] != actions["c"]).all()


def test_7_action_spaces_are_seeded():
    draws = []
    for _ in range(2):
        envs = make_envs(Probe, num_envs=2, seed=7)
        envs.reset()
        draws.append([envs.envs.action_space.sample().tolist() for _ in range(20)])
        envs.close()
    assert draws[0] == draws[1]


# ---- 8: what made the original's on-policy results weak


def test_8_ppo_has_the_switches():
    """That each does what it says is in test_ppo.py."""
    ppo = set(inspect.signature(ALGOS["ppo"]).parameters)
    assert ppo >= {"minibatch_size", "normalize_obs", "max_grad_norm", "ent_coef", "anneal_lr", "normalize_rew"}


@on_policy
def test_8_all_have_normalization_and_schedules(algo):
    parameters = inspect.signature(ALGOS[algo]).parameters
    assert parameters.keys() >= {"normalize_obs", "normalize_rew", "normalize_adv", "anneal_lr", "num_envs"}


# ---- 9: episodes


@algos
def test_9_episodes_run_on_across_epochs(tmp_path, algo):
    calls = []
    options = {**SMALL[algo], "num_envs": 1, "steps_per_epoch": 30, "epochs": 5}
    train(algo, fit(algo, lambda: CallLog(Probe(length=40), calls)), tmp_path, **options)
    # 150 steps, episodes of 40: they end at steps 40, 80 and 120, in epochs 2, 3 and 4
    ep_len = column(tmp_path, "EpLen")
    assert ep_len[1:4] == [40, 40, 40]
    assert math.isnan(ep_len[0])
    assert math.isnan(ep_len[4])
    assert column(tmp_path, "AverageEpRet")[1:4] == [40, 40, 40]
    resets = [i - k for k, i in enumerate(i for i, (what, _) in enumerate(calls) if what == "reset")]
    assert resets == [0, 40, 80, 120]  # steps taken before each


# ---- 10: rows


@algos
def test_10_an_epoch_without_an_end_of_an_episode_has_its_row(tmp_path, algo):
    train(algo, fit(algo, lambda: Probe(length=10**6)), tmp_path, max_ep_len=10**6, **SMALL[algo])
    assert column(tmp_path, "Epoch") == [1, 2]
    for row in rows(tmp_path):
        assert all(math.isnan(row[key]) for key in ("AverageEpRet", "StdEpRet", "MaxEpRet", "MinEpRet", "EpLen"))
        assert all(math.isfinite(x) for key, x in row.items() if "Ep" not in key)


@off_policy
def test_10_an_epoch_without_an_update_has_its_row(tmp_path, algo):
    train(algo, fit(algo, Mixed), tmp_path, **{**SMALL[algo], "update_after": 25, "epochs": 2})
    assert column(tmp_path, "Epoch") == [1, 2]
    assert column(tmp_path, "EpLen") == [3, 3]
    learned = [key for key in rows(tmp_path)[0] if any(word in key for word in ("Loss", "Vals", "LogPi", "Alpha"))]
    assert len(learned) >= 6
    for key in learned:
        first, second = column(tmp_path, key)
        assert math.isnan(first), key
        assert math.isfinite(second), key


@algos
def test_10_nothing_is_stored_that_is_never_logged(monkeypatch, tmp_path, algo):
    stored, logged = set(), set()

    class Watched(EpochLogger):
        def store(self, **values):
            stored.update(values)
            super().store(**values)

        def log_tabular(self, key, *args, **kwargs):
            logged.add(key)
            super().log_tabular(key, *args, **kwargs)

    monkeypatch.setattr("spinup.runs.run.EpochLogger", Watched)
    train(algo, fit(algo, Mixed), tmp_path, **{**SMALL[algo], "eval_freq": 1, "num_test_episodes": 2})
    assert stored
    assert stored <= logged


# ---- 11 and 12: files


@algos
@pytest.mark.parametrize("save_freq", [1, 2, 100])
def test_11_the_last_update_is_saved(tmp_path, algo, save_freq):
    ac = train(algo, fit(algo, Mixed), tmp_path, **{**SMALL[algo], "epochs": 3, "save_freq": save_freq})
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    for name, x in ac.state_dict().items():
        assert torch.equal(saved[name], x), name
    if algo in ("vpg", "ppo"):  # TRPO's steps may be none, and the others' networks begin with other biases
        assert not torch.equal(saved["actor.net.1.4.bias"], torch.zeros(2))


@algos
def test_11_a_second_run_leaves_the_first(tmp_path, algo):
    train(algo, fit(algo, Mixed), tmp_path / "run", **SMALL[algo])
    files = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*") if path.is_file()}
    assert {"config.json", "progress.txt", "model.pt", "rank0.pt"} <= {path.name for path in files}
    train(algo, fit(algo, Mixed), tmp_path / "run", seed=1, **SMALL[algo])
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*") if path.is_file()} == files
    assert len(list(tmp_path.glob("run*"))) == 2


@algos
def test_12_the_model_is_tensors_alone(tmp_path, algo):
    train(algo, fit(algo, Mixed), tmp_path, **SMALL[algo])
    saved = torch.load(tmp_path / "model.pt", weights_only=True)  # refuses whatever could run code
    assert all(isinstance(x, torch.Tensor) for x in saved.values())
    checkpoint = torch.load(next(tmp_path.glob("checkpoint/*/rank0.pt")), weights_only=True)
    assert set(checkpoint) == {"counters", "parts", "rng"}
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}
    assert suffixes == {".pt", ".json", ".txt"}


@algos
def test_12_config_is_json_whatever_the_arguments(tmp_path, algo):
    kwargs = dict(
        hidden_sizes=(4, 4), activation=torch.nn.ReLU, linear=lambda n_in, n_out: torch.nn.Linear(n_in, n_out)
    )
    train(algo, fit(algo, lambda: Mixed()), tmp_path, **{**SMALL[algo], "ac_kwargs": kwargs, "env_kwargs": {}})
    record = config(tmp_path)
    assert record["ac_kwargs"]["hidden_sizes"] == [4, 4]
    assert "ReLU" in record["ac_kwargs"]["activation"]
    assert isinstance(record["env_fn"], str)


@algos
def test_12_steps_are_exact_and_epochs_count_from_1(tmp_path, algo):
    calls = []
    train(algo, fit(algo, lambda: CallLog(Mixed(), calls)), tmp_path, **SMALL[algo])
    assert column(tmp_path, "Epoch") == [1, 2]
    assert column(tmp_path, "TotalEnvInteracts") == [20, 40]
    assert sum(what == "step" for what, _ in calls) == 40


# ---- 18: speed


class Counting(ActorCritic):
    """Counts the calls of its networks."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.calls = {"actor": 0, "critic": 0, "act": 0}
        for name in ("actor", "critic"):
            getattr(self, name).register_forward_hook(lambda *_, name=name: self.count(name))

    def count(self, name: str) -> None:
        self.calls[name] += 1

    def act(self, o, deterministic=False):
        self.count("act")
        return super().act(o, deterministic)


def test_18_act_computes_no_value_and_no_log_probability(monkeypatch):
    for action_space in (spaces.Discrete(2), Target.action_space):
        ac = Counting(Probe.observation_space, action_space)
        pi = type(ac.pi(torch.zeros(1)))
        monkeypatch.setattr(pi, "log_prob", None)
        ac.calls["actor"] = 0
        a = ac.act(np.zeros((5, 1), np.float32))
        assert isinstance(a, np.ndarray)
        assert ac.calls == {"actor": 1, "critic": 0, "act": 1}


@on_policy
def test_18_the_number_of_values_computed_does_not_grow_with_the_steps(tmp_path, algo):
    calls = []
    for steps in (10, 50):
        options = {**SMALL[algo], "num_envs": 5, "steps_per_epoch": 5 * steps, "epochs": 1}
        calls.append(train(algo, Mixed, tmp_path / str(steps), actor_critic=Counting, **options).calls)
    assert calls[0]["critic"] == calls[1]["critic"]
    assert calls[1]["act"] - calls[0]["act"] == 40  # one call for all five environments
    if algo != "trpo":  # whose line search may look at a different number of policies
        assert calls[1]["actor"] - calls[0]["actor"] == 40


@on_policy
def test_18_no_episodes_are_played_for_tests_unless_asked_for(algo):
    assert inspect.signature(ALGOS[algo]).parameters["eval_freq"].default == 0


@algos
def test_18_steps_that_do_not_divide_are_neither_lost_nor_miscounted(tmp_path, algo):
    calls = []
    options = {**SMALL[algo], "num_envs": 3, "steps_per_epoch": 10, "epochs": 2}
    train(algo, fit(algo, lambda: CallLog(Mixed(), calls)), tmp_path, **options)
    total = 21 if algo in OFF_POLICY else 24  # those over in the first epoch count in the second, or are made anew
    assert column(tmp_path, "TotalEnvInteracts") == [12, total]
    assert sum(what == "step" for what, _ in calls) == total


@off_policy
def test_18_test_episodes_are_played_all_at_once(tmp_path, algo):
    calls = []

    class Counted(module_default(algo)):
        def act(self, o, deterministic=False):
            calls.append((len(o), deterministic))
            return super().act(o, deterministic)

    options = {**SMALL[algo], "eval_freq": 1, "num_test_episodes": 7}
    train(algo, fit(algo, Mixed), tmp_path, actor_critic=Counted, **options)
    assert calls.count((7, True)) == 2 * 3  # two epochs, three steps each
    assert calls.count((2, False)) == (40 - 4) / 2
    assert len(calls) == 6 + 18 + 1  # and the check of the protocol
