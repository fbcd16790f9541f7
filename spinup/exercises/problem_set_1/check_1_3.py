"""The checker of exercise 1.3."""

import torch

from spinup.buffers import gae as right_gae
from spinup.exercises.judge import Wrong, compare, pair

GAMMA, LAM = 0.9, 0.8


def recursion(delta, factor):
    """x[t] = delta[t] + factor[t] * x[t + 1]."""
    x = delta.clone()
    for t in reversed(range(len(x) - 1)):
        x[t] += factor[t] * x[t + 1]
    return x


def check(module) -> str:
    """First without ends of episodes, then with terminal states, then with time limits: the first fault shows."""
    r, v, v2 = (torch.randn(7, 3) for _ in range(3))
    none = torch.zeros(7, 3, dtype=torch.bool)
    terminated, truncated = none.clone(), none.clone()
    terminated[2, 0] = terminated[6, 1] = truncated[4, 1] = truncated[3, 2] = True
    cases = {
        "without ends of episodes": (none, none),
        "with terminal states": (terminated, terminated),
        "with a time limit": (truncated, truncated & False),
        "with terminal states and time limits": (terminated | truncated, terminated),
    }
    for name, (done, terminal) in cases.items():
        arguments = (r, v, v2, terminal, done, GAMMA, LAM)
        before = [x.clone() for x in arguments[:5]]
        output = pair("gae must return two tensors, advantages and returns", module.gae(*arguments))
        if not all(torch.equal(x, y) for x, y in zip(before, arguments[:5], strict=True)):
            raise Wrong("gae changes its inputs; make new tensors, as by torch.zeros_like(r)")
        adv, ret = right_gae(*arguments)
        compare(f"advantages {name}", output[0], adv, mistakes(*arguments), axes="(t, n)")
        others = [
            (adv, "these are the advantages; add v"),
            (adv - v, "v is subtracted; the return is the advantage plus v"),
            (adv + v2, "v2 is added; the advantage is over the value of the state itself, v"),
            (right_gae(*arguments[:-1], 1.0)[1], "these are discounted rewards-to-go; the lambda-returns are adv + v"),
        ]
        compare(f"returns {name}", output[1], ret, others, axes="(t, n)")
    return "advantages and returns agree, with terminal states, time limits and an unfinished last episode"


def mistakes(r, v, v2, terminated, done, gamma, lam):
    """Advantages of likely mistakes, and what to say of them."""
    going, alive = (~done).float(), (~terminated).float()
    delta = r + gamma * alive * v2 - v
    factor = gamma * lam * going
    yield (
        recursion(r + gamma * v2 - v, factor),
        ("the value of a terminal state is counted; multiply v2 by (1 - terminated)"),
    )
    yield (
        recursion(r + gamma * going * v2 - v, factor),
        ("v2 is left out where an episode was cut off; only terminated makes the next state worth 0, not done"),
    )
    yield (
        recursion(delta, gamma * lam * alive),
        ("advantages flow from one episode into the one before where it was cut off; stop the recursion where done"),
    )
    leak = "advantages flow from one episode into the one before; stop the recursion where done"
    yield recursion(delta, torch.full_like(r, gamma * lam)), leak
    yield recursion(r + gamma * v2 - v, torch.full_like(r, gamma * lam)), f"both flags are ignored: {leak}"
    yield recursion(delta, gamma * going), "lambda is missing in the recursion; later terms fade by gamma * lam"
    yield recursion(delta, lam * going), "gamma is missing in the recursion; later terms fade by gamma * lam"
    yield recursion(r + alive * v2 - v, factor), "gamma is missing before v2"
    yield delta, "these are the one-step delta; the recursion is missing"
    yield recursion(delta.flip(0), factor.flip(0)).flip(0), "the recursion runs forwards; adv[t] needs adv[t + 1]"
    yield recursion(delta.T, factor.T).T, "the recursion runs over the environments; time is the first axis"
    yield recursion(v - r - gamma * alive * v2, factor), "the sign is wrong: delta is what came minus what was expected"
    yield recursion(r - v, factor), "the value of the next state is missing in delta"
    yield recursion(r, factor), "this discounts rewards; the recursion sums delta"
    last = delta.clone()
    last[-1] = (r - v)[-1]
    yield recursion(last, factor), "v2 is left out in the last row; the rollout ends there, the episode does not"
    shifted = torch.cat([v[1:], v2[-1:]])
    yield (
        recursion(r + gamma * alive * shifted - v, factor),
        ("v[t + 1] stands in place of v2[t]; after an end of an episode that is a state of another one"),
    )
    yield (
        recursion(r + gamma * going * shifted - v, factor),
        ("v[t + 1] stands in place of v2[t], and is left out where an episode was cut off; v2 counts there"),
    )
