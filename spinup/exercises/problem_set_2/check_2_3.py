"""The checker of exercise 2.3."""

import torch

from spinup.exercises.judge import Wrong, compare, gradients, seed
from spinup.exercises.problem_set_2.check_2_1 import fail_by_probes


def check(module) -> str:
    """The policy's gradient by way of the critic, what acting and targets are, and the probes."""
    low, high = torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 3.0])
    pi = module.Policy(3, low, high)
    with torch.no_grad():
        pi.net[-1].weight.zero_()
        pi.net[-1].bias.copy_(torch.tensor([0.3, -0.2, -0.7, -0.5]))
    o, slope = torch.randn(20_000, 3), torch.tensor([2.0, -3.0])
    seed()
    message = "there is no gradient for the policy; the action must reach the critic with its gradient"
    loss = module.pi_loss(lambda o, a: 5.0 + a @ slope, pi, o)
    got = gradients("pi_loss", loss, [pi.net[-1].bias], message)[0]
    right = expected(module.ALPHA, slope, pi.half_range)
    mistakes = [(-right, "its sign was right: minus the soft value")]
    mean = "the gradient of pi_loss with respect to the bias of mean and log standard deviation"
    if (got[:2] - right[:2]).abs().max() > 0.5 * right[:2].abs().max() and got[:2].abs().max() < 0.2:
        shown, wanted = ([round(x, 3) for x in y.tolist()] for y in (got, right))
        raise Wrong(
            f"{mean} is {shown}, and for a critic with the slope {slope.tolist()} it should be near {wanted}: the "
            "critic does not reach it, only the entropy does; is the action a sample that can be differentiated?"
        )
    compare(mean, got, right, mistakes, tol=0.06)
    flat = module.pi_loss(lambda o, a: 5.0 + 0 * a.sum(-1), pi, o)
    got = gradients("pi_loss", flat, [pi.net[-1].bias], message)[0] / module.ALPHA
    mistakes = [(0 * got, "the entropy is gone; the loss is alpha * logp - q")]
    entropy = expected(1.0, 0 * slope, pi.half_range)
    compare("the gradient of pi_loss where the critic is flat, over alpha,", got, entropy, mistakes, tol=0.06)
    a, logp = pi.sample(o[:4])
    if a.shape != (4, 2) or logp.shape != (4,):
        raise Wrong("sample must return actions (B, A) and log-probabilities (B,)")
    if torch.allclose(pi.sample(o)[0].std(0), torch.zeros(2)):
        raise Wrong("sample returns the same action always; SAC's policy is random")
    fail_by_probes(module.train, ["reward by observation", "action by observation"], discrete=False)
    return "the policy climbs the critic through its own action, and the probes succeed"


def expected(alpha: float, slope: torch.Tensor, half_range: torch.Tensor) -> torch.Tensor:
    """The gradient of E[alpha log pi(a) - slope . a] by mean and log standard deviation, from 200000 samples."""
    mu = torch.tensor([0.3, -0.2], requires_grad=True)
    log_std = torch.tensor([-0.7, -0.5], requires_grad=True)
    noise = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(1))
    u = mu + log_std.exp() * noise
    logp = (-log_std - (1 - u.tanh().square()).log()).sum(-1)
    loss = (alpha * logp - (half_range * u.tanh()) @ slope).mean()
    return torch.cat(torch.autograd.grad(loss, [mu, log_std]))
