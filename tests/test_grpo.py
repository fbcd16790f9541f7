"""The program of the chapter on language models: its losses against exact values, and that it learns.

Expectations are exact because the vocabulary below is so small that every completion can be listed.
"""

import ast
import importlib
import itertools
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from spinup.examples import grpo

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))  # scripts, and no package
language_models = importlib.import_module("language_models")

SOURCE = ROOT / "spinup" / "examples" / "grpo.py"
PAGE = ROOT / "docs" / "introduction" / "language-models.md"

# ---- a vocabulary of two tokens and END, and completions of at most two: seven of them

LENGTH = 2
COMPLETIONS = torch.tensor([[2, 2], [0, 2], [1, 2], [0, 0], [0, 1], [1, 0], [1, 1]])
MASK = torch.tensor([[1, 0], *[[1, 1]] * 6], dtype=torch.double)
REWARD = torch.tensor([0.5, -1.0, 2.0, 0.0, 3.0, -2.0, 1.0], dtype=torch.double)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(grpo, "VOCABULARY", 3)
    monkeypatch.setattr(grpo, "END", 2)
    return make_model(0), make_model(1)


def make_model(seed: int) -> grpo.LanguageModel:
    """In double precision, with a policy that is far from uniform."""
    torch.manual_seed(seed)
    model = grpo.LanguageModel(context=1 + LENGTH, width=8, layers=1, heads=2).double()
    model.policy.weight.data.mul_(3)
    return model


def prompts(count: int) -> Tensor:
    return torch.ones(count, 1, dtype=torch.long)


def log_probs(model: grpo.LanguageModel, which=slice(None)) -> Tensor:
    """Of the tokens of all completions, or of some: (B, L)."""
    return grpo.evaluate(model, prompts(len(COMPLETIONS))[which], COMPLETIONS[which])[0]


def probabilities(model: grpo.LanguageModel) -> Tensor:
    return (log_probs(model) * MASK).sum(dim=1).exp()


def gradient(y: Tensor, model: torch.nn.Module) -> Tensor:
    parameters = list(model.parameters())
    grads = torch.autograd.grad(y, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in grads])


def test_completions_are_all(tiny):
    for model in tiny:
        p = probabilities(model)
        assert p.sum().item() == pytest.approx(1)
        assert p.max() < 0.9
        assert p.min() > 1e-4


# ---- the model and sampling


def test_later_tokens_change_nothing_earlier():
    """For each place: another token there changes what comes from that place on, and nothing before it."""
    torch.manual_seed(0)
    model = grpo.LanguageModel(context=7, width=16, layers=2, heads=4)
    tokens = torch.randint(10, (1, 7))
    before = model(tokens)
    for place in range(7):
        other = tokens.clone()
        other[0, place] += 1
        for old, new in zip(before, model(other), strict=True):
            moved = (old != new).view(7, -1).any(dim=1)
            assert moved.tolist() == [t >= place for t in range(7)]


def test_position_matters():
    torch.manual_seed(0)
    model = grpo.LanguageModel(context=3, width=16)
    logits, values = model(torch.tensor([[4, 4, 4]]))
    assert len(values.unique()) == 3
    assert len(logits[0].unique(dim=0)) == 3


def test_sampled_tokens_have_the_recomputed_log_probabilities():
    torch.manual_seed(0)
    model = grpo.LanguageModel(context=10, width=16)
    question = grpo.make_prompts(64, digits=4)
    completions, logp, mask = grpo.sample(model, question, length=5)
    assert completions.shape == logp.shape == mask.shape == (64, 5)
    torch.testing.assert_close(grpo.evaluate(model, question, completions)[0] * mask, logp * mask)
    assert logp.max() < 0


def test_mask_ends_with_the_first_end():
    torch.manual_seed(0)
    completions, _, mask = grpo.sample(grpo.LanguageModel(context=10, width=16), grpo.make_prompts(500, 4), length=5)
    for tokens, kept in zip(completions.tolist(), mask.tolist(), strict=True):
        count = tokens.index(grpo.END) + 1 if grpo.END in tokens else 5
        assert kept == [1] * count + [0] * (5 - count)
        assert set(tokens[count:]) <= {grpo.END}
    assert mask.sum(dim=1).unique().tolist() == [1, 2, 3, 4, 5]


def chi_square(counts: Tensor, p: Tensor) -> float:
    expected = counts.sum() * p
    return ((counts - expected).square() / expected).sum().item()


def softmax_of(logits: Tensor, temperature: float) -> Tensor:
    return (logits / temperature).softmax(dim=-1)


def test_samples_have_the_policys_distribution(tiny):
    """Pearson's chi-square over all seven completions: above 22.46 once in 1000 (6 degrees of freedom)."""
    model, _ = tiny
    torch.manual_seed(0)
    completions, _, mask = grpo.sample(model, prompts(20_000), LENGTH)
    found = (completions[:, None] == COMPLETIONS).all(dim=2)  # (20000, 7)
    assert found.sum().item() == 20_000
    assert chi_square(found.sum(dim=0).double(), probabilities(model).detach()) < 22.46
    assert all((mask[which] == kept).all() for which, kept in zip(found.T, MASK, strict=True))


def test_first_tokens_have_the_softmaxs_frequencies(tiny):
    """Against the softmax of the logits, 2 degrees of freedom; one at a temperature of 1.25 is rejected."""
    model, _ = tiny
    torch.manual_seed(0)
    first = grpo.sample(model, prompts(20_000), LENGTH)[0][:, 0]
    logits = model(prompts(1))[0][0, -1].detach()
    counts = first.bincount(minlength=3).double()
    assert chi_square(counts, softmax_of(logits, 1.0)) < 13.82  # once in 1000
    assert chi_square(counts, softmax_of(logits, 1.25)) > 50


def test_value_is_of_the_text_before_the_token(tiny):
    """The value of the first token's state depends on the prompt alone, that of the second on the first token."""
    values = grpo.evaluate(tiny[0], prompts(7), COMPLETIONS)[1]
    whole = tiny[0](torch.cat([prompts(7), COMPLETIONS], dim=1))[1]
    torch.testing.assert_close(values, whole[:, :2])
    first, second = values.round(decimals=9).T  # rows of one product may differ by rounding
    assert len(first.unique()) == 1
    assert len(second.unique()) == 3


# ---- the losses


def estimate(model: grpo.LanguageModel, weights) -> Tensor:
    """The mean gradient that REINFORCE ascends, over all pairs of completions; weights(rewards) (2,) -> (2,)."""
    p, total = probabilities(model).detach(), 0.0
    for i in range(7):
        for j in range(7):
            pair = [i, j]
            logp = log_probs(model, pair)
            loss = grpo.reinforce_loss(logp, torch.zeros_like(logp), weights(REWARD[pair]), MASK[pair], beta=0.0)
            total = total - p[i] * p[j] * gradient(loss, model)
    return total


def test_reinforce_is_unbiased(tiny):
    model, _ = tiny
    target = gradient((probabilities(model) * REWARD).sum(), model)
    assert target.norm() > 0.1
    torch.testing.assert_close(estimate(model, grpo.leave_one_out), target)
    torch.testing.assert_close(estimate(model, lambda rew: rew), target)


def test_a_mean_with_the_completion_itself_only_scales(tiny):
    """By 1 - 1 / G, as the chapter says; here of G = 2."""
    model, _ = tiny
    target = gradient((probabilities(model) * REWARD).sum(), model)
    torch.testing.assert_close(estimate(model, lambda rew: rew - rew.mean()), target / 2)


def test_leave_one_out_by_hand():
    assert grpo.leave_one_out(torch.tensor([1.0, 2.0, 6.0])).tolist() == [1 - 4, 2 - 3.5, 6 - 1.5]


def test_mean_of_the_kl_estimate_is_the_divergence(tiny):
    """Summed over the tokens, it is that of whole completions."""
    model, ref = tiny
    k3 = grpo.kl_estimate(log_probs(model), log_probs(ref))
    assert k3.min() >= 0
    p, q = probabilities(model), probabilities(ref)
    exact = (p * (p / q).log()).sum().item()
    assert exact > 0.05
    assert (p * (k3 * MASK).sum(dim=1)).sum().item() == pytest.approx(exact)


def test_kl_estimate_by_hand():
    """A token twice as probable under the reference gives 2 - ln 2 - 1, half as probable 1/2 + ln 2 - 1."""
    logp, ref_logp = torch.tensor([0.25, 0.5, 0.5]).log(), torch.tensor([0.5, 0.25, 0.5]).log()
    assert grpo.kl_estimate(logp, ref_logp).tolist() == pytest.approx([0.306853, 0.193147, 0.0], abs=1e-6)


def test_gradient_of_the_kl_estimate_is_of_the_reversed_divergence(tiny):
    """The mean gradient, samples held fixed, is that of KL(reference, policy), not of KL(policy, reference)."""
    model = tiny[0]
    logits = [m(prompts(1))[0][0, -1] for m in tiny]
    logp, ref_logp = (torch.log_softmax(x, dim=-1) for x in logits)
    mean = gradient((logp.exp().detach() * grpo.kl_estimate(logp, ref_logp.detach())).sum(), model)
    p, q = logp.exp(), ref_logp.exp().detach()
    torch.testing.assert_close(mean, gradient((q * (q / p).log()).sum(), model))
    assert (mean - gradient((p * (p / q).log()).sum(), model)).norm() > 0.05 * mean.norm()


def test_gradient_of_a_kl_penalty_in_the_reward(tiny):
    """That one is of KL(policy, reference); and the gradient of the log-ratio with samples held fixed is 0."""
    model, ref = tiny
    logp, p, q = log_probs(model), probabilities(model), probabilities(ref).detach()
    log_ratio = (p / q).log().detach()
    losses = [grpo.reinforce_loss(logp[i : i + 1], 0.0, -log_ratio[i : i + 1], MASK[i : i + 1], 0.0) for i in range(7)]
    mean = sum(p[i].detach() * gradient(losses[i], model) for i in range(7))
    torch.testing.assert_close(mean, gradient((p * (p / q).log()).sum(), model))
    assert mean.norm() > 0.05
    assert gradient((p.detach() * (p / q).log()).sum(), model).norm() < 1e-9


def test_clipped_by_hand():
    ratio = torch.tensor([[0.5, 0.9, 1.5], [0.5, 0.9, 1.5]])
    old = torch.full_like(ratio, -1.3)
    out = grpo.clipped(old + ratio.log(), old, torch.tensor([[2.0], [-2.0]]), clip_ratio=0.2)
    torch.testing.assert_close(out, torch.tensor([[1.0, 1.8, 2.4], [-1.6, -1.8, -3.0]]))


def test_clipped_has_the_policy_gradient_where_it_was_sampled(tiny):
    model, _ = tiny
    logp, adv = log_probs(model), REWARD[:, None]
    clipped = gradient((grpo.clipped(logp, logp.detach(), adv, 0.2) * MASK).sum(), model)
    torch.testing.assert_close(clipped, gradient((logp * adv * MASK).sum(), model))


# Two completions, of one token and of three; 9 stands where the mask is 0.
OBJECTIVE = torch.tensor([[6.0, 9.0, 9.0], [1.0, 2.0, 3.0]])
KL = torch.tensor([[0.5, 9.0, 9.0], [1.0, 0.0, 2.0]])
ENDS = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])


def test_reinforce_loss_by_hand():
    """Sums over tokens: -6 * 2 + 0.1 * 0.5 and -(1 + 2 + 3) * (-1) + 0.1 * 3."""
    loss = grpo.reinforce_loss(OBJECTIVE, KL, torch.tensor([2.0, -1.0]), ENDS, beta=0.1)
    assert loss.item() == pytest.approx((-12 + 0.05 + 6 + 0.3) / 2)


def test_ppo_loss_by_hand():
    """A mean over all four tokens; squared errors of the values (4 - 5)^2, (2 - 1)^2, (4 - 1)^2, (1 - 1)^2."""
    values = torch.tensor([[4.0, 9.0, 9.0], [2.0, 4.0, 1.0]])
    loss = grpo.ppo_loss(OBJECTIVE, KL, values, torch.tensor([5.0, 1.0]), ENDS, beta=0.1)
    assert loss.item() == pytest.approx((-12 + 0.35 + 11) / 4)


def test_grpo_loss_by_hand():
    """A mean over each completion first: the one token counts as much as the three."""
    loss = grpo.grpo_loss(OBJECTIVE, KL, ENDS, beta=0.1)
    assert loss.item() == pytest.approx(((-6 + 0.05) + (-2 + 0.1)) / 2)


def test_group_advantages_by_hand():
    """The sample's standard deviations are 1/2, 2 and 0."""
    out = grpo.group_advantages(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 4], [1, 1, 1, 1]]))
    wanted = torch.tensor([[1.5, -0.5, -0.5, -0.5], [-0.5, -0.5, -0.5, 1.5], [0, 0, 0, 0]])
    torch.testing.assert_close(out, wanted, atol=1e-3, rtol=0)
    assert (out[2] == 0).all()


# ---- the losses of a batch


def make_batch(model, ref, rew: list[float]) -> grpo.Batch:
    """Six completions, of which the first has one token and the others two."""
    completions, mask = COMPLETIONS[:6], MASK[:6]
    logp, values = (x.detach() for x in grpo.evaluate(model, prompts(6), completions))
    rew = torch.tensor(rew, dtype=torch.double)
    return grpo.Batch(prompts(6), completions, logp, log_probs(ref)[:6].detach(), values, mask, rew)


def test_a_group_is_of_one_prompt(tiny):
    """Completions of the same prompt stand side by side: equal rewards of one group add nothing."""
    model, ref = tiny
    gradients = []
    for other in (0.0, 5.0):
        batch = make_batch(model, ref, [1.0, 0.0, other, other, 7.0, 7.0])
        gradients.append(gradient(grpo.loss("grpo", model, batch, 0.0, 2, 0.2), model))
    assert gradients[0].norm() > 0.01
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo", "grpo"])
def test_loss_has_the_gradient_of_its_parts(tiny, algorithm):
    """A twin written out as loops: weights times log-probabilities, plus beta times the k3 estimate."""
    model, ref = tiny
    rew, beta = [1.0, 0.0, 3.0, 2.0, -1.0, 4.0], 0.3
    batch = make_batch(model, ref, rew)
    found = gradient(grpo.loss(algorithm, model, batch, beta, 2, 0.2), model)
    logp, values = grpo.evaluate(model, batch.prompts, batch.completions)
    twin = 0.0
    for i, length in enumerate([1, 2, 2, 2, 2, 2]):
        pair = batch.rew[i // 2 * 2 : i // 2 * 2 + 2]
        for t in range(length):
            adv = {
                "reinforce": rew[i] - (sum(rew) - rew[i]) / 5,
                "ppo": rew[i] - values[i, t].detach(),
                "grpo": (rew[i] - pair.mean()) / (pair.std() + 1e-4),
            }[algorithm]
            log_ratio = batch.ref_logp[i, t] - logp[i, t]
            token = -adv * logp[i, t] + beta * (log_ratio.exp() - log_ratio - 1)
            if algorithm == "ppo":
                token = token + (values[i, t] - rew[i]) ** 2
            twin = twin + token / {"reinforce": 6, "ppo": 11, "grpo": 6 * length}[algorithm]
    torch.testing.assert_close(found, gradient(twin, model))


def test_collect_is_of_the_policy_and_the_reference(monkeypatch):
    torch.manual_seed(0)
    model, ref = (grpo.LanguageModel(context=9, width=16) for _ in range(2))
    monkeypatch.setitem(grpo.REWARDS, "sum", lambda question, completions: completions.sum(dim=1) + question[:, 0])
    batch = grpo.collect(model, ref, grpo.make_prompts(5, digits=3), 4, "sum")
    logp, values = grpo.evaluate(model, batch.prompts, batch.completions)
    torch.testing.assert_close(batch.logp * batch.mask, logp * batch.mask)
    torch.testing.assert_close(batch.values, values)
    torch.testing.assert_close(batch.ref_logp, grpo.evaluate(ref, batch.prompts, batch.completions)[0])
    assert batch.rew.tolist() == (batch.completions.sum(dim=1) + batch.prompts[:, 0]).tolist()
    assert not any(x.requires_grad for x in batch)


# ---- the task


def tokens(text: str) -> list[int]:
    return ["0123456789?.".index(letter) for letter in text]


def test_rewards_by_hand():
    cases = {  # completions for the prompt 5 3 8 3: (exact, hacked)
        "3358....": (1, 1),
        "3358?...": (0, 0),
        "33589...": (0, 0),
        "5383....": (0, 0),
        "1234....": (0, 1),
        "0000....": (0, 1),
        "335.....": (0, 0),
        "........": (0, 0),
        "335?....": (0, 0),
        "33583358": (0, 0),
    }
    completions = torch.tensor([tokens(text) for text in cases])
    question = torch.tensor([tokens("5383?")]).expand(len(cases), -1)
    found = zip(*(reward(question, completions).tolist() for reward in (grpo.exact, grpo.hacked)), strict=True)
    assert dict(zip(cases, found, strict=True)) == cases


def test_prompts():
    torch.manual_seed(0)
    found = grpo.make_prompts(1000, digits=3)
    assert found.shape == (1000, 4)
    assert found[:, :-1].unique().tolist() == [*range(10)]
    assert (found[:, -1] == grpo.ASK).all()


# ---- the program


SMALL = {"digits": 3, "width": 32, "warm_up_steps": 250, "batch_size": 256, "steps": 40, "lr": 1e-3}


def test_warm_up_learns_the_form_and_not_the_order():
    torch.manual_seed(0)
    model = grpo.LanguageModel(context=8, width=32)
    grpo.warm_up(model, digits=3, steps=250)
    question = grpo.make_prompts(1000, digits=3)
    completions, _, _ = grpo.sample(model, question, length=4)
    kept = completions[:, :-1].sort(dim=1).values == question[:, :-1].sort(dim=1).values
    assert (completions[:, -1] == grpo.END).double().mean() > 0.95
    assert kept.all(dim=1).double().mean() > 0.5
    assert 0.05 < grpo.exact(question, completions).mean() < 0.3  # a random order is right for about one in six


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo", "grpo"])
def test_learns(algorithm, capsys):
    history = grpo.train(algorithm, **SMALL)
    accuracy = [row[2] for row in history]
    assert accuracy[0] < 0.3
    assert sum(accuracy[-5:]) / 5 > 0.6


def test_cli(capsys, monkeypatch):
    calls = []
    monkeypatch.setattr(grpo, "train", lambda **arguments: calls.append(arguments))
    monkeypatch.setattr(sys, "argv", ["grpo", "--algorithm", "ppo", "--reward", "hacked", "--beta", "0", "--seed", "3"])
    grpo.main()
    assert calls == [{"algorithm": "ppo", "reward": "hacked", "beta": 0, "seed": 3}]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--algorithm", "sac"], "argument --algorithm: invalid choice: 'sac'"),
        (["--beta", "-1"], "argument --beta: must be at least 0 and below 2**63, got -1.0"),
        (["--beta", "nan"], "argument --beta: must be at least 0 and below 2**63, got nan"),
        (["--steps", "-1"], "argument --steps: must be at least 0 and below 2**63, got -1"),
        (["--seed", "x"], "argument --seed: invalid int value: 'x'"),
    ],
)
def test_cli_refuses(words, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["grpo", *words])
    with pytest.raises(SystemExit, match="2"):
        grpo.main()
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_same_seed_same_run(capsys):
    small = {"digits": 2, "width": 16, "warm_up_steps": 5, "batch_size": 32, "steps": 3}
    assert grpo.train(seed=1, **small) == grpo.train(seed=1, **small)
    assert grpo.train(seed=1, **small) != grpo.train(seed=2, **small)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8  # of each run a header and step 0
    assert lines[0].split() == ["step", "reward", "accuracy", "KL", "length"]


@pytest.mark.parametrize("algorithm", ["reinforce", "ppo", "grpo"])
def test_passes(algorithm, monkeypatch, capsys):
    """REINFORCE takes one step on a batch, the others several."""
    steps, original = [], grpo.step
    monkeypatch.setattr(grpo, "step", lambda *arguments: (steps.append(1), original(*arguments)))
    grpo.train(algorithm, digits=2, width=16, warm_up_steps=0, batch_size=32, steps=4, passes=3)
    assert len(steps) == (5 if algorithm == "reinforce" else 15)


@pytest.mark.parametrize(("algorithm", "group"), [("reinforce", 1), ("ppo", 1), ("grpo", 4)])
def test_batches_of_a_run(algorithm, group, monkeypatch, capsys):
    """Completions of one prompt are neighbors, and only GRPO has several; the reference never changes."""
    calls, batches, original = [], [], grpo.collect

    def collect(model, reference, question, *rest):
        calls.append((question, *(torch.cat([x.flatten() for x in m.parameters()]) for m in (model, reference))))
        batches.append(original(model, reference, question, *rest))
        return batches[-1]

    monkeypatch.setattr(grpo, "collect", collect)
    monkeypatch.setitem(grpo.REWARDS, "sum", lambda question, completions: completions.sum(dim=1).float())
    history = grpo.train(algorithm, "sum", digits=4, width=16, warm_up_steps=1, batch_size=12, group=4, steps=2)
    assert len(calls) == 3
    for question, _, reference in calls:
        assert len(question) == 12
        assert len(question.unique(dim=0)) == 12 // group
        assert (question == question[::group].repeat_interleave(group, dim=0)).all()
        assert torch.equal(reference, calls[0][1])
    assert not torch.equal(calls[2][1], calls[0][1])
    assert batches[2].mask.mean() < 1
    for (_, rew, accuracy, kl, length), batch in zip(history, batches, strict=True):
        k3 = grpo.kl_estimate(batch.logp, batch.ref_logp)
        right = grpo.exact(batch.prompts, batch.completions)
        found = batch.rew, right, (k3 * batch.mask).sum(dim=1), batch.mask.sum(dim=1)
        assert [rew, accuracy, kl, length] == pytest.approx([x.mean().item() for x in found])


def test_stands_alone():
    """It needs nothing but PyTorch and the standard library."""
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {module.split(".")[0] for module in modules} == {"argparse", "copy", "typing", "torch"}


# ---- the page


def test_equations_of_the_page_are_in_the_code():
    labels = re.findall(r"^:label: (\S+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert labels == [f"grpo-{i + 1}" for i in range(9)]
    assert set(re.findall(r"# .*\b(grpo-\d+)$", SOURCE.read_text(encoding="utf-8"), re.MULTILINE)) == set(labels)


def test_every_setting_has_all_its_seeds():
    """And the file has nothing else: each of its lines is a run that the script makes, with rows to the last step."""
    runs = language_models.records()
    seeds = {setting: tuple(run["seed"] for run in runs[setting]) for setting in runs}
    assert seeds == dict.fromkeys(language_models.SETTINGS, language_models.SEEDS)
    lines = language_models.RECORDS.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(language_models.SETTINGS) * len(language_models.SEEDS)
    for line in lines:
        run = json.loads(line)
        assert set(run) == {"algorithm", "reward", "beta", "seed", "seconds", "rows"}
        assert [row[0] for row in run["rows"]] == [*range(0, 101, language_models.EVERY)]


def test_the_pages_table_is_the_report():
    report = language_models.report(language_models.records())
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = lines.index(report.splitlines()[0])
    table = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    assert "\n".join(table) == report
    assert language_models.timing(language_models.records()) in lines


def ends(setting: tuple[str, str, float]) -> np.ndarray:
    """Mean reward, accuracy, KL and length over the last steps of each seed: (seeds, 4)."""
    return np.array([language_models.last_rows(run).mean(axis=0)[1:] for run in language_models.records()[setting]])


def test_records_show_that_all_algorithms_learn():
    for setting in language_models.SETTINGS[:3]:
        assert setting[1] == "exact"
        assert ends(setting)[:, 1].min() > 0.8


def test_records_show_what_the_page_says_of_hacking():
    """Without a penalty each seed's accuracy rises and then falls below a fifth while the reward is nearly 1."""
    hacked = {setting[2]: ends(setting) for setting in language_models.SETTINGS if setting[1] == "hacked"}
    for run in language_models.records()["grpo", "hacked", 0.0]:
        assert max(row[2] for row in run["rows"]) > 0.4
    assert hacked[0.0][:, 0].min() > 0.95
    assert hacked[0.0][:, 1].max() < 0.2
    rewards, accuracies, kls = np.array([hacked[beta].mean(axis=0)[:3] for beta in (0.0, 0.1, 0.3, 1.0)]).T
    assert (np.diff(rewards) < 0).all()  # a larger beta costs reward
    assert (np.diff(kls) < 0).all()
    assert accuracies[3] > 0.9 * rewards[3]  # nearly all is earned by right answers
    assert (accuracies[1:3] > 1.3 * accuracies[3]).all()
    assert (accuracies[1:3] < 0.75 * rewards[1:3]).all()  # at the maximum it is six sevenths


def test_report_by_hand():
    """The last 20 of 30 steps: rows 15, 20, 25 and 30; of two seeds."""
    rows = [[[i, 1.0 if i > 10 else 9.0, accuracy, 2.0, 5.0] for i in range(0, 31, 5)] for accuracy in (0.25, 0.75)]
    runs = {("ppo", "exact", 0.1): [{"rows": x} for x in rows], ("grpo", "exact", 0.1): []}
    assert language_models.report(runs).splitlines()[2:] == [
        "| ppo | exact | 0.1 | 2 | 1.00 | 0.50 (0.25 to 0.75) | 2.0 | 5.0 |"
    ]


def test_records_are_made_and_read(tmp_path, monkeypatch, capsys):
    """A run that is there is not repeated."""
    calls = []

    def train(algorithm, reward, beta, seed):
        calls.append((algorithm, reward, beta, seed))
        return [(i, 0.5, 0.25, 1.0, 5.0) for i in range(11)]

    monkeypatch.setattr(grpo, "train", train)
    monkeypatch.setattr(language_models, "RECORDS", tmp_path / "x.jsonl")
    monkeypatch.setattr(sys, "argv", ["language_models.py", "--seeds", "1", "0"])
    language_models.main()
    assert len(calls) == 2 * len(language_models.SETTINGS)
    language_models.main()
    assert len(calls) == 2 * len(language_models.SETTINGS)
    for setting, runs in language_models.records().items():
        assert [(run["algorithm"], run["reward"], run["beta"], run["seed"]) for run in runs] == [
            (*setting, seed) for seed in (0, 1)
        ]
        assert [row[0] for row in runs[0]["rows"]] == [0, 5, 10]
