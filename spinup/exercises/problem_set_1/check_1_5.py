"""The checker of exercise 1.5."""

import torch
from torch import nn

from spinup.exercises.judge import Wrong, as_tensor, compare, gradients

GAMMA, LOW, HIGH = 0.9, torch.tensor([-5.0, -5.0]), torch.tensor([5.0, 5.0])


class Critic(nn.Module):
    """A linear Q that remembers the actions it was asked about."""

    def __init__(self):
        super().__init__()
        self.net, self.seen = nn.Linear(5, 1), []

    def forward(self, o, a):
        self.seen.append(a.detach().clone())
        return self.net(torch.cat([o, a], -1)).squeeze(-1)


def check(module) -> str:
    """The target without noise, its noise and its gradient, then both losses."""
    check_target(module.target)
    check_noise(module.target)
    check_q_loss(module.q_loss)
    check_pi_loss(module.pi_loss)
    return "target, noise and both losses are right, and gradients flow where they should"


def check_target(target) -> None:
    pi, q1, q2 = nn.Linear(3, 2), Critic(), Critic()
    r, o2, terminated = torch.randn(8), torch.randn(8, 3), torch.tensor([0.0, 1, 0, 0, 1, 0, 0, 0])
    y = target(r, terminated, o2, pi, q1, q2, GAMMA, 0.0, 0.5, LOW, HIGH)
    with torch.no_grad():
        x1, x2 = q1(o2, pi(o2)), q2(o2, pi(o2))
    going, low = GAMMA * (1 - terminated), torch.min(x1, x2)
    mistakes = [
        (r + going * torch.max(x1, x2), "the larger of the two critics is taken; take the smaller"),
        (r + going * (x1 + x2) / 2, "the mean of the critics is taken; take the smaller"),
        (r + going * x1, "only the first critic is used; take the smaller of the two"),
        (r + going * x2, "only the second critic is used; take the smaller of the two"),
        (r + GAMMA * low, "the value of a terminal state is counted; multiply it by (1 - terminated)"),
        (r + GAMMA * terminated * low, "terminated is upside down; the value counts where it is 0"),
        ((1 - terminated) * (r + GAMMA * low), "the reward of the last step is masked too; it was earned"),
        (r + (1 - terminated) * low, "gamma is missing"),
        (GAMMA * (r + (1 - terminated) * low), "the reward is discounted too; gamma belongs to the next state's value"),
        (r + going * torch.min(x1.min(), x2.min()), "the min runs over the batch; it is between the critics"),
        (r + going * torch.stack([x1, x2]).min(), "the min runs over the batch; it is between the critics"),
        (r - going * low, "the next state's value is subtracted; add it"),
        (low, "the reward is missing"),
    ]
    compare("target", y, r + going * low, mistakes)
    if isinstance(y, torch.Tensor) and y.requires_grad:
        raise Wrong("target: a gradient flows into it; it is a fixed number: compute it under torch.no_grad()")


def check_noise(target) -> None:
    """The actions that the critics are asked about, around the action 0."""

    def actions(noise, clip, low=LOW, high=HIGH, n=4000):
        q1, q2 = Critic(), Critic()
        target(torch.zeros(n), torch.zeros(n), torch.zeros(n, 3), lambda o: torch.zeros(n, 2), q1, q2, GAMMA, noise,
               clip, low, high)  # fmt: skip
        if not torch.equal(q1.seen[-1], q2.seen[-1]):
            raise Wrong("target: the two critics judge different actions; draw the noise once, for both")
        return q1.seen[-1]

    a = actions(0.2, 10.0)
    if not a.abs().sum():
        raise Wrong("target: the action has no noise; add target_noise times a Gaussian to it")
    if torch.allclose(a, a[:1].expand_as(a)):
        raise Wrong("target: all transitions get the same noise; draw it for each, as by torch.randn_like(a2)")
    if torch.allclose(a[:, 0], a[:, 1]):
        raise Wrong("target: all action dimensions get the same noise; draw it for each, as by torch.randn_like(a2)")
    mistakes = [
        (0.2**2, "the noise is scaled by the square of target_noise"),
        (1.0, "the noise is not scaled by target_noise"),
        (0.2 / 12**0.5, "the noise is uniform, as from rand; draw it from a Gaussian, as by randn"),
        (0.2**0.5, "target_noise is a standard deviation, not a variance"),
    ]
    compare("the noise's standard deviation", a.std(), torch.tensor(0.2), mistakes, tol=0.015)
    compare("the noise's mean", a.mean(), torch.tensor(0.0), tol=0.015)
    largest = actions(1.0, 0.5).abs().max()
    if largest > 0.5 + 1e-6:
        raise Wrong(f"target: noise of {largest:.2f} where noise_clip is 0.5; clip the noise")
    compare("the largest noise", largest, torch.tensor(0.5), [(1.0, "it is clipped to 1, not to noise_clip")])
    low, high = torch.tensor([-0.1, -0.3]), torch.tensor([0.2, 0.05])
    a = actions(1.0, 0.5, low, high)
    if (a < low - 1e-6).any() or (a > high + 1e-6).any():
        raise Wrong("target: the noisy action leaves its bounds; clip it to low and high after adding the noise")
    compare("the largest action", a.amax(0), high, [(high.max().expand(2), "each dimension has its own bounds")])
    compare("the smallest action", a.amin(0), low, [(low.min().expand(2), "each dimension has its own bounds")])


def check_q_loss(q_loss) -> None:
    q1, q2, y = torch.randn(6), torch.randn(6), torch.randn(6)
    first, second = (q1 - y).square().mean(), (q2 - y).square().mean()
    mistakes = [
        (first, "only the first critic's loss is there; both critics learn"),
        (second, "only the second critic's loss is there; both critics learn"),
        ((first + second) / 2, "this is half of the sum of the two losses"),
        (6 * (first + second), "the sum over the batch is taken; take the mean"),
        (
            (torch.min(q1, q2) - y).square().mean(),
            "the smaller value alone is fitted; each critic has a loss of its own",
        ),
        ((q1 - y).abs().mean() + (q2 - y).abs().mean(), "this is the absolute error; take the square"),
        (-first - second, "the sign is wrong; the error is to be made small"),
    ]
    compare("q_loss", q_loss(q1, q2, y), first + second, mistakes)


def check_pi_loss(pi_loss) -> None:
    pi, q1, o = nn.Linear(3, 2), Critic(), torch.randn(6, 3)
    right = -q1(o, pi(o)).mean()
    mistakes = [
        (-right, "the sign is wrong; the policy is to raise the value, and a loss is minimized"),
        (6 * right, "the sum over the batch is taken; take the mean"),
        (right.abs() if right < 0 else -right.abs(), "the sign is wrong"),
    ]
    loss = pi_loss(o, pi, q1)
    compare("pi_loss", loss, right, mistakes)
    message = "there is no gradient for the policy; the action must go into the critic as it is, not detached"
    found = gradients("pi_loss", loss, list(pi.parameters()), message)
    compare("the gradient of pi_loss", as_tensor("", found[0]), torch.autograd.grad(right, [pi.weight])[0])
