"""The checker of exercise 1.6."""

import math

import torch

from spinup.exercises.judge import Wrong, compare, gradients, pair
from spinup.nets import LOG_SQRT_2PI


def right_sample(mu, log_std, noise):
    """Computed in float64, where tanh(18) is not yet 1."""
    mu, log_std, noise = (x.double() for x in (mu, log_std, noise))
    u = mu + log_std.exp() * noise
    log_slope = 2 * (math.log(2) - u - torch.nn.functional.softplus(-2 * u))
    return u.tanh().float(), (-0.5 * noise.square() - log_std - LOG_SQRT_2PI - log_slope).sum(-1).float()


def check(module) -> str:
    """Moderate values first, then gradients, then values where the tanh rounds to 1."""
    mu, log_std, noise = torch.randn(6, 3), torch.randn(6, 3) * 0.5 - 0.5, torch.randn(6, 3)
    mu.requires_grad_(), log_std.requires_grad_()
    what = "squashed_sample must return two tensors, actions and log-probabilities"
    output = pair(what, module.squashed_sample(mu, log_std, noise))
    a, logp = right_sample(mu, log_std, noise)
    u = (mu + log_std.exp() * noise).detach()
    others = [
        (u, "it is not squashed; take its tanh"),
        (mu.tanh(), "the noise is missing; u is mu + sigma * noise"),
        ((mu + log_std * noise).tanh(), "the noise is scaled by log_std; sigma is log_std.exp()"),
        (mu.tanh() + log_std.exp() * noise, "the noise is added after the tanh, and leaves the bounds"),
    ]
    compare("the action", output[0], a, others)
    compare("the log-probability", output[1], logp, mistakes(mu.detach(), log_std.detach(), noise))
    check_gradients(output, (a, logp), (mu, log_std))

    mu = torch.tensor([[12.0], [-12.0], [30.0], [-30.0], [9.5]])
    log_std, noise = torch.full((5, 1), -1.0), torch.full((5, 1), 0.5)
    mu.requires_grad_()
    a, logp = right_sample(mu, log_std, noise)
    got = module.squashed_sample(mu, log_std, noise)[1]
    if not torch.isfinite(got).all():
        raise Wrong("right for small u, and not finite at u = 12 or -12: write log(1 - tanh(u)^2) in another form")
    compare("right for small u, but at u = 12.2, -11.8, 30.2, -29.8 the log-probability", got, logp, tol=1e-3)
    (found,) = gradients("the log-probability", got, [mu], "there is no gradient for mu")
    (wanted,) = torch.autograd.grad(logp.sum(), [mu])
    compare("the log-probability is right for large u, but its gradient with respect to mu", found, wanted, tol=1e-3)
    return "actions, log-probabilities and gradients agree, also where the tanh rounds to 1"


def check_gradients(output, right, inputs) -> None:
    for what, x, y in zip(("the action", "the log-probability"), output, right, strict=True):
        message = "there is no gradient for mu and log_std; SAC's policy learns through both results"
        found = gradients(what, x, inputs, message)
        wanted = torch.autograd.grad(y.sum(), inputs, retain_graph=True)
        for name, g, w in zip(("mu", "log_std"), found, wanted, strict=True):
            if torch.allclose(g, w, rtol=1e-3, atol=1e-4):
                continue
            if what == "the log-probability" and name == "mu" and not g.abs().sum():
                raise Wrong("the log-probability has no gradient with respect to mu; u or the action is detached in it")
            compare(f"the gradient of {what} by {name}", g, w)


def mistakes(mu, log_std, noise):
    """Log-probabilities of likely mistakes, and what to say of them."""
    u = mu + log_std.exp() * noise
    a = u.tanh()
    gauss, slope = -0.5 * noise.square() - log_std - LOG_SQRT_2PI, (1 - a.square()).log()
    terms = gauss - slope
    yield gauss.sum(-1), "the correction for the tanh is missing: minus log(1 - tanh(u)^2) in each dimension"
    yield (gauss + slope).sum(-1), "the correction has the wrong sign: where the tanh squeezes, the density grows"
    yield terms, "one number for each action dimension; sum over the last axis"
    yield terms.mean(-1), "the mean over the action dimensions is taken; logarithms of a product add up: use the sum"
    yield terms.sum(0), "the sum runs over the batch; it must run over the action dimensions, the last axis"
    yield -terms.sum(-1), "the sign is wrong; this is minus the log-probability"
    yield (gauss - (1 - a.tanh().square()).log()).sum(-1), "the correction takes the tanh of the action; it is at u"
    yield (gauss - (1 - u.square()).abs().log()).sum(-1), "the correction is at u itself; it is 1 - tanh(u)^2"
    yield (gauss - 2 * slope).sum(-1), "the correction is there twice; softplus form: 2 (log 2 - u - softplus(-2u))"
    yield (gauss - 0.5 * slope).sum(-1), "the correction is halved; log(1 - tanh(u)^2) is 2 (log 2 - u - softplus(-2u))"
    at_a = -0.5 * ((a - mu) / log_std.exp()).square() - log_std - LOG_SQRT_2PI
    yield (at_a - slope).sum(-1), "the Gaussian's density is taken at the action; it is that of u, before the tanh"
    yield at_a.sum(-1), "the Gaussian's density is taken at the action, and the correction for the tanh is missing"
    yield (terms + LOG_SQRT_2PI).sum(-1), "the term log(2 pi) / 2 is missing in the Gaussian's density"
    yield (terms + log_std).sum(-1), "the term log sigma is missing in the Gaussian's density"
    yield gauss.sum(-1) - slope.mean(-1), "the correction is averaged; sum it over the action dimensions"
