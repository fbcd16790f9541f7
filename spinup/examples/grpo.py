"""From PPO to language models: a tiny transformer learns to sort digits by REINFORCE, PPO or GRPO, on a CPU.

    python -m spinup.examples.grpo
    python -m spinup.examples.grpo --algorithm ppo
    python -m spinup.examples.grpo --reward hacked --beta 0

PPO: arXiv:1707.06347, for language models arXiv:2203.02155. GRPO with a reward for the outcome: arXiv:2402.03300.
Equations grpo-1 to grpo-9: docs/introduction/language-models.md. Departures from the papers: the KL penalty is part of
all three losses (in arXiv:2203.02155 it is part of the reward), the reference is never renewed, PPO has lambda = 1 and
no entropy bonus, and a step uses the whole batch.
The prompt `5 3 8 3 ?` has the right completion `3 3 5 8 .`; its only reward comes at the end. Shapes: B completions of
at most L tokens, prompts of N tokens, G completions of the same prompt.
"""

import argparse
import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F

ASK, END, VOCABULARY = 10, 11, 12  # "?" and "."; the tokens before them are the digits

# ---- the model


class Block(nn.Module):
    """Attention to the token itself and those before it, then a small network; both add to x. x (B, T, width)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm_1(x)).unflatten(-1, (3, self.heads, -1))  # (B, T, 3, heads, width / heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, heads, T, width / heads) each
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm_2(x))


class LanguageModel(nn.Module):
    """A causal transformer with two heads: the logits of the next token, and, for PPO, the value of the text so far."""

    def __init__(self, context: int, width: int = 64, layers: int = 2, heads: int = 4):
        super().__init__()
        self.token, self.position = nn.Embedding(VOCABULARY, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)), nn.LayerNorm(width))
        self.policy, self.value = nn.Linear(width, VOCABULARY), nn.Linear(width, 1)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, T); the logits at t are those of token t + 1, (B, T, VOCABULARY); values (B, T)."""
        x = self.blocks(self.token(tokens) + self.position.weight[: tokens.shape[1]])
        return self.policy(x), self.value(x).squeeze(-1)


@torch.no_grad()
def sample(model: nn.Module, prompts: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Completions, the log-probability of each token, and the mask, 1 up to and including END: all (B, L)."""
    tokens, logps, alive = prompts, [], [torch.ones(len(prompts), dtype=torch.bool)]
    for _ in range(length):
        policy = Categorical(logits=model(tokens)[0][:, -1])
        token = torch.where(alive[-1], policy.sample(), END)
        logps.append(policy.log_prob(token))
        tokens = torch.cat([tokens, token[:, None]], dim=1)
        alive.append(alive[-1] & (token != END))
    return tokens[:, -length:], torch.stack(logps, dim=1), torch.stack(alive[:-1], dim=1).float()


def evaluate(model: nn.Module, prompts: Tensor, completions: Tensor) -> tuple[Tensor, Tensor]:
    """In one pass, for each token the log-probability given all before it, and the value of all before it: (B, L)."""
    tokens, last = torch.cat([prompts, completions], dim=1)[:, :-1], prompts.shape[1] - 1
    logits, values = (x[:, last:] for x in model(tokens))  # at `last` is the policy of the first token
    return Categorical(logits=logits).log_prob(completions), values  # terms of grpo-1


# ---- the task


def make_prompts(count: int, digits: int) -> Tensor:
    """Random digits and then ASK: (count, digits + 1)."""
    return F.pad(torch.randint(10, (count, digits)), (0, 1), value=ASK)


def exact(prompts: Tensor, completions: Tensor) -> Tensor:
    """1 for the prompt's digits in order and then END, 0 for anything else: (B,)."""
    answer = F.pad(prompts[:, :-1].sort(dim=1).values, (0, 1), value=END)
    return (completions[:, : answer.shape[1]] == answer).all(dim=1).float()


def hacked(prompts: Tensor, completions: Tensor) -> Tensor:
    """1 for as many digits as the prompt has, in order, and then END. It doesn't check which digits: (B,)."""
    count = prompts.shape[1] - 1
    digits, end = completions[:, :count], completions[:, count]
    return ((digits < ASK).all(dim=1) & (digits.diff(dim=1) >= 0).all(dim=1) & (end == END)).float()


REWARDS = {"exact": exact, "hacked": hacked}

# ---- the losses; logp, kl, mask and objectives are (B, L), rewards (B,)


def kl_estimate(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """The k3 estimate of KL(policy || reference) from tokens that the policy sampled; it is never negative."""
    return (ref_logp - logp).exp() - (ref_logp - logp) - 1  # grpo-2


def leave_one_out(rew: Tensor) -> Tensor:
    """Each reward minus the mean of all others: a baseline that doesn't depend on the completion itself."""
    return rew - (rew.sum() - rew) / (len(rew) - 1)  # grpo-3


def reinforce_loss(logp: Tensor, kl: Tensor, adv: Tensor, mask: Tensor, beta: float) -> Tensor:
    """A sum over each completion's tokens, as its log-probability is one (grpo-1). adv (B,)."""
    return -((logp * adv[:, None] - beta * kl) * mask).sum(dim=1).mean()  # grpo-4


def clipped(logp: Tensor, old_logp: Tensor, adv: Tensor, clip_ratio: float) -> Tensor:
    """PPO's objective of each token. adv (B, L), or (B, 1) where all tokens share it."""
    ratio = (logp - old_logp).exp()
    return torch.min(ratio * adv, ratio.clamp(1 - clip_ratio, 1 + clip_ratio) * adv)  # grpo-5


def ppo_loss(objective: Tensor, kl: Tensor, values: Tensor, rew: Tensor, mask: Tensor, beta: float) -> Tensor:
    """A mean over all tokens of the batch. values (B, L)."""
    value_loss = (values - rew[:, None]).square()  # grpo-6
    return ((value_loss - objective + beta * kl) * mask).sum() / mask.sum()  # grpo-7


def group_advantages(rew: Tensor) -> Tensor:
    """Standardized with the sample's mean and standard deviation, prompt by prompt. rew, result (prompts, G)."""
    return (rew - rew.mean(dim=1, keepdim=True)) / (rew.std(dim=1, keepdim=True) + 1e-4)  # grpo-8


def grpo_loss(objective: Tensor, kl: Tensor, mask: Tensor, beta: float) -> Tensor:
    """A mean over each completion's tokens, and then over completions."""
    return (((beta * kl - objective) * mask).sum(dim=1) / mask.sum(dim=1)).mean()  # grpo-9


# ---- training


class Batch(NamedTuple):
    """Completions by the current policy, and what the losses need of it and of the reference."""

    prompts: Tensor  # (B, N)
    completions: Tensor  # (B, L), as are all below but rew
    logp: Tensor
    ref_logp: Tensor
    values: Tensor
    mask: Tensor
    rew: Tensor  # (B,)


@torch.no_grad()
def collect(model: nn.Module, reference: nn.Module, prompts: Tensor, length: int, reward: str) -> Batch:
    completions, logp, mask = sample(model, prompts, length)
    ref_logp, values = evaluate(reference, prompts, completions)[0], evaluate(model, prompts, completions)[1]
    return Batch(prompts, completions, logp, ref_logp, values, mask, REWARDS[reward](prompts, completions))


def loss(algorithm: str, model: nn.Module, batch: Batch, beta: float, group: int, clip_ratio: float) -> Tensor:
    logp, values = evaluate(model, batch.prompts, batch.completions)
    kl = kl_estimate(logp, batch.ref_logp)
    if algorithm == "reinforce":
        return reinforce_loss(logp, kl, leave_one_out(batch.rew), batch.mask, beta)
    if algorithm == "ppo":
        adv = batch.rew[:, None] - batch.values  # grpo-6
        return ppo_loss(clipped(logp, batch.logp, adv, clip_ratio), kl, values, batch.rew, batch.mask, beta)
    adv = group_advantages(batch.rew.view(-1, group)).view(-1, 1)
    return grpo_loss(clipped(logp, batch.logp, adv, clip_ratio), kl, batch.mask, beta)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Descend the gradient, with a limit on its norm: the k3 estimate has rare, huge terms."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def warm_up(model: nn.Module, digits: int, steps: int, batch_size: int = 128) -> None:
    """Stands in for pretraining: imitate completions of the right form, with the prompt's digits in random order."""
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(steps):
        prompts = make_prompts(batch_size, digits)
        order = torch.rand(batch_size, digits).argsort(dim=1)
        completions = F.pad(prompts.gather(1, order), (0, 1), value=END)
        step(model, optimizer, -evaluate(model, prompts, completions)[0].mean())


def train(
    algorithm: str = "grpo",
    reward: str = "exact",
    beta: float = 0.02,
    seed: int = 0,
    steps: int = 100,
    digits: int = 4,
    width: int = 64,
    warm_up_steps: int = 700,
    batch_size: int = 256,
    group: int = 16,
    passes: int = 2,
    clip_ratio: float = 0.2,
    lr: float = 5e-4,
) -> list[tuple[float, ...]]:
    """Returns rows of step, mean reward, accuracy, KL from the reference, tokens in a completion; prints each tenth."""
    torch.manual_seed(seed)
    length = digits + 2  # an answer has digits + 1 tokens
    model = LanguageModel(digits + 1 + length, width)
    warm_up(model, digits, warm_up_steps)
    reference = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr)
    repeats = group if algorithm == "grpo" else 1  # with the same number of completions, the others see more prompts
    print("step  reward  accuracy      KL  length")
    history: list[tuple[float, ...]] = []
    for i in range(steps + 1):
        prompts = make_prompts(batch_size // repeats, digits).repeat_interleave(repeats, dim=0)
        batch = collect(model, reference, prompts, length, reward)
        kl = (kl_estimate(batch.logp, batch.ref_logp) * batch.mask).sum(dim=1)  # of whole completions
        means = (batch.rew, exact(batch.prompts, batch.completions), kl, batch.mask.sum(dim=1))
        history.append((i, *(float(x.mean()) for x in means)))
        if i % 10 == 0:
            print("{:4.0f} {:7.3f} {:9.3f} {:7.3f} {:7.2f}".format(*history[-1]), flush=True)
        for _ in range(1 if algorithm == "reinforce" else passes):  # unclipped, only the first step would be right
            step(model, optimizer, loss(algorithm, model, batch, beta, group, clip_ratio))
    return history


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], argument_default=argparse.SUPPRESS)
    parser.add_argument("--algorithm", choices=["reinforce", "ppo", "grpo"])
    parser.add_argument("--reward", choices=[*REWARDS])
    parser.add_argument("--beta", type=float, help="weight of the KL penalty")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--steps", type=int)
    args = vars(parser.parse_args())  # what is given: the defaults are those of train
    for name in {"beta", "seed", "steps"} & set(args):
        if not 0 <= args[name] < 2**63:
            parser.error(f"argument --{name}: must be at least 0 and below 2**63, got {args[name]}")
    train(**args)


if __name__ == "__main__":
    main()
