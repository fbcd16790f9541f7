"""The command line: flags to arguments, grids, help, exit statuses, and one line for each mistake."""

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spinup import algorithm, nets, run
from spinup.algorithm import Algorithm
from spinup.compute import mpi
from spinup.errors import UserError
from spinup.experiments import cli, source
from spinup.runs.logger import Logger

ROOT = Path(__file__).parents[1]


def fake(
    env_fn,
    actor_critic=nets.ActorCritic,
    ac_kwargs: dict | None = None,
    seed: int = 0,
    *,
    steps_per_epoch: int = 4000,
    epochs: int = 500,
    gamma: float = 0.99,
    clip_ratio: Annotated[float, "how far it may move"] = 0.2,
    minibatch_size: Annotated[int | None, "samples in a step; None: the whole epoch"] = 64,
    anneal_lr: Annotated[bool, "whether to lower it"] = True,
    algo: Annotated[str, "which kind"] = "a",
    optimizer=print,
    env_kwargs: dict | None = None,
    wrappers: str | Sequence | None = None,
    device: str = "cpu",
    logger_kwargs: dict | None = None,
):
    """Pretend to train."""
    arguments = locals()
    fake.calls.append(arguments)
    if fake.effect:
        fake.effect(**arguments)


ALGORITHM = Algorithm(
    fake,
    on_policy=True,
    actions=("Box", "Discrete"),
    presets={"old": {"epochs": 50, "gamma": 0.9, "ac_kwargs": {"orthogonal": False, "hidden_sizes": (32,)}}},
)


@pytest.fixture
def calls(monkeypatch):
    """Adds a command `fake`, which records its arguments and then calls fake.effect with them."""
    fake.calls, fake.effect = [], None
    module = types.ModuleType("spinup.algos.fake")
    module.ALGORITHM = ALGORITHM
    monkeypatch.setitem(sys.modules, "spinup.algos.fake", module)
    real = algorithm.files()
    for module in (run, algorithm):
        monkeypatch.setattr(module, "files", lambda: {**real, "fake": Path(__file__)})
    monkeypatch.setattr(mpi, "mpi_fork", lambda n: None)
    return fake.calls


def changed(call):
    """The arguments of a call of `fake` that differ from the defaults, without the environment and the folder."""
    defaults = {name: p.default for name, p in inspect.signature(fake).parameters.items()} | {"env_fn": "CartPole-v1"}
    del defaults["logger_kwargs"]
    return {k: call[k] for k, v in defaults.items() if call[k] != v or type(call[k]) is not type(v)}


# ---- flags to arguments


@pytest.mark.parametrize(
    ("words", "arguments"),
    [
        ("", {}),
        ("--gamma .9 -s 3 --steps 1e3", {"gamma": 0.9, "seed": 3, "steps_per_epoch": 1000}),
        ("--gamma=1", {"gamma": 1.0}),
        ("--minibatch_size None --anneal_lr False", {"minibatch_size": None, "anneal_lr": False}),
        ("--anneal_lr", {}),
        ("--algo 1 --device cuda:1", {"algo": "1", "device": "cuda:1"}),
        ("--hid 32,16 --act torch.nn.ReLU", {"ac_kwargs": {"hidden_sizes": [32, 16], "activation": "ReLU"}}),
        ("--hid [32] --act relu", {"ac_kwargs": {"hidden_sizes": [32], "activation": "ReLU"}}),
        ("--ac_kwargs:hidden_sizes (8,)", {"ac_kwargs": {"hidden_sizes": [8]}}),
        ("--hid []", {"ac_kwargs": {"hidden_sizes": []}}),
        ("--hid 32", {"ac_kwargs": {"hidden_sizes": [32, 32]}}),
        ("--hid 32 --l 3", {"ac_kwargs": {"hidden_sizes": [32, 32, 32]}}),
        ("--l 1", {"ac_kwargs": {"hidden_sizes": [64]}}),
        ("--hid 32 --l 0", {"ac_kwargs": {"hidden_sizes": []}}),
        ("--ac_kwargs:log_std_init -1e-1", {"ac_kwargs": {"log_std_init": -0.1}}),
        (
            "--env_kwargs:a -9.8 --env_kwargs:b:c x --env_kwargs:d",
            {"env_kwargs": {"a": -9.8, "b": {"c": "x"}, "d": True}},
        ),
        (
            "--preset old --epochs 7",
            {"epochs": 7, "gamma": 0.9, "ac_kwargs": {"orthogonal": False, "hidden_sizes": [32]}},
        ),
        (
            "--preset old --hid 4,4",
            {"epochs": 50, "gamma": 0.9, "ac_kwargs": {"hidden_sizes": [4, 4], "orthogonal": False}},
        ),
        ("--wrapper gymnasium.wrappers:TimeLimit(5)", {"wrappers": ["gymnasium.wrappers:TimeLimit(5)"]}),
        (
            "--wrapper gymnasium.wrappers:TimeLimit(5,) --wrapper gymnasium.wrappers:ClipReward",
            {"wrappers": ["gymnasium.wrappers:TimeLimit(5,)", "gymnasium.wrappers:ClipReward"]},
        ),
        ("--wrappers [gymnasium.wrappers:Autoreset]", {"wrappers": ["gymnasium.wrappers:Autoreset"]}),
        ("--wrapper none", {"wrappers": []}),
        ("--exp_name json --data_dir x --dt --quiet --cpu 1", {}),
    ],
)
def test_flags_become_arguments(calls, words, arguments):
    run.main(["fake", "--env", "CartPole-v1", *words.split()])
    (call,) = calls
    assert changed(call) == arguments
    assert call["env_fn"] == "CartPole-v1"


def test_several_wrappers_after_one_flag_make_a_grid(calls):
    a, b, c = (f"gymnasium.wrappers:{name}" for name in ("ClipReward", "Autoreset", "TimeLimit(3)"))
    run.main(["fake", "--env", "CartPole-v1", "--wrapper", "none", a, b, "--wrapper", c])
    assert [call["wrappers"] for call in calls] == [[c], [a, c], [b, c]]
    assert len({call["logger_kwargs"]["output_dir"] for call in calls}) == 3


@pytest.mark.parametrize(
    ("wrapper", "message"),
    [
        ("TimeLimit", "it must be a function of an environment or module:Name, as in gymnasium.wrappers:TimeLimit(50)"),
        ("gymnasium.wrappers:Tim", "module gymnasium.wrappers has no 'Tim'"),
        ("no_such:A", "there is no module 'no_such' to import"),
        (
            "gymnasium.wrappers:TimeLimit(__import__('os'))",
            "its arguments must be literals: TimeLimit(1, name=[2, 'x'])",
        ),
    ],
)
def test_invalid_wrappers_are_reported_before_the_run(calls, wrapper, message, capsys):
    with pytest.raises(SystemExit) as end:
        run.main(["fake", "--env", "CartPole-v1", "--wrapper", wrapper])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not calls


@pytest.mark.parametrize("name", ["--env", "--env_name", "--env_fn"])
def test_names_of_the_environment_flag(calls, name):
    run.main(["fake_pytorch", name, "gymnasium:Acrobot-v1"])
    assert changed(calls[0]) == {"env_fn": "gymnasium:Acrobot-v1"}


def test_flags_of_the_logger(calls, data_dir, tmp_path):
    run.main(["fake", "--env", "CartPole-v1", "-s", "5"])
    run.main(
        ["fake", "--env", "CartPole-v1", "--exp_name", "1", "--data_dir", str(tmp_path), "--quiet", "--tensorboard"]
    )
    assert calls[0]["logger_kwargs"] == {"output_dir": str(data_dir / "cmd_fake/cmd_fake_s5"), "exp_name": "cmd_fake"}
    assert calls[1]["logger_kwargs"] == {
        "output_dir": str(tmp_path / "1" / "1_s0"), "exp_name": "1", "quiet": True, "tensorboard": True
    }  # fmt: skip


def test_several_values_make_a_grid(calls):
    words = "--env CartPole-v1 Acrobot-v1 --seed 0 10 20 --hid[h] [32] [64,64] --act nn.Tanh relu --exp_name g --quiet"
    run.main(["fake", *words.split()])
    made = {(c["env_fn"], c["seed"], *map(str, c["ac_kwargs"].values()), c["logger_kwargs"]["exp_name"]) for c in calls}
    assert made == {
        (env, seed, hid, act, f"g_env{env.lower()}_h{h}_ac-act{act.lower()}")
        for env in ("CartPole-v1", "Acrobot-v1")
        for seed in (0, 10, 20)
        for hid, h in (("[32]", "32"), ("[64, 64]", "64-64"))
        for act in ("Tanh", "ReLU")
    }
    assert len(calls) == 24


def test_cpu_starts_processes_after_the_checks(calls, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(mpi, "mpi_fork", asked.append)
    run.main(["fake", "--env", "CartPole-v1", "--cpu", "4"])
    assert_refused(["fake", "--env", "CartPol-v1", "--cpu", "4"], "no environment 'CartPol-v1'", capsys)
    assert asked == [4]


# ---- mistakes


def assert_refused(words, message, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run.main(words)
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert err.startswith("spinup: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert out == ""


MISTAKES = [
    ("--env CartPol-v1", "there is no environment 'CartPol-v1'; did you mean 'CartPole-v1'?"),
    ("--env no_such_module:CartPole-v1", "there is no module 'no_such_module'"),
    ("--env .:CartPole-v1", "'.' is not a valid module name; write it as in my_module:MyEnv-v0"),
    ("--env :CartPole-v1", "'' is not a valid module name"),
    ("--env", "env takes a string, for example --env CartPole-v1"),
    ("", "no environment; give one, for example: python -m spinup.run fake --env CartPole-v1"),
    ("--env CartPole-v1 --epoch 3", "unknown flag --epoch; did you mean '--epochs'?"),
    ("--env CartPole-v1 --zzz 3", "unknown flag --zzz; `python -m spinup.run fake --help` lists the flags"),
    ("--env CartPole-v1 --optimizer x", "unknown flag --optimizer"),
    ("--env CartPole-v1 --actor_critic x", "unknown flag --actor_critic"),
    ("--env CartPole-v1 --logger_kwargs:output_dir x", "unknown flag --logger_kwargs:output_dir"),
    ("--env CartPole-v1 --ac_kwargs:hiden_sizes 3", "did you mean '--ac_kwargs:hidden_sizes'?"),
    ("--env CartPole-v1 --gamma:x 3", "unknown flag --gamma:x; did you mean '--gamma'?"),
    ("--env CartPole-v1 --env_kwargs x", "--env_kwargs is set entry by entry, for example --env_kwargs:key value"),
    ("--env CartPole-v1 --ac_kwargs", "--ac_kwargs is set entry by entry, for example --ac_kwargs:key value"),
    ("--env CartPole-v1 --env_kwargs: x", "'env_kwargs:' is not a name"),
    ("--env CartPole-v1 --env_kwargs:a 1 --env_kwargs:a:b 2", "set the same argument"),
    ("--env CartPole-v1 --epochs abc", "epochs takes an int, for example --epochs 500; got 'abc'"),
    ("--env CartPole-v1 --hid 64 x", "hid takes an int or a list of ints, for example --hid [64,64]; got 'x'"),
    ("--env CartPole-v1 --hid [64,0]", "hidden_sizes is [64,0]; every size must lie in 1 to"),
    ("--env CartPole-v1 --hid 64 64", "--hid 64 64 repeats a value, and each value is a run; give one run's layers"),
    ("--env CartPole-v1 --hid 64 [64,64]", "--hid 64 [64,64] repeats a value, and each value is a run"),
    ("--env CartPole-v1 --hid 1e300", "every size must lie in 1 to"),
    ("--env CartPole-v1 --l -1", "l is -1; it must lie in 0 to 100"),
    ("--env CartPole-v1 --l 1e9", "l is 1000000000; it must lie in 0 to 100"),
    ("--env CartPole-v1 --l 2 --hid [64]", "--l needs a width, as in --hid 64 --l 2"),
    ("--env CartPole-v1 --act Tan", "there is no activation torch.nn.Tan; did you mean 'tanh'?"),
    ("--env CartPole-v1 --act Softmax2d", "there is no activation torch.nn.Softmax2d; there are ReLU, RReLU, "),
    ("--env CartPole-v1 --act os.system", "there is no activation torch.nn.os.system"),
    ("--env CartPole-v1 -s 0 --seed 1", "--seed is given twice; give several values after one flag: --seed A B"),
    ("--env CartPole-v1 --hid 1 --ac_kwargs:hidden_sizes 2", "is given twice"),
    ("--env CartPole-v1 --seed 0 0", "'seed' has the value 0 2 times; give each value once"),
    ("--env CartPole-v1 --preset od", "fake has no preset 'od'; did you mean 'old'?"),
    ("--env CartPole-v1 --preset zzz", "fake has no preset 'zzz'; it has old"),
    ("--env CartPole-v1 --exp_name a b", "--exp_name takes one value; got 2"),
    ("--env CartPole-v1 --exp_name ../x", "exp_name is '../x'; it must be a valid folder name, for example walker"),
    ("--env CartPole-v1 --exp_name ..", "it must be a valid folder name"),
    ("--env CartPole-v1 --exp_name=", "it must be a valid folder name"),
    ("--env CartPole-v1 --cpu 0", "num_cpu is '0'; it must be auto or a whole number from 1, for example 4"),
    ("--env CartPole-v1 --cpu many", "num_cpu is 'many'"),
    ("--env CartPole-v1 --executor rai", "executor is 'rai'; it must be process or ray; did you mean 'ray'?"),
    ("--env CartPole-v1 --executor foo --seed 0 1", "executor is 'foo'; it must be process or ray"),
    ("--env CartPole-v1 --dt 3", "dt takes True or False, for example --dt False; got '3'"),
    ("CartPole-v1", "'CartPole-v1' is not a flag; expected one"),
    ("--env CartPole-v1 --hid[h 3", "'--hid[h' is not a flag"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_reported_in_one_line_before_anything_is_done(calls, words, message, capsys, data_dir):
    assert_refused(["fake", *words.split()], message, capsys)
    assert calls == []
    assert not data_dir.exists()


def test_unknown_command(capsys):
    assert_refused(["ppoo"], "unknown command 'ppoo'; did you mean 'ppo'?", capsys)
    assert_refused(["--env", "x"], "unknown command '--env'; the commands are crossq, ddpg, ", capsys)


def test_a_folder_that_cannot_be_written(calls, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    fake.effect = lambda logger_kwargs, **_: Logger(**logger_kwargs)
    words = ["fake", "--env", "CartPole-v1", "--quiet", "--data_dir", str(tmp_path / "file" / "data")]
    assert_refused(words, "cannot write", capsys)


VOCABULARY = """--env CartPole-v1 --seed -s --hid[h] --hid --l --act tanh --gamma --epochs=3 --env_kwargs:a --exp_name
    --ac_kwargs:orthogonal --cpu 1 0 2 -1 1e3 [64,64] 64,64 [ ] None True x --preset old --quiet --dt --device --help"""
WORDS = st.sampled_from(VOCABULARY.split()) | st.text(max_size=8) | st.text("-[]:=,'(1a\u00e9\n", max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
@given(st.lists(WORDS, max_size=8))
def test_no_arguments_cause_a_traceback(calls, capsys, words):
    try:
        run.main(["fake", "--env", "CartPole-v1", *words])
        status = 0
    except SystemExit as stop:
        status = stop.code
    err = capsys.readouterr().err
    assert (status, err[:15], err.count("\n")) in ((0, "", 0), (2, "spinup: error: ", 1))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("test_policy ~nosuchuser", "'~nosuchuser': there is no home folder ~nosuchuser; write the path in full"),
        ("resume ~nosuchuser/x", "there is no home folder ~nosuchuser"),
        ("grid ~nosuchuser/x.toml", "there is no home folder ~nosuchuser"),
        ("plot ~nosuchuser", "there is no folder ~nosuchuser"),
        ("plot {run} --out ~nosuchuser/x.png", "there is no home folder ~nosuchuser"),
        ("plot {run} --table ~nosuchuser/x.csv", "there is no home folder ~nosuchuser"),
        ("test_policy {run} --video ~nosuchuser/x.gif", "there is no home folder ~nosuchuser"),
        ("ppo --env CartPole-v1 --data_dir ~nosuchuser/x", "there is no home folder ~nosuchuser"),
        ("ppo --env CartPole-v1 --seed 0 1 --data_dir ~nosuchuser/x", "there is no home folder ~nosuchuser"),
        (f"ppo --env CartPole-v{'1' * 5000}", "there is no environment 'CartPole-v1111"),
        (f"ppo --env {'x' * 5000}", "there is no environment 'xxxx"),
        (f"ppo --env CartPole-v1 --device {'x' * 5000} cpu", "letters; a folder's name can have at most 200"),
        (
            f"ppo --env CartPole-v1 --seed 0 1 --exp_name {'x' * 5000}",
            "with 5,000 letters; a folder's name can have at most 200",
        ),
        (f"ppo --env CartPole-v1 --data_dir {'x' * 5000}", "File name too long"),
        (f"ppo --env CartPole-v1 --seed 0 1 --data_dir {'x' * 5000}", "File name too long"),
        (f"plot {'x' * 5000}", "there is no folder xxx"),
        (f"resume {'x' * 5000}", "xxx"),
        (f"test_policy {'x' * 5000}", "xxx"),
        (f"grid {'x' * 5000}.toml", "File name too long"),
        ("ppo --env CartPole-v1 --steps_per_epoch 9223372036854775808", "it must be a whole number in 1 to 10"),
        ("vpg --env CartPole-v1 --train_v_iters 1e30", "it must be a whole number in 0 to 1000000"),
        ("sac --env Pendulum-v1 --replay_ratio 1e30", "it must be a number in 0 to 1000000"),
    ],
)
def test_unusual_arguments_of_real_commands(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "progress.txt").write_text("TotalEnvInteracts\tAverageEpRet\n1\t2\n")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SystemExit) as stop:
        run.main(words.format(run=tmp_path).split())
    err = capsys.readouterr().err
    assert (stop.value.code, err.count("\n")) == (2, 1)
    assert err.startswith("spinup: error: ")
    assert message in err


def test_an_unknown_home_folder(monkeypatch, capsys):
    def unknown(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    assert_refused(["ppo", "--env", "CartPole-v1", "--data_dir", "~/x"], "there is no home folder ~; write", capsys)


# ---- failures


def test_exit_status_of_a_grid_with_failures(calls, capsys):
    def effect(seed, **_):
        if seed > 0:
            raise UserError("a mistake") if seed == 1 else ZeroDivisionError("a bug")

    fake.effect = effect
    for seeds, status, outcome in (("0 1", 2, "wrong input"), ("0 2", 1, "failed"), ("0 1 2", 1, "failed")):
        with pytest.raises(SystemExit) as stop:
            run.main(["fake", "--env", "CartPole-v1", "--seed", *seeds.split()])
        out, err = capsys.readouterr()
        assert stop.value.code == status
        assert outcome in out
        assert ("Traceback" in err) == ("2" in seeds)


def test_a_bug_shows_its_traceback(calls, capsys):
    fake.effect = lambda **_: 1 / 0
    with pytest.raises(SystemExit) as stop:
        run.main(["fake", "--env", "CartPole-v1"])
    assert stop.value.code == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):")
    assert err.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_failure_under_mpi_ends_all_processes(calls, capsys, monkeypatch, rank):
    ended, waited = [], []
    for module in (run, mpi):  # and not time.sleep itself, which threads of other tests may call
        monkeypatch.setattr(module, "time", types.SimpleNamespace(sleep=waited.append))
    monkeypatch.setattr(mpi, "num_procs", lambda: 2)
    monkeypatch.setattr(mpi, "proc_id", lambda: rank)
    monkeypatch.setattr(mpi, "world", lambda: types.SimpleNamespace(Abort=ended.append))
    fake.effect = lambda **_: 1 / 0
    for words in (["--epochs", "x"], []):
        with pytest.raises(SystemExit):
            run.main(["fake", "--env", "CartPole-v1", *words])
    assert ended == [2, 1]
    assert waited == [rank, 0.5] * 2  # so that rank 0 prints first, and its output is forwarded
    out, err = capsys.readouterr()
    assert "got 'x'" in err
    assert "ZeroDivisionError" in err
    assert ("fake on CartPole-v1" in out) == (rank == 0)


@pytest.mark.parametrize("imported", [True, False])
def test_interrupt(calls, capsys, monkeypatch, imported):
    """Also while modules are imported, when importing one more could fail."""

    def effect(**_):
        if not imported:
            monkeypatch.setitem(sys.modules, "spinup.compute.mpi", None)  # importing it is an error
        raise KeyboardInterrupt

    fake.effect = effect
    with pytest.raises(SystemExit) as stop:
        run.main(["fake", "--env", "CartPole-v1", "--seed", "0", "1"])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "spinup: stopped; what was logged and saved stays\n"


ON_A_CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
ON_A_CPU += "allocate 40000000000 bytes. Error code 12 (Cannot allocate memory)"
ON_A_GPU = "CUDA out of memory. Tried to allocate 37.25 GiB. GPU 0 has a total capacity of 22.06 GiB"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError("Unable to allocate 9 TiB"), "Unable to allocate 9 TiB"),
        (RuntimeError(ON_A_CPU), "tried to allocate 40000000000 bytes"),
        (torch.OutOfMemoryError(ON_A_GPU), "Tried to allocate 37.25 GiB"),
    ],
    ids=["NumPy", "CPU", "GPU"],
)
def test_a_lack_of_memory_is_reported_in_one_line(calls, capsys, data_dir, error, reason):
    def effect(**_):
        raise error

    fake.effect = effect
    with pytest.raises(SystemExit) as stop:
        run.main(["fake", "--env", "CartPole-v1"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"spinup: error: not enough memory ({reason}); smaller hidden_sizes, steps_per_epoch or num_envs need less"
    )


def test_another_runtime_error_has_a_traceback(calls, capsys, data_dir):
    def effect(**_):
        raise RuntimeError("memory of a bug")

    fake.effect = effect
    with pytest.raises(SystemExit) as stop:
        run.main(["fake", "--env", "CartPole-v1"])
    assert stop.value.code == 1
    assert "Traceback" in (err := capsys.readouterr().err)
    assert err.endswith("RuntimeError: memory of a bug\n")


# ---- output


def test_summary_and_next_steps(calls, capsys, data_dir):
    fake.effect = lambda logger_kwargs, **_: Logger(**logger_kwargs, quiet=True).save_config({})
    words = ["fake", "--env", "CartPole-v1", "--hid", "64,64", "--gamma", "0.99", "--env_kwargs:x", "--epochs", "3"]
    for folder in ("cmd_fake_s0", "cmd_fake_s0-2"):  # the first already contains a run by then
        run.main(words)
        path = data_dir / "cmd_fake" / folder
        assert capsys.readouterr().out.splitlines() == [
            "fake on CartPole-v1: env_kwargs:x True, epochs 3",
            f"plot it:   python -m spinup.run plot {path}/",
            f"watch it:  python -m spinup.run test_policy {path}",
        ]
    run.main(["fake", "--env", "CartPole-v1"])
    assert capsys.readouterr().out.startswith("fake on CartPole-v1: all defaults\n")


def test_next_steps_name_the_environments_module(calls, capsys, data_dir):
    fake.effect = lambda logger_kwargs, **_: Logger(**logger_kwargs, quiet=True).save_config({})
    run.main(["fake", "--env", "gymnasium:CartPole-v1"])
    assert capsys.readouterr().out.splitlines()[-1].endswith("cmd_fake_s0 --env gymnasium:CartPole-v1")


def test_next_steps_of_a_grid(calls, capsys, data_dir):
    run.main(["fake", "--env", "CartPole-v1", "--seed", "0", "1", "--gamma", ".8", ".9"])
    folders = f"{data_dir}/cmd_fake_gam0-8/ {data_dir}/cmd_fake_gam0-9/"
    assert capsys.readouterr().out.splitlines()[-1] == f"plot it:   python -m spinup.run plot {folders}"


def test_quiet(calls, capsys):
    run.main(["fake", "--env", "CartPole-v1", "--seed", "0", "1", "--quiet"])
    run.main(["fake", "--env", "CartPole-v1", "--quiet"])
    assert capsys.readouterr() == ("", "")


def test_help_of_a_command(calls, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    run.main(["fake", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["Usage: python -m spinup.run fake --env ENV [flags]", "Pretend to train."]
    for line in (
        "  --env, --env_name  a string [required]    id of the environment; module:Env-v0 imports module",
        "  --clip_ratio  a number [0.2]              how far it may move",
        "  --minibatch_size  an int or None [64]     samples in a step; None: the whole epoch",
        "  --hid, --ac_kwargs:hidden_sizes  an int or a list of ints [[64,64]]",
        "  presets: old",
    ):
        assert line in lines
    assert not any("optimizer" in line or "logger_kwargs" in line for line in lines)


def test_help_can_come_first(calls, capsys):
    run.main(["fake", "--help"])
    shown = capsys.readouterr().out
    run.main(["help", "fake"])
    assert capsys.readouterr().out == shown
    assert_refused(["help", "fak"], "unknown command 'fak'; did you mean 'fake'?", capsys)


def test_help_and_version(capsys):
    run.main([])
    first = capsys.readouterr().out
    run.main(["--help"])
    assert capsys.readouterr().out == first
    for name in (*algorithm.files(), "plot", "test_policy"):
        assert any(line.startswith(f"  {name} ") and len(line.split()) > 2 for line in first.splitlines())
    run.main(["--version"])
    assert capsys.readouterr().out == "1.0.0.dev1\n"


def test_other_commands_get_their_arguments(monkeypatch):
    got = []
    for name, module in (("plot", "plot"), ("test_policy", "play")):
        fake = types.ModuleType(module)
        fake.main = lambda words, name=name: got.append((name, words))
        monkeypatch.setitem(sys.modules, f"spinup.analysis.{module}", fake)
    run.main(["plot", "a", "-s", "3"])
    run.main(["test_policy", "b", "-nr"])
    assert got == [("plot", ["a", "-s", "3"]), ("test_policy", ["b", "-nr"])]


# ---- the real algorithms


@pytest.mark.parametrize("algo", algorithm.files())
def test_every_flag_has_help_and_accepts_its_own_default(algo):
    presets = algorithm.find(algo).presets
    flags = run.flags_of(*run.describe(algo)) | run.SPECIAL
    assert "gamma" in flags
    assert "ac_kwargs:hidden_sizes" in flags
    assert [name for name, parameter in flags.items() if not parameter.help] == []
    for name, parameter in flags.items():
        if parameter.default is not None:
            assert cli.format_value(
                cli.convert(cli.format_value(parameter.default), parameter, name)
            ) == cli.format_value(parameter.default)
    for preset in presets.values():
        assert {name for name in run.flatten(preset) if not name.startswith("env_kwargs:")} <= set(flags)
    assert all(alias == "s" or name in flags for alias, name in run.ALIASES.items())


@pytest.mark.parametrize("algo", algorithm.files())
def test_help_has_one_sentence_and_no_empty_section(algo):
    lines = run.algorithm_help(algo).splitlines()
    assert re.fullmatch(r"Train a policy by [^.]+\.", lines[1])
    sections = [i for i, line in enumerate(lines) if line and not line.startswith(" ")][2:]
    assert len(sections) >= 3
    assert all(lines[i - 1] == "" and lines[i + 1].startswith("  -") for i in sections)


ENVS = {"dqn": "CartPole-v1"}  # for algorithms that don't support Box actions


@pytest.mark.parametrize("algo", algorithm.files())
def test_a_short_run(algo, data_dir, capsys):
    env, presets = ENVS.get(algo, "Pendulum-v1"), algorithm.find(algo).presets
    words = f"--env {env} --epochs 1 --steps 32 --num_envs 2 --hid 8 --act relu --max_ep_len 10 -s 3"
    run.main([algo, *words.split(), *(["--preset", "spinningup"] if "spinningup" in presets else [])])
    folder = data_dir / f"cmd_{algo}" / f"cmd_{algo}_s3"
    config = json.loads((folder / "config.json").read_text())
    expected = {"env_fn": env, "seed": 3, "epochs": 1, "steps_per_epoch": 32, "num_envs": 2}
    assert {key: config[key] for key in expected} == expected
    assert {"hidden_sizes": [8, 8], "activation": "ReLU"}.items() <= config["ac_kwargs"].items()
    assert len((folder / "progress.txt").read_text().splitlines()) == 2
    assert (folder / "model.pt").exists()
    assert f"test_policy {folder}" in capsys.readouterr().out


# ---- processes


def python(*words, **kwargs):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, *words], env=env, stdout=-1, stderr=-1, text=True, **kwargs)


@pytest.mark.parametrize("command", ["spinup.run --help", "spinup.exercises list"])
def test_a_closed_pipe_ends_a_command_silently(command):
    with python("-m", *command.split()) as process:
        process.stdout.close()  # as `| head` does
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.parametrize("command", ["", *algorithm.files(), "plot", "grid", "resume", "test_policy"])
def test_help_imports_nothing_slow(command):
    code = (
        "import sys; from spinup.run import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit as end: assert not end.code\n"
        "sys.exit(str(sorted({'torch', 'gymnasium', 'matplotlib', 'pandas', 'rich'} & set(sys.modules))))"
    )
    process = python("-OO", "-c", code, *command.split(), "--help")  # -OO: without docstrings
    out, err = process.communicate(timeout=60)
    lines = out.splitlines()
    assert len(lines) > 1
    assert lines[1] != "."
    assert err == "[]\n"


def test_the_newest_run_among_broken_ones_and_other_time_zones(tmp_path):
    """When config.json was written doesn't matter: resuming a run or copying its folder changes that."""

    def add(name, started):
        (tmp_path / name).mkdir()
        text = started if started in ("", "[]", "{") else json.dumps({"run": {"started": started}})
        (tmp_path / name / "config.json").write_text(text)

    assert run.newest_run(tmp_path / "x_s0") == tmp_path / "x_s0"
    add("x_s0-3", "2026-03-01T12:00:00+02:00")  # two hours before the next
    add("x_s0-2", "2026-03-01T12:00:00+00:00")
    add("x_s0", "2026-03-01T11:00:00+00:00")
    add("x_s01", "2027-03-01T11:00:00+00:00")  # another seed
    for i, broken in enumerate(("", "[]", "{", "soon", 5, None)):
        add(f"x_s0-{i + 4}", broken)
    assert run.newest_run(tmp_path / "x_s0") == tmp_path / "x_s0-2"


@pytest.mark.parametrize("algo", algorithm.files())
def test_the_source_gives_the_same_flags_as_the_imported_function(algo):
    function, presets = algorithm.find(algo).function, algorithm.find(algo).presets
    networks = inspect.signature(function).parameters["actor_critic"].default
    imported = run.flags_of(source.describe_imported(function), source.describe_imported(networks))
    assert run.flags_of(*run.describe(algo)) == imported
    assert source.presets(algorithm.files()[algo]) == list(presets)


def test_exit_status_of_a_process():
    process = python("-m", "spinup.run", "plott")
    out, err = process.communicate(timeout=60)
    line = "spinup: error: unknown command 'plott'; did you mean 'plot'?\n"
    assert (process.returncode, out, err) == (2, "", line)


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to another process")
def test_ctrl_c_loses_nothing(data_dir):
    words = "spinup.algos.ppo --env CartPole-v1 --steps 64 --num_envs 2 --epochs 100000 --save_freq 1"
    process = python("-m", *words.split())
    folder = data_dir / "cmd_ppo" / "cmd_ppo_s0"
    try:
        deadline = time.monotonic() + 150
        while not (folder / "model.pt").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err == "spinup: stopped; what was logged and saved stays\n"
    assert json.loads((folder / "config.json").read_text())["epochs"] == 100000
    header, *rows = (folder / "progress.txt").read_text().splitlines()
    assert rows
    assert {len(row.split("\t")) for row in rows} == {len(header.split("\t"))}
