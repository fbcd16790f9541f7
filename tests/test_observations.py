"""Which observations are images, how networks read them, and training runs on every kind."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import spinup
from spinup import observations
from spinup.buffers import ReplayBuffer
from spinup.envs import make_envs
from spinup.nets.encoders import CNN, PartsEncoder, make_encoder
from spinup.observations import channels_last, height_and_width, is_image


def box(shape, low=0, high=255, dtype=np.uint8):
    return spaces.Box(low, high, shape, dtype)


# ---- what an image is


@pytest.mark.parametrize(
    "space",
    [
        box((5, 5)),
        box((7, 7, 3)),
        box((4, 84, 84, 3)),
        box((4, 3, 20, 20)),
        box((3, 64, 64), 0, 1, np.float32),
        box((64, 64, 3), 0, 255, np.float32),
        box((10, 10, 4), 0, 1, bool),
        box((2, 64, 64, 3), 0, 1, np.float64),
        box((10, 10, 3), 0, 255, np.int64),
    ],
)
def test_images(space):
    assert is_image(space)


@pytest.mark.parametrize(
    "space",
    [
        box((128,)),
        box((2, 2, 2, 2, 2)),
        box((84, 84), 0, 1, np.float32),  # might be a table of features
        box((3, 64, 64), -1, 1, np.float32),
        box((64, 64, 3), -np.inf, np.inf, np.float32),
        box((5, 5, 3), 0, 1, np.float32),
        box((64, 64, 3), 0, 8, np.int64),
        spaces.Discrete(3),
        spaces.MultiBinary((10, 10, 3)),
        spaces.Dict(image=box((8, 8))),
    ],
)
def test_spaces_that_arent_images(space):
    assert not is_image(space)


@pytest.mark.parametrize(
    ("shape", "last"),
    [
        ((84, 84, 3), True),
        ((3, 84, 84), False),
        ((4, 84, 84), False),
        ((84, 84, 4), True),
        ((210, 160, 3), True),
        ((3, 210, 160), False),
        ((7, 7, 20), True),  # more channels than rows
        ((20, 7, 7), False),
        ((8, 8, 119), True),
        ((119, 8, 8), False),
        ((6, 7, 20), True),
        ((10, 9, 14), True),
        ((14, 10, 9), False),
        ((10, 10, 10), False),
        ((5, 5, 1), True),
        ((1, 5, 5), False),
        ((4, 16, 84), False),
        ((16, 84, 4), True),
    ],
)
def test_which_axis_has_the_channels(shape, last):
    assert channels_last(shape) == last
    h, w = height_and_width(shape)
    assert (h, w) == (shape[:2] if last else shape[1:])
    net = CNN(shape).net[0]
    assert net.in_channels == (shape[2] if last else shape[0])
    for k in (1, 5):
        assert CNN((k, *shape)).net[0].in_channels == k * net.in_channels
        assert height_and_width((k, *shape)) == (h, w)


# ---- how networks read them


@pytest.mark.parametrize("inner", [(3, 30, 31), (30, 31, 3)])
def test_a_stack_of_color_images_is_one_image_with_all_channels(inner):
    stack, one = CNN((4, *inner)), CNN((12, 30, 31))
    one.load_state_dict(stack.state_dict())
    o = torch.randint(256, (2, 5, 4, *inner), dtype=torch.uint8)
    first = o if inner[0] == 3 else o.movedim(-1, -3)
    assert torch.equal(stack(o), one(first.reshape(2, 5, 12, 30, 31)))


@pytest.mark.parametrize(
    ("space", "brightest"),
    [
        (box((2, 9, 9), 0, 1, np.float32), 1),
        (box((2, 9, 9), 0, 255, np.float32), 255),
        (box((2, 9, 9), 0, 1, bool), 1),
        (box((2, 9, 9), 0, 1), 255),  # uint8 is always divided by 255
    ],
)
def test_pixels_are_scaled_to_0_to_1(space, brightest):
    encoder, _ = make_encoder(observations.network_space(space))
    o = torch.as_tensor(space.sample()[None].astype(np.float32))
    torch.testing.assert_close(encoder(o), encoder.net(o / brightest), rtol=0, atol=0)


# ---- training in environments of every kind


class Pictures(gym.Env):
    """Observations drawn from any space, reward 1 and episodes of 7 steps."""

    def __init__(self, space, discrete=False):
        self.observation_space = space
        self.action_space = spaces.Discrete(2) if discrete else spaces.Box(-1, 1, (2,))

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.t += 1
        return self.observation_space.sample(), 1.0, False, self.t == 7, {}


ROBOT = spaces.Dict(
    camera=box((16, 16, 3)), depth=box((1, 8, 9), 0, 1, np.float32), joints=box((3,), -1, 1, np.float32)
)
KINDS = {
    "stack of color": (box((2, 16, 16, 3)), np.uint8, CNN),
    "floats": (box((3, 16, 16), 0, 1, np.float32), np.float32, CNN),
    "booleans": (box((10, 10, 4), 0, 1, bool), np.float32, CNN),
    "robot": (ROBOT, np.float32, PartsEncoder),
    "only images": (spaces.Tuple((box((8, 8)), box((9, 9, 3)))), np.float32, PartsEncoder),
    "nested": (
        spaces.Dict(a=spaces.Discrete(4), b=spaces.Dict(x=box((8, 8)), y=spaces.MultiDiscrete([2, 3]))),
        np.float32,
        PartsEncoder,
    ),
}


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("kind", KINDS)
def test_environments_return_what_networks_read(kind, vectorization):
    space, dtype, encoder = KINDS[kind]
    envs = make_envs(lambda: Pictures(space), 2, vectorization=vectorization)
    o = envs.reset()
    assert o.dtype == envs.observation_space.dtype == dtype
    assert isinstance(make_encoder(envs.observation_space)[0], encoder)
    reference = Pictures(space)
    raw, _ = reference.reset(seed=0)
    if isinstance(space, spaces.Box):
        np.testing.assert_array_equal(o[0], raw)
    else:
        np.testing.assert_array_equal(o[0], spaces.flatten(space, raw).astype(np.float32))
    envs.close()


def test_an_image_that_a_wrapper_has_flattened_stays_a_vector():
    envs = make_envs(lambda: gym.wrappers.FlattenObservation(Pictures(box((8, 8, 3)))))
    assert envs.reset().shape == (1, 192)
    encoder, features = make_encoder(envs.observation_space)
    assert (type(encoder), features) == (torch.nn.Identity, 192)
    envs.close()


ON = dict(num_envs=2, steps_per_epoch=20, epochs=2, ac_kwargs=dict(hidden_sizes=[16]))
OFF = dict(num_envs=2, steps_per_epoch=20, epochs=2, start_steps=10, update_after=10, batch_size=4, replay_size=16)
OFF |= dict(num_test_episodes=1, n_step=2, ac_kwargs=dict(hidden_sizes=[16]))


@pytest.mark.parametrize(
    ("kind", "algo"),
    [
        *((kind, "sac") for kind in KINDS),
        *(("robot", algo) for algo in ("ppo", "sac-discrete", "td3")),
        ("floats", "ppo"),
    ],
)
def test_training_saving_and_loading(kind, algo, tmp_path, monkeypatch):
    name, _, discrete = algo.partition("-")
    space = KINDS[kind][0]

    def make():
        return Pictures(space, bool(discrete))

    stored = []
    store = ReplayBuffer.store

    def store_and_keep(self, o, a, r, o2, *flags):
        store(self, o, a, r, o2, *flags)
        stored.append((o, o2))
        row = torch.as_tensor([(self.t - 1) % self.rows * self.num_envs])
        np.testing.assert_array_equal(self.images.join(self.gather("o", row), row, following=False)[0].numpy(), o[0])
        np.testing.assert_array_equal(self.images.join(self.gather("o2", row), row, following=True)[0].numpy(), o2[0])

    monkeypatch.setattr(ReplayBuffer, "store", store_and_keep)
    kwargs = ON if name == "ppo" else OFF
    logger_kwargs = dict(output_dir=str(tmp_path), quiet=True)
    ac = getattr(spinup, name)(make, normalize_obs=True, logger_kwargs=logger_kwargs, **kwargs)
    assert len(stored) == (0 if name == "ppo" else 20)
    loaded = spinup.load(tmp_path, env_fn=make)
    o = make_envs(make).reset()
    np.testing.assert_array_equal(loaded.act(o, True), ac.act(o, True))


# ---- the warning


@pytest.mark.parametrize(
    ("space", "shape"),
    [
        (box((64, 64, 3), -1, 1, np.float32), "(64, 64, 3)"),
        (box((40, 50), 0, 1, np.float32), "(40, 50)"),
        (spaces.Dict(a=box((64, 64, 3)), b=box((2, 20, 20), -1, 1, np.float32)), "(2, 20, 20)"),
        (spaces.Tuple((box((2,), -1, 1, np.float32), box((20, 20, 3), 0, 8, np.int64))), "(20, 20, 3)"),
    ],
)
def test_likely_images_that_are_flattened_warn_once(space, shape, capsys):
    for _ in range(2):
        envs = make_envs(lambda: Pictures(space), 3)
        envs.reset()
        envs.close()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
    assert len(lines) == 1
    assert shape in lines[0]
    assert "if they are images, give them as uint8" in lines[0]


@pytest.mark.parametrize("space", [box((64, 64, 3)), box((5, 5), -1, 1, np.float32), ROBOT, box((128,))])
def test_other_observations_do_not_warn(space, capsys):
    make_envs(lambda: Pictures(space)).close()
    assert "warning" not in capsys.readouterr().err
