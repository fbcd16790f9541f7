"""Every checker says yes to the solution, and no to the starter and to likely mistakes, with the reason for each."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spinup.errors import UserError
from spinup.exercises import __main__ as cli
from spinup.exercises import child, experiments, judge

ROOT = Path(__file__).parents[1]
EXERCISES = cli.exercises()
PROGRAMS = [number for number in EXERCISES if number[0] != "3"]


@pytest.fixture
def as_a_user():
    """Checks run in a process of their own, as the command does it."""


@pytest.fixture(autouse=True)
def in_this_process(request, monkeypatch):
    """Otherwise they run in the tests' process, which has torch already."""
    if "as_a_user" not in request.fixturenames:
        monkeypatch.setattr(cli, "judged_by_child", lambda starter, path, verdict: here(starter, path, verdict))


def here(starter: Path, path: Path, verdict: Path) -> int:
    verdict.write_text("0")
    return child.judged(starter, path)


def run(capsys, *words: str) -> tuple[int, str]:
    """Exit status and output of a command."""
    status = 0
    try:
        cli.main(words)
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    return status, out + err


def edited(number: str, folder: Path, *changes: tuple[str, str]) -> Path:
    """The solution with some text replaced, each of which must be there, in a file of the starter's name."""
    starter = EXERCISES[number]
    text = cli.solution_of(starter).read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    path = folder / starter.name
    path.write_text(text)
    return path


def test_there_are_sixteen():
    assert list(EXERCISES) == [f"{i}.{j}" for i, n in ((1, 6), (2, 6), (3, 4)) for j in range(1, n + 1)]


# ---- right and wrong answers


@pytest.mark.parametrize("number", PROGRAMS)
def test_the_solution_is_right(tmp_path, capsys, number):
    status, out = run(capsys, "check", number, str(edited(number, tmp_path)))
    assert (status, out.startswith(f"{number} right: ")) == (0, True), out
    assert [p.name for p in tmp_path.iterdir() if p.is_dir() and p.name != "data"] == []  # no __pycache__


SYMPTOMS = {
    "2.1": "every value is compared with every target",
    "2.2": "cut off by a time limit: the next state's value is left out",
    "2.3": "the critic does not reach it",
    "2.4": "in epoch 2 the first pass finds ratios that are off 1",
    "2.5": "the sums run over the levers",
    "2.6": "start from different states",
}


@pytest.mark.parametrize("number", PROGRAMS)
def test_the_starter_is_not(tmp_path, capsys, monkeypatch, number):
    monkeypatch.chdir(tmp_path)
    run(capsys, "start", number)
    status, out = run(capsys, "check", number)
    assert status == 1
    expected = SYMPTOMS.get(number, f"{EXERCISES[number].name} is still to be written")
    assert expected in out
    assert len(out.splitlines()) == 1


WRONG = {
    "1.1": [
        ([(" + 0.5 * math.log(2 * math.pi)", "")], "log(2 pi) / 2 is missing"),
        ([("return -(", "return (")], "the sign is wrong"),
        ([(".sum(-1)", ".sum(0)")], "the sum runs over the batch"),
        ([(".sum(-1)", ".mean(-1)")], "the mean over the action dimensions"),
        ([("log_std.exp()", "log_std")], "(a - mu) is divided by log_std"),
        ([(" + log_std +", " +")], "log sigma is missing"),
        ([("z = (a - mu) / log_std.exp()", "z = (a - mu) / (0.5 * log_std).exp()")], "divided by sigma"),
        ([("0.5 * z", "z")], "the square is not halved"),
        ([("a - mu", "a + mu")], "is wrong: at index 0 it is "),
        ([(".sum(-1)", ".sum(-1).detach()")], "there is no gradient for mu and log_std"),
        ([("a - mu)", "a - mu.detach())")], "by mu: it is 0"),
    ],
    "1.2": [
        ([("nn.Parameter(torch.full((act_dim,), -0.5))", "torch.full((act_dim,), -0.5)")], "make it an nn.Parameter"),
        ([("*layers[:-1]", "*layers")], "no tanh after the last layer"),
        ([("nn.Tanh()", "nn.Identity()")], "a linear function"),
        ([("nn.Tanh()", "nn.ReLU()")], "the activation must be tanh"),
        ([("torch.randn_like(mu)", "torch.randn(mu.shape[-1])")], "all observations get the same noise"),
        ([("torch.randn_like(mu)", "torch.randn(len(mu), 1)")], "all action dimensions get the same noise"),
        ([("log_std.exp() * torch.randn", "log_std * torch.randn")], "samples are scaled by log_std"),
        ([("log_std.exp() * torch.randn", "(2 * log_std).exp() * torch.randn")], "scaled by the variance"),
        ([("    @torch.no_grad()\n", "")], "actions with a gradient"),
        ([("mu, log_std = self(o)\n        z", "mu, log_std = self(o)[0].detach(), self.log_std\n        z")],
         "net.0.weight"),
        ([("-0.5))", "0.5))")], "it begins at 0.5"),
    ],
    "1.3": [
        ([(" * ~terminated", "")], "the value of a terminal state is counted"),
        ([("~terminated", "~done")], "v2 is left out where an episode was cut off"),
        ([("later * ~done[t]", "later")], "from one episode into the one before; stop the recursion"),
        ([("~done[t]", "~terminated[t]")], "into the one before where it was cut off"),
        ([("gamma * lam * later", "gamma * later")], "lambda is missing"),
        ([("gamma * lam * later", "lam * later")], "gamma is missing in the recursion"),
        ([("reversed(range(len(r)))", "range(len(r))")], "the recursion runs forwards"),
        ([("return adv, adv + v", "return adv, adv")], "these are the advantages; add v"),
        ([("return adv, adv + v", "return adv")], "must return two tensors"),
        ([("gamma * v2 * ~terminated", "gamma * torch.cat([v[1:], v2[-1:]]) * ~terminated")], "in place of v2[t]"),
        ([("adv = torch.zeros_like(r)", "adv = r")], "gae changes its inputs"),
        ([("gamma * lam * later", "gamma * lam**2 * later")],
         "advantages without ends of episodes is wrong: at (t, n) = (0, 0) it is"),
        ([("        adv[t] = later", "        adv[t] = later\n    adv[5, 1] += 1")],
         "advantages without ends of episodes is wrong: at (t, n) = (5, 1) it is"),
    ],
    "1.4": [
        ([("return -torch.min", "return torch.min")], "the sign is wrong"),
        ([("torch.min(", "torch.max(")], "the max is taken"),
        ([("torch.min(ratio * adv, clipped * adv)", "(clipped * adv)")], "only the clipped product"),
        ([("torch.min(ratio * adv, clipped * adv)", "(torch.min(ratio, clipped) * adv)")],
         "the min is taken of the ratios"),
        ([("(logp - logp_old).exp()\n    clipped", "logp - logp_old\n    clipped")], "is used as the ratio"),
        ([("(logp - logp_old).exp()\n    clipped", "(logp_old - logp).exp()\n    clipped")], "upside down"),
        ([("clamp(1 - clip_ratio, 1 + clip_ratio)", "clamp(-clip_ratio, clip_ratio)")], "the interval is around 1"),
        ([("clipped = ratio.clamp", "clipped = ratio.detach().clamp"), ("min(ratio * adv", "min(ratio.detach() * adv")],
         "is the ratio detached"),
        ([(".mean()\n\n", ".sum()\n\n")], "the sum is taken"),
        ([("(ratio - 1).abs() > clip_ratio", "(ratio - 1).abs() < clip_ratio")], "the share inside"),
        ([("(ratio - 1).abs() > clip_ratio", "(logp - logp_old).abs() > clip_ratio")], "log-ratios are counted"),
    ],
    "1.5": [
        ([("torch.min(q1_targ", "torch.max(q1_targ")], "the larger of the two"),
        ([(" * (1 - terminated)", "")], "the value of a terminal state is counted"),
        ([("torch.min(q1_targ(o2, a2), q2_targ(o2, a2))", "torch.stack([q1_targ(o2, a2), q2_targ(o2, a2)]).min()")],
         "the min runs over the batch"),
        ([("@torch.no_grad()\n", "")], "a gradient flows into it"),
        ([(".clamp(-noise_clip, noise_clip)", "")], "clip the noise"),
        ([("torch.clamp(a2 + noise, low, high)", "a2 + noise")], "leaves its bounds"),
        ([("torch.clamp(a2 + noise, low, high)", "torch.clamp(a2 + noise, low.min(), high.max())")],
         "leaves its bounds"),
        ([("torch.randn_like(a2)", "torch.randn(a2.shape[-1])")], "all transitions get the same noise"),
        ([("torch.randn_like(a2)", "torch.rand_like(a2)")], "the noise is uniform"),
        ([("    return (q1 - y).square().mean() + (q2 - y).square().mean()", "    return (q1 - y).square().mean()")],
         "both critics learn"),
        ([("return -q1(o", "return q1(o")], "the sign is wrong; the policy"),
        ([("pi(o)).mean()", "pi(o).detach()).mean()")], "there is no gradient for the policy"),
        ([("q2_targ(o2, a2))", "q2_targ(o2, torch.clamp(a2 + noise, low, high)))")], "judge different actions"),
    ],
    "1.6": [
        ([(" - log_slope)", ")")], "the correction for the tanh is missing"),
        ([(" - log_slope)", " + log_slope)")], "the correction has the wrong sign"),
        ([("2 * (math.log(2) - u - softplus(-2 * u))", "(1 - u.tanh().square()).log()")], "not finite at u = 12"),
        ([("2 * (math.log(2) - u - softplus(-2 * u))", "(1 - u.tanh().square() + 1e-6).log()")],
         "right for small u, but"),
        ([(".sum(-1)", ".sum(0)")], "the sum runs over the batch"),
        ([("return u.tanh()", "return u")], "it is not squashed"),
        ([("    log_slope", "    u = u.detach()\n    log_slope")], "there is no gradient for mu"),
        ([("log_std.exp() * noise", "log_std * noise")], "sigma is log_std.exp()"),
        ([(" - 0.5 * math.log(2 * math.pi)", "")], "log(2 pi) / 2 is missing"),
        ([("log_slope = 2 * (math.log(2) - u - softplus(-2 * u))",
           "u_ = u.detach()\n    log_slope = 2 * (math.log(2) - u_ - softplus(-2 * u_))")],
         "no gradient with respect to mu"),
    ],
    "2.1": [
        ([(".square().mean()", ".square().sum()")],
         "every value is compared|the sum over the batch|mean of their 6 losses"),
        ([("q_targ(o2, pi_targ(o2)) + r", "q_targ(o2, pi_targ(o2))[:, None] + r")], "every value is compared|is right"),
        ([("return -q(o, pi(o)).mean()", "return q(o, pi(o)).mean()")], "its sign was right"),
        ([("(1 - terminated) * gamma * ", "gamma * ")], "is right"),
        ([("def q_loss(q: Critic", "def critic_loss(q: Critic"), ("            q_loss(", "            critic_loss(")],
         "has no q_loss"),
    ],
    "2.2": [
        ([("float(terminated)  #", "0.0  #")], "nothing comes after a terminal state"),
        ([("float(terminated)  #", "float(terminated and not truncated)  #")], "nothing comes after a terminal state"),
        ([("float(terminated)  #", "float(truncated)  #")], "only terminated says that"),
        ([("(1 - terminated) * ", "")], "nothing comes after a terminal state"),
        ([("q_targ(o2).gather(-1, best).squeeze(-1)", "q_targ(o2).max(dim=-1).values")],
         "q_targ chooses the next action"),
        ([("q_targ(o2).gather", "q(o2).gather")], "q judges the next action"),
        ([("random.random() > 0.2", "random.random() > 0")], "train never tries the action that seems worse"),
    ],
    "2.3": [
        ([("    a, logp = pi.sample(o)\n", "    a, logp = pi.sample(o)\n    a = a.detach()\n")],
         "the critic does not reach it"),
        ([("u = gaussian.rsample()", "u = gaussian.mean")], "is right|always"),
        ([("(ALPHA * logp - q(o, a))", "(-q(o, a))")], "the entropy is gone"),
        ([("(ALPHA * logp - q(o, a))", "(q(o, a) - ALPHA * logp)")], "its sign was right"),
    ],
    "2.4": [
        ([("            policy_loss(log_prob(pi, o, a), logp_old,",
           "            logp_old = log_prob(pi, o, a).detach()\n"
           "            policy_loss(log_prob(pi, o, a), logp_old,")],
         "change between the passes"),
        ([("        pi_old.load_state_dict(pi.state_dict())  # the policy that collected these data\n", "")],
         "in epoch 2 the first pass"),
        ([("        with torch.no_grad():\n            logp_old = log_prob(pi_old, o, a)\n            clipped",
           "        logp_old = log_prob(pi_old, o, a)\n        with torch.no_grad():\n            clipped")],
         "have a gradient"),
        ([("clip_ratio=0.2", "clip_ratio=10.0")], "clip_ratio is not 0.2"),
        ([("            optimizer.step()\n", "")], "no longer moves"),
        ([("return -torch.min(ratio * adv, ", "return -(")], "policy_loss, which was right"),
    ],
    "2.5": [
        ([("r.flip(0).cumsum(0).flip(0)", "r.cumsum(0)")], "from the first step on"),
        ([("r.flip(0).cumsum(0).flip(0)", "r.flip(0).cumsum(0)")], "reversed order"),
        ([("r.flip(0).cumsum(0).flip(0)", "r.sum(0).expand_as(r)")], "the whole return"),
        ([("r.flip(0).cumsum(0).flip(0)", "r.flip(-1).cumsum(-1).flip(-1)")], "over the levers"),
        ([("ret.mean(dim=1", "ret.mean(dim=0")], "a mean over time"),
        ([("return -(logp * adv)", "return (logp * adv)")], "the sign was right"),
    ],
    "2.6": [
        ([("seed=seed + i", "seed=seed")], "all episodes of an evaluation start from the same state"),
        ([("env.reset(seed=seed + i)", "env.reset(seed=i)")], "the argument seed is not used"),
        ([("    returns = []", "    returns = []\n    np.random.seed(seed)")], "seeds the global random numbers"),
        ([("random = np.random.default_rng(seed)", "random = np.random.default_rng()")], "and then"),
        ([("random = np.random.default_rng(seed)", "random = np.random.default_rng(0)"), ("10_000 + seed", "10_000"),
          ("episodes=2, seed=seed", "episodes=2, seed=0")], "the same result for the seeds 0, 1, and 2"),
        ([("        returns.append(total)\n", "        returns.append(total)\n    return sum(returns)\n")],
         "the list of their returns"),
    ],
}  # fmt: skip
CASES = [
    pytest.param(number, *case, id=f"{number}-{i}") for number, cases in WRONG.items() for i, case in enumerate(cases)
]


@pytest.mark.parametrize(("number", "changes", "reason"), CASES)
def test_wrong_answers_are_told_why(tmp_path, capsys, number, changes, reason):
    status, out = run(capsys, "check", number, str(edited(number, tmp_path, *changes)))
    assert any(part in out for part in reason.split("|")), out
    assert status == 1
    assert len(out.splitlines()) == 1


OTHERWISE = [  # what is right too
    ("1.1", [("return -(0.5 * z.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(-1)",
              "import torch\n    return torch.distributions.Normal(mu, log_std.exp()).log_prob(a).sum(-1)")]),
    ("1.4", [("-torch.min(ratio * adv, clipped * adv).mean()",
              "torch.max(-ratio * adv, -clipped * adv).mean()")]),
    ("1.6", [("2 * (math.log(2) - u - softplus(-2 * u))", "2 * (math.log(2) + u - softplus(2 * u))")]),
    ("2.4", [("logp_old = log_prob(pi_old, o, a)", "logp_old = log_prob(pi, o, a)")]),
    ("1.2", [("return self.net(o), self.log_std", "return [self.net(o), self.log_std]")]),
    ("1.3", [("return adv, adv + v", "return [adv, adv + v]")]),
    ("1.6", [("return u.tanh(), (log_normal - log_slope).sum(-1)",
              "return [u.tanh(), (log_normal - log_slope).sum(-1)]")]),
    ("2.6", [("env.reset(seed=seed + i)", "env.reset(seed=seed if i == 0 else None)")]),
    ("2.6", [("    returns = []", "    returns = []\n    env.reset(seed=seed)"), ("reset(seed=seed + i)", "reset()")]),
]  # fmt: skip


@pytest.mark.parametrize(("number", "changes"), OTHERWISE, ids=[f"{o[0]}-{i}" for i, o in enumerate(OTHERWISE)])
def test_other_right_answers(tmp_path, capsys, number, changes):
    status, out = run(capsys, "check", number, str(edited(number, tmp_path, *changes)))
    assert status == 0, out


def test_three_wrong_answers_each():
    assert set(WRONG) == set(PROGRAMS)
    assert min(map(len, WRONG.values())) >= 3


# ---- a process of its own


def test_right_and_wrong_in_a_process(tmp_path, capfd, as_a_user):
    assert run(capfd, "check", "1.1", str(edited("1.1", tmp_path))) == (
        0,
        "1.1 right: log-likelihoods and gradients agree, with a log_std for each observation and with one for all\n",
    )
    status, out = run(capfd, "check", "1.1", str(edited("1.1", tmp_path, ("return -(", "return ("))))
    assert (status, out.count("\n")) == (1, 1)
    assert out.startswith("1.1 not yet: gaussian_log_likelihood: the sign is wrong")
    assert run(capfd, "check", "1.1", "no/such.py")[0] == 2


def test_an_endless_loop_is_ended(tmp_path, capfd, as_a_user, monkeypatch):
    monkeypatch.setattr(cli, "LIMIT", 15)
    path = edited("1.1", tmp_path, ("    z = (a", "    while True:\n        pass\n    z = (a"))
    status, out = run(capfd, "check", "1.1", str(path))
    assert status == 1
    assert re.fullmatch(
        r"1.1 not yet: line 1\d of exercise_1_1.py is still running after 15 s; does its loop end\?\n", out
    )


def test_a_file_that_ends_the_program_is_not_right(tmp_path, capfd, as_a_user):
    path = edited("1.1", tmp_path, ("    z = (a", "    import os\n    os._exit(0)\n    z = (a"))
    assert run(capfd, "check", "1.1", str(path)) == (
        1,
        "1.1 not yet: exercise_1_1.py ended the program before it was judged (exit status 0)\n",
    )


# ---- the command line


def test_list(capsys):
    status, out = run(capsys, "list")
    assert status == 0
    assert re.findall(r"^  (\d\.\d)  \S", out, re.MULTILINE) == list(EXERCISES)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("chekc 1.1", "unknown command 'chekc'; did you mean 'check'?"),
        ("check", "check needs the number of an exercise"),
        ("check 1.1 a b", "check needs the number of an exercise"),
        ("check 7.1", "there is no exercise '7.1'; there are 1.1, 1.2"),
        ("check 1.1", "there is no file"),
        ("check 3.1", "there is no file"),
        ("check 1.1 no/such.py", "there is no file"),
        ("hint 1.1 9", "there is no hint 9; 1.1 has hints 1 to 2"),
    ],
)
def test_mistakes_get_one_line(tmp_path, monkeypatch, capsys, words, line):
    monkeypatch.chdir(tmp_path)
    status, out = run(capsys, *words.split())
    assert status == 2
    assert out.startswith(f"exercises: error: {line}")
    assert out.count("\n") == 1


def test_start_never_overwrites(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, out = run(capsys, "start", "1.3", "mine/here")
    path = tmp_path / "mine/here/exercise_1_3.py"
    assert status == 0
    assert "check 1.3 mine/here/exercise_1_3.py" in out
    path.write_text("my work")
    status, out = run(capsys, "start", "1.3", "mine/here")
    assert status == 2
    assert "is there already" in out
    assert path.read_text() == "my work"


def test_start_where_nothing_can_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    status, out = run(capsys, "start", "1.3", str(tmp_path / "file"))
    assert status == 2
    assert out.startswith("exercises: error: cannot write ")


def test_check_of_what_is_no_program(tmp_path, capsys):
    (tmp_path / "a.py").write_bytes(b"x = '\xff\x00'")
    (tmp_path / "a.txt").write_text("x")
    for name, line in (("a.py", "is not a text file"), ("a.txt", "is not a Python file; its name must end in .py")):
        status, out = run(capsys, "check", "1.1", str(tmp_path / name))
        assert status == 2
        assert out.endswith(f"{line}\n")
        assert out.count("\n") == 1


@pytest.mark.parametrize("number", EXERCISES)
def test_hints_and_solution(capsys, number):
    status, out = run(capsys, "hint", number)
    assert status == 0
    assert f"(more: python -m spinup.exercises hint {number} 2)" in out
    assert "<" not in out.splitlines()[0]
    assert "more:" not in run(capsys, "hint", number, str(len(cli.folded(cli.text_of(EXERCISES[number]), "Hint"))))[1]
    status, out = run(capsys, "solution", number)
    assert status == 0
    assert out.startswith(cli.solution_of(EXERCISES[number]).read_text())
    assert "\n# " in out


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("    return 1 / 0", ["line 4, in gaussian_log_likelihood", "ZeroDivisionError"]),
        ("    return nothing", ["line 4, in gaussian_log_likelihood", "NameError: name 'nothing'"]),
        ("    return a @ mu", ["line 4, in gaussian_log_likelihood", "RuntimeError"]),
        ("    return (", ["SyntaxError", "line 4"]),
        ("    import sys; sys.exit(0)", ["line 4, in gaussian_log_likelihood", "SystemExit"]),
        ("    raise NotImplementedError", ["line 4 of mine.py is still to be written"]),
        ("    pass", ["returned nothing; is there a return at its end?"]),
        ("    return 'x'", ["returned a str; it must be a tensor"]),
        ("    return a.sum(-1).log() * float('nan')", ["is not finite"]),
    ],
)
def test_errors_in_the_file_point_at_its_line(tmp_path, capsys, body, expected):
    path = tmp_path / "mine.py"
    path.write_text(f"import torch\n\ndef gaussian_log_likelihood(a, mu, log_std):\n{body}\n")
    status, out = run(capsys, "check", "1.1", str(path))
    assert status == 1
    assert all(text in out for text in expected), out
    assert "judge.py" not in out
    assert "check_1_1.py" not in out
    assert len(out.splitlines()) <= 7


def test_other_names_and_arguments(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text("def likelihood(a): pass\n")
    assert "mine.py has no gaussian_log_likelihood; keep the names" in run(capsys, "check", "1.1", str(path))[1]
    path.write_text("def gaussian_log_likelihood(a, b): pass\n")
    assert (
        "takes (a, b); keep the arguments of the starter file: (a, mu, log_std)"
        in run(capsys, "check", "1.1", str(path))[1]
    )


def test_a_bug_of_ours_is_not_blamed_on_the_user(tmp_path, capsys, monkeypatch):
    module = importlib.import_module("spinup.exercises.problem_set_1.check_1_1")
    monkeypatch.setattr(module, "check", lambda module: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(capsys, "check", "1.1", str(edited("1.1", tmp_path)))


def test_listing_needs_no_torch():
    code = "import sys; from spinup.exercises.__main__ import main; main(['list']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, timeout=60)


def test_only_the_users_file_is_executed(tmp_path, capsys):
    """Not what lies beside it, even where the file's folder holds a module of a known name."""
    path = edited("1.1", tmp_path)
    (tmp_path / "numbers.py").write_text("raise SystemExit('executed')")
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('executed')")
    assert run(capsys, "check", "1.1", str(path))[0] == 0


# ---- experiments

GRIDS = {  # algorithm's marks, the argument that is varied, its values, seeds, the environment
    "3.1": (dict(BacktrackIters=0.0), "train_v_iters", (0, 80), 5, "CartPole-v1"),
    "3.2": (dict(ClipFrac=0.1, KL=0.01), "clip_ratio", (0.01, 0.2, 2.0), 5, "CartPole-v1"),
    "3.3": (dict(Alpha=0.5, AverageTestEpRet=1.0), "replay_ratio", (0.25, 1.0), 5, "Pendulum-v1"),
    "3.4": (dict(ClipFrac=0.1), None, (None,), 10, "CartPole-v1"),
}
CONFIG = dict(epochs=20, gamma=0.99, lam=0.95, steps_per_epoch=500, update_after=500)


def write_run(folder: Path, config: dict, marks: dict, score: float, rows: int = 20) -> None:
    """A run's config.json and progress.txt, as the logger writes them; the score is that of every row."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    columns = {"Epoch": 0, "AverageEpRet": score, "TotalEnvInteracts": 0, "Time": 0.0} | marks
    if "AverageTestEpRet" in marks:
        columns["AverageTestEpRet"] = score
    lines = ["\t".join(columns)]
    for i in range(1, rows + 1):
        row = columns | {
            "Epoch": i,
            "TotalEnvInteracts": 500 * i,
            "Time": i * (4.0 if config.get("replay_ratio") == 1 else 1.0),
        }
        lines.append("\t".join(map(str, row.values())))
    (folder / "progress.txt").write_text("\n".join(lines) + "\n")


def make_grid(folder: Path, number: str, spread: float = 10.0, **changes) -> None:
    """Runs with scores around 100, 120, 140 by value; deviations are fixed, from -1 to 1 times the spread."""
    marks, key, values, seeds, env = GRIDS[number]
    for i, value in enumerate(values):
        for seed in range(seeds):
            config = CONFIG | {"env_fn": env, "seed": seed, "exp_name": f"ex_{i}"} | ({key: value} if key else {})
            config |= {k: v for k, v in changes.items() if k in config}
            own = {name: x * (1 + i) for name, x in marks.items()}
            score = 100 + 20 * i + spread * float(np.linspace(-1, 1, seeds)[seed])
            write_run(folder / f"ex_{i}" / f"ex_{i}_s{seed}", config, own, score)


def answer(number: str, folder: Path, path: Path, **changes) -> Path:
    """The solution's answers for the runs in a folder, with some changed."""
    name = f"spinup.exercises.problem_set_3.exercise_{number.replace('.', '_')}_solution"
    text = importlib.import_module(name).answers(f"{folder}/")
    for key, value in changes.items():
        text, n = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
        assert n == 1, key
    path.write_text(text)
    return path


@pytest.mark.parametrize("number", GRIDS)
@pytest.mark.parametrize("spread", [1.0, 60.0], ids=["decided", "undecided"])
def test_experiments_solution_is_right(tmp_path, capsys, number, spread):
    make_grid(tmp_path / "runs", number, spread)
    path = answer(number, tmp_path / "runs", tmp_path / "answers.toml")
    status, out = run(capsys, "check", number, str(path))
    assert (status, out.startswith(f"{number} right: ")) == (0, True), out


@pytest.mark.parametrize("number", GRIDS)
def test_experiments_starter_is_not_right(tmp_path, capsys, monkeypatch, number):
    monkeypatch.chdir(tmp_path)
    run(capsys, "start", number)
    status, out = run(capsys, "check", number)
    assert status == 1
    assert f"exercise_{number.replace('.', '_')}.toml has no answer for" in out


DECIDED, OPEN = 1.0, 60.0
WRONG_ANSWERS = [
    ("3.1", OPEN, dict(better='"80"'), "better is '80', which is not what your runs show: in the figure"),
    ("3.1", DECIDED, dict(better='"undecided"'), "does the 95% interval of P(0 > 80) contain 1/2"),
    ("3.1", DECIDED, dict(better='"0"'), "on which side does it lie"),
    ("3.1", DECIDED, dict(iqm_0="95.0"), "iqm_0 is 95, which is not what your runs show: it is the final IQM"),
    ("3.1", DECIDED, dict(horizon="100.0"), "it is 1 / (1 - gamma * lam), with the values in config.json"),
    ("3.1", DECIDED, dict(better='"eighty"'), "must be one of '0', '80', 'undecided'"),
    ("3.2", DECIDED, dict(largest_kl='"0.01"'), "compare the means of KL"),
    ("3.2", DECIDED, dict(most_clipped='"0.2"'), "compare the means of ClipFrac"),
    ("3.2", OPEN, dict(better_02_or_2='"2.0"'), "P(0.2 > 2.0) contain 1/2"),
    ("3.2", DECIDED, dict(better_02_or_2='"undecided"'), "P(0.2 > 2.0) contain 1/2"),
    ("3.2", DECIDED, dict(iqm_2='"high"'), "it must be a number"),
    ("3.3", DECIDED, dict(better='"0.25"'), "P(0.25 > 1.0) contain 1/2"),
    ("3.3", DECIDED, dict(times_longer="2.0"), "it is the mean of the last Time with ratio 1, over that with 0.25"),
    ("3.3", DECIDED, dict(gradient_steps="9999"), "one for each of the 10000 environment steps but the first"),
    ("3.3", OPEN, dict(better='"1.0"'), "P(0.25 > 1.0) contain 1/2"),
    ("3.4", OPEN, dict(three_are_enough="true"), "does not follow from share: compare it with 5%"),
    ("3.4", DECIDED, dict(three_are_enough="false"), "does not follow from share: compare it with 5%"),
    ("3.4", OPEN, dict(share="0.05"), "share is 0.05, which is not what your runs show"),
    ("3.4", OPEN, dict(width_3="90.0"), "high - low of the first three seeds"),
    ("3.4", OPEN, dict(low="100.0"), "the final IQM [95%] of all ten"),
    ("3.4", OPEN, dict(three_are_enough='"yes"'), "must be true or false"),
]


@pytest.mark.parametrize(("number", "spread", "changes", "reason"), WRONG_ANSWERS)
def test_wrong_conclusions_are_told_why(tmp_path, capsys, number, spread, changes, reason):
    make_grid(tmp_path / "runs", number, spread)
    status, out = run(capsys, "check", number, str(answer(number, tmp_path / "runs", tmp_path / "a.toml", **changes)))
    assert status == 1
    assert reason in out
    right = importlib.import_module(f"spinup.exercises.problem_set_3.exercise_{number.replace('.', '_')}_solution")
    for line in right.answers(f"{tmp_path / 'runs'}/").splitlines():
        key, _, value = line.partition(" = ")
        if key in changes and key != "three_are_enough" and not key.startswith("better"):
            assert value.strip('"') not in out  # the checker says where to look, not what is there


def test_runs_that_are_not_what_was_asked_for(tmp_path, capsys):
    def told(name: str, **changes) -> str:
        make_grid(tmp_path / name, "3.1", **changes)
        return check(name)

    def check(name: str) -> str:
        path = tmp_path / f"{name}.toml"
        path.write_text(f'folder = "{tmp_path / name}/"\niqm_0 = 1\niqm_80 = 1\nbetter = "0"\nhorizon = 1\n')
        status, out = run(capsys, "check", "3.1", str(path))
        assert status == 1
        return out

    assert "a run on Acrobot-v1; the exercise asks for CartPole-v1" in told("env", env_fn="Acrobot-v1")
    assert "20 of its 40 epochs; let it end" in told("short", epochs=40)
    assert "there is no folder" in check("none")
    make_grid(tmp_path / "few", "3.1")
    for path in (tmp_path / "few/ex_1/ex_1_s4").iterdir():
        path.unlink()
    assert "has 4 runs with train_v_iters 80; the exercise asks for 5 seeds" in check("few")
    make_grid(tmp_path / "twice", "3.1")
    config = json.loads((tmp_path / "twice/ex_0/ex_0_s0/config.json").read_text())
    write_run(tmp_path / "twice/ex_0/ex_0_s0-2", config, GRIDS["3.1"][0], 100.0)
    assert "two runs with train_v_iters 0 have the seed 0" in check("twice")
    make_grid(tmp_path / "mixed", "3.1")
    file = tmp_path / "mixed/ex_1/ex_1_s4/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"lam": 0.5}))
    assert "the runs differ in lam too" in check("mixed")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"lam": 0.95, "seed": 77}))
    assert "the values of train_v_iters have different seeds" in check("mixed")
    make_grid(tmp_path / "ppo", "3.4")
    assert "has no column BacktrackIters; is it a run of the algorithm" in check("ppo")


def test_answers_that_are_no_toml(tmp_path, capsys):
    (tmp_path / "a.toml").write_text("folder = nowhere")
    status, out = run(capsys, "check", "3.1", str(tmp_path / "a.toml"))
    assert status == 2
    assert "a.toml is not TOML" in out


def test_check_better_by_hand():
    low, high = np.array([1.0, 2, 3, 4, 5]), np.array([11.0, 12, 13, 14, 15])
    assert experiments.check_better("b", "y", ("x", "y"), low, high) == "y"
    assert experiments.check_better("b", "x", ("x", "y"), high, low) == "x"
    assert experiments.check_better("b", "undecided", ("x", "y"), low, low + 1) == "undecided"
    with pytest.raises(judge.Wrong, match=r"P\(x > y\) contain 1/2"):
        experiments.check_better("b", "y", ("x", "y"), low, low + 1)


def test_overlapping_intervals_can_be_decided():
    """Two intervals that overlap say little: here every run of y but one ties or loses against every run of x."""
    x, y = np.full(5, 500.0), np.array([227.0, 416.0, 472.5, 500.0, 500.0])
    assert experiments.interval(x)[1] <= experiments.interval(y)[2]
    assert experiments.better(("x", "y"), x, y) == "x"
    assert experiments.better(("y", "x"), y, x) == "x"


@pytest.mark.parametrize("number", GRIDS)
def test_solutions_of_experiments_as_programs(tmp_path, number):
    """Without an argument they read the exercise's own folder; without runs they say so in one line."""
    program = cli.solution_of(EXERCISES[number])
    command = [sys.executable, str(program)]
    options = dict(cwd=tmp_path, capture_output=True, text=True, timeout=120)
    empty = subprocess.run(command, **options)
    assert (empty.returncode, empty.stdout, empty.stderr.count("\n")) == (2, "", 1)
    assert empty.stderr.startswith(f"{program.name}: error: ")
    make_grid(tmp_path / "data" / f"ex{number.replace('.', '')}", number)
    full = subprocess.run(command, **options)
    assert full.returncode == 0, full.stderr
    assert full.stdout.startswith('folder = "data/ex3')


def test_chance_of_difference_by_hand():
    from spinup.exercises.problem_set_3.check_3_4 import chance_of_difference

    assert chance_of_difference([100.0] * 6) == 0
    assert chance_of_difference([100.0] * 5 + [1000.0]) == 1
    # One of ten is 160: the group that has it has the mean 120. It is in one of the groups in 6 of 10 pairs.
    assert chance_of_difference([100.0] * 9 + [160.0]) == pytest.approx(0.6)
    assert chance_of_difference([100.0] * 9 + [125.0]) == 0


def test_a_real_grid_is_read(tmp_path):
    """As the commands of the exercises write it, but for its length."""
    import spinup

    grid = spinup.ExperimentGrid("real")
    grid.add("env_name", "CartPole-v1")
    grid.add("train_v_iters", [0, 80])
    grid.add("seed", [0, 1])
    options = {"epochs": 2, "steps_per_epoch": 64, "num_envs": 2}
    for key, value in options.items():
        grid.add(key, value)
    grid.run(spinup.trpo, data_dir=tmp_path, logger_kwargs={"quiet": True})
    runs = experiments.read_runs(str(tmp_path / "real"), "CartPole-v1", "train_v_iters", [0, 80], 2, ["BacktrackIters"])
    assert {value: sorted(run.seed for run in of) for value, of in runs.items()} == {0: [0, 1], 80: [0, 1]}
    assert all(len(run.columns["KL"]) == 2 and run.final > 0 for of in runs.values() for run in of)


def test_missing_file_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        judge.load(tmp_path / "x.py", EXERCISES["1.1"])


# ---- the texts


def test_all_files_are_shipped():
    """What isn't a Python file gets into a wheel only by a pattern in pyproject.toml."""
    patterns = re.search(r'^"spinup.exercises" = \[(.*)\]$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    folder = ROOT / "spinup" / "exercises"
    shipped = {path for pattern in re.findall(r'"(.+?)"', patterns) for path in folder.glob(pattern)}
    others = {p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert others == shipped
    assert len(others) == 16 + 4


def test_pages_include_every_exercise():
    text = "\n".join(path.read_text() for path in sorted((ROOT / "docs" / "exercises").glob("*.md")))
    for number, starter in EXERCISES.items():
        stem = f"../../spinup/exercises/{starter.parent.name}/{starter.stem}"
        assert f"```{{include}} {stem}.md\n" in text, number
        assert f"```{{literalinclude}} {stem}_solution.py\n" in text, number


def test_the_course_assigns_every_exercise_once():
    """In the plan's table, and in the text of the same week."""
    page = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    weeks = {week: re.findall(r"\d\.\d", row) for week, row in re.findall(r"^\| \[(\d+)\](.*)$", page, re.MULTILINE)}
    assert sorted(number for numbers in weeks.values() for number in numbers) == [*EXERCISES]
    assert [*weeks] == re.findall(r"^## Week (\d+):", page, re.MULTILINE)
    for week, numbers in weeks.items():
        task = page.partition(f"## Week {week}:")[2].partition("**Assign**")[2].partition("**Discuss**")[0]
        assert set(re.findall(r"\b[123]\.[1-6]\b", task)) == set(numbers), week


@pytest.mark.parametrize("number", EXERCISES)
def test_texts_have_all_parts(number):
    text = cli.text_of(EXERCISES[number])
    assert text.startswith(f"## {number} ")
    assert len(cli.folded(text, "Hint")) >= 2
    assert len(cli.folded(text, "Solution")) == 1
    assert text.count("<details>") == text.count("</details>") == len(cli.folded(text, ""))
