"""Exercise 2.5: a silent bug in a policy gradient.

A lever is pulled up or down in the first of five steps, and only the last step tells, by its reward, which was right;
the actions between do nothing. N levers are simulated side by side, so that rewards have the shape (T, N).
`python exercise_2_5.py` prints the probability of the right action as it trains; it should come near 1. Find the bug
and fix it. Keep the names and arguments of functions.
"""

import torch
from torch import Tensor, nn

T = 5


def observe(n: int) -> Tensor:
    """Observations of T steps of n levers: which step it is, (T, n, T)."""
    return torch.eye(T)[:, None, :].expand(T, n, T)


def reward(a: Tensor) -> Tensor:
    """Rewards (T, N) of actions (T, N): at the last step 1 or -1, by the first action, and a little noise at all."""
    r = 0.1 * torch.randn(a.shape)
    r[-1] += 2.0 * a[0] - 1.0
    return r


def rewards_to_go(r: Tensor) -> Tensor:
    """Undiscounted sums of the rewards from each step to the end, (T, N) -> (T, N)."""
    return r.flip(-1).cumsum(-1).flip(-1)


def policy_loss(logp: Tensor, r: Tensor) -> Tensor:
    """Its gradient is minus the policy gradient; logp and r are (T, N). The baseline is the mean over the levers."""
    ret = rewards_to_go(r)
    adv = ret - ret.mean(dim=1, keepdim=True)
    return -(logp * adv).mean()


def train(iters: int = 60, num_envs: int = 64, seed: int = 0, tell=None) -> float:
    """Train, and return the probability of the right first action."""
    torch.manual_seed(seed)
    pi = nn.Linear(T, 2)
    optimizer = torch.optim.Adam(pi.parameters(), 0.1, fused=True)
    for i in range(iters):
        logp_all = pi(observe(num_envs)).log_softmax(dim=-1)  # (T, N, 2)
        a = torch.distributions.Categorical(logits=logp_all.detach()).sample()  # (T, N)
        logp = logp_all.gather(-1, a[..., None]).squeeze(-1)  # (T, N)
        optimizer.zero_grad()
        policy_loss(logp, reward(a)).backward()
        optimizer.step()
        if tell and i % 10 == 0:
            tell(f"iteration {i:3}  probability of the right first action {logp_all[0, 0, 1].exp():.2f}")
    return pi(observe(1))[0, 0].softmax(dim=-1)[1].item()


if __name__ == "__main__":
    print(f"in the end {train(tell=print):.2f}")
