"""The checker of exercise 1.4."""

import torch

from spinup.algos.ppo import policy_loss
from spinup.exercises.judge import compare, gradients

EPS = 0.2


def check(module) -> str:
    """Values on a batch in which every combination of ratio and advantage occurs, and the loss's gradient."""
    ratio = torch.tensor([0.5, 0.95, 1.1, 1.7, 0.4, 0.9, 1.05, 2.0, 1.0])
    adv = torch.tensor([1.0, 0.5, 2.0, 1.5, -1.0, -0.7, -2.0, -0.6, 1.0])
    logp_old = -torch.rand(9) - 0.5
    logp = (ratio.log() + logp_old).requires_grad_()
    loss = module.policy_loss(logp, logp_old, adv, EPS)
    right = policy_loss(logp, logp_old, adv, EPS)
    compare("policy_loss", loss, right, mistakes(logp.detach(), logp_old, adv))
    (found,) = gradients("policy_loss", loss, [logp], "there is no gradient for logp; is the ratio detached?")
    (wanted,) = torch.autograd.grad(right, [logp])
    compare("the gradient of policy_loss", found, wanted)
    share = ((ratio - 1).abs() > EPS).float().mean()
    others = [
        (1 - share, "this is the share inside of the interval"),
        (share * 9, "this is the number of samples; divide by how many there are"),
        (
            (ratio > 1 + EPS).float().mean(),
            "only ratios over 1 + clip_ratio are counted; those under 1 - clip_ratio too",
        ),
        (
            (ratio < 1 - EPS).float().mean(),
            "only ratios under 1 - clip_ratio are counted; those over 1 + clip_ratio too",
        ),
        (
            ((logp - logp_old).abs() > EPS).float().mean(),
            "log-ratios are counted; compare the ratios",
        ),
    ]
    compare("clip_fraction", module.clip_fraction(logp, logp_old, EPS), share, others)
    # Near the border a log-ratio and a ratio differ: log(1.21) = 0.19.
    border = torch.tensor([1.21, 1.1, 1.0, 0.7]).log()
    others = [((border.abs() > EPS).float().mean(), others[-1][1])]
    compare("clip_fraction", module.clip_fraction(border, torch.zeros(4), EPS), torch.tensor(0.5), others)
    return "loss and gradient agree where the clip acts and where it does not, and so does the share of clipped samples"


def mistakes(logp, logp_old, adv):
    """Losses of likely mistakes, and what to say of them."""
    ratio = (logp - logp_old).exp()
    clipped = ratio.clamp(1 - EPS, 1 + EPS)
    terms = torch.min(ratio * adv, clipped * adv)
    yield terms.mean(), "the sign is wrong; the objective is to be raised, and a loss is minimized"
    yield -terms.sum(), "the sum is taken; take the mean, so that the step does not depend on the batch's size"
    yield -terms, "one number for each sample; take the mean"
    yield -torch.max(ratio * adv, clipped * adv).mean(), "the max is taken; the min is what bounds the gain"
    yield (
        -(clipped * adv).mean(),
        ("only the clipped product is there; without the min, a sample that moved the wrong way has no gradient back"),
    )
    yield -(ratio * adv).mean(), "the clip is missing; this is the surrogate that TRPO keeps in bounds by other means"
    yield (
        -(torch.min(ratio, clipped) * adv).mean(),
        ("the min is taken of the ratios; take it of the products, since a negative advantage turns it round"),
    )
    log_ratio = logp - logp_old
    yield (
        -torch.min(log_ratio * adv, log_ratio.clamp(1 - EPS, 1 + EPS) * adv).mean(),
        ("the difference of log-probabilities is used as the ratio; the ratio is its exponential"),
    )
    upside_down = 1 / ratio
    yield (
        -torch.min(upside_down * adv, upside_down.clamp(1 - EPS, 1 + EPS) * adv).mean(),
        ("the ratio is upside down; the new policy's probability is divided by the old one's"),
    )
    divided = logp / logp_old
    yield (
        -torch.min(divided * adv, divided.clamp(1 - EPS, 1 + EPS) * adv).mean(),
        ("log-probabilities are divided; the ratio is the exponential of their difference"),
    )
    yield (
        -torch.min(ratio * adv, ratio.clamp(-EPS, EPS) * adv).mean(),
        ("the clip is to [-clip_ratio, clip_ratio]; the interval is around 1"),
    )
    yield (
        -torch.min(ratio * adv, ratio.clamp(max=1 + EPS) * adv).mean(),
        ("only ratios over 1 + clip_ratio are clipped; those under 1 - clip_ratio too"),
    )
    normal = (adv - adv.mean()) / (adv.std() + 1e-8)
    yield (
        -torch.min(ratio * normal, clipped * normal).mean(),
        ("the advantages are normalized; that is not part of this function"),
    )
