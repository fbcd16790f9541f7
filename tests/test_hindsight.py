"""Goals and hindsight replay: new goals by hand, against a naive twin, in whole runs, and what users get wrong."""

import functools
import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import OFF_POLICY, rows, train, without_time
from test_mpi import launch

import spinup
from spinup import run
from spinup.buffers import ReplayBuffer
from spinup.envs import evaluate, make_envs
from spinup.errors import Fault, UserError
from spinup.examples.goals import BitFlip, Reach
from spinup.hindsight import HindsightBuffer

POINT = spaces.Box(-1e4, 1e4, (1,), np.float32)


def reward(achieved, desired, info):
    """Other for each pair of goals below 100."""
    assert info == {}
    return 100 * achieved[..., 0] + desired[..., 0]


class Line(gym.Env):
    """Achieves 1, 2, 3, ... in an episode and should achieve 2; other entries of the observation lie between goals."""

    observation_space = spaces.Dict(
        {"b": POINT, "desired_goal": POINT, "a": spaces.Discrete(3), "achieved_goal": POINT}
    )
    action_space = spaces.Discrete(2)
    compute_reward = staticmethod(reward)

    def __init__(self, length=4):
        self.length, self.goal = length, np.array([2], np.float32)

    def observe(self):
        t = np.array([self.t], np.float32)
        return {"b": -t, "desired_goal": self.goal, "a": 1, "achieved_goal": t}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def step(self, action):
        self.t += 1
        o = self.observe()
        return o, float(reward(o["achieved_goal"], self.goal, {})), False, self.t == self.length, {}


class Ending(Line):
    """Line, with episodes that end at the goal."""

    def compute_terminated(self, achieved, desired, info):
        return (achieved == desired)[..., 0]

    def step(self, action):
        o, r, _, truncated, info = super().step(action)
        return o, r, bool(self.compute_terminated(o["achieved_goal"], self.goal, {})), truncated, info


def make_buffer(size=100, num_envs=1, hindsight=1.0, env=Ending):
    return HindsightBuffer(hindsight, make_envs(env, num_envs), size)


def flat(achieved, desired, **more):
    """Observations of Line, (N, 6): its entries in alphabetical order, as Gymnasium sorts them."""
    o = np.zeros((len(achieved), 6), np.float32)
    o[:, 3], o[:, 4], o[:, 5] = achieved, -np.asarray(achieved), desired
    return o


def store(buffer, t, terminated=0, truncated=0, desired=50):
    """At time t, environment n goes from achieving 10 n + t to achieving 10 n + t + 1."""
    n = 10 * np.arange(buffer.num_envs)
    flags = (np.broadcast_to(np.asarray(x, bool), n.shape) for x in (terminated, truncated))
    o, o2 = flat(n + t, [desired] * len(n)), flat(n + t + 1, [desired] * len(n))
    buffer.store(o, t % 2 + 0 * n, reward(o2[:, 3:4], o2[:, 5:6], {}), o2, *flags)


def samples(buffer, count=500):
    """{achieved before: the goals that its samples had}; checks everything else about each sample."""
    found = {}
    torch.manual_seed(0)
    batch = buffer.sample(count)
    for o, a, r, o2, terminated, discount in zip(*(x.tolist() for x in batch), strict=True):
        assert o2[3] == o[3] + 1
        assert o2[5] == o[5]
        assert a == o[3] % 10 % 2
        assert r == 100 * o2[3] + o[5]
        assert terminated == (o2[3] == o[5])
        assert discount == pytest.approx(0.99)
        found.setdefault(o[3], set()).add(o[5])
    return found


# ---- by hand


def test_goals_of_later_steps_of_the_episode():
    """Truncated after step 2, terminated after step 4, and unfinished after step 5."""
    buffer = make_buffer()
    for t in range(6):
        store(buffer, t, terminated=t == 4, truncated=t == 2)
    assert samples(buffer) == {0: {1, 2, 3}, 1: {2, 3}, 2: {3}, 3: {4, 5}, 4: {5}, 5: {6}}


def test_goals_after_the_oldest_steps_were_overwritten():
    """With room for five steps, steps 0 to 3 of the first episode go one by one; its last remains for a while."""
    buffer = make_buffer(5)
    for t in range(5):
        store(buffer, t, truncated=t == 4)
    assert samples(buffer) == {0: {1, 2, 3, 4, 5}, 1: {2, 3, 4, 5}, 2: {3, 4, 5}, 3: {4, 5}, 4: {5}}
    for t in range(5, 8):
        store(buffer, t)
    assert samples(buffer) == {3: {4, 5}, 4: {5}, 5: {6, 7, 8}, 6: {7, 8}, 7: {8}}
    for t in range(8, 13):  # this episode is longer than the buffer
        store(buffer, t, terminated=t == 12)
    last = {8: {9, 10, 11, 12, 13}, 9: {10, 11, 12, 13}, 10: {11, 12, 13}, 11: {12, 13}, 12: {13}}
    assert samples(buffer) == last
    store(buffer, 13)
    del last[8]
    assert samples(buffer) == last | {13: {14}}


def test_memory_counts_the_ends_of_episodes():
    each = 2 * 6 * 4 + 8 + 9 + 8  # o, o2; a; r, terminated, done; end
    assert make_buffer(size=2**20).memory == f"replay buffer: {2**20} transitions, {each} MiB when full"


def test_each_later_goal_is_as_likely():
    buffer = make_buffer()
    for t in range(4):
        store(buffer, t, truncated=t == 3)
    torch.manual_seed(0)
    batch = buffer.sample(40_000)
    for t in range(4):
        goals = batch.o[batch.o[:, 3] == t, 5]
        for goal in range(t + 1, 5):
            assert (goals == goal).float().mean() == pytest.approx(1 / (4 - t), abs=0.02)


def test_environments_do_not_share_goals():
    buffer = make_buffer(num_envs=3)
    for t in range(4):
        store(buffer, t, terminated=[0, t == 1, 0], truncated=[t == 3, 0, t == 0])
    first = {0: {1, 2, 3, 4}, 1: {2, 3, 4}, 2: {3, 4}, 3: {4}}
    second = {10: {11, 12}, 11: {12}, 12: {13, 14}, 13: {14}}
    third = {20: {21}, 21: {22, 23, 24}, 22: {23, 24}, 23: {24}}
    assert samples(buffer, 1000) == first | second | third


def test_an_episode_that_resume_ends():
    """Its environment couldn't continue it, so later steps are of another episode."""
    buffer = make_buffer(num_envs=2)
    store(buffer, 0)
    store(buffer, 1)
    buffer.mark_episode_end(np.array([False, True]))
    store(buffer, 2)
    assert samples(buffer) == {0: {1, 2, 3}, 1: {2, 3}, 2: {3}, 10: {11, 12}, 11: {12}, 12: {13}}


def test_other_transitions_are_those_of_a_replay_buffer():
    """hindsight is the share of transitions with new goals; the others, and the buffer's memory, stay as they are."""
    buffer = make_buffer(hindsight=0.8, env=Line)
    plain = ReplayBuffer(100, 1, spaces.Box(-np.inf, np.inf, (6,), np.float32), spaces.Discrete(2))
    for t in range(10):
        for memory in (buffer, plain):
            store(memory, t, terminated=t == 4, truncated=t == 9)
    torch.manual_seed(0)
    batch = buffer.sample(20_000)
    torch.manual_seed(0)
    reference = plain.sample(20_000)
    new = batch.o[:, 5] != 50
    assert new.float().mean() == pytest.approx(0.8, abs=0.01)
    assert all(torch.equal(x[~new], y[~new]) for x, y in zip(batch, reference, strict=True))
    assert torch.equal(batch.terminated, reference.terminated)  # Line has no compute_terminated
    assert torch.equal(batch.o[:, :5], reference.o[:, :5])
    assert all(torch.equal(buffer.flat[name][:10], plain.flat[name][:10]) for name in plain.columns)


# ---- against a naive twin


class Twin:
    """Keeps each environment's steps in a list, (t, episode, terminated), and looks through it for later ones."""

    def __init__(self, rows, num_envs):
        self.rows, self.steps, self.episode = rows, [[] for _ in range(num_envs)], [0] * num_envs

    def store(self, t, ended):
        for n, steps in enumerate(self.steps):
            steps.append((t, self.episode[n]))
            del steps[: -self.rows]
            self.episode[n] += int(ended[n])

    def mark_episode_end(self, mask):
        for n, ended in enumerate(mask):
            self.episode[n] += int(ended and self.steps[n][-1][1] == self.episode[n])

    def goals(self, u):
        """{(n, t): the achieved goal of the step at the share u of the later ones}."""
        found = {}
        for n, steps in enumerate(self.steps):
            for i, (t, episode) in enumerate(steps):
                later = [s for s, other in steps[i:] if other == episode]
                found[n, t] = 10 * n + later[math.floor(u * len(later))] + 1
        return found


@st.composite
def histories(draw):
    num_envs = draw(st.integers(1, 3))
    flags = st.lists(st.sampled_from([0, 0, 0, 1]), min_size=num_envs, max_size=num_envs)
    steps = draw(st.lists(st.tuples(flags, flags, flags), min_size=1, max_size=9))
    return num_envs, draw(st.integers(1, 12)), steps


@settings(deadline=None, max_examples=150)
@given(histories(), st.sampled_from([0.0, 0.3, 0.5, 0.8, 0.9999999]))
def test_goals_are_those_of_a_naive_twin(history, u):
    """For any episode ends, marked or stored, any wrap-around of the rows, and any number of environments."""
    num_envs, size, steps = history
    buffer = cached_buffer(num_envs, size)
    twin = Twin(buffer.rows, num_envs)
    for t, (terminated, truncated, marked) in enumerate(steps):
        store(buffer, t, terminated, truncated)
        twin.store(t, np.array(terminated) | np.array(truncated))
        if any(marked):
            buffer.mark_episode_end(np.array(marked, bool))
            twin.mark_episode_end(marked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randint", lambda high, size: torch.arange(high))
        patch.setattr(torch, "rand", lambda count, dtype=torch.float32: torch.full((count,), u, dtype=dtype))
        batch = buffer.sample(len(buffer))
    achieved = [divmod(int(x), 10) for x in batch.o[:, 3]]
    assert dict(zip(achieved, batch.o[:, 5].tolist(), strict=True)) == twin.goals(u)
    assert torch.equal(batch.r, 100 * batch.o2[:, 3] + batch.o2[:, 5])


@functools.cache
def cached_envs(num_envs):
    return make_envs(Ending, num_envs)


def cached_buffer(num_envs, size):
    return HindsightBuffer(1.0, cached_envs(num_envs), size)


def test_a_buffer_continues_from_its_state():
    """After any number of steps, before and after the rows wrap around, with the same samples."""
    whole = cached_buffer(2, 20)
    for t in range(9):
        store(whole, t, terminated=[t == 2, 0], truncated=[0, t in (3, 8)])
        other = cached_buffer(2, 20)
        other.load_state_dict(whole.state_dict())
        for later in range(3):
            for buffer in (whole, other):
                store(buffer, t, truncated=[later == 1, later == 2])
            assert_same_samples(whole, other)


def assert_same_samples(*buffers):
    batches = []
    for buffer in buffers:
        torch.manual_seed(3)
        batches.append(buffer.sample(200))
    assert all(torch.equal(x, y) for x, y in zip(*batches, strict=True))


# ---- the environment's functions


class OnePair(Ending):
    """Its functions take one pair of goals and return numbers."""

    def compute_reward(self, achieved, desired, info):
        assert achieved.shape == (1,)
        return float(reward(achieved, desired, info))

    def compute_terminated(self, achieved, desired, info):
        return bool(np.linalg.norm(achieved - desired) == 0)  # of a batch it would be one number for all


class Columns(Ending):
    """Returns a reward of shape (1,) for a pair, and so (B, 1) for a batch."""

    def compute_reward(self, achieved, desired, info):
        return reward(achieved, desired, info)[..., None]


@pytest.mark.parametrize("env", [OnePair, Columns])
def test_functions_of_one_pair_are_called_for_each(env):
    buffer, reference = make_buffer(env=env), make_buffer()
    for t in range(6):
        for memory in (buffer, reference):
            store(memory, t, truncated=t == 3)
    assert_same_samples(buffer, reference)


SEEN = []  # what the function of goals below was called with


class Square(Line):
    """Goals are 2 x 2 and float64."""

    goal_space = spaces.Box(-9, 9, (2, 2), np.float64)
    observation_space = spaces.Dict(achieved_goal=goal_space, desired_goal=goal_space)

    def compute_reward(self, achieved, desired, info):
        SEEN.append((achieved.shape, achieved.dtype, desired.shape, desired.dtype))
        return (achieved - desired).sum((-1, -2))

    def observe(self):
        return {"achieved_goal": np.full((2, 2), self.t, float), "desired_goal": np.ones((2, 2))}


def test_functions_get_goals_as_the_environment_gave_them():
    buffer = make_buffer(env=Square)
    o = np.zeros((1, 8), np.float32)
    for t in range(3):
        buffer.store(o + t, np.zeros(1), np.zeros(1), o + t + 1, np.zeros(1, bool), np.zeros(1, bool))
    SEEN.clear()
    batch = buffer.sample(7)
    assert SEEN[-1] == ((7, 2, 2), np.float64, (7, 2, 2), np.float64)
    assert torch.equal(batch.r, 4 * (batch.o2[:, 0] - batch.o2[:, 4]))


class Camera(Line):
    """An image stands between the goals."""

    image = spaces.Box(0, 255, (8, 8), np.uint8)
    observation_space = spaces.Dict({"achieved_goal": POINT, "camera": image, "desired_goal": POINT})

    def observe(self):
        o = super().observe()
        return {name: o.get(name, np.full((8, 8), self.t, np.uint8)) for name in self.observation_space}


def test_goals_beside_images():
    envs = make_envs(Camera)
    buffer = HindsightBuffer(1.0, envs, 20)
    o = envs.reset()
    for _ in range(12):
        o2, *rest = envs.step(np.zeros(1, int))
        buffer.store(o, np.zeros(1), rest[0], o2, *rest[1:])
        o = envs.reset_done()
    batch = buffer.sample(100)
    assert torch.equal(batch.o[:, 0], batch.o[:, 30])  # a pixel of the camera shows what is achieved
    assert torch.equal(batch.o2[:, 0], batch.o2[:, 30])
    assert torch.equal(batch.o2[:, 0], batch.o[:, 0] + 1)
    assert torch.equal(batch.r, 100 * batch.o2[:, 0] + batch.o2[:, 65])
    assert set(batch.o[:, 65].tolist()) == {1, 2, 3, 4}


class Scaled(gym.Wrapper):
    """Changes rewards, without being one of Gymnasium's RewardWrappers."""

    def step(self, action):
        o, r, *rest = self.env.step(action)
        return o, r / 10, *rest


def test_a_warning_if_step_returns_other_rewards(tmp_path, capfd):
    options = dict(SMALL, hindsight=0.5, epochs=1)
    train("dqn", Ending, tmp_path / "same", **options)
    assert "warning" not in capfd.readouterr().err
    train("dqn", lambda: Scaled(Ending()), tmp_path / "scaled", **options)
    error = capfd.readouterr().err
    assert error.count("warning: <lambda>: compute_reward differs from what step returned in 32 of 32 steps") == 1
    assert "compute_terminated" not in error


class Broken(Line):
    def compute_reward(self, achieved, desired, info):
        if np.ndim(achieved) == 2 and len(achieved) > 2:
            if self.length == 1:
                return np.full(len(achieved), np.nan)
            raise ZeroDivisionError("nothing")
        return reward(achieved, desired, info)


@pytest.mark.parametrize(("length", "message"), [(4, "raised ZeroDivisionError: nothing in"), (1, "returned NaN or")])
def test_faults_of_compute_reward_are_named(length, message):
    buffer = make_buffer(env=lambda: Broken(length))
    for t in range(3):
        store(buffer, t)
    with pytest.raises(Fault, match=message):
        buffer.sample(10)


# ---- whole runs


SMALL = dict(num_envs=2, steps_per_epoch=60, epochs=3, batch_size=8, replay_size=50, update_after=30, replay_ratio=0.5)
SMALL |= dict(n_step=1, num_test_episodes=2, ac_kwargs=dict(hidden_sizes=[8]))
BITS = dict(SMALL, env_kwargs={"bits": 4}, epsilon_steps=50, hindsight=0.8)


@pytest.mark.parametrize("algo", [*OFF_POLICY, "dqn"])
def test_runs_resume_exactly_and_hindsight_changes_them(tmp_path, monkeypatch, algo):
    env, options = (BitFlip, BITS) if algo == "dqn" else (Reach, dict(SMALL, start_steps=20, hindsight=0.8))
    train(algo, env, tmp_path / "whole", **options)
    train(algo, env, tmp_path / "without", **options | dict(hindsight=0.0))
    assert without_time(tmp_path / "whole") != without_time(tmp_path / "without")
    original = HindsightBuffer.store

    def store_and_end(self, *args):
        original(self, *args)
        if self.t == 78:  # in the third epoch; the rows have wrapped around three times
            raise KeyboardInterrupt

    monkeypatch.setattr(HindsightBuffer, "store", store_and_end)
    with pytest.raises(KeyboardInterrupt):
        train(algo, env, tmp_path / "half", **options, checkpoint_freq=1)
    monkeypatch.undo()
    logger_kwargs = dict(output_dir=tmp_path / "half", quiet=True, resume=True)
    run.find(algo).function(env, logger_kwargs=logger_kwargs, **options, checkpoint_freq=1)
    assert len(rows(tmp_path / "half")) == 3
    assert without_time(tmp_path / "half") == without_time(tmp_path / "whole")


@pytest.mark.parametrize("change", [dict(vectorization="async"), dict(capture=False)])
def test_worker_processes_and_capture_change_nothing(tmp_path, change):
    env = "spinup.examples.goals:BitFlip-v0"
    train("dqn", env, tmp_path / "plain", **BITS)
    train("dqn", env, tmp_path / "other", **BITS, **change)
    assert without_time(tmp_path / "other") == without_time(tmp_path / "plain")


def test_the_spare_environment_is_closed(tmp_path):
    closed = []

    class Closing(Ending):
        def close(self):
            closed.append(self)

    made = []
    train("dqn", lambda: made.append(Closing()) or made[-1], tmp_path, **dict(SMALL, hindsight=0.5))
    assert len(made) == len(set(map(id, closed))) > 3


TWO = """
import sys
from spinup.compute import mpi
mpi.mpi_fork(2)
import numpy as np
import spinup
from spinup.hindsight import HindsightBuffer

seen, sample = [], HindsightBuffer.sample

def sample_and_keep(self, batch_size):
    batch = sample(self, batch_size)
    seen.append((self, batch))
    return batch

HindsightBuffer.sample = sample_and_keep
spinup.dqn(
    "spinup.examples.goals:BitFlip-v0", env_kwargs={"bits": 4}, steps_per_epoch=60, epochs=2, update_after=40,
    batch_size=9, replay_size=40, n_step=1, hindsight=1.0, ac_kwargs=dict(hidden_sizes=(8,)), num_test_episodes=1,
    logger_kwargs=dict(output_dir="run", quiet=True),
)
buffer, _ = seen[-1]
assert buffer.rows == 20, buffer.rows
for buffer, batch in seen:
    assert len(batch.r) == 5
    assert ((batch.o2[:, 4:8] == batch.o2[:, 8:]).all(1).float() == batch.terminated).all()
    assert (batch.r == batch.terminated - 1).all()
values = buffer.o.numpy().ravel().astype(float)
assert (mpi.mpi_min(values) != mpi.mpi_max(values)).any(), "both processes have seen the same"
sys.stdout.write("done\\n")
sys.stdout.flush()
"""


def test_two_processes(tmp_path):
    result = launch(tmp_path, TWO)
    assert result.stdout.split() == ["done", "done"], result.stderr
    assert result.returncode == 0


def test_bits_are_learned_with_hindsight(tmp_path):
    """Six bits in 3000 steps."""
    options = dict(SMALL, env_kwargs={"bits": 6}, hindsight=0.8, steps_per_epoch=1500, epochs=2, eval_freq=0)
    options |= dict(epsilon_steps=1000, batch_size=64, update_after=200, replay_size=10_000, replay_ratio=1.0)
    options |= dict(ac_kwargs=dict(hidden_sizes=[64, 64]), q_lr=1e-3, num_envs=1)
    ac = train("dqn", BitFlip, tmp_path, **options)
    played = evaluate(ac, BitFlip, 100, env_kwargs={"bits": 6}, log_info="is_success")
    assert np.mean(played["is_success"]) >= 0.95


# ---- mistakes


class NoReward(Line):
    compute_reward = None


class Abstract(Line):
    """As gymnasium-robotics' GoalEnv has it."""

    def compute_reward(self, achieved, desired, info):
        raise NotImplementedError


class WithoutGoals(gym.ObservationWrapper):
    def __init__(self, env):
        super().__init__(env)
        self.observation_space = POINT

    def observation(self, o):
        return o["achieved_goal"]


class Numbered(Line):
    """Goals are numbers of places."""

    observation_space = spaces.Dict(achieved_goal=spaces.Discrete(9), desired_goal=spaces.Discrete(9))

    def observe(self):
        return {"achieved_goal": self.t, "desired_goal": 2}


class TwoShapes(Line):
    observation_space = spaces.Dict(achieved_goal=spaces.Box(-9, 9, (2,)), desired_goal=POINT)


class Rewarded(gym.wrappers.TransformReward):
    """Knows what its rewards are for other goals."""

    def compute_reward(self, achieved, desired, info):
        return self.func(self.env.unwrapped.compute_reward(achieved, desired, info))


def halved(env):
    return gym.wrappers.TransformReward(env, lambda r: r / 2)


MISTAKES = [
    ("CartPole-v1", {}, "hindsight needs a goal environment, with a Dict .* desired_goal; CartPole-v1 has Box"),
    (Line, dict(n_step=3), "n_step is 3; with hindsight it must be 1"),
    (Line, dict(hindsight=1.5), "hindsight is 1.5; it must be a number in 0 to 1"),
    (Line, dict(hindsight=80), "hindsight is 80; it must be a number in 0 to 1"),
    (Line, dict(wrappers=[WithoutGoals]), "has Box.*; its wrapper WithoutGoals hides them"),
    (Line, dict(wrappers=["gymnasium.wrappers:FlattenObservation"]), "its wrapper FlattenObservation hides them"),
    (Line, dict(wrappers=[halved]), "knows nothing of TransformReward; leave that wrapper out, or give it a compute"),
    (Line, dict(wrappers=["gymnasium.wrappers:NormalizeReward"]), "knows nothing of NormalizeReward; leave"),
    (
        Line,
        dict(wrappers=["gymnasium.wrappers:FrameStackObservation(2)"]),
        r"goals as compute_reward takes them, of shape \(1,\); the wrapper FrameStackObservation makes them \(2, 1\)",
    ),
    (NoReward, {}, "needs the environment's compute_reward.achieved_goal, desired_goal, info., and NoReward has none"),
    (Abstract, {}, "and Abstract has none"),
    (Numbered, {}, "goals that are Boxes or MultiBinary, of one shape; Numbered has achieved_goal Discrete"),
    (TwoShapes, {}, "goals that are Boxes or MultiBinary, of one shape; TwoShapes has achieved_goal Box"),
]


@pytest.mark.parametrize(("env", "changes", "message"), MISTAKES)
def test_mistakes_are_named_before_anything_is_written(tmp_path, env, changes, message):
    with pytest.raises(UserError, match=message):
        train("dqn", env, tmp_path / "run", **dict(SMALL, hindsight=0.5) | changes)
    assert not (tmp_path / "run").exists()


def test_a_wrapper_may_have_a_compute_reward_of_its_own(tmp_path, capfd):
    wrappers = [lambda env: Rewarded(env, lambda r: r / 2), "gymnasium.wrappers:TimeLimit(3)"]
    train("dqn", Line, tmp_path, **dict(SMALL, hindsight=0.5, wrappers=wrappers))
    assert "warning" not in capfd.readouterr().err


def test_on_the_command_line(capfd, data_dir):
    words = ["dqn", "--env", "CartPole-v1", "--hindsight", "0.8", "--n_step", "1"]
    with pytest.raises(SystemExit) as stopped:
        run.main(words)
    assert stopped.value.code == 2
    assert capfd.readouterr().err.count("\n") == 1
    assert not list(data_dir.rglob("progress.txt"))


# ---- the tasks


@pytest.mark.parametrize("env_id", ["BitFlip-v0", "Reach-v0"])
def test_tasks_follow_gymnasiums_rules(env_id):
    check_env(gym.make(env_id).unwrapped)


def test_bit_flip_by_hand():
    env = BitFlip(3)
    env.reset(seed=0)
    env.state, env.goal = np.array([[0, 0, 1], [1, 0, 0]], np.int8)
    o, r, terminated, truncated, info = env.step(2)
    assert (o["achieved_goal"].tolist(), o["desired_goal"].tolist()) == ([0, 0, 0], [1, 0, 0])
    assert (r, terminated, truncated, info) == (-1.0, False, False, {"is_success": False})
    assert env.step(1)[1:4] == (-1.0, False, False)
    assert env.step(1)[1:4] == (-1.0, False, True)
    env.reset(seed=0)
    env.state, env.goal = np.array([[0, 0, 1], [0, 1, 1]], np.int8)
    assert env.step(1)[1:] == (0.0, True, False, {"is_success": True})


def test_reach_by_hand():
    env = Reach(radius=0.05)
    env.reset(seed=0)
    env.point, env.goal = np.array([[0.9, 0.0], [0.9, 0.2]], np.float32)
    o, r, terminated, truncated, info = env.step(np.array([2.0, 1.0], np.float32))
    assert o["achieved_goal"] == pytest.approx([1.0, 0.1])  # the wall stops it
    assert (r, terminated, truncated, info) == (-1.0, False, False, {"is_success": False})
    assert env.step(np.array([-1.0, 0.8], np.float32))[1:] == (0.0, False, False, {"is_success": True})
    ends = [env.step(np.zeros(2, np.float32))[3] for _ in range(48)]
    assert ends == [False] * 47 + [True]


class Passing:
    """Moves the point to the right at each step."""

    def act(self, o, deterministic):
        return np.tile(np.float32([1, 0]), (len(o), 1))


def test_success_is_what_holds_at_the_end_of_an_episode():
    class Ahead(Reach):
        def reset(self, **kwargs):
            super().reset(**kwargs)
            self.point, self.goal = np.zeros(2, np.float32), np.array([self.x, 0], np.float32)
            return self.observe(), {}

    for x, success in ((0.5, 0.0), (1.0, 1.0)):  # it passes the one and stops at the other
        Ahead.x = x
        played = evaluate(Passing(), Ahead, 2, log_info="is_success")
        assert played["is_success"] == [success] * 2
        assert max(played["EpRet"]) > -50


def test_an_error_in_the_reset_of_the_environment_is_a_fault(tmp_path):
    class Broken(BitFlip):
        def reset(self, **kwargs):
            raise ValueError("boom")

    with pytest.raises(Fault, match=r"Broken.* raised ValueError: boom in reset"):
        spinup.dqn(Broken, n_step=1, hindsight=0.8, logger_kwargs=dict(output_dir=tmp_path, quiet=True))
