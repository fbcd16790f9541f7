"""Recurrent PPO: its memory, values at truncations worked out by hand, a task of memory, and policies with a state."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from probes import Probe, Walk, learning_rates, rows

import spinup
from spinup.algos import ppo_rnn as module
from spinup.analysis import play
from spinup.buffers import RecurrentBuffer, first_steps, sequence_length, sequences, states_at_sequences
from spinup.envs import make_env
from spinup.errors import UserError
from spinup.nets import ActorCritic, Memory, RecurrentActorCritic, check_recurrent_actor_critic, orthogonal_
from spinup.run import main

BOX, TWO = spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(2)
PLAIN = dict(normalize_obs=False, normalize_rew=False, anneal_lr=False, max_grad_norm=None)
cells = pytest.mark.parametrize("cell", ["gru", "lstm"])


def train(folder, env, algo="ppo_rnn", **kwargs):
    return getattr(spinup, algo)(env, **kwargs, logger_kwargs=dict(output_dir=str(folder), exp_name="x", quiet=True))


def error_of(function, *args, **kwargs):
    with pytest.raises(UserError) as error:
        function(*args, **kwargs)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


# ---- memory


def memory_and_data(cell, t=7, n=4):
    torch.manual_seed(0)
    first = torch.zeros(t, n, dtype=torch.bool)
    first[3, 0] = first[3, 1] = first[6, 1] = first[0, 2] = True
    memory = Memory(3, 5, cell)
    return memory, torch.randn(t, n, 3), torch.randn(n, memory.state_size), first


@cells
def test_an_unroll_equals_single_steps(cell):
    """Bit for bit, with the state set to 0 before each first step of an episode."""
    memory, x, state, first = memory_and_data(cell)
    states = memory(x, state, first)
    for t in range(len(x)):
        state = state.clone()
        state[first[t]] = 0.0
        state = memory(x[t], state)
        assert torch.equal(states[t], state)


@cells
def test_memory_is_that_of_torch(cell):
    memory, x, _, first = memory_and_data(cell)
    whole = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[cell](3, 5)
    whole.load_state_dict({f"{name}_l0": p for name, p in memory.cell.state_dict().items()})
    states = memory(x, torch.zeros(4, memory.state_size), torch.zeros_like(first))
    torch.testing.assert_close(states[..., :5], whole(x)[0])


@cells
def test_orthogonal_initialization_of_a_cell(cell):
    memory = Memory(3, 5, cell)
    orthogonal_(memory, 3.0)
    for name, p in memory.cell.named_parameters():
        expected = p.T @ p if p.dim() > 1 else p
        torch.testing.assert_close(expected, torch.eye(p.shape[1]) if p.dim() > 1 else torch.zeros_like(p), msg=name)


@cells
def test_gradients_do_not_cross_the_ends_of_episodes(cell):
    memory, x, state, first = memory_and_data(cell)
    x.requires_grad_(), state.requires_grad_()
    states = memory(x, state, first)
    dx, dstate = torch.autograd.grad(states[6].sum(), [x, state])
    begins = [3, 6, 0, 0]  # of the episodes that step 6 is in
    for i, begin in enumerate(begins):
        assert (dx[begin:, i] != 0).any(-1).all()
        assert (dx[:begin, i] == 0).all()
    assert (dstate != 0).any(-1).tolist() == [False, False, False, True]


@cells
@pytest.mark.parametrize("length", [1, 2, 3, 6])
def test_sequences_continue_the_rollout(cell, length):
    """Unrolled from the states at their first steps, they have the states of the whole rollout."""
    memory, x, state, first = memory_and_data(cell, t=6 + 1)
    x, first = x[:6], first[:6]
    states = memory(x, state, first)
    starts = states_at_sequences(state, states, length)
    cut = memory(sequences(x, length), starts, sequences(first, length))
    torch.testing.assert_close(cut, sequences(states, length), rtol=0, atol=1e-6)


def test_sequences_by_hand():
    x = torch.arange(8).reshape(4, 2)  # steps 0 to 3 of two environments
    assert sequences(x, 2).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert sequences(x, 4).tolist() == x.tolist()
    done = torch.tensor([[True, False], [False, True], [True, True]])
    assert first_steps(done).tolist() == [[False, False], [True, False], [False, True]]


@pytest.mark.parametrize(("steps", "longest", "length"), [(128, 32, 32), (30, 32, 30), (250, 32, 25), (251, None, 251)])
def test_sequence_length(steps, longest, length):
    assert sequence_length(steps, longest) == length


# ---- values and advantages


class Counting(RecurrentActorCritic):
    """The value of an observation is its number in the episode, from 1."""

    def v(self, o, state, first=None):
        if first is None:
            states = state + 1
        else:
            states = []
            for first_t in first:
                state = torch.where(first_t[:, None], 0.0, state) + 1
                states.append(state)
            states = torch.stack(states)
        return states[..., 0] + 0 * super().v(o, state, first)[0], states


@pytest.mark.parametrize("truncates", [True, False])
def test_advantages_at_the_end_of_an_episode_by_hand(monkeypatch, tmp_path, truncates):
    """Episodes of three steps with rewards of 1, gamma 0.5, lambda 1, in epochs of four steps.

    The value after a truncation is that of a fourth observation, with the memory of the three before. A cut by the
    end of an epoch neither clears the memory nor is it an end.
    """
    seen, gae = [], module.gae

    def record(r, v, v2, *args):
        seen.append((v, v2, gae(r, v, v2, *args)[0]))
        return gae(r, v, v2, *args)

    monkeypatch.setattr(module, "gae", record)
    options = PLAIN | dict(num_envs=1, steps_per_epoch=4, epochs=2, gamma=0.5, lam=1.0, pi_lr=0.0, vf_lr=0.0)
    options |= dict(train_pi_iters=1, train_v_iters=1, seq_len=2, minibatch_size=2, actor_critic=Counting)
    train(tmp_path, lambda: Probe(length=3, truncates=truncates), **options)
    (v, v2, adv), (later_v, later_v2, _) = ([x.flatten().tolist() for x in epoch] for epoch in seen)
    assert v == [1, 2, 3, 1]
    assert v2 == [2, 3, 4, 2]
    assert later_v == [2, 3, 1, 2]
    assert later_v2 == [3, 4, 2, 3]
    if truncates:  # deltas: 1 + 1 - 1, 1 + 1.5 - 2, 1 + 2 - 3; then 1 + 1 - 1
        assert adv == [1 + 0.25, 0.5, 0, 1]
    else:  # the last delta is 1 - 3
        assert adv == [1 + 0.25 - 0.5, 0.5 - 1, -2, 1]


def test_an_episode_that_ends_with_the_epoch_leaves_no_memory(monkeypatch, tmp_path):
    seen, gae = [], module.gae
    monkeypatch.setattr(module, "gae", lambda r, v, *args: seen.append(v.flatten().tolist()) or gae(r, v, *args))
    options = PLAIN | dict(num_envs=1, steps_per_epoch=3, epochs=2, vf_lr=0.0, train_pi_iters=1, train_v_iters=1)
    train(tmp_path, lambda: Probe(length=3, truncates=True), **options, actor_critic=Counting)
    assert seen == [[1, 2, 3], [1, 2, 3]]


def test_the_policy_that_learns_is_the_one_that_acted(monkeypatch, tmp_path):
    """The log-probabilities from which ratios are computed are those with which actions were drawn, in every epoch."""
    drawn, unrolled = [], []

    class Told(RecurrentActorCritic):
        def act(self, o, state=None, deterministic=False):
            a, states = super().act(o, state, deterministic)
            pi, _ = self.pi(torch.as_tensor(o), torch.as_tensor(state if state is not None else self.initial_state(3)))
            drawn.append(pi.log_prob(torch.as_tensor(a)).detach())
            return a, states

    class Buffer(RecurrentBuffer):
        def get(self, device):
            data = super().get(device)
            pi, _ = ac[0].pi(data.o, self.starts()[0], first_steps(data.done))
            unrolled.append(pi.log_prob(data.a).detach())
            return data

    ac = []

    def make(*args, **kwargs):
        ac.append(Told(*args, **kwargs))
        return ac[0]

    monkeypatch.setattr(module, "RecurrentBuffer", Buffer)
    options = dict(num_envs=3, steps_per_epoch=60, epochs=3, pi_lr=1e-2, train_pi_iters=3, train_v_iters=1)
    train(tmp_path, Walk, actor_critic=make, **options, normalize_obs=False)
    del drawn[0]  # of the check
    torch.testing.assert_close(torch.stack(drawn), torch.cat(unrolled), rtol=0, atol=1e-5)


@pytest.mark.parametrize("seq_len", [None, 5])
def test_a_step_is_that_of_a_twin(monkeypatch, tmp_path, seq_len):
    """The first step, at ratios of 1, is Adam's down the gradient of -E[log pi A] through the memory."""
    data, made = [], []

    class Buffer(RecurrentBuffer):
        def get(self, device):
            rollout = super().get(device)
            data.extend(x.clone() for x in rollout)
            return rollout

    def make(*args, **kwargs):
        made.append(RecurrentActorCritic(*args, **kwargs))
        made.append(RecurrentActorCritic(*args, **kwargs))
        made[1].load_state_dict(made[0].state_dict())
        return made[0]

    monkeypatch.setattr(module, "RecurrentBuffer", Buffer)
    options = PLAIN | dict(num_envs=2, steps_per_epoch=40, epochs=1, pi_lr=1e-2, vf_lr=1e-2, minibatch_size=None)
    train(tmp_path, Walk, actor_critic=make, **options, train_pi_iters=1, train_v_iters=1, seq_len=seq_len, gamma=0.9)
    ac, twin = made
    o, a, r, o2, terminated, done = data
    start, first = torch.zeros(2, 64), first_steps(done)
    assert first.sum() > 3
    loss, loss_v, length = 0.0, 0.0, seq_len or 20
    v, states = twin.v(o, start, first)
    v2, _ = twin.v(o2, states)
    adv, ret = module.gae(r, v.detach(), v2.detach(), terminated, done, 0.9, 0.95)
    _, states_pi = twin.pi(o, start, first)
    for begin in range(0, 20, length):  # gradients end where a sequence begins
        part = slice(begin, begin + length)
        start_pi, start_v = (
            (start, start) if begin == 0 else (states_pi[begin - 1].detach(), states[begin - 1].detach())
        )
        loss = loss - (twin.pi(o[part], start_pi, first[part])[0].log_prob(a[part]) * adv[part]).sum() / 40
        loss_v = loss_v + (twin.v(o[part], start_v, first[part])[0] - ret[part]).square().sum() / 40
    for part, value in ((twin.actor, loss), (twin.critic, loss_v)):
        optimizer = torch.optim.Adam(part.parameters(), lr=1e-2)
        value.backward()
        optimizer.step()
        part.zero_grad()
    for (name, p), q in zip(ac.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=2e-4, msg=lambda m, name=name: f"{name}: {m}")


# ---- a task of memory


class Recall(Probe):
    """Shows -1 or 1 in the first step, 0 in the five that follow, and then pays 1 for the action of that sign."""

    def __init__(self):
        super().__init__(length=6)

    def observe(self):
        if self.t == 0:
            self.shown = 2 * self.np_random.integers(2) - 1
        return np.full(1, self.shown if self.t == 0 else 0, np.float32)

    def reward(self, a) -> float:
        return float(self.t == 5 and a == (self.shown > 0))


RECALL = dict(num_envs=16, steps_per_epoch=384, epochs=25, pi_lr=1e-2, vf_lr=1e-2, train_pi_iters=4, train_v_iters=4)
RECALL |= dict(minibatch_size=None, normalize_adv=True, seed=1)


@pytest.fixture(scope="module")
def recalls(tmp_path_factory):
    """A run of a policy that has learned Recall, and its folder."""
    folder = tmp_path_factory.mktemp("recall") / "x"
    return train(folder, Recall, **RECALL, ac_kwargs=dict(memory_size=16, hidden_sizes=[16])), folder


def test_memory_recalls_what_a_policy_without_cannot(recalls, tmp_path):
    without = train(tmp_path / "x", Recall, "ppo", **RECALL, ac_kwargs=dict(hidden_sizes=[16]))
    assert np.mean(spinup.evaluate(recalls[0], Recall, 50)["EpRet"]) == 1
    assert np.mean(spinup.evaluate(without, Recall, 200)["EpRet"]) < 0.65


def test_an_lstm_recalls_too(tmp_path):
    ac = train(tmp_path / "x", Recall, **RECALL, ac_kwargs=dict(memory_size=16, hidden_sizes=[16], cell="lstm"))
    assert np.mean(spinup.evaluate(ac, Recall, 50)["EpRet"]) == 1


# ---- policies with a state


def play_by_hand(policy, seed, keep=True):
    """The return of an episode played with policy.action; keep: pass the state on."""
    env, state, total = Recall(), None, 0.0
    o, _ = env.reset(seed=seed)
    while True:
        action, state = policy.action(o, state if keep else None, deterministic=True)
        o, r, terminated, truncated, _ = env.step(action)
        total += r
        if terminated or truncated:
            return total


def test_a_loaded_policy_remembers_everywhere(recalls, capsys):
    trained, folder = recalls
    for policy in (trained, spinup.load(folder, env_fn=Recall)):
        assert [play_by_hand(policy, seed) for seed in range(8)] == [1] * 8
        assert 0 < sum(play_by_hand(policy, seed, keep=False) for seed in range(20)) < 20
        assert spinup.evaluate(policy, Recall, 7, num_envs=3)["EpRet"] == [1] * 7
        envs = spinup.envs.make_envs(Recall)
        assert play.play(policy, envs, 5, True, 3)["EpRet"] == [1] * 5


def test_the_task_is_named_on_the_command_line(data_dir, capsys):
    words = "--env CartPole-v1 --wrapper spinup.wrappers:SelectObservation(0,2) --epochs 2 --steps 64 --num_envs 2"
    words += (
        " --eval_freq 1 --num_test_episodes 2 --quiet --ac_kwargs:cell lstm --ac_kwargs:memory_size 8 --max_ep_len 9"
    )
    main(["ppo_rnn", *words.split()])
    folder = data_dir / "cmd_ppo_rnn" / "cmd_ppo_rnn_s0"
    assert json.loads((folder / "config.json").read_text())["ac_kwargs"] == {"cell": "lstm", "memory_size": 8}
    assert rows(folder)[-1]["TestEpLen"] == 9
    policy = spinup.load(folder)
    assert policy.actor.net.memory.cell.weight_ih.shape == (4 * 8, 2)
    capsys.readouterr()
    play.main([str(folder), "-nr", "-n", "2"])
    assert "EpLen  mean 9.00  std 0.00  min 9  max 9" in capsys.readouterr().out
    main(["resume", str(folder), "--epochs", "3"])
    assert len(rows(folder)) == 3


def test_selected_observations():
    env = make_env("CartPole-v1", wrappers=["spinup.wrappers:SelectObservation(2, 0)"])
    o, _ = env.reset(seed=3)
    whole, _ = gym.make("CartPole-v1").reset(seed=3)
    assert o.tolist() == whole[[2, 0]].tolist()
    assert env.observation_space.shape == (2,)
    assert env.observation_space.contains(o)


# ---- a run that continues


def test_an_episode_that_could_not_be_replayed_begins_without_memory():
    """Both where the rollout has begun and where its first step is still to come."""
    buffer = RecurrentBuffer(4, 3, BOX, TWO, initial_state=np.zeros((3, 2), np.float32))
    buffer.begin(torch.ones(3, 2), torch.full((3, 2), 2.0))
    mask = np.array([True, False, False])
    buffer.mark_episode_end(mask)
    assert buffer.pi_start[:, 0].tolist() == [0, 1, 1]
    assert buffer.v_start[:, 0].tolist() == [0, 2, 2]
    assert buffer.state[:, 0].tolist() == [0, 1, 1]
    no = np.zeros(3, bool)
    buffer.store(np.ones((3, 3)), np.zeros(3), np.zeros(3), np.ones((3, 3)), no, no)
    buffer.mark_episode_end(~mask)
    assert buffer.state[:, 0].tolist() == [0, 0, 0]
    assert buffer.v_start[:, 0].tolist() == [0, 2, 2]  # it had its first step before
    assert buffer.done[0].tolist() == [False, True, True]
    other = RecurrentBuffer(4, 3, BOX, TWO, initial_state=np.zeros((3, 2), np.float32))
    other.load_state_dict(buffer.state_dict())
    assert all(np.array_equal(getattr(other, name), getattr(buffer, name)) for name in ("state", "pi_start", "v_start"))


# ---- mistakes


def test_steps_that_cannot_be_cut(tmp_path):
    message = error_of(train, tmp_path / "x", "CartPole-v1", num_envs=1, steps_per_epoch=127, seq_len=32)
    assert message == (
        "seq_len is 32, but an environment takes 127 steps in an epoch, which can't be cut into equal sequences of 16 "
        "to 32; change seq_len, steps_per_epoch or num_envs"
    )
    assert not (tmp_path / "x").exists()


def test_each_option_changes_the_run(tmp_path):
    """Without NaN; and an entropy bonus raises the entropy, as a small target_kl ends an epoch's steps early."""
    options = dict(num_envs=2, steps_per_epoch=64, epochs=3, minibatch_size=32, pi_lr=1e-2)
    options |= dict(train_pi_iters=2, train_v_iters=2)  # so that recompute_adv can act only on the second
    changes = dict(ent_coef=5.0, target_kl=1e-5, anneal_lr=False, recompute_adv=False, vf_clip=0.01, clip_ratio=0.01)
    changes |= dict(lam=0.5, value_target="rtg", normalize_adv=True, train_v_iters=1)
    train(tmp_path / "base", Walk, **options)
    base = rows(tmp_path / "base")
    found = {}
    for name, value in changes.items():
        train(tmp_path / name, Walk, **{**options, name: value})
        found[name] = rows(tmp_path / name)
        assert all(np.isfinite(row["LossPi"]) and np.isfinite(row["LossV"]) for row in found[name]), name
        assert any(row[key] != base[i][key] for i, row in enumerate(found[name]) for key in ("LossPi", "LossV")), name
    assert found["ent_coef"][-1]["Entropy"] > base[-1]["Entropy"]
    assert found["target_kl"][0]["StopIter"] < base[0]["StopIter"]


def test_learning_rates_fall_to_0_over_the_run(monkeypatch, tmp_path):
    rates = learning_rates(monkeypatch)
    options = dict(num_envs=2, steps_per_epoch=64, epochs=4, minibatch_size=None, train_pi_iters=1, train_v_iters=1)
    train(tmp_path / "x", Walk, pi_lr=0.4, vf_lr=0.8, capture=False, **options)
    assert rates == pytest.approx([0.4, 0.8, 0.3, 0.6, 0.2, 0.4, 0.1, 0.2])


def test_a_minibatch_larger_than_the_epoch_is_the_epoch(tmp_path):
    options = dict(num_envs=2, steps_per_epoch=64, epochs=1, seq_len=8, train_pi_iters=2, train_v_iters=2)
    for size in (64, 10**6, None):
        train(tmp_path / str(size), Walk, minibatch_size=size, **options)
    tables = [[*rows(tmp_path / str(size))[0].values()][:-1] for size in (64, 10**6, None)]
    assert tables[0] == tables[1] == tables[2]


@pytest.mark.parametrize(
    ("ac_kwargs", "message"),
    [
        (dict(memory_size=0), "memory_size is 0; it must be a whole number in 1 to 1048576"),
        (dict(memory_size=[64]), "memory_size is [64]; it must be a whole number in 1 to 1048576"),
        (dict(cell="rnn"), "cell is 'rnn'; it must be one of gru, lstm"),
    ],
)
def test_networks_that_cannot_be(tmp_path, ac_kwargs, message):
    assert error_of(train, tmp_path / "x", "CartPole-v1", ac_kwargs=ac_kwargs) == message


def test_networks_of_another_algorithm(tmp_path):
    message = error_of(train, tmp_path / "x", "CartPole-v1", actor_critic=ActorCritic)
    assert message == "actor_critic ActorCritic has no 'initial_state'; help(spinup.nets) describes what is needed"
    message = error_of(train, tmp_path / "x", "CartPole-v1", "ppo", actor_critic=RecurrentActorCritic)
    assert message.startswith("actor_critic RecurrentActorCritic has a memory, which only ppo_rnn trains; ")


class NoState(RecurrentActorCritic):
    def act(self, o, state=None, deterministic=False):
        return super().act(o, state, deterministic)[0]


class LastValue(RecurrentActorCritic):
    def v(self, o, state, first=None):
        v, states = super().v(o, state, first)
        return v[-1] if v.dim() == 2 else v, states


class LastState(RecurrentActorCritic):
    def pi(self, o, state, first=None):
        pi, states = super().pi(o, state, first)
        return pi, states if first is None else states[-1]


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        (NoState, "act(o) returns a ndarray; it must return actions and states"),
        (LastValue, "v(o, state, first)[0] has shape (3,) for 3 observations; it must be (2, 3)"),
        (LastState, "pi(o, state, first)[1] has shape (3, 64) for 3 observations; it must be (2, 3, 64)"),
    ],
)
def test_what_a_network_lacks_is_named(networks, message):
    ac = networks(BOX, TWO)
    assert error_of(check_recurrent_actor_critic, ac, BOX, TWO) == f"actor_critic {networks.__name__}: {message}"


@pytest.mark.parametrize("state", [True, np.zeros((2, 64)), np.zeros(64)])
def test_what_is_not_a_state(recalls, state):
    assert error_of(recalls[0].action, np.zeros(1, np.float32), state).startswith("state is ")


@pytest.mark.parametrize(
    ("env", "arguments", "message"),
    [
        ("CartPole-v1", "(4)", "its arguments must be indices from 0 to 3, as in SelectObservation(0, 2)"),
        ("CartPole-v1", "", "its arguments must be indices from 0 to 3, as in SelectObservation(0, 2)"),
        ("CartPole-v1", "([0, 2])", "its arguments must be indices from 0 to 3, as in SelectObservation(0, 2)"),
        ("CliffWalking-v1", "(0)", "it needs observations that are vectors, not Discrete(48)"),
    ],
)
def test_observations_that_cannot_be_selected(env, arguments, message):
    assert message in error_of(make_env, env, wrappers=[f"spinup.wrappers:SelectObservation{arguments}"])
