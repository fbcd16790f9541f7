"""Model-based RL: an ensemble of networks learns what Pendulum-v1 does, and a planner tries out actions in it.

    python -m spinup.examples.model_based
    python -m spinup.examples.model_based --members 1
    python -m spinup.examples.model_based --horizon 5

The algorithm is PETS (arXiv:1805.12114). Equations mod-1 to mod-6: docs/introduction/model-based.md. Departures from
the paper: the reward is learned as well, each member imagines one trajectory for each plan, members differ by their
first weights and minibatches only, and model and plans are smaller.
Shapes: K members, B steps, N sequences of H actions.
"""

import argparse
import itertools

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spinup.nets import LOG_SQRT_2PI

ENV, LOW, HIGH = "Pendulum-v1", -2.0, 2.0  # bounds of its actions, (1,)

# ---- the model


class Ensemble(nn.Module):
    """K networks side by side. Each maps an observation and an action to a normal distribution of the observation's
    change and the reward."""

    def __init__(self, members: int, inputs: int = 4, outputs: int = 4, width: int = 64):
        super().__init__()
        sizes = inputs, width, width, 2 * outputs
        self.weights = nn.ParameterList(torch.randn(members, m, n) / m**0.5 for m, n in itertools.pairwise(sizes))
        self.biases = nn.ParameterList(torch.zeros(members, 1, n) for n in sizes[1:])
        self.x_mean, self.x_std = torch.zeros(inputs), torch.ones(inputs)
        self.y_mean, self.y_std = torch.zeros(outputs), torch.ones(outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (K, B, inputs); mean and log of the standard deviation of y in units of its spread, (K, B, outputs)."""
        x = (x - self.x_mean) / self.x_std
        for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = F.silu(torch.baddbmm(b, x, w))
        mean, free = torch.baddbmm(self.biases[-1], x, self.weights[-1]).chunk(2, dim=-1)
        return mean, 2.5 * (free.tanh() - 1)  # mod-1; the deviation is at least exp(-5)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean over members and steps of the negative log-likelihood. x (K, B, inputs), y (K, B, outputs)"""
        mean, log_std = self(x)
        z = ((y - self.y_mean) / self.y_std - mean) / log_std.exp()
        return (z.square() / 2 + log_std + LOG_SQRT_2PI).sum(-1).mean()  # mod-2

    def sample(self, x: Tensor) -> Tensor:
        """What may happen, by each member. x (K, B, inputs), result (K, B, outputs)"""
        mean, log_std = self(x)
        return self.y_mean + self.y_std * (mean + log_std.exp() * torch.randn_like(mean))


def fit(model: Ensemble, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, steps: int = 400) -> float:
    """Train all members at once, each on its own minibatches. x (B, inputs), y (B, outputs); returns the last loss."""
    model.x_mean, model.x_std = x.mean(0), x.std(0)
    model.y_mean, model.y_std = y.mean(0), y.std(0)
    for _ in range(steps):
        rows = torch.randint(len(x), (len(model.weights[0]), 64))
        loss = model.loss(x[rows], y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


# ---- planning


@torch.no_grad()
def imagine(model: Ensemble, o: Tensor, actions: Tensor) -> Tensor:
    """The returns that each member imagines for sequences of actions, (N, H, 1), from observation o, (3,): (K, N)."""
    K, N = len(model.weights[0]), len(actions)
    s, total = o.expand(K, N, -1), torch.zeros(K, N)
    for a in actions.unbind(dim=1):
        change, r = model.sample(torch.cat([s, a.expand(K, N, -1)], dim=-1)).split([s.shape[-1], 1], dim=-1)
        s, total = s + change, total + r.squeeze(-1)  # mod-3
    return total


def plan(model: Ensemble, o: Tensor, mean: Tensor, rounds: int = 3, population: int = 100, elites: int = 10) -> Tensor:
    """The cross-entropy method: sample sequences around the mean, (H, 1), move it to the best of them, repeat."""
    std = torch.full_like(mean, (HIGH - LOW) / 2)
    for _ in range(rounds):
        actions = (mean + std * torch.randn(population, *mean.shape)).clamp(LOW, HIGH)  # mod-4
        scores = imagine(model, o, actions).mean(0)  # mod-5
        best = actions[scores.topk(elites).indices]
        mean, std = best.mean(0), best.std(0)  # mod-6
    return mean


def random_actions(horizon: int) -> Tensor:
    """A sequence of uniformly random actions, (H, 1)."""
    return LOW + (HIGH - LOW) * torch.rand(horizon, 1)


def exploitation(model: Ensemble, horizon: int, seed: int, starts: int = 20) -> tuple[float, float, float, float]:
    """Imagined and real returns per step, of plans that are carried out to the end, and of random actions."""
    env, found = gym.make(ENV), []
    for i in range(starts):
        o = torch.as_tensor(env.reset(seed=seed + i)[0])
        for actions in (plan(model, o, torch.zeros(horizon, 1), rounds=10), random_actions(horizon)):
            env.reset(seed=seed + i)
            real = sum(float(env.step(a)[1]) for a in actions.numpy())
            found += [imagine(model, o, actions[None]).mean().item(), real]
    return tuple((np.array(found).reshape(starts, 4).mean(0) / horizon).tolist())


# ---- learning


def train(
    members: int = 5, horizon: int = 20, seed: int = 0, episodes: int = 7, random: int = 1
) -> tuple[list[tuple[int, float, float]], Ensemble]:
    """Returns rows of (steps, return, loss), one for each episode, and the model. random: episodes of random actions"""
    torch.manual_seed(seed)
    env, model = gym.make(ENV), Ensemble(members)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    x, y, rows = [], [], []
    print("steps  return   loss")
    for i in range(episodes):
        o, _ = env.reset(seed=seed if i == 0 else None)
        mean, done, total = torch.zeros(horizon, 1), False, 0.0
        while not done:
            if i < random:
                a = random_actions(1)[0].numpy()
            else:
                mean = plan(model, torch.as_tensor(o), mean)
                a, mean = mean[0].numpy(), torch.cat([mean[1:], mean[-1:]])  # the next plan begins with this one
            o2, r, terminated, truncated, _ = env.step(a)
            x.append([*o, *a])
            y.append([*(o2 - o), r])
            o, done, total = o2, terminated or truncated, total + float(r)
        loss = fit(model, optimizer, *(torch.tensor(np.array(z), dtype=torch.float32) for z in (x, y)))
        rows.append((len(x), total, loss))
        print("{:5} {:7.0f} {:6.2f}".format(*rows[-1]), flush=True)
    return rows, model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], argument_default=argparse.SUPPRESS)
    parser.add_argument("--members", type=int, help="networks in the ensemble")
    parser.add_argument("--horizon", type=int, help="steps that a plan looks ahead")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--episodes", type=int)
    args = vars(parser.parse_args())  # what is given: the defaults are those of train
    for name, low in (("members", 1), ("horizon", 1), ("seed", 0), ("episodes", 1)):
        if not low <= args.get(name, low) < 2**31:
            parser.error(f"argument --{name}: must be at least {low} and below 2**31, got {args[name]}")
    _, model = train(**args)
    print("\nreward per step\nhorizon  planned: imagined  real  random: imagined  real")
    for horizon in (5, 10, 20, 40):
        print("{:7} {:18.2f} {:5.2f} {:17.2f} {:5.2f}".format(horizon, *exploitation(model, horizon, seed=1_000_000)))


if __name__ == "__main__":
    main()
