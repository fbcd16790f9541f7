"""Exercise 2.2: a deep Q-network, fixed. `python exercise_2_2_solution.py` tries it on the probes."""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from spinup.probes import check, table


def make_q(obs_dim: int, num_actions: int) -> nn.Module:
    """Observations (B, O) -> values of all actions (B, K)."""
    return nn.Sequential(nn.Linear(obs_dim, 32), nn.ReLU(), nn.Linear(32, num_actions))


def transition(o, a, r, o2, terminated: bool, truncated: bool) -> tuple:
    """What the buffer keeps of one step."""
    return o, a, r, o2, float(terminated)  # a cut-off episode goes on: the next state keeps its value


def q_loss(q: nn.Module, q_targ: nn.Module, batch: list[tuple], gamma: float) -> Tensor:
    """Mean squared error against the double-DQN targets of a batch of what `transition` returned, a scalar."""
    o, a, r, o2, terminated = (torch.as_tensor(np.array(column, np.float32)) for column in zip(*batch, strict=True))
    with torch.no_grad():
        best = q(o2).argmax(dim=-1, keepdim=True)  # (B, 1)
        y = r + gamma * (1 - terminated) * q_targ(o2).gather(-1, best).squeeze(-1)
    value = q(o).gather(-1, a.long()[:, None]).squeeze(-1)  # (B,)
    return (value - y).square().mean()


def train(env_fn, gamma: float = 0.99, steps: int = 600, seed: int = 0):
    """Train, and return the functions value(o) and act(o) for one observation."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    env = env_fn()
    q = make_q(env.observation_space.shape[0], int(env.action_space.n))
    q_targ = copy.deepcopy(q)
    optimizer = torch.optim.Adam(q.parameters(), 1e-2, fused=True)
    buffer = []

    def act(o):
        return int(q(torch.as_tensor(o)).argmax())

    o, _ = env.reset(seed=seed)
    for t in range(steps):
        a = act(o) if random.random() > 0.2 else int(random.integers(env.action_space.n))
        o2, r, terminated, truncated, _ = env.step(a)
        buffer.append(transition(o, a, r, o2, terminated, truncated))
        o = env.reset()[0] if terminated or truncated else o2
        if t >= 50:
            batch = [buffer[i] for i in random.integers(len(buffer), size=32)]
            optimizer.zero_grad()
            q_loss(q, q_targ, batch, gamma).backward()
            optimizer.step()
        if t % 20 == 0:
            q_targ.load_state_dict(q.state_dict())

    def value(o):
        return q(torch.as_tensor(o)).max().item()

    return value, act


if __name__ == "__main__":
    print(table(check(train)))
