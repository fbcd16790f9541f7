"""What all algorithms share: determinism, spaces, custom networks, epochs, evaluation, and a run's output."""

import functools
import itertools
import math
import re

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from probes import (
    ALGOS,
    NO_DISCRETE,
    OFF_POLICY,
    ON_POLICY,
    PLAIN,
    WITH_TARGETS,
    CallLog,
    Discounting,
    Mixed,
    Probe,
    Spaces,
    Target,
    column,
    config,
    constant_critic,
    fit,
    rows,
    taken,
    train,
    without_time,
)
from torch import nn

import spinup
from spinup.algorithm import find
from spinup.buffers import replay_bytes
from spinup.compute import accel, mpi
from spinup.envs import evaluate, make_envs
from spinup.errors import UserError
from spinup.nets import ActorCritic, Categorical, NoNorm, RunningNorm, SoftActorCritic, SquashedGaussian

algos = pytest.mark.parametrize("algo", ALGOS)
on_policy = pytest.mark.parametrize("algo", ON_POLICY)
off_policy = pytest.mark.parametrize("algo", OFF_POLICY)
with_targets = pytest.mark.parametrize("algo", WITH_TARGETS)

OFF = dict(num_envs=2, steps_per_epoch=40, epochs=3, start_steps=20, update_after=20, replay_ratio=0.5, batch_size=8)
OFF |= dict(replay_size=60)  # full halfway through the run
OFF |= dict(eval_freq=0, normalize_obs=False, ac_kwargs=dict(hidden_sizes=[16]))
SMALL = {
    "vpg": dict(num_envs=2, steps_per_epoch=40, epochs=3, train_v_iters=3),
    "ppo": dict(num_envs=2, steps_per_epoch=40, epochs=3, train_pi_iters=2, train_v_iters=2, minibatch_size=16),
    "trpo": dict(num_envs=2, steps_per_epoch=40, epochs=3, train_v_iters=3),
    **dict.fromkeys(OFF_POLICY, OFF),
    "sac": OFF | dict(policy_delay=1),
}


# ---- determinism


@algos
@pytest.mark.parametrize(
    ("env", "num_envs", "steps_per_epoch"),  # 3 does not divide 50
    [(Mixed, 1, 50), (Mixed, 3, 50), (Target, 1, 50), (Target, 3, 60), ("CartPole-v1", 3, 50)],
)
def test_same_seed_same_run(tmp_path, algo, env, num_envs, steps_per_epoch):
    options = {**SMALL[algo], "num_envs": num_envs, "steps_per_epoch": steps_per_epoch, "eval_freq": 2}
    env = env if env is Target else fit(algo, env) if env is Mixed else "Pendulum-v1" if algo in NO_DISCRETE else env
    acs = [train(algo, env, tmp_path / run, seed=seed, **options) for run, seed in (("a", 3), ("b", 3), ("c", 4))]
    assert without_time(tmp_path / "a") == without_time(tmp_path / "b")
    assert without_time(tmp_path / "a") != without_time(tmp_path / "c")
    for (name, x), y in zip(acs[0].state_dict().items(), acs[1].state_dict().values(), strict=True):
        assert torch.equal(x, y), name


@algos
def test_runs_do_not_depend_on_earlier_ones(tmp_path, algo):
    train(algo, fit(algo, Mixed), tmp_path / "a", **SMALL[algo])
    torch.rand(7), np.random.rand(3)
    torch.manual_seed(8)
    train(algo, fit(algo, Mixed), tmp_path / "b", **SMALL[algo])
    assert without_time(tmp_path / "a") == without_time(tmp_path / "b")


@algos
def test_evaluation_and_saving_do_not_change_the_run(tmp_path, algo):
    train(algo, fit(algo, Mixed), tmp_path / "a", **{**SMALL[algo], "save_freq": 100, "checkpoint_freq": 0})
    options = {**SMALL[algo], "eval_freq": 1, "num_test_episodes": 3, "save_freq": 1, "checkpoint_freq": 1}
    train(algo, fit(algo, Mixed), tmp_path / "b", **options)
    tested = rows(tmp_path / "b")
    for plain, row in zip(rows(tmp_path / "a"), tested, strict=True):
        assert {key: x for key, x in plain.items() if key != "Time"}.items() <= row.items()


@pytest.mark.parametrize("algo", ["ppo", "sac"])
def test_async_environments_give_the_same_run(tmp_path, algo):
    for kind in ("sync", "async"):
        train(algo, "CartPole-v1", tmp_path / kind, vectorization=kind, **SMALL[algo])
    assert without_time(tmp_path / "sync") == without_time(tmp_path / "async")


# ---- spaces

OBSERVATIONS = {
    "image": spaces.Box(0, 255, (10, 12, 3), np.uint8),
    "large image": spaces.Box(0, 255, (1, 40, 36), np.uint8),
    "dict": spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(3), c=spaces.Dict(d=spaces.Box(0, 1, (2, 2)))),
    "tuple": spaces.Tuple((spaces.Box(-1, 1, (2,)), spaces.MultiBinary(3))),
    "discrete": spaces.Discrete(5),
    "multi-discrete": spaces.MultiDiscrete([3, 4]),
    "matrix": spaces.Box(-1, 1, (3, 2)),
    "float64": spaces.Box(-1, 1, (3,), np.float64),
}
SIZES = {"dict": 9, "tuple": 5, "discrete": 5, "multi-discrete": 7, "matrix": 6, "float64": 3}

ACTIONS = {
    "discrete": spaces.Discrete(3),
    "discrete from 5": spaces.Discrete(3, start=5),
    "multi-discrete": spaces.MultiDiscrete([2, 3, 4]),
    "multi-binary": spaces.MultiBinary(3),
    "box": spaces.Box(np.array([-1, 0, -7], np.float32), np.array([1, 10, -5], np.float32)),
    "matrix": spaces.Box(-2, 3, (2, 2), np.float32),
    "unbounded": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    "point": spaces.Box(np.array([-1, 3], np.float32), np.array([1, 3], np.float32)),
    "float64": spaces.Box(-2, 3, (2,), np.float64),
}
BOUNDED = ("box", "matrix", "point", "float64")
TAKEN = [(algo, space) for algo in ON_POLICY for space in ACTIONS]
TAKEN += [(algo, space) for algo in OFF_POLICY for space in BOUNDED] + [("sac", "discrete"), ("sac", "discrete from 5")]
NOT_TAKEN = [(algo, space) for algo in OFF_POLICY for space in ACTIONS if (algo, space) not in TAKEN]


@algos
@pytest.mark.parametrize("space", OBSERVATIONS)
def test_observations(tmp_path, algo, space):
    env = fit(algo, lambda: Spaces(OBSERVATIONS[space]))
    ac = train(algo, env, tmp_path, **{**SMALL[algo], "epochs": 2})
    assert all(math.isfinite(x) for row in rows(tmp_path) for x in row.values())
    if algo in OFF_POLICY:
        convolutions = sum(isinstance(x, nn.Conv2d) for x in ac.modules())
        assert convolutions == (0 if space in SIZES else (3 if "large" in space else 2) * (1 + len(ac.critic)))
    elif space in SIZES:
        assert isinstance(ac.obs_norm, RunningNorm)
        assert ac.obs_norm.mean.shape == (SIZES[space],)
    else:
        assert isinstance(ac.obs_norm, NoNorm)  # images keep their bytes
    assert len(evaluate(ac, env, episodes=2)["EpRet"]) == 2


@pytest.mark.parametrize(("algo", "space"), TAKEN)
def test_actions(tmp_path, algo, space):
    calls = []
    train(algo, lambda: CallLog(Spaces(action_space=ACTIONS[space]), calls), tmp_path, **{**SMALL[algo], "epochs": 2})
    assert all(math.isfinite(x) for row in rows(tmp_path) for x in row.values())
    actions = [a for what, a in calls if what == "step"]
    assert all(ACTIONS[space].contains(a) for a in actions)
    if "discrete" in space:  # every action was tried
        ours = np.stack(actions).reshape(len(actions), -1)
        sizes = getattr(ACTIONS[space], "nvec", [3])
        assert [len(set(x)) for x in ours.T] == list(sizes)


@pytest.mark.parametrize(("algo", "space"), NOT_TAKEN)
def test_unsupported_actions(tmp_path, algo, space):
    with pytest.raises(UserError, match=f"^{algo} needs .*bounded") as error:
        train(algo, lambda: Spaces(action_space=ACTIONS[space]), tmp_path / "run", **SMALL[algo])
    assert "\n" not in str(error.value)
    others = "dqn, ppo, ppo_rnn, sac, trpo and vpg" if space.startswith("discrete") else "ppo, ppo_rnn, trpo and vpg"
    assert f"{others} take the" in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("algo", ["ppo", "sac"])
def test_image_policy_learns(tmp_path, algo):
    """The bright half of the image tells which action is right."""

    class Bright(Probe):
        observation_space = spaces.Box(0, 255, (8, 8), np.uint8)

        def observe(self):
            self.right = int(self.np_random.integers(2))
            o = np.zeros((8, 8), np.uint8)
            o[:, 4 * self.right : 4 * self.right + 4] = 255
            return o

        def reward(self, a):
            return 1.0 if a == self.right else -1.0

    options = {
        "ppo": dict(num_envs=16, steps_per_epoch=64, epochs=12, minibatch_size=None, pi_lr=3e-3),
        "sac": dict(num_envs=4, steps_per_epoch=400, epochs=1, start_steps=100, update_after=100, batch_size=32)
        | dict(replay_size=400, alpha=0.1, polyak=0.9, lr=3e-3, eval_freq=0, ac_kwargs=dict(hidden_sizes=(32,))),
    }[algo]
    ac = train(algo, Bright, tmp_path, **options)
    test = evaluate(ac, Bright, 20)["EpRet"]
    assert sum(test) >= 18


# ---- networks


class OwnActor(nn.Module):
    def __init__(self, n: int):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(n))

    def forward(self, o):
        return Categorical(self.logits.log_softmax(-1).expand(*o.shape[:-1], -1))


class OwnActorCritic(nn.Module):
    """Not a subclass of ours: constant logits for a policy, and a linear value function."""

    def __init__(self, observation_space, action_space, normalize_obs=False, scale=1.0):
        super().__init__()
        self.actor = OwnActor(action_space.n)
        self.critic = nn.Linear(observation_space.shape[0], 1)
        self.obs_norm = NoNorm()
        self.scale = scale

    def pi(self, o):
        return self.actor(o)

    def v(self, o):
        return self.scale * self.critic(o).squeeze(-1)

    @torch.no_grad()
    def act(self, o, deterministic=False):
        pi = self.pi(torch.as_tensor(o))
        return (pi.mode() if deterministic else pi.sample()).numpy()


@on_policy
def test_custom_actor_critic(tmp_path, algo):
    options = {**SMALL[algo], "epochs": 2, "eval_freq": 1}
    ac = train(algo, Mixed, tmp_path, actor_critic=OwnActorCritic, ac_kwargs=dict(scale=2.0), **options)
    assert type(ac) is OwnActorCritic
    assert ac.scale == 2.0
    assert ac.actor.logits.abs().max() > 0
    assert config(tmp_path)["actor_critic"].endswith("OwnActorCritic")
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    assert torch.equal(saved["actor.logits"], ac.actor.logits)


class OwnQActor(nn.Module):
    def __init__(self, n_in: int, soft: bool):
        super().__init__()
        self.soft, self.net = soft, nn.Linear(n_in, 1)

    def forward(self, o):
        x = self.net(o)
        if self.soft:  # a distribution over (0, 1)
            return SquashedGaussian(x, torch.zeros_like(x), torch.tensor([0.5]), torch.tensor([0.5]))
        return x.sigmoid()


class OwnQ(nn.Linear):
    def forward(self, o, a):
        return super().forward(torch.cat([o, a], -1)).squeeze(-1)


class OwnCritic(nn.ModuleList):
    def forward(self, o, a):
        return torch.stack([q(o, a) for q in self])


class OwnQActorCritic(nn.Module):
    """Not a subclass of ours."""

    def __init__(self, observation_space, action_space, soft=False, n=2):
        super().__init__()
        self.actor = OwnQActor(observation_space.shape[0], soft)
        self.critic = OwnCritic(OwnQ(observation_space.shape[0] + action_space.shape[0], 1) for _ in range(n))

    @torch.no_grad()
    def act(self, o, deterministic=False):
        a = self.actor(torch.as_tensor(o))
        return (a.mode() if self.actor.soft else a).numpy()


@with_targets  # CrossQ's networks take an additional argument
def test_custom_actor_critic_with_action_values(tmp_path, algo):
    kwargs = dict(soft=algo == "sac", n=1 if algo == "ddpg" else 2)
    options = {**SMALL[algo], "epochs": 2, "eval_freq": 1, "num_test_episodes": 2, "ac_kwargs": kwargs}
    before = []

    def actor_critic(*args, **kw):
        ac = OwnQActorCritic(*args, **kw)
        before.extend(p.detach().clone() for p in ac.parameters())
        return ac

    box = fit("td3", Mixed)  # for SAC too
    ac = train(algo, box, tmp_path, actor_critic=actor_critic, **options)
    assert type(ac) is OwnQActorCritic
    assert all((p != q).any() for p, q in zip(before, [*ac.actor.parameters(), *ac.critic.parameters()], strict=True))
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    assert torch.equal(saved["critic.0.weight"], ac.critic[0].weight)


class Plain(SoftActorCritic):
    """With fewer arguments than its base class."""

    def __init__(self, observation_space, action_space, hidden_sizes=(8,)):
        super().__init__(observation_space, action_space, hidden_sizes)


def test_an_actor_critic_that_takes_no_normalize_obs(tmp_path):
    options = dict(actor_critic=Plain, **SMALL["sac"] | dict(ac_kwargs=None))
    with pytest.raises(UserError) as error:
        train("sac", Target, tmp_path / "x", **options | dict(normalize_obs=True))
    assert str(error.value) == (
        "actor_critic Plain takes no 'normalize_obs'; add it, or train with normalize_obs=False if the algorithm is "
        "off-policy; help(spinup.nets) describes what is needed"
    )
    assert not (tmp_path / "x").exists()
    assert type(train("sac", Target, tmp_path / "y", **options | dict(normalize_obs=False))) is Plain
    for networks in (functools.partial(Plain, hidden_sizes=(4,)), lambda spaces, actions: Plain(spaces, actions)):
        name = "Plain" if isinstance(networks, functools.partial) else "<lambda>"
        with pytest.raises(UserError, match=f"^actor_critic {name} takes no 'normalize_obs'"):
            train("sac", Target, tmp_path / "x", **options | dict(normalize_obs=True, actor_critic=networks))
    with pytest.raises(UserError, match="actor_critic Plain takes no 'normalize_obs'"):  # PPO gives it always
        train("ppo", Target, tmp_path / "z", actor_critic=Plain, **SMALL["ppo"] | dict(normalize_obs=False))


@pytest.mark.parametrize("algo", ALGOS)
def test_unknown_ac_kwargs_are_named_with_the_possible_ones(tmp_path, algo):
    for unknown in ("hidden", "normalize_obs", 5):
        with pytest.raises(UserError) as error:
            train(algo, fit(algo, Mixed), tmp_path / "x", **SMALL[algo] | dict(ac_kwargs={unknown: (64,)}))
        start = (
            rf"ac_kwargs has the unknown entry {unknown!r}; for actor_critic \w+ it may have hidden_sizes, activation, "
        )
        assert re.match(start, str(error.value))
        assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("logger_kwargs", "message"),
    [
        ({"output": "x"}, "logger_kwargs has the unknown entry 'output'; it may have output_dir, output_fname, "),
        ({"quiet": "no"}, "logger_kwargs['quiet'] is 'no'; it must be a bool"),
        ("x", "logger_kwargs is 'x'; it must be a dict"),
    ],
)
def test_wrong_logger_kwargs(logger_kwargs, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        spinup.ppo("CartPole-v1", logger_kwargs=logger_kwargs)


def test_unknown_ac_kwargs_of_other_networks(tmp_path):
    options = SMALL["ppo"] | dict(ac_kwargs=dict(scales=2))
    with pytest.raises(UserError, match=r"unknown entry 'scales'; for actor_critic OwnActorCritic it may have scale$"):
        train("ppo", Mixed, tmp_path / "x", actor_critic=OwnActorCritic, **options)
    options["ac_kwargs"] = dict(scale=2)
    train("ppo", Mixed, tmp_path / "x", actor_critic=lambda *spaces, **more: OwnActorCritic(*spaces, **more), **options)


@with_targets
def test_ac_kwargs_of_action_values(tmp_path, algo):
    made = []

    def linear(n_in, n_out):
        made.append((n_in, n_out))
        return nn.Linear(n_in, n_out, bias=False)

    kwargs = dict(hidden_sizes=[5, 7], activation="Tanh", layer_norm=True, linear=linear)
    ac = train(algo, Target, tmp_path, **{**SMALL[algo], "epochs": 1, "ac_kwargs": kwargs})
    critics = 1 if algo == "ddpg" else 2
    actor = [(1, 5), (5, 7), (7, 4 if algo == "sac" else 2)]  # SAC's has a mean and a standard deviation for each
    assert made == actor + [(3, 5), (5, 7), (7, 1)] * critics
    assert sum(isinstance(x, nn.Tanh) for x in ac.modules()) == 2 + 2 * critics
    assert sum(isinstance(x, nn.LayerNorm) for x in ac.modules()) == 2 * critics


@on_policy
def test_ac_kwargs(tmp_path, algo):
    made = []

    def linear(n_in, n_out):
        made.append((n_in, n_out))
        return nn.Linear(n_in, n_out, bias=False)

    kwargs = dict(hidden_sizes=[5, 7], activation="ReLU", log_std_init=-1.5, linear=linear)
    ac = train(algo, Target, tmp_path, ac_kwargs=kwargs, **{**SMALL[algo], "epochs": 1})
    assert made == [(1, 5), (5, 7), (7, 2), (1, 5), (5, 7), (7, 1)]
    assert sum(isinstance(x, nn.ReLU) for x in ac.modules()) == 4
    assert ac.actor.log_std.tolist() == pytest.approx([-1.5, -1.5], abs=0.3)


# ---- options


@on_policy
def test_value_target(tmp_path, algo):
    # Rewards 0 then 1, gamma 0.9, V = 0. Rewards-to-go 0.9 and 1: LossV = (0.81 + 1) / 2. With lam = 0 the
    # lambda-returns are r + gamma V(s') = 0 and 1: LossV = 1 / 2.
    options = {**PLAIN, **SMALL[algo], "gamma": 0.9, "lam": 0.0, "actor_critic": constant_critic()}
    for target, loss_v in (("rtg", 0.905), ("gae", 0.5)):
        train(algo, Discounting, tmp_path / target, value_target=target, **options)
        assert column(tmp_path / target, "LossV")[0] == pytest.approx(loss_v)


@on_policy
def test_scaled_rewards_are_clipped(tmp_path, algo):
    """The returns are 1 in all episodes, of one step: their deviation is 0. V = 0, and r is 10 instead of 10,000."""
    options = {**PLAIN, **SMALL[algo], "normalize_rew": True, "actor_critic": constant_critic()}
    train(algo, lambda: Spaces(length=1), tmp_path, **options)
    assert column(tmp_path, "LossV")[0] == 100


CHANGES = dict(value_target="rtg", lam=0.5, gamma=0.8, vf_lr=0.1, train_v_iters=1)
OWN_CHANGES = {
    "vpg": dict(pi_lr=0.1, max_grad_norm=1e-9),
    "ppo": dict(pi_lr=0.1, train_pi_iters=1, minibatch_size=None, target_kl=1e-7, ent_coef=0.1, vf_clip=0.01)
    | dict(max_grad_norm=None, clip_ratio=0.001),
    "trpo": dict(delta=0.1, damping_coeff=1.0, cg_iters=1),
}


@on_policy
def test_every_option_changes_the_run(tmp_path, algo):
    """With any option changed, training works without NaN, and gives another run."""
    base = {**SMALL[algo], "epochs": 2, "ac_kwargs": dict(orthogonal=False)}
    train(algo, Mixed, tmp_path / "base", **base)
    reference = without_time(tmp_path / "base")
    switches = {name: not on for name, on in find(algo).defaults.items() if isinstance(on, bool)}
    switches.pop("capture", None)  # changes no number
    assert {"anneal_lr", "normalize_obs", "normalize_rew", "normalize_adv"} <= set(switches)
    for name, value in {**switches, **CHANGES, **OWN_CHANGES[algo]}.items():
        train(algo, Mixed, tmp_path / name, **{**base, name: value})
        assert without_time(tmp_path / name) != reference, name
        assert all(math.isfinite(x) for row in rows(tmp_path / name) for x in row.values()), name


OFF_CHANGES = dict(gamma=0.8, n_step=3, polyak=0.5, batch_size=4, start_steps=30, update_after=30, update_every=8)
OFF_CHANGES |= dict(
    replay_ratio=1.0, normalize_obs=True, replay_size=20, max_ep_len=2, seed=1, num_envs=4, reseed=False
)
NOISE = dict(act_noise=0.5, noise_corr=0.9, pi_lr=0.1, q_lr=0.1)
OWN_CHANGES |= {
    "ddpg": NOISE,
    "td3": NOISE | dict(target_noise=0.5, noise_clip=0.01, policy_delay=1),
    "sac": dict(lr=0.1, anneal_lr=1.0, alpha=0.3, target_entropy=0.1, policy_delay=2),
    "crossq": dict(lr=0.1, anneal_lr=1.0, alpha=0.3, target_entropy=0.1, beta1=0.8, policy_delay=1, joint=False),
}
# Arguments that affect only speed or saving, or have a test of their own.
NO_CHANGE = {"steps_per_epoch", "epochs", "env_kwargs", "vectorization", "device", "threads", "matmul_precision"}
NO_CHANGE |= {"target_policy", "wrappers", "log_info", "num_test_envs", "init_from", "stop_at", "patience", "on_epoch"}
NO_CHANGE |= {
    "hindsight",
    "policy_average",
    "actor_critic",
    "ac_kwargs",
    "capture",
    "eval_freq",
    "num_test_episodes",
    "save_freq",
    "checkpoint_freq",
    "logger_kwargs",
}


@off_policy
def test_every_option_changes_an_off_policy_run(tmp_path, algo):
    base = {**SMALL[algo], "epochs": 2}
    train(algo, fit(algo, Mixed), tmp_path / "base", **base)
    reference = without_time(tmp_path / "base")
    changes = taken(algo, OFF_CHANGES) | OWN_CHANGES[algo]
    assert set(changes) == set(find(algo).defaults) - NO_CHANGE
    for name, value in changes.items():
        train(algo, fit(algo, Mixed), tmp_path / name, **{**base, name: value})
        assert without_time(tmp_path / name) != reference, name
        assert all(math.isfinite(x) for row in rows(tmp_path / name) for x in row.values()), name


def test_matmul_precision(tmp_path):
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("medium", "high", "highest"):
            options = {**SMALL["sac"], "epochs": 1, "matmul_precision": precision}
            train("sac", Target, tmp_path / precision, **options)
            assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


# ---- how environments are made


class Turns(gym.Wrapper):
    """Episodes succeed and fail in turn, beginning with a success."""

    succeeds = False

    def reset(self, **kwargs):
        self.succeeds = not self.succeeds
        return self.env.reset(**kwargs)

    def step(self, action):
        return (*self.env.step(action)[:4], {"is_success": self.succeeds})


@algos
def test_wrappers_and_log_info(tmp_path, algo):
    """Per epoch, training has 5 episodes of 4 steps in each of 2 environments, and evaluation 1 in each of 2."""
    options = {**SMALL[algo], "wrappers": [Turns], "log_info": "is_success", "eval_freq": 1, "num_test_episodes": 2}
    train(algo, fit(algo, lambda: Probe(length=4)), tmp_path / "run", **options)
    assert column(tmp_path / "run", "is_success") == pytest.approx([0.6, 0.4, 0.6])
    assert column(tmp_path / "run", "Test_is_success") == [1, 1, 1]
    train(algo, fit(algo, lambda: Probe(length=4)), tmp_path / "one", **options, num_test_envs=1)
    assert column(tmp_path / "one", "Test_is_success") == [0.5, 0.5, 0.5]
    assert rows(tmp_path / "one")[0].keys() == rows(tmp_path / "run")[0].keys()


@pytest.mark.parametrize("name", ["Epoch", "EpRet", "LossPi", "TestEpLen", "AverageEpRet", "StdTestEpRet", "MaxVVals"])
def test_log_info_refuses_names_of_columns(tmp_path, name):
    with pytest.raises(UserError, match=f"log_info has '{name}', which is already a column"):
        train("vpg", Probe, tmp_path / "run", log_info=name, **SMALL["vpg"])
    assert not (tmp_path / "run").exists()


@algos
def test_the_default_dtype_changes_nothing(tmp_path, algo):
    options = {**SMALL[algo], **({} if algo in OFF_POLICY else {"normalize_obs": False})}
    train(algo, fit(algo, Mixed), tmp_path / "float32", **options)
    torch.set_default_dtype(torch.float64)
    try:
        ac = train(algo, fit(algo, Mixed), tmp_path / "float64", **options)
        torch.set_default_dtype(torch.float64)
        loaded = spinup.load(tmp_path / "float64", env_fn=fit(algo, Mixed))
        o = np.zeros((2, *make_envs(fit(algo, Mixed)).observation_space.shape), np.float32)
        np.testing.assert_array_equal(loaded.act(o, deterministic=True), ac.act(o, deterministic=True))
    finally:
        torch.set_default_dtype(torch.float32)
    assert without_time(tmp_path / "float64") == without_time(tmp_path / "float32")


@pytest.mark.parametrize("algo", ["vpg", "sac"])
def test_the_default_device_changes_nothing(tmp_path, algo):
    train(algo, Mixed, tmp_path / "cpu", **SMALL[algo])
    torch.set_default_device("meta")
    try:
        train(algo, Mixed, tmp_path / "meta", **SMALL[algo])
    finally:
        torch.set_default_device(None)
    assert without_time(tmp_path / "meta") == without_time(tmp_path / "cpu")


# ---- epochs


@on_policy
@pytest.mark.parametrize(
    ("num_envs", "steps_per_epoch", "taken"), [(1, 7, 7), (3, 12, 12), (3, 10, 12), (8, 1, 8), (4, 40, 40)]
)
def test_steps_are_rounded_up_and_counted(tmp_path, algo, num_envs, steps_per_epoch, taken):
    calls = []
    options = {**SMALL[algo], "num_envs": num_envs, "steps_per_epoch": steps_per_epoch}
    train(algo, lambda: CallLog(Mixed(), calls), tmp_path, **options)
    assert column(tmp_path, "Epoch") == [1, 2, 3]
    assert column(tmp_path, "TotalEnvInteracts") == [taken, 2 * taken, 3 * taken]
    assert sum(what == "step" for what, _ in calls) == 3 * taken


@off_policy
@pytest.mark.parametrize(
    ("num_envs", "steps_per_epoch", "taken"),
    [(1, 7, [7, 14, 21]), (3, 12, [12, 24, 36]), (3, 10, [12, 21, 30]), (4, 40, [40, 80, 120])],
)
def test_off_policy_steps_are_counted(tmp_path, algo, num_envs, steps_per_epoch, taken):
    """A row is written at the first step that completes an epoch; surplus steps count for the next one."""
    calls = []
    options = {**SMALL[algo], "num_envs": num_envs, "steps_per_epoch": steps_per_epoch}
    train(algo, fit(algo, lambda: CallLog(Mixed(), calls)), tmp_path, **options)
    assert column(tmp_path, "Epoch") == [1, 2, 3]
    assert column(tmp_path, "TotalEnvInteracts") == taken
    assert sum(what == "step" for what, _ in calls) == taken[-1]


@algos
def test_max_ep_len(tmp_path, algo):
    train(algo, fit(algo, lambda: Probe(length=50)), tmp_path, max_ep_len=7, **SMALL[algo])
    # 20 steps of each of 2 environments: 2, 3 and 3 episodes of 7 steps end in each
    assert column(tmp_path, "EpLen") == [7, 7, 7]
    assert column(tmp_path, "AverageEpRet") == [7, 7, 7]


@algos
def test_env_kwargs(tmp_path, algo):
    train(algo, fit(algo, Probe), tmp_path, env_kwargs=dict(length=4), **SMALL[algo])
    assert column(tmp_path, "EpLen") == [4, 4, 4]


# ---- evaluation


@algos
def test_eval_columns(tmp_path, algo):
    train(algo, fit(algo, Probe), tmp_path / "without", **SMALL[algo])
    assert not any("Test" in key or "Eval" in key for key in rows(tmp_path / "without")[0])
    options = {**SMALL[algo], "epochs": 4, "eval_freq": 2, "num_test_episodes": 5}
    train(algo, fit(algo, lambda: Probe(length=3)), tmp_path / "with", **options)
    header = list(rows(tmp_path / "with")[0])
    tests = ["AverageTestEpRet", "StdTestEpRet", "MaxTestEpRet", "MinTestEpRet", "TestEpLen"]
    assert [key for key in header if "Test" in key] == tests
    assert ("EvalTime" in header) == (algo in OFF_POLICY)
    assert [key for key in header if key not in (*tests, "EvalTime")] == list(rows(tmp_path / "without")[0])
    for key, value in zip(tests, [3, 0, 3, 3, 3], strict=True):
        first, second, third, fourth = column(tmp_path / "with", key)
        assert math.isnan(first)
        assert math.isnan(third)
        assert second == fourth == value


@algos
def test_evaluation_uses_the_mode(tmp_path, algo):
    """The return is 0 for the initial policy's mode, the exact middle of the bounds, and negative for any sample."""

    class Middle(Target):
        target = np.array([5, -1])

    class Still(find(algo).defaults["actor_critic"]):
        """A policy whose mode is the middle."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            for p in self.actor.net.parameters():
                nn.init.zeros_(p)

    options = {**SMALL[algo], "epochs": 1, "eval_freq": 1}
    options |= {"trpo": dict(delta=0.0), "sac": dict(lr=0.0), "crossq": dict(lr=0.0)}.get(algo, dict(pi_lr=0.0))
    train(algo, Middle, tmp_path, actor_critic=Still, **options)
    assert column(tmp_path, "MinTestEpRet") == [0]
    assert column(tmp_path, "MaxEpRet")[0] < 0


# ---- seeds


@pytest.mark.parametrize("algo", ALGOS)
def test_each_process_has_its_own_seeds(monkeypatch, tmp_path, algo):
    """Process 1 must not have the seeds that process 0 has in runs with the next seeds."""

    class Recorder(Probe):
        def reset(self, *, seed=None, options=None):
            if seed is not None:
                seeds.extend((seed, torch.initial_seed()))
            return super().reset(seed=seed)

        def step(self, a):
            raise KeyboardInterrupt

    found = {0: set(), 1: set()}
    for process, seed in ((1, 3), (0, 3), (0, 4), (0, 5)):
        seeds = []
        monkeypatch.setattr(mpi, "proc_id", lambda process=process: process)
        with pytest.raises(KeyboardInterrupt):
            ALGOS[algo](fit(algo, Recorder), seed=seed, num_envs=8, logger_kwargs=dict(output_dir=tmp_path / str(seed)))
        assert len(set(seeds)) >= 8
        found[process] |= set(seeds)
    assert not found[0] & found[1]


# ---- invalid arguments


WRONG = dict(gamma=1.5, epochs=0, steps_per_epoch=0, num_envs=0, save_freq=0, threads=0, seed=-1, eval_freq=-1)
WRONG |= dict(vectorization="threads", device="abacus", num_test_episodes=0, max_ep_len=0)
WRONG_ON = dict(lam=-0.1, value_target="mc")
WRONG_OFF = dict(polyak=1.1, replay_size=0, n_step=0, batch_size=0, start_steps=-1, update_after=-1, update_every=0)
WRONG_OFF |= dict(replay_ratio=-0.5, matmul_precision="low")
WRONG_NOISE = dict(pi_lr=-1.0, q_lr=-1.0, act_noise=-0.1, noise_corr=1.5)


WRONG_OWN = {
    **dict.fromkeys(ON_POLICY, WRONG_ON),
    "ddpg": WRONG_OFF | WRONG_NOISE,
    "td3": WRONG_OFF | WRONG_NOISE | dict(target_noise=-0.1, noise_clip=-0.1, policy_delay=0),
    "sac": WRONG_OFF | dict(lr=-1.0, policy_delay=0),
    "crossq": WRONG_OFF | dict(lr=-1.0, beta1=1.0, policy_delay=0, joint="both"),
}
WRONG_ARGUMENTS = [(algo, *pair) for algo in ALGOS for pair in (WRONG | WRONG_OWN[algo]).items()]
WRONG_ARGUMENTS += [("crossq", "batch_size", 1), ("ppo", "device", "meta")]
WRONG_ARGUMENTS += [("sac", "alpha", value) for value in (-0.1, "often", math.inf, math.nan)]
WRONG_ARGUMENTS += [("sac", "target_entropy", value) for value in ("low", math.nan)]


@pytest.mark.parametrize(("algo", "name", "value"), WRONG_ARGUMENTS)
def test_an_invalid_argument_is_reported_before_anything_is_written(tmp_path, algo, name, value):
    with pytest.raises(UserError, match=f"{name} .*{value}"):
        train(algo, fit(algo, Probe), tmp_path / "run", **{**SMALL[algo], name: value})
    assert not (tmp_path / "run").exists()


@off_policy
def test_too_large_a_buffer_is_reported_before_anything_is_written(monkeypatch, tmp_path, algo):
    envs = make_envs(fit(algo, Mixed))
    each = replay_bytes(envs.observation_space, envs.action_space)
    monkeypatch.setattr(accel, "free_memory", lambda device: 100 * each - 1)
    with pytest.raises(UserError, match=r"^replay_size 100 needs "):
        train(algo, fit(algo, Mixed), tmp_path / "run", **{**SMALL[algo], "replay_size": 100})
    assert not (tmp_path / "run").exists()
    train(algo, fit(algo, Mixed), tmp_path / "run", **{**SMALL[algo], "replay_size": 99})


# ---- a run's output

SHARED = (
    "Epoch AverageEpRet StdEpRet MaxEpRet MinEpRet EpLen AverageVVals StdVVals MaxVVals MinVVals TotalEnvInteracts "
    "LossPi LossV DeltaLossPi DeltaLossV"
)
COLUMNS = {
    "vpg": f"{SHARED} Entropy KL Time",
    "ppo": f"{SHARED} Entropy KL ClipFrac StopIter Time",
    "trpo": f"{SHARED} KL BacktrackIters Time",
}


@on_policy
def test_columns(tmp_path, algo):
    """The documented columns, in the documented order."""
    train(algo, Mixed, tmp_path, **SMALL[algo])
    columns = COLUMNS[algo].split()
    assert [key for key in rows(tmp_path)[0] if key in columns] == columns


def spread(*keys) -> str:
    return " ".join(f"{what}{key}" for key in keys for what in ("Average", "Std", "Max", "Min"))


OFF_SHARED = f"Epoch {spread('EpRet')} EpLen {spread('TestEpRet')} TestEpLen EvalTime TotalEnvInteracts"
OFF_COLUMNS = {
    "ddpg": f"{OFF_SHARED} {spread('QVals')} LossPi LossQ Time",
    "td3": f"{OFF_SHARED} {spread('Q1Vals', 'Q2Vals')} LossPi LossQ Time",
    **dict.fromkeys(("sac", "crossq"), f"{OFF_SHARED} {spread('Q1Vals', 'Q2Vals', 'LogPi')} LossPi LossQ Alpha Time"),
}


@off_policy
def test_off_policy_columns(tmp_path, algo):
    """Those of the original plus EvalTime and Alpha; test episodes are on by default."""
    options = {key: value for key, value in SMALL[algo].items() if key != "eval_freq"}
    train(algo, fit(algo, Mixed), tmp_path, **options)
    assert list(rows(tmp_path)[0]) == OFF_COLUMNS[algo].split()
    assert all(math.isfinite(x) for row in rows(tmp_path) for x in row.values())


@algos
def test_model_is_the_returned_actor_critic(tmp_path, algo):
    ac = train(algo, fit(algo, Mixed), tmp_path, **SMALL[algo])
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    assert saved.keys() == ac.state_dict().keys()
    for name, x in ac.state_dict().items():
        assert torch.equal(saved[name], x), name


@algos
def test_save_freq(tmp_path, algo):
    """The file changes after epochs 2, 4 and the last one; on_epoch is called before an epoch's save."""
    contents = []

    def on_epoch(row):
        contents.append(file.read_bytes() if file.exists() else None)

    file = tmp_path / "model.pt"
    train(algo, fit(algo, Mixed), tmp_path, **{**SMALL[algo], "epochs": 5, "save_freq": 2, "on_epoch": on_epoch})
    on_epoch(None)
    assert [one != other for one, other in itertools.pairwise(contents)] == [False, True, False, True, True]
    assert contents[0] is None


@algos
def test_config(tmp_path, algo):
    options = {**SMALL[algo], "ac_kwargs": dict(hidden_sizes=(8,))}
    train(algo, "Pendulum-v1", tmp_path, seed=5, **options)
    record = config(tmp_path)
    assert record["env_fn"] == "Pendulum-v1"
    assert record["seed"] == 5
    assert record["ac_kwargs"] == {"hidden_sizes": [8]}
    own = {"ddpg": "DeterministicActorCritic", "td3": "TwinActorCritic", "sac": "SoftActorCritic"}
    own["crossq"] = "BatchNormActorCritic"
    assert record["actor_critic"] == f"spinup.nets.{own.get(algo, 'ActorCritic')}"
    assert set(find(algo).defaults) <= set(record)
    del options["ac_kwargs"]
    assert {key: record[key] for key in options} == options


@pytest.mark.parametrize(("algo", "env"), [*((algo, "Pendulum-v1") for algo in ALGOS), ("sac", "CartPole-v1")])
def test_load_gives_the_same_actions(tmp_path, algo, env):
    ac = train(algo, env, tmp_path, **SMALL[algo])
    policy = spinup.load(tmp_path)
    o = np.random.default_rng(0).normal(size=(50, 4 if env == "CartPole-v1" else 3)).astype(np.float32)
    actions = []
    for x in (ac, policy):
        torch.manual_seed(0)
        actions.append((x.act(o), x.act(o), x.act(o, deterministic=True)))
    for one, other in zip(*actions, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)  # how products round depends on memory alignment
    (sample, _, mode), draws = actions[0], algo not in ("ddpg", "td3")
    assert (sample != mode).any() == draws  # DDPG and TD3 have deterministic policies
    assert len(np.unique(mode)) > 1


@on_policy
def test_the_returned_policy_is_the_saved_one(tmp_path, algo):
    """Including the statistics that normalize observations."""
    ac = train(algo, Mixed, tmp_path, **SMALL[algo])
    again = ActorCritic(spaces.Box(-1, 1, (1,)), spaces.Discrete(2), normalize_obs=True)
    again.rew_norm = RunningNorm(())
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    o = torch.tensor([[-1.0], [1.0]])
    assert torch.equal(again.v(o), ac.v(o))
    assert torch.equal(again.pi(o).logp, ac.pi(o).logp)


@pytest.mark.gpu
@algos
def test_cuda(tmp_path, algo):
    ac = train(algo, fit(algo, Mixed), tmp_path, **{**SMALL[algo], "device": "cuda", "eval_freq": 1})
    assert next(ac.parameters()).is_cuda
    assert all(math.isfinite(x) for row in rows(tmp_path) for x in row.values())
