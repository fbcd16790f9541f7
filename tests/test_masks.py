"""Action masks: illegal actions are never taken, by any algorithm, and get no probability, value or gradient."""

import math

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import spinup
from spinup import nets
from spinup.envs import make_envs
from spinup.errors import UserError
from spinup.observations import mask_slice
from spinup.wrappers import ActionMask


class Masked(gym.Env):
    """Every step allows two of four actions at random and pays 1 for the one with the higher number; 8 steps long.

    An illegal action raises. how: "entry": the mask is in the observations; "method", "info": where ActionMask finds it
    """

    def __init__(self, how="entry", multi=False):
        self.how, self.multi = how, multi
        vector = spaces.Box(-1, 1, (3,), np.float32)
        self.action_space = spaces.MultiDiscrete([4, 2]) if multi else spaces.Discrete(4, start=5)
        entries = {"action_mask": spaces.MultiBinary(6 if multi else 4), "z": vector}
        self.observation_space = spaces.Dict(entries) if how == "entry" else vector
        if how == "method":
            self.action_masks = lambda: self.mask

    def observe(self):
        z = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        self.mask = np.zeros(4, np.int8)
        self.mask[self.np_random.choice(4, 2, replace=False)] = 1
        if self.multi:
            self.mask = np.append(self.mask, [1, 0]).astype(np.int8)
        if self.steps == 8:
            self.mask[:] = 0  # as games do at their end
        return {"z": z, "action_mask": self.mask} if self.how == "entry" else z

    def info(self):
        return {"action_mask": self.mask} if self.how == "info" else {}

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), self.info()

    def step(self, action):
        choice = int(action[0]) if self.multi else int(action) - 5
        assert self.mask[choice] == 1, f"illegal action {action}, mask {self.mask}"
        assert not self.multi or action[1] == 0
        reward = float(choice == np.flatnonzero(self.mask[:4])[-1])
        self.steps += 1
        return self.observe(), reward, self.steps == 8, False, self.info()


HIDDEN = dict(hidden_sizes=[32])
ON = dict(steps_per_epoch=256, epochs=6, ac_kwargs=HIDDEN)
OFF = dict(steps_per_epoch=400, epochs=3, start_steps=200, update_after=200, batch_size=64, ac_kwargs=HIDDEN)
DQN = {key: value for key, value in OFF.items() if key != "start_steps"}
SETTINGS = {
    "vpg": ON | dict(pi_lr=5e-2, epochs=15),
    "trpo": ON | dict(delta=0.05),
    "ppo": ON | dict(pi_lr=1e-2),
    "ppo_rnn": ON | dict(pi_lr=1e-2),
    "dqn": DQN | dict(epsilon_steps=300, q_lr=3e-3, gamma=0.5),
    "sac": OFF | dict(lr=3e-3, gamma=0.5),
}


class OfRandomLength(Masked):
    def reset(self, seed=None, options=None):
        answer = super().reset(seed, options)
        self.length = self.np_random.integers(1, 8)
        return answer

    def step(self, action):
        o, r, terminated, _, info = super().step(action)
        return o, r, terminated, self.steps == self.length, info


def test_a_replay_takes_only_legal_actions():
    """An environment at the start of an episode steps while the others are replayed."""
    envs, copy = (make_envs(OfRandomLength, num_envs=3, seed=0) for _ in range(2))
    envs.reset()
    starts = 0
    for _ in range(40):
        envs.step(envs.random_actions())
        o = envs.reset_done()
        starts += 0 < np.sum(envs.ep_len == 0) < 3
        assert not copy.load_state_dict(envs.state_dict()).any()
        np.testing.assert_array_equal(copy.o, o)
    assert starts > 10


@pytest.mark.parametrize("normalize_obs", [False, True])
@pytest.mark.parametrize("how", ["entry", "method", "info"])
def test_the_mask_is_part_of_the_observations_and_of_no_network(how, normalize_obs):
    wrappers = None if how == "entry" else ["spinup.wrappers:ActionMask"]
    envs = make_envs(lambda: Masked(how), num_envs=2, seed=0, wrappers=wrappers)
    o, mask = envs.reset(), mask_slice(envs.observation_space)
    assert o.shape == (2, 7)
    assert mask == slice(0, 4)
    assert (o[:, mask].sum(1) == 2).all()
    ac = nets.ActorCritic(envs.observation_space, envs.action_space, normalize_obs=normalize_obs)
    assert ac.critic[1][0].in_features == ac.actor.net[1][0].in_features == 3
    ac.obs_norm.update(torch.as_tensor(o))
    logp = ac.pi(torch.as_tensor(o)).logp
    assert torch.equal(logp.exp() > 0, torch.as_tensor(o[:, mask] == 1))
    assert torch.allclose(logp.exp().sum(-1), torch.ones(2))


@pytest.mark.parametrize("algo", SETTINGS)
def test_only_legal_actions_are_taken_and_the_best_are_learned(algo, tmp_path):
    """The environment raises for an illegal action, in training, in random exploration and in evaluation."""
    logger_kwargs = dict(output_dir=str(tmp_path), quiet=True)
    ac = getattr(spinup, algo)(Masked, seed=1, logger_kwargs=logger_kwargs, **SETTINGS[algo])
    assert np.mean(spinup.evaluate(ac, Masked, episodes=20)["EpRet"]) > 6.5  # 4 by chance, 8 at best


@pytest.mark.parametrize("algo", ["vpg", "trpo", "ppo", "ppo_rnn"])
def test_several_choices_have_a_mask_each(algo, tmp_path):
    settings = SETTINGS[algo] | dict(epochs=2)
    logger_kwargs = dict(output_dir=str(tmp_path), quiet=True)
    getattr(spinup, algo)(lambda **kwargs: Masked(multi=True), logger_kwargs=logger_kwargs, **settings)


def test_random_actions_are_uniform_among_the_legal():
    envs = make_envs(Masked, num_envs=3, seed=0)
    envs.reset()
    counts, legal = np.zeros((3, 4)), envs.o[:, :4] == 1
    for _ in range(1000):
        counts[np.arange(3), envs.random_actions()] += 1
    assert (counts[~legal] == 0).all()
    assert (np.abs(counts[legal] - 500) < 80).all()


def test_masked_probabilities_by_hand():
    """Logits log(1), log(2), log(3) with the second one illegal: 1/4 and 3/4."""
    actor = nets.CategoricalActor(torch.nn.Linear(3, 3), slice(0, 3))
    with torch.no_grad():
        actor.net.weight.zero_()
        actor.net.bias.copy_(torch.tensor([1.0, 2.0, 3.0]).log())
    o = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    pi = actor(o)
    assert pi.logp.exp()[0].tolist() == pytest.approx([0.25, 0, 0.75])
    assert pi.logp.exp()[1].tolist() == pytest.approx([1 / 6, 1 / 3, 1 / 2])  # no legal action: no mask
    assert pi.entropy()[0].item() == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)))
    assert pi.kl(pi.detach())[0].item() == 0
    loss = (pi.entropy() + pi.log_prob(torch.tensor([2, 1])) + pi.kl(pi.detach())).sum()
    loss.backward()
    assert actor.net.bias.grad.isfinite().all()


@pytest.mark.parametrize("dueling", [False, True])
def test_values_of_illegal_actions(dueling):
    envs = make_envs(Masked, num_envs=2, seed=0)
    o = torch.as_tensor(envs.reset())
    net = nets.QNetwork(envs.observation_space, envs.action_space, dueling=dueling)
    q = net.q(o)
    assert torch.equal(q == -math.inf, o[:, :4] == 0)
    best = q.argmax(-1)
    assert torch.equal(net.q(o, best), q.max(-1).values)
    assert net.act(o.numpy()).tolist() == best.tolist()


# ---- mistakes


def test_a_mask_of_another_length_is_refused():
    class Wrong(Masked):
        def __init__(self):
            super().__init__()
            self.action_space = spaces.Discrete(3)

    with pytest.raises(UserError, match=r"action_mask in the observations has 4 entries; it must have 3"):
        make_envs(Wrong, num_envs=1, seed=0)


def test_masks_need_discrete_actions():
    with pytest.raises(UserError, match="action masks need Discrete, MultiDiscrete or MultiBinary actions, not Box"):
        make_envs("Pendulum-v1", num_envs=1, seed=0, wrappers=["spinup.wrappers:ActionMask"])


@pytest.mark.filterwarnings("ignore:.*ERROR")  # how Gymnasium reports the worker's traceback
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_an_environment_without_a_mask_says_so(vectorization):
    envs = make_envs("CartPole-v1", num_envs=2, seed=0, wrappers=[ActionMask], vectorization=vectorization)
    with pytest.raises(
        UserError, match=r"^ActionMask: the environment has no masks: no method action_masks and no info"
    ):
        envs.reset()


def test_a_wrapped_mask_is_not_wrapped_again():
    with pytest.raises(UserError, match="its observations have an action_mask already"):
        make_envs(Masked, num_envs=1, seed=0, wrappers=["spinup.wrappers:ActionMask"])
