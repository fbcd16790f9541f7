"""The checker of exercise 2.2."""

import torch

from spinup.exercises.judge import Wrong, compare, seed
from spinup.exercises.problem_set_2.check_2_1 import fail_by_probes
from spinup.probes import Probe


def check(module) -> str:
    """The targets of steps that go on, were cut off, and came to an end; exploration; then the probes."""
    q, q_targ = module.make_q(3, 2), module.make_q(3, 2)
    kinds = {"goes on": (False, False), "was cut off by a time limit": (False, True), "ended": (True, False),
             "ended on the last step before the time limit": (True, True)}  # fmt: skip
    for name, (terminated, truncated) in kinds.items():
        seed()
        o, o2 = torch.randn(3).numpy(), torch.randn(3).numpy()
        with torch.no_grad():  # the two networks prefer different actions, so that it shows which one chooses
            q_targ[-1].bias.copy_(torch.zeros(2))
            q_targ[-1].bias[q(torch.as_tensor(o2)).argmin()] = 4.0
        row = module.transition(o, 1, 0.5, o2, terminated, truncated)
        with torch.no_grad():
            value, own, other = q(torch.as_tensor(o))[1], q(torch.as_tensor(o2)), q_targ(torch.as_tensor(o2))
        end = (value - 0.5).square()
        going, single, online = (
            (value - 0.5 - 0.9 * q2).square() for q2 in (other[own.argmax()], other.max(), own.max())
        )
        mistakes = [
            (end, "the next state's value is left out; a cut-off episode is not at its end, only terminated says that"),
            (going, "the next state's value is counted; nothing comes after a terminal state"),
            (single, "q_targ chooses the next action; that q chooses and q_targ judges was right"),
            (online, "q judges the next action; that q_targ judges it was right"),
        ]
        right = end if terminated else going
        compare(
            f"the loss of a step after which the episode {name}", module.q_loss(q, q_targ, [row], 0.9), right, mistakes
        )
    if never_explores(module.train):
        raise Wrong("train never tries the action that seems worse; that it sometimes acts at random was right")
    fail_by_probes(module.train, ["constant reward", "time limit", "action by observation"], discrete=True)
    return "terminal states are worth 0 and cut-off ones are not, and the probes succeed"


class FirstIsBest(Probe):
    """Reward is 1 for the action that is taken first, and 0 for the other; `taken` has all of them."""

    def __init__(self):
        super().__init__()
        self.taken = []

    def reward(self, a) -> float:
        self.taken.append(int(a))
        return float(a == self.taken[0])


def never_explores(train) -> bool:
    """Whether training sticks to the action that pays."""
    env = FirstIsBest()
    train(lambda: env, 0.9, steps=300)
    return env.taken[100:].count(1 - env.taken[0]) == 0
