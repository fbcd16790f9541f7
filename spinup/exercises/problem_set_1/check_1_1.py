"""The checker of exercise 1.1."""

import math

import torch

from spinup.exercises.judge import compare, gradients
from spinup.nets import Gaussian


def check(module) -> str:
    """Values against spinup's own Gaussian, for both shapes of log_std; then gradients."""
    f, what = module.gaussian_log_likelihood, "gaussian_log_likelihood"
    a, mu, log_std = torch.randn(5, 3), torch.randn(5, 3), torch.randn(5, 3) * 0.7
    for log_sigma in (log_std, log_std[0]):
        right = Gaussian(mu, log_sigma).log_prob(a)
        compare(what, f(a, mu, log_sigma), right, mistakes(a, mu, log_sigma))
    compare(f"{what} for one action dimension", f(a[:, :1], mu[:, :1], log_std[:, :1]),
            Gaussian(mu[:, :1], log_std[:, :1]).log_prob(a[:, :1]))  # fmt: skip
    inputs = [x.clone().requires_grad_() for x in (mu, log_std)]
    message = "there is no gradient for mu and log_std; a policy learns by it: is something detached?"
    found = gradients(what, f(a, *inputs), inputs, message)
    wanted = torch.autograd.grad(Gaussian(*inputs).log_prob(a).sum(), inputs)
    for name, g, w in zip(("mu", "log_std"), found, wanted, strict=True):
        compare(f"the gradient of {what} by {name}", g, w, [(0 * w, "it is 0; is something detached?")])
    return "log-likelihoods and gradients agree, with a log_std for each observation and with one for all"


def mistakes(a, mu, log_std):
    """Results of likely mistakes, and what to say of them."""
    sigma, c = log_std.exp(), 0.5 * math.log(2 * math.pi)
    z = (a - mu) / sigma
    terms = -(0.5 * z.square() + log_std + c)  # (B, A)
    yield -terms.sum(-1), "the sign is wrong; log-densities fall as the action moves away from the mean"
    yield (terms + c).sum(-1), "the term log(2 pi) / 2 is missing, once for each action dimension"
    yield (terms + c).sum(-1) - c, "log(2 pi) / 2 is there once; it belongs to each action dimension"
    yield (terms - c).sum(-1), "log(2 pi) is there in full; it is log(2 pi) / 2 for each action dimension"
    yield terms, "one number for each action dimension; sum them, as the log-density of an action is one number"
    yield terms.sum(0), "the sum runs over the batch; it must run over the action dimensions, the last axis"
    yield terms.sum(), "the sum runs over the batch too; it must leave one number for each observation"
    yield terms.mean(-1), "the mean over the action dimensions is taken; logarithms of a product add up: use the sum"
    yield terms.exp().prod(-1), "this is the density itself; its logarithm is asked for"
    yield (terms + log_std).sum(-1), "the term log sigma is missing; without it a wide Gaussian's density is too high"
    yield (terms + 2 * log_std).sum(-1), "log sigma has the wrong sign; a wider Gaussian is lower at its mean"
    yield (terms - 0.5 * z.square()).sum(-1), "the square is not halved; it is ((a - mu) / sigma)^2 / 2"
    unsquared = -(0.5 * (a - mu).square() / sigma + log_std + c)
    yield unsquared.sum(-1), "the squared distance is divided by sigma; divide by sigma^2, or square after dividing"
    as_std = -(0.5 * ((a - mu) / log_std).square() + log_std.log() + c)
    yield as_std.sum(-1), "log_std is used as sigma; sigma is log_std.exp()"
    half = -(0.5 * ((a - mu) / log_std).square() + log_std + c)
    yield half.sum(-1), "(a - mu) is divided by log_std; sigma is log_std.exp()"
    variance = -(0.5 * (a - mu).square() / sigma + 0.5 * log_std + c)
    yield variance.sum(-1), "log_std is taken for the logarithm of the variance; it is that of sigma"
