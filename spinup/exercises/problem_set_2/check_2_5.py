"""The checker of exercise 2.5."""

import torch

from spinup.exercises.judge import Wrong, compare


def check(module) -> str:
    """Rewards-to-go of three levers by hand, the loss, then training."""
    r = torch.tensor([[1.0, 10.0, 0.5], [2.0, 20.0, 0.0], [4.0, 40.0, -1.0], [8.0, 80.0, 3.0]])
    right = torch.stack([r[t:].sum(0) for t in range(4)])
    mistakes = [
        (r.flip(-1).cumsum(-1).flip(-1), "the sums run over the levers; time is the first axis of (T, N)"),
        (r.cumsum(-1), "the sums run over the levers, and forwards; time is the first axis of (T, N)"),
        (r.cumsum(0), "the sums run from the first step on; a reward-to-go is the sum from a step to the end"),
        (r.flip(0).cumsum(0), "the sums come out in reversed order; flip them back"),
        (r.sum(0).expand(4, 3), "every step gets the whole return; a reward-to-go begins at its step"),
        (right - r, "the reward of the step itself is left out; it is earned by its action"),
        (r.flip(0, 1).cumsum(0).flip(0, 1), "flip the first axis alone"),
    ]
    before = r.clone()
    compare("rewards_to_go", module.rewards_to_go(r), right, mistakes)
    if not torch.equal(r, before):
        raise Wrong("rewards_to_go changes its input")
    logp = torch.randn(4, 3)
    centered = right - right.mean(1, keepdim=True)
    over_time = right - right.mean(0, keepdim=True)
    mistakes = [
        (-(logp * over_time).mean(), "the baseline is a mean over time; it was right: the mean over the levers"),
        (-(logp * right).mean(), "the baseline is gone; it was right"),
        ((logp * centered).mean(), "the sign was right before"),
    ]
    compare("policy_loss", module.policy_loss(logp, r), -(logp * centered).mean(), mistakes)
    for seed in (0, 1):
        p = module.train(seed=seed)
        if not p > 0.9:
            raise Wrong(f"with seed {seed} the right first action has the probability {p:.2f} after training, not 0.9")
    return "each action is credited with what came after it, and the lever is learned"
