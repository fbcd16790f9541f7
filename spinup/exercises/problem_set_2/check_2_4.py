"""The checker of exercise 2.4."""

import torch

from spinup.exercises.judge import Swap, Wrong, compare
from spinup.exercises.problem_set_2.check_2_1 import fail_by_probes
from spinup.probes import ByBoth


def check(module) -> str:
    """What policy_loss is given in each pass of three epochs, then a probe."""
    calls, original = [], module.policy_loss

    def policy_loss(logp, logp_old, adv, clip_ratio):
        if logp_old.requires_grad:
            raise Wrong("the old log-probabilities have a gradient; they are data: compute them under torch.no_grad()")
        calls.append((logp.detach().clone(), logp_old, adv, clip_ratio))
        return original(logp, logp_old, adv, clip_ratio)

    with Swap(module, "policy_loss", policy_loss):
        module.train(ByBoth, epochs=3, steps=40, passes=4)
    if len(calls) != 12:
        raise Wrong(f"policy_loss was called {len(calls)} times in 3 epochs of 4 passes; call it once in each pass")
    for epoch in range(3):
        passes = calls[4 * epoch : 4 * epoch + 4]
        first, *_, last = passes
        if not all(torch.equal(old, first[1]) for _, old, _, _ in passes):
            raise Wrong(
                "the old log-probabilities change between the passes of an epoch; they belong to the policy that "
                "collected the data, so compute them once, before the first pass"
            )
        if not torch.allclose(first[0], first[1], atol=1e-6):
            off = ((first[0] - first[1]).exp() - 1).abs().max()
            raise Wrong(
                f"in epoch {epoch + 1} the first pass finds ratios that are off 1 by up to {off:.2f}, before any step: "
                "the old log-probabilities are of an earlier policy than the one that collected the data"
            )
        if torch.allclose(last[0], first[1], atol=1e-6):
            raise Wrong("the last pass finds the ratio 1 everywhere; the policy no longer moves in an epoch")
        if first[3] != 0.2:
            raise Wrong("clip_ratio is not 0.2 any more; that is not the bug")
    adv, ratio = torch.tensor([1.0, -1.0, 1.0]), torch.tensor([1.5, 0.5, 0.5])
    right = -torch.tensor([1.2, -0.8, 0.5]).mean()
    compare("policy_loss, which was right,", original(ratio.log(), torch.zeros(3), adv, 0.2), right)
    fail_by_probes(lambda env_fn, gamma: (len, module.train(env_fn, gamma, epochs=15, steps=60)[1]),
                   ["action by observation"], discrete=True)  # fmt: skip
    return "the old log-probabilities are of the policy that collected the data, in every epoch"
