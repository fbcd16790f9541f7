"""A trained policy in its own environment, and arguments that JSON has no form for, back from a run's folder."""

import contextlib
import copy
import functools
import json
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import spinup
from spinup.algorithm import find
from spinup.analysis import play as watch
from spinup.envs import evaluate, make_env, make_envs
from spinup.envs.spaces import to_env_actions
from spinup.errors import Fault, UserError
from spinup.nets import ActorCritic
from spinup.runs.config import from_exact, to_exact

BOX = spaces.Box(-1, 1, (2,), np.float32)


class Any(gym.Env):
    """Any spaces; an episode ends after `length` steps, or never; remembers its last action."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(self, observation_space=BOX, action_space=None, length=5, render_mode=None, note=None):
        self.observation_space = copy.deepcopy(observation_space)  # with a generator of its own
        self.action_space = spaces.Discrete(2) if action_space is None else copy.deepcopy(action_space)
        self.length, self.render_mode, self.note, self.t = length, render_mode, note, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        return self.observation_space.sample(), 1.0, self.t == self.length, False, {}

    def render(self):
        return np.zeros((8, 8, 3), np.uint8)


def train(folder, env_fn, algo="vpg", **more):
    settings = dict(num_envs=2, steps_per_epoch=12, epochs=1, ac_kwargs=dict(hidden_sizes=[8]))
    if not find(algo).on_policy:
        settings |= dict(eval_freq=0, update_after=4, batch_size=4, replay_size=50)
        settings |= dict(epsilon_steps=4) if algo == "dqn" else dict(start_steps=4)
    logger_kwargs = dict(output_dir=str(folder), exp_name="x", quiet=True)
    return getattr(spinup, algo)(env_fn, **{**settings, **more}, logger_kwargs=logger_kwargs)


def error_of(function, *args, **kwargs):
    with pytest.raises(UserError) as error:
        function(*args, **kwargs)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


# ---- the environment's own observation in, its own action out

ACTIONS = {
    "discrete": spaces.Discrete(3),
    "discrete from 5": spaces.Discrete(3, start=5),
    "discrete from -1": spaces.Discrete(3, start=-1),
    "multidiscrete": spaces.MultiDiscrete([2, 3]),
    "multidiscrete with start": spaces.MultiDiscrete([2, 3], start=[4, -7]),
    "multidiscrete of two dimensions": spaces.MultiDiscrete([[2, 3], [4, 5]]),
    "multibinary": spaces.MultiBinary([2, 2]),
    "box": spaces.Box(-1, 1, (3,), np.float32),
    "box of two dimensions": spaces.Box(np.array([[0, 1], [2, 3]]), np.array([[1, 2], [3, 9]]), dtype=np.float64),
    "box of integers": spaces.Box(0, 9, (2,), np.int64),
    "box of bytes": spaces.Box(0, 255, (2, 2), np.uint8),
}
OBSERVATIONS = {
    "box": BOX,
    "box of two dimensions": spaces.Box(-1, 1, (2, 3), np.float64),
    "image": spaces.Box(0, 255, (9, 9, 3), np.uint8),
    "discrete from 2": spaces.Discrete(4, start=2),
    "multidiscrete": spaces.MultiDiscrete([2, 3]),
    "dict": spaces.Dict(place=BOX, at=spaces.Discrete(3), more=spaces.Dict(x=spaces.MultiBinary(2))),
    "tuple": spaces.Tuple([spaces.Discrete(2), BOX]),
}
OFF_POLICY = [("sac", name) for name in ("discrete from -1", "box of two dimensions", "box of integers")]
OFF_POLICY += [("ddpg", "box of integers"), ("td3", "box of bytes"), ("dqn", "discrete from -1")]
CASES = [("vpg", obs, "discrete from 5") for obs in OBSERVATIONS]
CASES += [("vpg", "dict", act) for act in ACTIONS] + [(algo, "box", act) for algo, act in OFF_POLICY]


@pytest.mark.parametrize(("algo", "obs", "act"), CASES)
def test_action_takes_and_gives_what_the_environment_does(tmp_path, algo, obs, act):
    """It is the action that a VecEnv of the policy takes, for the same observation."""
    make = functools.partial(Any, OBSERVATIONS[obs], ACTIONS[act])
    trained = train(tmp_path / "x", make, algo)
    loaded = spinup.load(tmp_path / "x", env_fn=make)
    env, envs = make(), make_envs(make)
    o, _ = env.reset(seed=3)
    envs.seed = 3
    flat = envs.reset()
    for _ in range(4):
        expected = to_env_actions(env.action_space, trained.act(flat, deterministic=True))[0]
        for policy in (trained, loaded):
            action = policy.action(o, deterministic=True)
            assert env.action_space.contains(action)
            np.testing.assert_allclose(action, expected, rtol=1e-5, atol=1e-5)
        o, flat = env.step(action)[0], envs.step(trained.act(flat, deterministic=True))[0]
    assert env.action_space.contains(trained.action(o))


def test_action_samples_unless_told(tmp_path):
    policy = train(tmp_path / "x", functools.partial(Any, action_space=ACTIONS["box"]))
    o = np.zeros(2, np.float32)
    assert not np.array_equal(policy.action(o), policy.action(o))
    assert np.array_equal(policy.action(o, deterministic=True), policy.action(o, deterministic=True))


@pytest.mark.parametrize(
    ("obs", "wrong"),
    [
        ("box", np.zeros(3)),
        ("box", np.zeros((1, 2))),
        ("box", None),
        ("box of two dimensions", np.zeros((3, 2))),
        ("image", np.zeros((3, 9, 9), np.uint8)),
        ("discrete from 2", 9),
        ("dict", {"place": np.zeros(2)}),
        ("dict", np.zeros(8)),
        ("tuple", (1,)),
    ],
)
def test_what_is_not_an_observation(tmp_path, obs, wrong):
    policy = train(tmp_path / "x", functools.partial(Any, OBSERVATIONS[obs]))
    assert "is not one observation of the policy's environment, " in error_of(policy.action, wrong)


@pytest.mark.parametrize(
    ("obs", "change", "message"),
    [
        ("box", lambda o: o * np.nan, "it has a value that isn't finite"),
        ("image", lambda o: o / 255, "it is of float64; its space says uint8"),
        ("discrete from 2", lambda o: 6, "it is 6; its space is Discrete(4, start=2)"),
        ("multidiscrete", lambda o: np.array([0, 3]), "it is [0, 3]; its space is MultiDiscrete"),
        ("dict", lambda o: {**o, "place": np.zeros(3)}, "it['place'] has shape (3,); its space says (2,)"),
        ("dict", lambda o: {**o, "at": -1}, "it['at'] is -1; its space is Discrete(3)"),
        ("dict", lambda o: {**o, "more": {"x": [2, 0]}}, "it['more']['x'] is [2, 0]; its space is MultiBinary(2)"),
        ("dict", lambda o: {**o, "more": 1}, "it['more'] is 1; it must have the entries 'x'"),
        ("tuple", lambda o: (*o, 1), "; it must have the entries 0, 1"),
        ("tuple", lambda o: (0, [[1], [2, 3]]), "it[1] isn't an array (ValueError"),
    ],
)
def test_an_observation_is_checked_entry_by_entry_by_policies_and_in_training(tmp_path, obs, change, message):
    make = functools.partial(Any, OBSERVATIONS[obs])
    policy = train(tmp_path / "x", make)
    o, _ = make().reset(seed=0)
    policy.action(o)
    assert message in error_of(policy.action, change(o))

    class Wrong(gym.ObservationWrapper):
        def observation(self, observation):
            return change(observation)

    if obs not in ("box", "image"):  # checked by CheckedEnv
        with pytest.raises(Fault) as error:
            make_envs(lambda: Wrong(make())).reset()
        assert message.replace("it[", "the observation[").removeprefix("it ") in str(error.value)


@pytest.mark.parametrize("obs", ["discrete from 2", "multidiscrete", "dict", "tuple"])
def test_action_takes_the_flattened_observations_of_make_env(tmp_path, obs):
    make = functools.partial(Any, OBSERVATIONS[obs])
    policy = train(tmp_path / "x", make)
    o, flat = make().reset(seed=0)[0], make_env(make).reset(seed=0)[0]
    np.testing.assert_array_equal(policy.action(flat, deterministic=True), policy.action(o, deterministic=True))


def test_an_environment_that_flattens_by_itself(tmp_path):
    def make():
        return gym.wrappers.FlattenObservation(Any(OBSERVATIONS["dict"]))

    policy = train(tmp_path / "x", make)
    assert make().action_space.contains(policy.action(make().reset(seed=0)[0]))


def test_networks_of_ones_own_get_it_too(tmp_path):
    class Other(ActorCritic):
        pass

    make = functools.partial(Any, action_space=ACTIONS["discrete from 5"])
    policy = train(tmp_path / "x", make, actor_critic=Other, max_ep_len=9)
    twin = copy.deepcopy(policy)
    assert policy.action(np.zeros(2, np.float32)) in (5, 6, 7)
    for p in twin.actor.parameters():
        p.data.fill_(math.nan)
    assert policy.action(np.ones(2, np.float32), deterministic=True) in (5, 6, 7)  # the copy's is of the copy
    assert twin.action.args[0] is twin
    assert twin.max_ep_len == 9


@pytest.mark.parametrize(
    ("obs", "act", "message"),
    [
        (
            "box of two dimensions",
            "discrete",
            r"the policy's observations are Box(2,) of float32, those of other Box(6,) ",
        ),
        (
            "image",
            "discrete",
            "the policy's observations are Box(2,) of float32, those of other Box(9, 9, 3) of uint8; ",
        ),
        (
            "box",
            "box",
            r"the policy's actions are Discrete(3), those of other Box(3,) of float32; they must be the same",
        ),
        (
            "box",
            "multidiscrete",
            "the policy's actions are Discrete(3), those of other MultiDiscrete([2 3]); they must",
        ),
    ],
)
def test_a_policy_in_an_environment_with_other_spaces(tmp_path, obs, act, message):
    def other(render_mode=None):
        return Any(OBSERVATIONS[obs], ACTIONS[act], render_mode=render_mode)

    make = functools.partial(Any, action_space=ACTIONS["discrete"])
    trained = train(tmp_path / "x", make)
    (tmp_path / "x.gif").write_text("an earlier one")
    for policy in (trained, copy.deepcopy(trained), spinup.load(tmp_path / "x", env_fn=make)):
        assert message in error_of(evaluate, policy, other, 2)
        assert message in error_of(watch.record, policy, other, tmp_path / "x.gif")
    assert (tmp_path / "x.gif").read_text() == "an earlier one"


def test_a_policy_in_an_environment_with_other_bounds(tmp_path):
    """As with a heavier pole: its networks can take the observations, and its actions are clipped."""
    policy = train(tmp_path / "x", functools.partial(Any, action_space=ACTIONS["box"]))
    wider = functools.partial(Any, spaces.Box(-9, 9, (2,)), spaces.Box(0, 0.5, (3,)))
    assert evaluate(policy, wider, 2)["EpLen"] == [5, 5]


# ---- the run's longest episode


def test_an_environment_without_a_limit(tmp_path, capsys):
    """It is played as long as in training: by evaluate, record, test_policy, with and without a window."""
    gym.register("Endless-v0", entry_point=functools.partial(Any, length=-1))
    try:
        trained = train(tmp_path / "x", "Endless-v0", max_ep_len=7)
        for policy in (trained, spinup.load(tmp_path / "x")):
            assert evaluate(policy, "Endless-v0", 2)["EpLen"] == [7, 7]
            assert watch.record(policy, "Endless-v0", tmp_path / "x.gif")["EpLen"] == [7]
        assert evaluate(trained, "Endless-v0", 1, max_ep_len=3)["EpLen"] == [3]
        capsys.readouterr()
        for words in (["-nr", "-n", "2"], ["--video", str(tmp_path / "y.gif")]):
            watch.main([str(tmp_path / "x"), *words])
            assert "EpLen  mean 7.00  std 0.00  min 7  max 7" in capsys.readouterr().out
        watch.main([str(tmp_path / "x"), "-nr", "-n", "1", "--len", "4"])
        assert "EpLen  mean 4.00" in capsys.readouterr().out
    finally:
        gym.registry.pop("Endless-v0")


@pytest.mark.parametrize("make", [lambda: gym.wrappers.TimeLimit(Any(length=-1), 30), "CartPole-v1"])
def test_a_limit_below_the_environments_own_is_told_once(tmp_path, capsys, make):
    own = 500 if isinstance(make, str) else 30
    train(tmp_path / "x", make, max_ep_len=7)
    line = f"warning: max_ep_len 7 cuts off episodes that the environment itself would end after {own} steps; "
    assert capsys.readouterr().err.count(line) == 1
    train(tmp_path / "y", make, max_ep_len=own)
    train(tmp_path / "z", functools.partial(Any, length=-1), max_ep_len=7)
    assert "max_ep_len" not in capsys.readouterr().err


# ---- what JSON has no form for


def swish(x):
    return nn.SiLU(x)


class Mine(nn.Tanh):
    """An activation of one's own."""


def narrow(i, o):
    return nn.Linear(i, o)


VALUES = [
    (1, (2, [3.5, None])),
    {1: "a", (2, 3): {None: True}, "x": -math.inf},
    {"tuple": [1]},
    {"dict": 3, "b": ()},
    [math.inf, float("nan"), "inf", "nan"],
    {"a", 3},
    frozenset([(1, 2)]),
    np.arange(6, dtype=np.float32).reshape(2, 3),
    {"goal": np.array([], np.int64), "flag": np.bool_(True), "n": np.int32(3)},
    {"activation": nn.ReLU, "other": nn.Tanh},
    10**30,
]


@pytest.mark.parametrize("value", VALUES, ids=map(str, range(len(VALUES))))
def test_values_come_back_equal(value):
    back = from_exact(json.loads(json.dumps(to_exact(value), allow_nan=False)))
    assert type(back) is type(value)
    if isinstance(value, set | frozenset):  # the order of its words differs from process to process
        assert back == value
    else:
        assert repr(back) == repr(value).replace("np.True_", "True").replace("np.int32(3)", "3")


KWARGS = {
    "layout": {1: (2, 3), "far": math.inf, (0, 1): {"x"}},
    "goal": np.array([1.5, 2.5], np.float32),
    "names": ("a", ["b", ("c",)]),
}


class Checked(Any):
    """Wants its arguments as they were given."""

    def __init__(self, layout=None, goal=None, names=None, **kwargs):
        super().__init__(**kwargs)
        assert layout == KWARGS["layout"]
        assert names == KWARGS["names"]
        assert goal.dtype == np.float32
        assert goal.tolist() == [1.5, 2.5]


def test_arguments_come_back_for_load_resume_and_test_policy(tmp_path, capsys):
    gym.register("Checked-v0", entry_point=Checked)
    try:
        ac_kwargs = dict(hidden_sizes=(8, np.int32(4)), activation=nn.ReLU)
        train(tmp_path / "x", "Checked-v0", env_kwargs=KWARGS, ac_kwargs=ac_kwargs, checkpoint_freq=1)
        assert type(spinup.load(tmp_path / "x").actor.net[1][1]) is nn.ReLU
        watch.main([str(tmp_path / "x"), "-nr", "-n", "1"])
        spinup.resume(tmp_path / "x", epochs=2)
        spinup.resume(tmp_path / "x", epochs=3)  # written anew by the one before
    finally:
        gym.registry.pop("Checked-v0")


def test_a_config_that_was_edited_counts_as_edited(tmp_path):
    train(tmp_path / "x", "CartPole-v1", ac_kwargs=dict(hidden_sizes=(8,)))
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    assert config["ac_kwargs"] == {"hidden_sizes": [8]}  # readable
    config["ac_kwargs"]["hidden_sizes"] = [9]
    (tmp_path / "x" / "config.json").write_text(json.dumps(config))
    assert "the saved parameters do not match the networks" in error_of(spinup.load, tmp_path / "x")


def test_a_policy_for_an_environment_with_other_spaces_is_not_loaded(tmp_path):
    train(tmp_path / "x", "CartPole-v1", ac_kwargs=dict(hidden_sizes=(8,)))
    message = error_of(spinup.load, tmp_path / "x", env_fn="Acrobot-v1")
    assert "do not match the networks for observations and actions in Box(" in message
    assert message.endswith("and Discrete(3), as this environment with its wrappers has them")


@pytest.mark.parametrize(
    ("name", "value"),
    [("activation", Mine), ("linear", narrow), ("linear", functools.partial(narrow))],
)
def test_what_config_json_can_only_name_is_asked_for(tmp_path, name, value):
    ac_kwargs = dict(hidden_sizes=[8, 8])
    trained = train(tmp_path / "x", "CartPole-v1", ac_kwargs={**ac_kwargs, name: value}, checkpoint_freq=1)
    for function in (spinup.load, functools.partial(spinup.resume, epochs=2)):
        message = error_of(function, tmp_path / "x")
        assert f"ac_kwargs['{name}'] was '" in message
        assert message.endswith(f"; give it in Python: ac_kwargs={{'{name}': ...}}")
    o = np.ones((3, 4), np.float32)
    for given in (
        dict(ac_kwargs={name: value}),
        dict(actor_critic=functools.partial(ActorCritic, **{name: value})),
    ):
        policy = spinup.load(tmp_path / "x", **given)
        assert np.array_equal(policy.act(o, deterministic=True), trained.act(o, deterministic=True))
    spinup.resume(tmp_path / "x", epochs=2, ac_kwargs={name: value})
    spinup.resume(tmp_path / "x", epochs=3, actor_critic=functools.partial(ActorCritic, **{name: value}))


def test_policies_of_sac_from_before_layer_normalization_was_its_default(tmp_path):
    """config.json names only what the user gave; the version that wrote it says what the rest was."""
    options = dict(steps_per_epoch=20, epochs=1, start_steps=10, update_after=10, batch_size=4, replay_size=100)
    small = dict(hidden_sizes=(8, 8), layer_norm=False)
    kwargs = dict(output_dir=str(tmp_path / "x"), quiet=True)
    trained = spinup.sac("Pendulum-v1", ac_kwargs=small, **options, num_test_episodes=1, logger_kwargs=kwargs)
    file = tmp_path / "x" / "config.json"
    config = json.loads(file.read_text())
    config["ac_kwargs"] = dict(hidden_sizes=[8, 8])
    config.pop("exact", None)
    file.write_text(json.dumps(config))
    assert "do not match the networks" in error_of(spinup.load, tmp_path / "x")  # by this version, it would be on
    config["run"]["spinup"] = "1.0.0.dev0"
    file.write_text(json.dumps(config))
    o = np.ones((3, 3), np.float32)
    policy = spinup.load(tmp_path / "x")
    assert np.array_equal(policy.act(o, deterministic=True), trained.act(o, deterministic=True))


def test_a_partial_actor_critic_is_given_again(tmp_path):
    made = []

    def linear(i, o):
        made.append((i, o))
        return nn.Linear(i, o)

    partial = functools.partial(ActorCritic, linear=linear)
    train(tmp_path / "x", "CartPole-v1", actor_critic=partial, checkpoint_freq=1)
    assert "spinup.load(..., actor_critic=" in error_of(spinup.load, tmp_path / "x")
    made.clear()
    spinup.load(tmp_path / "x", actor_critic=partial)
    assert made
    spinup.resume(tmp_path / "x", epochs=2, actor_critic=partial)


def test_environments_arguments_that_config_json_can_only_name(tmp_path):
    note = object()
    train(tmp_path / "x", Any, env_kwargs=dict(note=note, length=4), checkpoint_freq=1)
    assert "env_kwargs['note'] was 'object object'" in error_of(spinup.load, tmp_path / "x", env_fn=Any).replace(
        "<object object>", "object object"
    )
    spinup.load(tmp_path / "x", env_fn=Any, env_kwargs=dict(note=note))
    spinup.load(tmp_path / "x", env_fn=functools.partial(Any, note=note))
    spinup.resume(tmp_path / "x", epochs=2, env_fn=Any, env_kwargs=dict(note=note))


@pytest.mark.parametrize(
    "exact",
    [3, [], {"ac_kwargs": 3}, {"ac_kwargs": {"dict": 3}}, {"ac_kwargs": {"array": ["O", [1], [1]]}},
     {"ac_kwargs": {"array": ["1000000000f4", [1], [1]]}}, {"ac_kwargs": {"torch.nn": "Module.__init__"}},
     {"ac_kwargs": {"dict": [[{"set": []}, 1]]}}, {"ac_kwargs": {"x": {"torch.nn": "functional"}}},
     {"ac_kwargs": {"float": [1]}}],
)  # fmt: skip
def test_a_stranger_s_exact_arguments(tmp_path, exact):
    train(tmp_path / "x", "CartPole-v1")
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    (tmp_path / "x" / "config.json").write_text(json.dumps({**config, "exact": exact}))
    with contextlib.suppress(UserError):
        spinup.load(tmp_path / "x")


class Frozen(ActorCritic):
    """The first layer of the policy doesn't learn, and another layer isn't used."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.first = next(self.actor.parameters()).requires_grad_(False)
        self.actor.unused = nn.Linear(3, 3)


@pytest.mark.parametrize("algo", ["vpg", "trpo", "ppo"])
def test_parameters_that_are_frozen_or_unused_stay_as_they_are(tmp_path, algo):
    made = []

    def networks(*spaces, **kwargs):
        made.append(Frozen(*spaces, **kwargs))
        made.append({name: x.clone() for name, x in made[0].state_dict().items()})
        return made[0]

    options = dict(num_envs=2, steps_per_epoch=60, epochs=2, train_v_iters=2)
    getattr(spinup, algo)("CartPole-v1", networks, **options, logger_kwargs=dict(output_dir=tmp_path, quiet=True))
    ac, before = made[:2]
    same = {name for name, x in ac.named_parameters() if torch.equal(x, before[name])}
    still = {name for name, x in ac.named_parameters() if x is ac.first or "unused" in name}
    assert len(still) == 3
    assert same == still


@pytest.mark.parametrize(
    ("ac_kwargs", "message"),
    [
        ({"log_std_init": "a"}, "log_std_init is 'a'; it must be a number"),
        ({"log_std_max": [1]}, "log_std_max is [1]; it must be a number or None"),
        ({"squash": "yes"}, "squash is 'yes'; it must be True or False"),
    ],
)
def test_values_in_ac_kwargs_are_checked(tmp_path, ac_kwargs, message):
    with pytest.raises(UserError) as error:
        spinup.ppo("Pendulum-v1", ac_kwargs=ac_kwargs, logger_kwargs=dict(output_dir=tmp_path / "run"))
    assert str(error.value) == message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("algo", ["vpg", "trpo", "ppo"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda v: v.squeeze(),
            "(3,) for 3 steps of 1 environment; it must be (3, 1)",
        ),
        (
            lambda v: v.flatten(),
            "(6,) for 2 steps of 3 environments; it must be (2, 3)",
        ),
    ],
)
def test_values_of_a_rollout_keep_their_shape(tmp_path, algo, change, message):
    class Own(ActorCritic):
        def v(self, o):
            return change(super().v(o))

    options = dict(num_envs=1, logger_kwargs=dict(output_dir=tmp_path / "run"))
    with pytest.raises(UserError) as error:
        getattr(spinup, algo)("CartPole-v1", Own, **options)
    assert str(error.value) == f"actor_critic Own: v(o) has shape {message}"


def test_a_module_that_is_no_policy_is_refused():
    with pytest.raises(UserError, match="a Linear can't play: it has no act"):
        evaluate(nn.Linear(4, 2), "CartPole-v1")
