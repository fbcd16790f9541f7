"""The checker of exercise 2.2."""

import copy

import torch

from spinup.exercises.judge import compare, seed
from spinup.exercises.problem_set_2.check_2_1 import fail_by_probes


def check(module) -> str:
    """The targets of steps that go on, were cut off, and came to an end; then the probes."""
    q = module.make_q(3, 2)
    q_targ = copy.deepcopy(q)
    with torch.no_grad():
        q_targ[-1].bias += torch.tensor([3.0, 4.0])
    kinds = {"goes on": (False, False), "was cut off by a time limit": (False, True), "ended": (True, False),
             "ended on the last step before the time limit": (True, True)}  # fmt: skip
    for name, (terminated, truncated) in kinds.items():
        seed()
        o, o2 = torch.randn(3).numpy(), torch.randn(3).numpy()
        row = module.transition(o, 1, 0.5, o2, terminated, truncated)
        with torch.no_grad():
            value = q(torch.as_tensor(o))[1]
            q2 = 0.9 * q_targ(torch.as_tensor(o2))[q(torch.as_tensor(o2)).argmax()]
        going, end = (value - 0.5 - q2).square(), (value - 0.5).square()
        mistakes = [
            (end, "the next state's value is left out; a cut-off episode is not at its end, only terminated says that"),
            (going, "the next state's value is counted; nothing comes after a terminal state"),
        ]
        right = end if terminated else going
        compare(
            f"the loss of a step after which the episode {name}", module.q_loss(q, q_targ, [row], 0.9), right, mistakes
        )
    fail_by_probes(module.train, ["constant reward", "time limit", "action by observation"], discrete=True)
    return "terminal states are worth 0 and cut-off ones are not, and the probes succeed"
