"""Loading, playing and recording saved policies. Loading restores the same policy and runs no code from the folder."""

import contextlib
import ctypes
import json
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image

import spinup
from spinup import nets
from spinup.analysis import play as watch
from spinup.envs import evaluate
from spinup.errors import UserError, install
from spinup.experiments import parsers

with contextlib.suppress(ImportError):
    import triton  # noqa: F401  # later tests need it, and it cannot load once drawing has loaded Mesa's LLVM


class Wide(nets.ActorCritic):
    """A user's own networks."""


class Corridor(gym.Env):
    """Three steps with reward 1; counts the frames it shows, and can fail to show them."""

    metadata = {"render_modes": ["human"], "render_fps": 10}  # noqa: RUF012
    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)
    frames, broken = 0, False

    def __init__(self, render_mode=None, reward=1.0):
        self.render_mode, self.reward = render_mode, reward

    def show(self):
        if self.render_mode == "human" and Corridor.broken:
            raise OSError("no graphics card")
        Corridor.frames += self.render_mode == "human"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        self.show()
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.t += 1
        self.show()
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), self.reward, self.t == 3, False, {"t": self.t}

    def render(self):
        self.show()


class Painter(Corridor):
    """Renders a picture, one side of which gets brighter with each step."""

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 25}  # noqa: RUF012

    def render(self):
        picture = np.zeros((21, 33, 3), np.uint8)
        picture[:, :20] = 60 * self.t
        return picture


@pytest.fixture(autouse=True)
def our_envs():
    Corridor.frames, Corridor.broken = 0, False
    gym.register("Corridor-v0", entry_point=Corridor)
    gym.register("Painter-v0", entry_point=Painter)
    yield
    gym.registry.pop("Corridor-v0")
    gym.registry.pop("Painter-v0")


def train(folder, env="CartPole-v1", **kwargs):
    settings = {
        "epochs": 1,
        "steps_per_epoch": 64,
        "num_envs": 2,
        "logger_kwargs": {"output_dir": folder, "quiet": True},
    }
    return spinup.ppo(env, **{**settings, **kwargs})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a short run of PPO on CartPole, and its policy."""
    folder = tmp_path_factory.mktemp("watch") / "run"
    return folder, train(folder, ac_kwargs={"hidden_sizes": (8, 4), "activation": "ReLU"}, train_pi_iters=1)


@pytest.fixture
def run(trained, tmp_path):
    """A copy of that folder, which tests may damage."""
    return shutil.copytree(trained[0], tmp_path / "run")


def set_config(run, **changes):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, **changes}))


def error_of(function, *args, **kwargs):
    with pytest.raises(UserError) as error:
        function(*args, **kwargs)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


# ---- load


def same_policy(one, other, size):
    o = np.random.default_rng(0).normal(size=(50, size)).astype(np.float32)
    # The last bits of a matrix product depend on the memory alignment of its factors.
    return np.allclose(one.act(o, deterministic=True), other.act(o, deterministic=True), atol=1e-6) and all(
        torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items()
    )


def test_load_restores_the_policy(trained):
    folder, ac = trained
    policy = spinup.load(folder)
    assert same_policy(policy, ac, 4)
    assert not policy.training
    assert policy.obs_norm.count == 64  # observation statistics are loaded too
    other = spinup.load(str(folder))
    other.actor.net[1][0].weight.data[0] += 1
    assert not same_policy(other, ac, 4)


def test_load_of_continuous_actions_and_environment_arguments(tmp_path):
    ac = train(tmp_path, "Pendulum-v1", env_kwargs={"g": 5.0}, normalize_obs=False)
    policy = spinup.load(tmp_path)
    assert same_policy(policy, ac, 3)
    assert isinstance(policy.obs_norm, torch.nn.Identity)


@pytest.mark.parametrize(
    ("algo", "env", "size"),
    [("ddpg", "Pendulum-v1", 3), ("td3", "Pendulum-v1", 3), ("sac", "Pendulum-v1", 3), ("sac", "CartPole-v1", 4)],
)
def test_load_of_off_policy_runs(tmp_path, capsys, algo, env, size):
    ac = getattr(spinup, algo)(
        env,
        epochs=1,
        steps_per_epoch=40,
        start_steps=20,
        update_after=20,
        batch_size=8,
        replay_size=100,
        eval_freq=0,
        ac_kwargs={"hidden_sizes": [8]},
        logger_kwargs={"output_dir": tmp_path, "quiet": True},
    )
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    policy = spinup.load(tmp_path)
    assert same_policy(policy, ac, size)
    assert set(saved) - set(policy.state_dict()) == ({"temperature.log_alpha"} if algo == "sac" else set())
    lines = play(capsys, tmp_path, "-nr", "-n", 2, "-d", "-l", 30)
    expected = evaluate(policy, env, 2, deterministic=True, seed=0, max_ep_len=30)
    assert lines[1] == f"EpRet  {row(expected['EpRet'])}"


def test_load_of_one_of_several_saves(run):
    state = torch.load(run / "model.pt", weights_only=True)
    torch.save({k: v + 1 for k, v in state.items()}, run / "model7.pt")
    key = "critic.1.0.bias"
    assert torch.equal(spinup.load(run, itr=7).state_dict()[key], spinup.load(run).state_dict()[key] + 1)


def test_load_with_a_users_networks_and_environment(tmp_path):
    ac = train(tmp_path, Corridor, actor_critic=Wide)
    assert "spinup.load(..., actor_critic=" in error_of(spinup.load, tmp_path, env_fn=Corridor)
    assert "(env_fn=)" in error_of(spinup.load, tmp_path, actor_critic=Wide)
    policy = spinup.load(tmp_path, actor_critic=Wide, env_fn="Corridor-v0")
    assert isinstance(policy, Wide)
    assert same_policy(policy, ac, 2)


def test_errors_in_a_users_networks_keep_their_traceback(trained):
    def broken(*args, **kwargs):
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        spinup.load(trained[0], actor_critic=broken)


# ---- damaged folders


def test_no_run(trained, tmp_path):
    folder = trained[0]
    assert f"there is no folder '{folder.parent / 'rum'}'; did you mean 'run'?" == error_of(
        spinup.load, folder.parent / "rum"
    )
    assert error_of(spinup.load, tmp_path / "a" / "b").startswith("there is no folder")
    assert (
        error_of(spinup.load, folder.parent)
        == f"'{folder.parent}' is not a run's folder (no config.json); runs in it: {folder}"
    )
    assert error_of(spinup.load, tmp_path).endswith("runs in it: none")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '{"ac_kwargs": 3}', '{"env_kwargs": "x"}', "[" * 100_000, "\x00"]
)
def test_invalid_config(run, text):
    (run / "config.json").write_text(text)
    assert f"{run / 'config.json'} is not a config.json that spinup wrote" in error_of(spinup.load, run)


def test_the_best_policy(run):
    saved = torch.load(run / "model_best.pt", weights_only=True)
    torch.save({key: x + 1 if x.is_floating_point() else x for key, x in saved.items()}, run / "model_best.pt")
    best = spinup.load(run, itr="best").state_dict()
    assert all(torch.equal(best[key], saved[key] + 1) for key in best if best[key].is_floating_point())


def test_missing_model(run):
    assert (
        error_of(spinup.load, run, itr=3) == f"{run / 'model3.pt'} doesn't exist; saved there: model.pt, model_best.pt"
    )
    (run / "model.pt").unlink(), (run / "model_best.pt").unlink()
    assert (
        error_of(spinup.load, run) == f"{run / 'model.pt'} doesn't exist; saved there: nothing; did the run save yet?"
    )


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("legacy", [True, False])
def test_pickled_code_is_not_run(run, tmp_path, legacy):
    harm = tmp_path / "harm"
    torch.save({"x": Evil(str(harm))}, run / "model.pt", _use_new_zipfile_serialization=not legacy)
    assert "contains more than tensors; it is not loaded" in error_of(spinup.load, run)
    (run / "model.pt").write_bytes(pickle.dumps(Evil(str(harm))))
    assert f"{run / 'model.pt'} is damaged" in error_of(spinup.load, run)
    assert not harm.exists()


@pytest.mark.parametrize("size", [0, 1, 100, 2000, -1])
def test_truncated_model(run, size):
    (run / "model.pt").write_bytes((run / "model.pt").read_bytes()[:size])
    assert f"{run / 'model.pt'} is damaged" in error_of(spinup.load, run)


def test_random_bytes_instead_of_a_model(run):
    (run / "model.pt").write_bytes(np.random.default_rng(0).bytes(5000))
    assert f"{run / 'model.pt'} is damaged" in error_of(spinup.load, run)


@pytest.mark.parametrize("content", [3, [torch.zeros(1)], {"a": 3}, torch.zeros(2)])
def test_model_that_is_not_a_state_dict(run, content):
    torch.save(content, run / "model.pt")
    assert error_of(spinup.load, run) == f"{run / 'model.pt'} doesn't contain a state_dict"


def test_model_of_another_shape(run):
    set_config(run, ac_kwargs={"hidden_sizes": [8, 5]})
    assert f"{run}: the saved parameters do not match the networks" in error_of(spinup.load, run)


def test_networks_that_cannot_be_built(run):
    for ac_kwargs in (
        {"linear": "functools.partial"},
        {"no_such": 1},
        {"activation": "os.system"},
        {"hidden_sizes": ["x"]},
    ):
        set_config(run, ac_kwargs=ac_kwargs)
        assert f"{run / 'config.json'}: cannot build the networks from ac_kwargs" in error_of(spinup.load, run)


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "spinup.nets.mlp",
        "spinup.nets.torch",
        "spinup.nets.Missing",
        "spinup.nets.Gaussian",
        "evil.ActorCritic",
        None,
    ],
)
def test_networks_that_are_not_from_spinup(run, name):
    set_config(run, actor_critic=name)
    assert (
        error_of(spinup.load, run) == f"the networks are {name}; in Python: spinup.load(..., actor_critic=that class)"
    )


def test_config_imports_no_module(run, tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(tmp_path)
    set_config(run, env_fn="evil_module:CartPole-v1")
    assert "allow it with --env evil_module:CartPole-v1 (env_fn=)" in error_of(spinup.load, run)
    assert "evil_module" not in sys.modules
    (tmp_path / "good_module.py").write_text("")
    set_config(run, env_fn="good_module:CartPole-v1")
    spinup.load(run, env_fn="good_module:CartPole-v1")
    spinup.load(run)  # the module is imported by now


def test_environment_that_does_not_exist(run):
    set_config(run, env_fn="Gone-v0")
    assert error_of(spinup.load, run).startswith(f"{run}: there is no environment 'Gone-v0'")
    assert error_of(spinup.load, run).endswith("; --env ID (env_fn=) names another environment")


# ---- test_policy


def play(capsys, *words):
    watch.main([str(word) for word in words])
    return capsys.readouterr().out.splitlines()


def row(values):
    return f"mean {np.mean(values):.2f}  std {np.std(values):.2f}  min {min(values):g}  max {max(values):g}"


def test_main_prints_the_statistics_of_evaluate(trained, capsys):
    folder, ac = trained
    lines = play(capsys, folder, "-nr", "-n", 5, "-d", "-s", 3)
    expected = evaluate(ac, "CartPole-v1", 5, deterministic=True, seed=3)
    assert lines == [
        "5 episodes of CartPole-v1, seed 3, the mode of the policy",
        f"EpRet  {row(expected['EpRet'])}",
        f"EpLen  {row(expected['EpLen'])}",
    ]
    assert len(set(expected["EpRet"])) > 1


def test_main_samples_from_a_seed(trained, capsys):
    one, same, other, mode = (play(capsys, trained[0], "-nr", "-n", 8, *words) for words in ([], [], ["-s", 1], ["-d"]))
    assert one == same
    assert len({tuple(one[1:]), tuple(other[1:]), tuple(mode[1:])}) == 3
    assert one[0].endswith("actions sampled if the policy is stochastic")


def test_main_plays_a_hundred_episodes_of_limited_length(trained, capsys):
    assert parsers.test_policy(["x"]).len == 0
    lines = play(capsys, trained[0], "--norender", "--len", 5)
    assert lines[0].startswith("100 episodes")
    assert lines[2] == "EpLen  mean 5.00  std 0.00  min 5  max 5"


def test_main_plays_another_save_in_another_environment(run, capsys):
    (run / "model.pt").rename(run / "model2.pt")
    lines = play(capsys, run, "-nr", "-n", 1, "-i", 2, "--env", "gymnasium:CartPole-v1")
    assert lines[0].startswith("1 episode of gymnasium:CartPole-v1")


@pytest.fixture
def walk(tmp_path):
    train(tmp_path / "walk", "Corridor-v0", env_kwargs={"reward": 2.0})
    return tmp_path / "walk"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a display")
def test_main_without_a_display(walk, capsys, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    lines = play(capsys, walk, "-n", 2)
    assert lines[0] == "no display: playing without a window (--norender omits this line)"
    assert lines[2] == "EpRet  mean 6.00  std 0.00  min 6  max 6"
    assert Corridor.frames == 0


def test_main_with_a_display(walk, capsys, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")
    lines = play(capsys, walk, "-n", 2)
    assert lines[:2] == ["episode 1: return 6.00, length 3", "episode 2: return 6.00, length 3"]
    assert lines[3:] == ["EpRet  mean 6.00  std 0.00  min 6  max 6", "EpLen  mean 3.00  std 0.00  min 3  max 3"]
    assert Corridor.frames == 1 + 2 * 4  # the test when opening, and two episodes: a start and three steps each


def test_main_plays_the_same_with_and_without_a_window(trained):
    _, ac = trained
    window = watch.make_envs("CartPole-v1")
    assert watch.play(ac, window, 4, True, 7) == evaluate(ac, "CartPole-v1", 4, deterministic=True, seed=7)


def test_main_with_a_window_that_cannot_open(walk, capsys, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")
    Corridor.broken = True
    lines = play(capsys, walk, "-n", 2)
    assert lines[0] == "cannot open a window (OSError: no graphics card): playing without one"
    assert lines[2] == "EpRet  mean 6.00  std 0.00  min 6  max 6"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "test_policy: the following arguments are required: path"),
        (["x", "--nrender"], "test_policy: unknown argument '--nrender'; did you mean '--norender'?"),
        (["x", "y"], "test_policy: unknown argument 'y'"),
        (["x", "-n", "many"], "test_policy: argument -n/--episodes: invalid int value: 'many'"),
        (["x", "-n", "0"], "test_policy: episodes and num_envs must be at least 1, len at least 0, and seed in 0"),
        (["x", "-l", "-1"], "test_policy: episodes and num_envs must be at least 1, len at least 0"),
        (["x", "-i", "-2"], "test_policy: itr is '-2'; it must be a number from 0, best, or -1 for the last one saved"),
        (["x", "-i", "worst"], "test_policy: itr is 'worst'; it must be a number"),
        (["x", "-s", "-2"], "and seed in 0 to 2147483647"),
        (["no_such_folder"], "there is no folder 'no_such_folder'"),
        (["x", "--video", "x.avi"], "cannot record 'x.avi'; the file's name must end in .gif or .mp4"),
        (["x", "--video", "gif"], "cannot record 'gif'; the file's name must end in .gif or .mp4"),
    ],
)
def test_main_refuses(words, message):
    assert message in error_of(watch.main, words)


# ---- test_policy --video


@pytest.fixture(autouse=True)
def drawing_variables(monkeypatch):
    """Restores the environment variables that recording sets."""
    for name in ("MUJOCO_GL", "SDL_VIDEODRIVER"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def gif_frames(file):
    """A GIF's frames as arrays, and their durations in ms."""
    pictures, milliseconds = [], []
    with Image.open(file) as image:
        for i in range(image.n_frames):
            image.seek(i)
            pictures.append(np.asarray(image.convert("RGB")))
            milliseconds.append(image.info["duration"])
    return pictures, milliseconds


def mp4_frames(file):
    """An MP4's frames as arrays, and its frame rate."""
    frames = pytest.importorskip("imageio_ffmpeg").read_frames(file)
    meta = next(frames)
    width, height = meta["size"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the reader leaves its pipes open
        return [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in frames], meta["fps"]


def colors(picture):
    return len(np.unique(picture.astype(int) @ [1, 256, 65536]))


def test_gif_of_cartpole(trained, tmp_path, capsys):
    pytest.importorskip("pygame")
    folder, ac = trained
    file = tmp_path / "new" / "cartpole.gif"
    lines = play(capsys, folder, "--video", file, "-d", "-s", 2)
    expected = evaluate(ac, "CartPole-v1", 1, deterministic=True, seed=2)
    length = expected["EpLen"][0]
    assert lines[1:4] == [
        f"Saved {file}",
        "1 episode of CartPole-v1, seed 2, the mode of the policy",
        f"EpRet  {row(expected['EpRet'])}",
    ]
    pictures, milliseconds = gif_frames(file)
    assert {picture.shape for picture in pictures} == {(266, 400, 3)}  # of 400 x 600
    assert sum(milliseconds) == 40 * (length // 2 + 1)  # every other frame of 50 per second; equal ones are merged
    assert 1 < len(pictures) <= length // 2 + 1
    assert all(colors(picture) > 2 for picture in pictures)
    assert not np.array_equal(pictures[0], pictures[-1])


def test_mp4_of_cartpole(trained, tmp_path, capsys):
    pytest.importorskip("pygame")
    pytest.importorskip("imageio_ffmpeg")
    folder, ac = trained
    play(capsys, folder, "--video", tmp_path / "cartpole.mp4", "-d", "-n", 2)
    lengths = evaluate(ac, "CartPole-v1", 2, deterministic=True, seed=0)["EpLen"]
    pictures, fps = mp4_frames(tmp_path / "cartpole.mp4")
    assert len(pictures) == sum(lengths) + 2
    assert fps == 50
    assert pictures[0].shape == (400, 600, 3)
    assert all(colors(picture) > 2 for picture in pictures)
    assert not np.array_equal(pictures[0], pictures[-1])


@pytest.fixture
def egl(monkeypatch):
    """MuJoCo on a machine without a display."""
    pytest.importorskip("mujoco")
    if sys.platform == "linux":
        monkeypatch.delenv("DISPLAY", raising=False)
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        try:
            ctypes.CDLL("libEGL.so.1")
        except OSError:
            pytest.skip("no EGL")


def test_gif_of_mujoco_without_a_display(egl, tmp_path, capsys):
    train(tmp_path / "cheetah", "HalfCheetah-v5")
    play(capsys, tmp_path / "cheetah", "--video", tmp_path / "cheetah.gif", "--len", 4)
    pictures, milliseconds = gif_frames(tmp_path / "cheetah.gif")
    assert milliseconds == [50] * 5
    assert pictures[0].shape == (400, 400, 3)
    assert min(map(colors, pictures)) > 50


@pytest.mark.parametrize(("env_kwargs", "follows"), [({}, True), ({"camera_id": -1}, False)])
def test_camera_follows_the_agent(egl, env_kwargs, follows):
    watch.prepare_video("x.gif")
    canvas = watch.open_canvas("HalfCheetah-v5", env_kwargs, 10, None, None)
    cheetah = canvas.envs.envs[0].unwrapped

    def pixels():  # of the cheetah, the only thing that is more red than green
        red, green, _ = watch.draw(canvas).astype(int).transpose(2, 0, 1)
        return (red > green + 10).sum()

    here = pixels()
    cheetah.set_state(cheetah.init_qpos + 20 * np.eye(9)[0], cheetah.init_qvel)
    there = pixels()
    canvas.close()
    assert here > 1000
    assert there > 0.8 * here if follows else there == 0


@pytest.fixture
def painter(tmp_path):
    train(tmp_path / "painter", "Painter-v0")
    return tmp_path / "painter"


def test_video_of_several_episodes(painter, tmp_path, capsys):
    lines = play(capsys, painter, "--video", tmp_path / "x.GIF", "-n", 2)
    assert lines[:2] == ["episode 1: return 3.00, length 3", "episode 2: return 3.00, length 3"]
    pictures, milliseconds = gif_frames(tmp_path / "x.GIF")
    assert [picture[10, 10, 0] for picture in pictures] == [0, 60, 120, 180] * 2
    assert all(picture[10, 30, 0] == 0 for picture in pictures)
    assert milliseconds == [40] * 8


@pytest.mark.parametrize("how", ["without a window", "in a window", "on video"])
def test_numbers_of_the_infos_are_printed(tmp_path, capsys, monkeypatch, how):
    train(tmp_path / "run", "Painter-v0", log_info="t")
    monkeypatch.setenv("DISPLAY", ":0")
    flags = {"without a window": ["--norender"], "on video": ["--video", tmp_path / "x.gif"]}.get(how, [])
    lines = play(capsys, tmp_path / "run", "-n", 2, *flags)
    assert lines[-2:] == [f"{name}  mean 3.00  std 0.00  min 3  max 3" for name in ("EpLen", "t")]
    assert (Corridor.frames > 0) == (how == "in a window")


def test_video_replaces_a_file(painter, tmp_path, capsys):
    (tmp_path / "x.gif").write_text("old")
    play(capsys, painter, "--video", tmp_path / "x.gif")
    assert len(gif_frames(tmp_path / "x.gif")[0]) == 4
    assert Corridor.frames == 0  # no window was opened


def test_mp4_with_odd_sides_is_padded(painter, tmp_path, capsys):
    pytest.importorskip("imageio_ffmpeg")
    play(capsys, painter, "--video", tmp_path / "x.mp4")
    pictures, fps = mp4_frames(tmp_path / "x.mp4")
    assert [picture.shape for picture in pictures] == [(22, 34, 3)] * 4
    assert fps == 25
    assert [abs(int(picture[10, 10, 0]) - 60 * t) < 12 for t, picture in enumerate(pictures)] == [True] * 4


@pytest.mark.parametrize("kind", ["gif", "mp4"])
def test_video_ends_when_playing_is_interrupted(painter, tmp_path, kind):
    pytest.importorskip("imageio_ffmpeg")
    policy, file = spinup.load(painter), tmp_path / f"x.{kind}"
    act, calls = policy.act, []

    def stop(*args):
        calls.append(0)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return act(*args)

    policy.act = stop
    with pytest.raises(KeyboardInterrupt):
        watch.record(policy, "Painter-v0", file)
    assert len((gif_frames if kind == "gif" else mp4_frames)(file)[0]) == 3


@pytest.mark.parametrize(("fps", "every"), [(4, 1), (20, 1), (30, 1), (50, 2), (60, 2), (125, 5)])
def test_gif_has_the_right_speed(tmp_path, fps, every):
    with watch.gif(tmp_path / "x.gif", fps, (800, 100)) as write:
        for i in range(100):
            write(np.full((100, 800, 3), 2 * i, np.uint8))
    pictures, milliseconds = gif_frames(tmp_path / "x.gif")
    assert [picture[0, 0, 0] for picture in pictures] == list(range(0, 200, 2 * every))
    assert pictures[0].shape == (50, 400, 3)
    assert min(milliseconds) >= 30  # browsers slow down durations below 20
    assert sum(milliseconds) == pytest.approx(1000 * 100 / fps, abs=5)


def test_video_of_an_environment_that_cannot_be_drawn(walk, tmp_path):
    error = error_of(watch.main, [str(walk), "--video", str(tmp_path / "x.gif")])
    assert error == "Corridor-v0 cannot be recorded: it has no render mode rgb_array, only human"
    assert not (tmp_path / "x.gif").exists()


def test_video_that_cannot_be_written(painter, tmp_path):
    (tmp_path / "file").write_text("")
    assert f"cannot write {tmp_path / 'file' / 'x.gif'}: " in error_of(
        watch.main, [str(painter), "--video", str(tmp_path / "file" / "x.gif")]
    )


def test_video_needs_an_encoder_and_pygame(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    error = error_of(watch.main, [str(trained[0]), "--video", str(tmp_path / "x.gif")])
    assert error == f"drawing CartPole-v1 needs pygame: {install('video')}"
    error = error_of(watch.main, [str(trained[0]), "--video", str(tmp_path / "x.mp4")])
    assert error == f"an .mp4 needs: {install('video')}; a .gif works without it"


def test_picture_of_the_wrong_type(painter, tmp_path, monkeypatch):
    monkeypatch.setattr(Painter, "render", lambda self: np.zeros((3, 3)))
    error = error_of(watch.main, [str(painter), "--video", str(tmp_path / "x.gif")])
    assert error == "render() returned float64 of shape (3, 3); it must be uint8 of shape (height, width, 3)"


def test_errors_in_a_users_render_keep_their_traceback(painter, tmp_path, monkeypatch):
    def broken(self):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Painter, "render", broken)
    monkeypatch.delitem(sys.modules, "mujoco", raising=False)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        watch.main([str(painter), "--video", str(tmp_path / "x.gif")])
    monkeypatch.setitem(sys.modules, "mujoco", sys)  # there, a missing driver can cause such an error
    error = error_of(watch.main, [str(painter), "--video", str(tmp_path / "x.gif")])
    assert error.startswith("MuJoCo cannot draw Painter-v0 (ZeroDivisionError: a bug); on Linux without a display")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a display")
def test_recording_without_a_display(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: None)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    watch.prepare_video("x.gif")
    assert "MUJOCO_GL" not in os.environ
    monkeypatch.delenv("DISPLAY")
    watch.prepare_video("x.gif")
    assert os.environ["MUJOCO_GL"] == "egl"
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    watch.prepare_video("x.gif")
    assert os.environ["MUJOCO_GL"] == "osmesa"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a display")
def test_recording_without_egl(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    watch.prepare_video("x.gif")
    assert "MUJOCO_GL" not in os.environ


# ---- environments as in the run


class Far(gym.RewardWrapper):
    def reward(self, reward):
        return 10 * reward


def test_wrappers_and_log_info_of_the_run(tmp_path, capsys):
    wrappers = ["gymnasium.wrappers:TimeLimit(2)", f"{__name__}:Far"]
    train(tmp_path / "run", "Corridor-v0", wrappers=wrappers, log_info="x", reseed=False)
    command = [str(tmp_path / "run"), "-n", "3", "-nr"]
    assert "--wrapper" in error_of(watch.main, command)
    watch.main([*command, "--wrapper", wrappers[0], "--wrapper", wrappers[1]])
    out = capsys.readouterr().out
    assert "EpRet  mean 20.00" in out
    assert "x  mean nan" in out


def test_a_recording_uses_the_wrappers(tmp_path):
    train(tmp_path / "run", "Painter-v0", wrappers=["gymnasium.wrappers:TimeLimit(2)"])
    watch.main([str(tmp_path / "run"), "--video", str(tmp_path / "v.gif")])
    with Image.open(tmp_path / "v.gif") as video:
        assert video.n_frames == 3


def test_episodes_one_after_another(tmp_path, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(Corridor, "show", lambda self: None)
    init = Corridor.__init__
    monkeypatch.setattr(Corridor, "__init__", lambda self, *a, **k: made.append(0) or init(self, *a, **k))
    train(tmp_path / "run", "Corridor-v0", num_test_envs=2)
    for flags, number in (([], 2), (["--num_envs", "3"], 3)):
        made.clear()
        watch.main([str(tmp_path / "run"), "-n", "6", "-nr", *flags])
        assert len(made) == 2 + 1 + number  # two when the policy is loaded, and one that is inspected
    assert "EpLen  mean 3.00" in capsys.readouterr().out


def test_an_asynchronous_run_is_tested_asynchronously(tmp_path, monkeypatch):
    asked = {}
    train(tmp_path / "run", vectorization="async")
    monkeypatch.setattr(watch, "evaluate", lambda *args, **how: asked.update(how) or {})
    watch.main([str(tmp_path / "run"), "-n", "6", "-nr"])
    assert (asked["vectorization"], asked["num_envs"]) == ("async", 2)


def test_an_environment_without_render_mode_cannot_be_recorded(tmp_path):
    class Blind(Painter):
        def __init__(self):
            super().__init__()

    train(tmp_path / "run", Blind)
    policy = watch.load(tmp_path / "run", env_fn=Blind)
    assert "'Blind' can't be rendered" in error_of(watch.record, policy, Blind, tmp_path / "v.gif")


def test_a_class_that_cannot_be_recorded_is_named(tmp_path):
    class Bare(Corridor):
        metadata = {}  # noqa: RUF012

    policy = train(tmp_path / "run", Bare)
    error = error_of(watch.record, policy, Bare, tmp_path / "v.gif")
    assert error == "Bare cannot be recorded: it has no render mode rgb_array"


@pytest.mark.parametrize("number", ["0", "-1"])
def test_a_wrong_number_of_environments_is_named(trained, number):
    assert "num_envs" in error_of(watch.main, [str(trained[0]), "-nr", "--num_envs", number])


DRAWN = """
import sys
import gymnasium as gym
import numpy as np

def env(render_mode="rgb_array"):
    made = gym.make("InvertedPendulum-v5", render_mode=render_mode, width=48, height=48)
    return gym.wrappers.AddRenderObservation(made)

{what}
print("done", "triton" in sys.modules)
"""
DRAW = "made = env()\nmade.reset(seed=0)\nmade.close()"
TRAIN = """
import spinup
from spinup.analysis.play import record
from spinup.compute.capture import front

front.PATIENCE = 0.0  # captured from the first update on
for name in ("first", "second"):
    logger_kwargs = dict(output_dir=sys.argv[1] + "/" + name, quiet=True)
    ac = spinup.ppo(env, num_envs=1, steps_per_epoch=64, epochs=1, logger_kwargs=logger_kwargs)
    record(ac, env, sys.argv[1] + f"/{name}.gif", 1, max_ep_len=5)
"""


def drawn(what, folder):
    """`python -c DRAWN` with OpenGL via EGL, in a process that draws before it imports torch's compiler."""
    command = [sys.executable, "-c", DRAWN.format(what=what), str(folder)]
    environment = {**os.environ, "MUJOCO_GL": "egl", "PYTHONPATH": str(Path(spinup.__file__).parents[1])}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="EGL")
def test_captured_updates_after_opengl_has_drawn(tmp_path):
    """Mesa's OpenGL and triton each contain an LLVM, and loading the second one crashes the process."""
    if drawn(DRAW, tmp_path).stdout != "done False\n":
        pytest.skip("EGL draws nothing here")
    result = drawn(TRAIN, tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.endswith("done False\n"), result.stdout


ON_A_GPU = f"""
import torch
from spinup.compute.capture import front

{DRAW}
torch.cuda.is_available = lambda: True
with front.without_triton():
    front.import_dynamo()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="EGL")
def test_mesas_opengl_beside_a_gpu(tmp_path):
    """As in a container that has the GPU only for computing."""
    if drawn(DRAW, tmp_path).stdout != "done False\n":
        pytest.skip("EGL draws nothing here")
    result = drawn(ON_A_GPU, tmp_path)
    assert (result.returncode, result.stdout) == (0, "done False\n"), result.stderr[-2000:]
