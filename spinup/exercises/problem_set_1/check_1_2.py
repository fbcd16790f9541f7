"""The checker of exercise 1.2."""

import torch
from torch import nn

from spinup.algorithm import find
from spinup.exercises.judge import Wrong, as_tensor, compare, gradients, pair, seed
from spinup.nets import Gaussian, NoNorm, as_input
from spinup.probes import CASES, Target, run_case, settings_of, trainer


def check(module) -> str:
    """The parts by themselves, then learning."""
    check_module(module.GaussianPolicy)
    check_sample(module.GaussianPolicy(3, 2, (32, 16)))
    check_log_prob(module.GaussianPolicy(3, 2, (32, 16)))
    check_learning(module.GaussianPolicy)
    return "mean, standard deviation, samples and log-probabilities are right, and PPO learns with them"


def check_module(make) -> None:
    policy, o = make(3, 2, (32, 16)), torch.randn(7, 3)
    mu, log_std = pair("forward must return two tensors, the mean and the log standard deviation", policy(o))
    if as_tensor("the mean", mu).shape != (7, 2):
        raise Wrong(f"the mean has the shape {tuple(mu.shape)} for 7 observations and 2 actions; it must be (7, 2)")
    half = torch.full((2,), -0.5)
    mistakes = [
        (half.exp(), "this is the standard deviation itself; return its logarithm"),
        (half.exp().expand(7, 2), "this is the standard deviation itself; return its logarithm"),
        (-half, "it begins at 0.5; it must begin at -0.5, where sigma is 0.61"),
        (half.expand(7, 2), "it has a row for each observation; it must be one parameter of shape (2,)"),
    ]
    compare("the log standard deviation", log_std, half, mistakes)
    if not any(p.shape == (2,) and torch.equal(p, half) for p in policy.parameters()):
        raise Wrong("the log standard deviation is not among the module's parameters; make it an nn.Parameter")
    sizes = sorted(tuple(p.shape) for p in policy.parameters() if p.dim() == 2)
    if sizes != sorted([(32, 3), (16, 32), (2, 16)]):
        raise Wrong(
            f"hidden_sizes (32, 16) gave weights of the shapes {sizes}; they should be (32, 3), (16, 32), (2, 16)"
        )
    with torch.no_grad():
        for p in policy.parameters():
            p.mul_(20)
        big = policy(o)[0]
        if big.abs().max() <= 1:
            raise Wrong("the mean never leaves (-1, 1); there must be no tanh after the last layer")
        for p in policy.parameters():
            if p.dim() == 1:
                p.zero_()
        if torch.allclose(policy(o + o.flip(0))[0], policy(o)[0] + policy(o.flip(0))[0], rtol=1e-3):
            raise Wrong("the mean is a linear function of the observation; there must be a tanh between linear layers")
        bound = next(p for p in policy.parameters() if p.shape == (2, 16)).abs().sum(1)
        if (policy(100 * o)[0].abs() > bound + 1e-3).any():
            raise Wrong("the hidden units leave (-1, 1); the activation must be tanh")


def check_sample(policy) -> None:
    seed()
    with torch.no_grad():
        for p in policy.parameters():
            if p.shape == (2,) and torch.allclose(p, torch.full((2,), -0.5)):
                p.copy_(torch.tensor([-1.0, 0.4]))
        mu, log_std = policy(torch.ones(1, 3))
    a = policy.sample(torch.ones(20_000, 3))
    if isinstance(a, torch.Tensor) and a.requires_grad:
        raise Wrong("sample returns actions with a gradient; they are data: put it under torch.no_grad()")
    a = as_tensor("sample", a)
    if a.shape != (20_000, 2):
        raise Wrong(
            f"sample has the shape {tuple(a.shape)} for 20000 observations and 2 actions; it must be (20000, 2)"
        )
    if torch.allclose(a[0], mu[0]):
        raise Wrong("sample returns the mean; add noise, scaled by the standard deviation")
    if torch.allclose(a, a[:1].expand_as(a)):
        raise Wrong("all observations get the same noise; draw it for each, as by torch.randn_like(mu)")
    noise = a - mu
    if torch.corrcoef(noise.T)[0, 1] > 0.99:
        raise Wrong("all action dimensions get the same noise; draw it for each, as by torch.randn_like(mu)")
    compare("the mean of many samples", a.mean(0), mu[0], tol=0.05)
    sigma = log_std.exp()
    mistakes = [
        (log_std.abs(), "samples are scaled by log_std; the standard deviation is log_std.exp()"),
        (sigma.square(), "samples are scaled by the variance; the standard deviation is log_std.exp()"),
        (sigma.sqrt(), "samples are scaled by the square root of the standard deviation; it is log_std.exp() itself"),
        (torch.ones(2), "samples have the standard deviation 1; scale the noise by log_std.exp()"),
        (sigma / 12**0.5, "the noise is uniform, as from rand; draw it from a Gaussian, as by randn"),
    ]
    compare("the standard deviation of many samples", a.std(0), sigma, mistakes, tol=0.04)


def check_log_prob(policy) -> None:
    o, a = torch.randn(6, 3), torch.randn(6, 2)
    mu, log_std = policy(o)
    terms = torch.stack([Gaussian(mu[:, j : j + 1], log_std[j : j + 1]).log_prob(a[:, j : j + 1]) for j in range(2)], 1)
    mistakes = [
        (terms, "one number for each action dimension; sum over the last axis"),
        (-terms.sum(-1), "the sign is wrong"),
        (terms.mean(-1), "the mean over the action dimensions is taken; logarithms of a product add up: use the sum"),
    ]
    got = policy.log_prob(o, a)
    compare("log_prob", got, terms.sum(-1), mistakes)
    names, parameters = zip(*policy.named_parameters(), strict=True)
    message = "there is no gradient; no parameter of the policy would be trained"
    found = gradients("log_prob", got, parameters, message)
    still = [name for name, g in zip(names, found, strict=True) if not g.abs().sum()]
    if still:
        raise Wrong(f"log_prob has no gradient for {', '.join(still)}; is something detached?")


def check_learning(make) -> None:
    """PPO with the user's policy must find the point of the box."""

    class Actor(nn.Module):
        """The user's policy in half-ranges of the actions, as spinup's own."""

        def __init__(self, space):
            super().__init__()
            low, high = torch.as_tensor(space.low), torch.as_tensor(space.high)
            self.policy, self.middle, self.half_range = make(1, 2, (16,)), (high + low) / 2, (high - low) / 2

        def forward(self, o):
            return Policy(self.policy, o, self.middle, self.half_range)

    class ActorCritic(nn.Module):
        """What PPO asks for."""

        def __init__(self, observation_space, action_space, normalize_obs):
            super().__init__()
            self.actor, self.obs_norm = Actor(action_space), NoNorm()
            self.critic = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))

        def pi(self, o):
            return self.actor(o)

        def v(self, o):
            return self.critic(o).squeeze(-1)

        @torch.no_grad()
        def act(self, o, deterministic=False):
            pi = self.pi(as_input(o, self))
            return (pi.mode() if deterministic else pi.sample()).numpy()

    settings = {k: v for k, v in settings_of(find("ppo")).items() if k != "ac_kwargs"}
    case = next(case for case in CASES if case.env is Target)
    result = run_case(case, trainer("ppo", settings | dict(actor_critic=ActorCritic, pi_lr=2e-2)))
    if not result.passed:
        raise Wrong(
            f"PPO with this policy came to the action {result.got[0].round(2).tolist()}, where "
            f"{list(case.actions[0])} is best: compare sample, log_prob and the parameters with each other"
        )


class Policy:
    """The user's policy at observations o, (..., 1), with the methods that PPO uses; actions in the box's units."""

    def __init__(self, policy, o, middle, half_range):
        self.policy, self.o, self.middle, self.half_range = policy, o.reshape(-1, 1), middle, half_range
        self.shape = o.shape[:-1]

    def scale(self, a):
        return (self.middle + self.half_range * a).reshape(*self.shape, -1)

    def sample(self):
        return self.scale(self.policy.sample(self.o))

    def mode(self):
        return self.scale(self.policy(self.o)[0])

    def log_prob(self, a):
        return self.policy.log_prob(self.o, ((a - self.middle) / self.half_range).reshape(-1, 2)).reshape(self.shape)

    def entropy(self):
        return self.policy(self.o)[1].sum().expand(self.shape)

    def kl(self, other):
        mu, log_std = self.policy(self.o)
        return Gaussian(mu, log_std).kl(Gaussian(*other.policy(self.o))).reshape(self.shape)

    def detach(self):
        return self
