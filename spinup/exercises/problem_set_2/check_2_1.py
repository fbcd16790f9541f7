"""The checker of exercise 2.1."""

import torch

from spinup.exercises.judge import Wrong, as_tensor, compare
from spinup.probes import check as probe


def check(module) -> str:
    """The loss of a batch is the mean of the losses of its rows, and the probes of values and actions succeed."""
    low, high = -torch.ones(2), torch.ones(2)
    pi, q, buffer = module.Actor(3, low, high), module.Critic(3, 2), module.Buffer()
    for i in range(20):
        buffer.store(torch.randn(3).numpy(), torch.randn(2).numpy(), float(i), torch.randn(3).numpy(), i % 4 == 0)
    batch = buffer.sample(6)
    right = torch.stack([module.q_loss(q, q, pi, [x[i : i + 1] for x in batch], 0.9).detach() for i in range(6)]).mean()
    o, a, r, o2, terminated = batch
    with torch.no_grad():
        y = r.reshape(-1) + 0.9 * (1 - terminated.reshape(-1)) * q(o2, pi(o2)).reshape(-1)
        value = q(o, a).reshape(-1)
    mistakes = [
        (
            (value[:, None] - y).square().mean(),
            "every value is compared with every target: (B, 1) minus (B,) is (B, B)",
        ),
        ((value - y).square().sum(), "the sum over the batch is taken; take the mean"),
    ]
    got = module.q_loss(q, q, pi, batch, 0.9)
    compare("the loss of 6 transitions, against the mean of their 6 losses", got, right, mistakes)
    compare("the loss of 6 transitions", got, (value - y).square().mean())
    loss = as_tensor("pi_loss", module.pi_loss(q, pi, o))
    compare("pi_loss", loss, -q(o, pi(o)).mean(), [(q(o, pi(o)).mean(), "its sign was right")])
    fail_by_probes(module.train, ["reward by observation", "action by observation"], discrete=False)
    return "the loss compares each value with its own target, and the probes succeed"


def fail_by_probes(train, names, discrete: bool) -> None:
    """Raise Wrong where the user's algorithm fails one of the probes."""
    for result in probe(train, discrete=discrete, box=not discrete, only=names):
        if result.passed is None:
            raise Wrong("train must return the functions value and act, as in the starter file")
        if not result.passed:
            got = {o: x.round(2).tolist() for o, x in result.got.items()}
            raise Wrong(f"on the probe '{result.case.name}' it came to {got}: {result.message}")
