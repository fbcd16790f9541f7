"""What can go wrong during a run: it ends with one line that says where, and what it logged and saved stays."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_resume import ProcessEnded, table, train

import spinup
from spinup.algos.ppo import ALGORITHM
from spinup.compute.optim import FlatAdam
from spinup.envs import make_envs
from spinup.errors import Fault, UserError
from spinup.nets import ActorCritic
from spinup.run import main
from spinup.runs import checkpoint
from spinup.runs.config import env_flag
from spinup.runs.run import Run
from spinup.system.files import checksum


class Faulty(gym.Env):
    """Episodes of 20 steps, observations in [-1, 1]^2, rewards of 1. `fault` changes the result of step number `at`."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, fault=lambda result: result, at=7):
        self.fault, self.at, self.steps, self.t = fault, at, 0, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        self.t += 1
        result = (np.full(2, 0.5, np.float32), 1.0, False, self.t == 20, {})
        return self.fault(result) if self.steps == self.at else result


def raising(result):
    raise ZeroDivisionError("in the simulator")


def exiting(result):
    sys.exit(0)


def observing(value):
    return lambda result: (value, *result[1:])


def rewarding(value):
    return lambda result: (result[0], value, *result[2:])


FAULTS = {
    "raises": (
        raising,
        r"environment 1 raised ZeroDivisionError: in the simulator at step 7 of its episode, on action \d",
    ),
    "exits": (exiting, r"environment 1 raised SystemExit: 0 at step 7 of its episode, on action \d"),
    "shape": (
        observing(np.zeros(3, np.float32)),
        r"environment 1 returned an observation of shape \(3,\); its space says \(2,\)",
    ),
    "dtype": (
        observing(np.array(["a", "b"])),
        r"environment 1 returned an observation of <U1 .*; its space says float32",
    ),
    "no reward": (rewarding(None), r"environment 1 returned the reward None at step 7; it must be a number"),
    "reward's shape": (rewarding(np.ones(1)), r"environment 1 returned the reward array\(\[1.\]\) at step 7"),
    "old Gym": (
        lambda result: result[:4],
        r"environment 1 returned .* from step; it must be \(observation, reward, termin",
    ),
    "NaN": (
        observing(np.array([0, np.nan], np.float32)),
        r"environment 1 returned the observation \[ 0. nan\] at step 7 of",
    ),
    "infinity": (
        observing(np.array([np.inf, 0], np.float32)),
        r"environment 1 returned the observation \[inf  0.\] at step 7",
    ),
    "reward NaN": (rewarding(np.nan), r"environment 1 returned the reward nan at step 7 of its episode"),
    "reward infinite": (rewarding(-np.inf), r"environment 1 returned the reward -inf at step 7 of its episode"),
}


def second(fault):
    """Makes environments of which the second in use has the fault; make_envs creates one more, only to inspect it."""
    made = []

    def maker():
        made.append(0)
        return Faulty(fault if len(made) == 3 else lambda result: result)

    return maker


@pytest.mark.parametrize("kind", FAULTS)
def test_an_environments_fault_is_reported_with_its_step(kind):
    fault, message = FAULTS[kind]
    envs = make_envs(second(fault), num_envs=2)
    envs.reset()
    for _ in range(6):
        envs.step(np.zeros(2, int))
        envs.reset_done()
    with pytest.raises(Fault, match=message):
        envs.step(np.zeros(2, int))


def test_a_fault_in_reset():
    class Bad(Faulty):
        def reset(self, *, seed=None, options=None):
            raise OSError("no simulator")

    envs = make_envs(Bad, num_envs=2)
    with pytest.raises(Fault, match=r"Bad: environment 0 raised OSError: no simulator in reset"):
        envs.reset()


def test_an_observation_outside_its_space_is_warned_about_once(capfd):
    envs = make_envs(second(observing(np.array([0, 1.5], np.float32))), num_envs=2)
    envs.reset()
    for _ in range(7):
        o = envs.step(np.zeros(2, int))[0]
    assert o.tolist() == [[0.5, 0.5], [0, 1.5]]  # training uses it unchanged
    envs.envs.envs[0].env.fault, envs.envs.envs[0].env.at = observing(np.array([2, 0], np.float32)), 8
    envs.step(np.zeros(2, int))
    err = capfd.readouterr().err
    assert err.count("warning") == 1
    assert "environment 1 observed 1.5 at index (1,), outside its space's bounds, -1.0 to 1.0" in err


def test_a_worker_that_dies():
    class Dies(Faulty):
        def step(self, action):
            os._exit(3)

    envs = make_envs(Dies, num_envs=2, vectorization="async")
    envs.reset()
    with pytest.raises(Fault, match=r"^the process of Dies: environment \d(, \d)? died in step$"):
        envs.step(np.zeros(2, int))
    assert not any(process.is_alive() for process in envs.envs.processes)
    envs.close()


@pytest.mark.filterwarnings("ignore:.*ERROR")  # how Gymnasium reports the worker's traceback
def test_a_worker_that_raises():
    envs = make_envs(lambda: Faulty(raising, at=1), num_envs=2, vectorization="async")
    envs.reset()
    with pytest.raises(Fault, match=r"environment \d raised ZeroDivisionError: in the simulator at step 1"):
        envs.step(np.zeros(2, int))
    assert not any(process.is_alive() for process in envs.envs.processes)
    envs.close()


ASYNC = """
import sys
import spinup

if __name__ == "__main__":
    {before}
    spinup.ppo("CartPole-v1", num_envs=2, vectorization="async", steps_per_epoch=200, epochs=10**6,
        train_pi_iters=1, train_v_iters=1, logger_kwargs=dict(output_dir="run", quiet=True))
"""


def start_async(folder):
    (folder / "script.py").write_text(ASYNC.format(before="pass"))
    env = {**os.environ, "PYTHONPATH": str(Path(spinup.__file__).parents[1])}
    with open(folder / "log.txt", "w") as log:
        command = [sys.executable, "script.py"]
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
    table = folder / "run" / "progress.txt"
    while not table.exists() or table.read_bytes().count(b"\n") < 3:
        assert process.poll() is None, (folder / "log.txt").read_text()
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGHUP", "SIGTERM again and again"])
def test_signals_to_all_processes_of_asynchronous_environments(tmp_path, how):
    """Ctrl-C in a terminal, `timeout` and Slurm signal the workers too; they live until the checkpoint is written."""
    process = start_async(tmp_path)
    number = getattr(signal, how.split()[0])
    os.killpg(process.pid, number)
    while how.endswith("again") and process.poll() is None:
        time.sleep(0.02)
        os.killpg(process.pid, number)
    assert process.wait(120) == (-number if number == signal.SIGINT else 128 + number)
    assert list((tmp_path / "run" / "checkpoint").glob("*/manifest.json")), (tmp_path / "log.txt").read_text()
    assert (tmp_path / "log.txt").read_text().count("Traceback") == (how == "SIGINT")  # Python's, of KeyboardInterrupt
    with pytest.raises(ProcessLookupError):  # no process of the group is left
        os.killpg(process.pid, 0)


def test_unclosed_asynchronous_environments_end_with_the_run(tmp_path):
    """For example when another part of the run raises: multiprocessing sends SIGTERM to the workers and waits."""
    stop = "sys.modules['spinup.runs.logger'].__dict__['EpochLogger'].dump_tabular = lambda self: 1 / 0"
    (tmp_path / "script.py").write_text(ASYNC.format(before=f"import spinup.runs.logger; {stop}"))
    env = {**os.environ, "PYTHONPATH": str(Path(spinup.__file__).parents[1])}
    command = [sys.executable, "script.py"]
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert "ZeroDivisionError" in result.stderr


@pytest.mark.parametrize("algo", ["vpg", "trpo", "ppo", "sac"])
@pytest.mark.parametrize("kind", ["raises", "NaN", "reward NaN"])
def test_a_fault_leaves_what_the_run_has_saved(algo, kind, tmp_path):
    """The fault occurs in the third epoch."""
    made = []

    def maker():
        made.append(0)
        return Faulty(FAULTS[kind][0] if len(made) == 2 else lambda result: result, at=50)

    more = dict(start_steps=5, update_after=30, num_test_episodes=1, batch_size=4) if algo == "sac" else {}
    with pytest.raises(Fault):
        getattr(spinup, algo)(
            maker, num_envs=1, steps_per_epoch=20, epochs=4, save_freq=1, checkpoint_freq=1, **more,
            logger_kwargs=dict(output_dir=str(tmp_path), quiet=True),
        )  # fmt: skip
    assert len(table(tmp_path)) == 2
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["40"]
    assert all(x.isfinite().all() for x in torch.load(tmp_path / "model.pt", weights_only=True).values())


def test_the_command_line_prints_the_cause_and_then_one_line(tmp_path, monkeypatch):
    module = tmp_path / "faulty_envs.py"
    module.write_text(
        "import gymnasium as gym\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        "class Broken(CartPoleEnv):\n"
        "    def step(self, action):\n"
        "        return self.simulate_badly()\n"
        "gym.register('Broken-v0', Broken)\n"
    )
    command = [
        sys.executable,
        "-m",
        "spinup.run",
        "ppo",
        "--env",
        "faulty_envs:Broken-v0",
        "--data_dir",
        "d",
        "--quiet",
    ]
    env = {**os.environ, "PYTHONPATH": f"{Path(spinup.__file__).parents[1]}:{tmp_path}"}
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 1
    *trace, line = result.stderr.strip().split("\n")
    assert "return self.simulate_badly()" in "".join(trace)  # the line at fault
    assert line.startswith("spinup: error: faulty_envs:Broken-v0: environment 0 raised AttributeError: ")
    assert line.endswith("what was logged and saved stays")


# ---- numbers


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_loss_ends_the_run_before_the_step(bad):
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    optimizer = FlatAdam(module, 1e-2)
    optimizer.minimize(module(torch.ones(3, 2)).square().mean())
    before = optimizer.flat.clone()
    with pytest.raises(
        Fault, match=rf"the loss of Sequential is {bad} in its gradient step 2; a smaller learning rate"
    ):
        optimizer.minimize((module(torch.ones(3, 2)) * 0 + bad).mean())
    assert torch.equal(optimizer.flat, before)


def test_a_non_finite_gradient_is_named_in_the_next_step():
    module = torch.nn.Linear(2, 1)
    optimizer = FlatAdam(module, 1e-2)
    optimizer.minimize(
        module(torch.zeros(3, 2)).square().sum() + module.weight.mul(0).pow(0.5).sum()
    )  # slope of a root
    with pytest.raises(Fault, match=r"is nan in its gradient step 2; the previous step had .* the gradient of weight;"):
        optimizer.minimize(module(torch.ones(3, 2)).sum())


def test_a_non_finite_parameter_ends_the_run_after_the_epoch(tmp_path):
    class Diverges(ActorCritic):
        def act(self, o, deterministic=False):
            a = super().act(o, deterministic)
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls > 25:
                with torch.no_grad():
                    self.rew_norm.var.fill_(torch.nan)
            return a

    with pytest.raises(Fault, match=r"contains NaN or infinity"):
        spinup.vpg(
            "CartPole-v1", Diverges, num_envs=1, steps_per_epoch=20, epochs=4, normalize_rew=False, checkpoint_freq=1,
            logger_kwargs=dict(output_dir=str(tmp_path), quiet=True),
        )  # fmt: skip
    assert len(table(tmp_path)) == 2  # the second row is written, but its parameters are not saved
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["20"]


# ---- the disk


@pytest.fixture
def room():
    """room(n) limits this process's files to n bytes until the end of the test."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda n: resource.setrlimit(resource.RLIMIT_FSIZE, (n, old[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, room, monkeypatch):
    save = Run.save

    def save_with_less_room(self):
        if self.t > 120:
            room(5000)
        save(self)

    monkeypatch.setattr(Run, "save", save_with_less_room)
    with pytest.raises(UserError, match=r"cannot write .*checkpoint/240: File too large; fix that"):
        train("ppo", tmp_path)
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["120"]
    monkeypatch.undo()
    room(resource.RLIM_INFINITY)
    train("ppo", tmp_path, resume=True)
    assert len(table(tmp_path)) == 5


def test_a_folder_that_is_removed_during_the_run(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(UserError, match=r"cannot write .*run"):
        train("vpg", folder, step=100, action=lambda: shutil.rmtree(folder))
    assert not folder.exists()


# ---- damaged and foreign checkpoints


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run that died in its fourth epoch of five."""
    folder = tmp_path_factory.mktemp("ended") / "run"
    with pytest.raises(ProcessEnded):
        train("ppo", folder, step=200)
    return folder


@pytest.fixture
def run(ended, tmp_path):
    shutil.copytree(ended, tmp_path / "run")
    return tmp_path / "run"


def files(folder):
    return folder / "checkpoint" / "120" / "rank0.pt", folder / "checkpoint" / "120" / "manifest.json"


def refused(run, match, **changes):
    before = (run / "progress.txt").read_bytes()
    with pytest.raises(UserError, match=match):
        train("ppo", run, resume=True, **changes)
    assert (run / "progress.txt").read_bytes() == before  # a refused attempt loses nothing


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_is_refused(ended, data):
    tensors, _ = files(ended)
    good = tensors.read_bytes()
    where = data.draw(st.integers(0, 8 * len(good) - 1))
    flipped = bytearray(good)
    flipped[where // 8] ^= 1 << where % 8
    digest = checksum(tensors)
    try:
        tensors.write_bytes(flipped)
        with pytest.raises(UserError, match=r"rank0.pt is damaged: its SHA-256 is not the one in manifest.json"):
            checkpoint.read_state(tensors, digest)
    finally:
        tensors.write_bytes(good)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_manifest_with_flipped_bits_is_refused_or_unchanged(ended, data):
    """Never a traceback, and never a different checkpoint."""
    _, file = files(ended)
    good = file.read_bytes()
    bad = bytearray(good)
    for where in data.draw(st.lists(st.integers(0, 8 * len(good) - 1), min_size=1, max_size=5)):
        bad[where // 8] ^= 1 << where % 8
    try:
        file.write_bytes(bad)
        manifest = checkpoint.read_manifest(file.parent)
        checkpoint.check_fingerprint(file.parent, manifest, json.loads(good), ALGORITHM)
    except UserError:
        return
    finally:
        file.write_bytes(good)
    known = json.loads(good)
    warned = {"torch", *ALGORITHM.changeable}  # differences in these only cause a warning
    found, meant = (content.pop("arguments") | content for content in (manifest, known))
    assert {key: found.get(key) for key in meant.keys() - warned} == {key: meant[key] for key in meant.keys() - warned}


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_truncated_file_is_refused(run, keep):
    file = files(run)[0]
    file.write_bytes(file.read_bytes()[:keep])
    refused(run, r"rank0.pt is damaged")


def test_a_missing_file_is_refused(run):
    files(run)[0].unlink()
    refused(run, r"cannot read .*rank0.pt: No such file")


class Malicious:
    def __reduce__(self):
        return (os.system, ("touch owned",))


def test_a_pickle_with_code_is_refused_even_if_its_checksum_matches(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tensors, manifest = files(run)
    torch.save({"parts": Malicious()}, tensors)
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "sha256": [checksum(tensors)]}))
    refused(run, r"rank0.pt is damaged or contains more than tensors; it is not loaded")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("format", 99), ("spinup", "0.2.0"), ("algorithm", "sac"), ("observation space", "Box(4)"), ("processes", 2)],
)
def test_a_checkpoint_of_something_else_names_the_difference(run, key, value):
    manifest = files(run)[1]
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, key: value}))
    value = str(value).replace("(", r"\(").replace(")", r"\)")
    refused(run, rf"has {key} {value}, this run has .*; it can't be resumed here")


def change_arguments(manifest, **arguments):
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "arguments": {**content["arguments"], **arguments}}))


def test_networks_of_another_shape_are_named(run):
    change_arguments(files(run)[1], ac_kwargs=dict(hidden_sizes=[8]))
    with pytest.raises(UserError, match=r"its ac does not match this run's .*size mismatch for actor.net"):
        train("ppo", run, resume=True, ac_kwargs=dict(hidden_sizes=[8]))


@pytest.mark.parametrize(
    ("name", "saved", "here"),
    [
        ("ac_kwargs", {"activation": "ReLU"}, {}),
        ("ac_kwargs", {}, {"hidden_sizes": (64, 64)}),
        ("env_kwargs", {"g": 9.8}, {}),
        ("seed", 1, 0),
        ("steps_per_epoch", 4000, 60),
        ("normalize_rew", False, True),
    ],
)
def test_a_checkpoint_with_other_arguments_is_refused(run, name, saved, here):
    """Even if all shapes are the same."""
    change_arguments(files(run)[1], **{name: saved})
    before = (run / "progress.txt").read_bytes()
    with pytest.raises(UserError, match=rf"checkpoint/120 has {name} .*, this run has .*; it can't be resumed here"):
        train("ppo", run, resume=True, **{name: here})
    assert (run / "progress.txt").read_bytes() == before


def test_a_checkpoint_with_another_gamma_causes_a_warning(run, capfd):
    change_arguments(files(run)[1], gamma=0.5, epochs=7)
    train("ppo", run, resume=True)
    (line,) = [line for line in capfd.readouterr().err.split("\n") if "gamma" in line]
    assert line.endswith("checkpoint/120 has gamma 0.5, this run has 0.99: the run continues with 0.99")


def test_a_checkpoint_of_another_format(run):
    manifest = files(run)[1]
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 1}))
    refused(run, "has format 1, this run has 2; it can't be resumed here")


def test_an_argument_newer_than_the_checkpoint_had_its_default(run, capfd):
    manifest = files(run)[1]
    content = json.loads(manifest.read_text())
    del content["arguments"]["normalize_rew"], content["arguments"]["gamma"]
    manifest.write_text(json.dumps(content))
    refused(run, "has normalize_rew True, this run has False; it can't be resumed here", normalize_rew=False)
    train("ppo", run, resume=True)
    assert len(table(run)) == 5
    assert "gamma" not in capfd.readouterr().err


def test_a_missing_argument_is_refused_beside_an_unknown_one(run):
    """As after a flipped bit in its name: its value may have been any."""
    manifest = files(run)[1]
    content = json.loads(manifest.read_text())
    content["arguments"]["normalize_re7"] = content["arguments"].pop("normalize_rew")
    manifest.write_text(json.dumps(content))
    refused(run, "has normalize_rew None, this run has True; it can't be resumed here")


@pytest.mark.parametrize(
    "changed", [{"sha256": {"a": 1}}, {"sha256": []}, {"sha256": "abc"}, {"epochs done": "2"}, {"epochs done": None}]
)
def test_a_manifest_with_wrong_types_is_refused(run, changed):
    manifest = files(run)[1]
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **changed}))
    refused(run, r"manifest.json is damaged \(")


def test_another_version_of_torch_causes_a_warning(run, capfd):
    manifest = files(run)[1]
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "torch": "2.0.0"}))
    train("ppo", run, resume=True)
    assert "has torch 2.0.0, this run has" in capfd.readouterr().err
    assert len(table(run)) == 5


# ---- resume, the command


@pytest.fixture
def cartpole(tmp_path, monkeypatch):
    """A run of one epoch, made by the command line."""
    monkeypatch.chdir(tmp_path)
    main(["vpg", "--env", "CartPole-v1", "--steps", "40", "--epochs", "1", "--num_envs", "1", "--quiet"])
    return tmp_path / "data" / "cmd_vpg" / "cmd_vpg_s0"


def failed_with(capsys, *words):
    with pytest.raises(SystemExit) as exit_:
        main(list(words))
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.strip().split("\n")
    return line


def test_resume_continues_a_run(cartpole):
    main(["resume", str(cartpole), "--epochs", "3"])
    assert [row["Epoch"] for row in table(cartpole)] == ["1", "2", "3"]
    config = json.loads((cartpole / "config.json").read_text())
    assert config["epochs"] == 3
    assert len(config["run"]["resumed"]) == 1
    assert "logger_kwargs" in config
    main(["resume", str(cartpole), "--epochs", "4"])  # a second time
    assert len(table(cartpole)) == 4


def test_resume_refuses(cartpole, capsys, tmp_path):
    assert "has already done epoch 1; --epochs 2 would" in failed_with(capsys, "resume", str(cartpole))
    assert "there is no folder" in failed_with(capsys, "resume", str(tmp_path / "nowhere"))
    (tmp_path / "model.pt").touch()
    what = f"'{tmp_path / 'model.pt'}' is a file; it must be a run's folder, such as '{tmp_path}'"
    assert what in failed_with(capsys, "resume", str(tmp_path / "model.pt"))
    assert "is not a run's folder (no config.json); runs in it: " in failed_with(capsys, "resume", str(tmp_path))
    assert "did you mean '--epochs'?" in failed_with(capsys, "resume", str(cartpole), "--epoch", "3")
    assert "resume: " in failed_with(capsys, "resume")
    config = json.loads((cartpole / "config.json").read_text())

    def with_config(**changes):
        (cartpole / "config.json").write_text(json.dumps({**config, **changes}))
        return failed_with(capsys, "resume", str(cartpole), "--epochs", "2")

    assert "names the algorithm 'os'; it must be one of crossq, ddpg, " in with_config(algorithm="os")
    assert "imports evil; allow it with --env evil:Env-v0" in with_config(env_fn="evil:Env-v0")
    assert "its networks are evil.Net; in Python" in with_config(actor_critic="evil.Net")
    assert "processes is 'x'; it must be an int" in with_config(run={"processes": "x"})
    (cartpole / "config.json").write_text(json.dumps({**config, "epochs": None}))
    assert "epochs is None; it must be a whole number at least 1" in failed_with(capsys, "resume", str(cartpole))


def test_a_refused_resume_leaves_config_json_as_it_was(cartpole, capsys):
    before = (cartpole / "config.json").read_bytes()
    words = ("resume", str(cartpole), "--epochs", "3", "--env", "Acrobot-v1")
    assert "has environment CartPole-v1, this run has Acrobot-v1" in failed_with(capsys, *words)
    assert (cartpole / "config.json").read_bytes() == before


def test_two_processes_cannot_resume_one_run(cartpole):
    script = (
        "import spinup, sys\n"
        "from spinup.runs.logger import Logger\n"
        "try: Logger(sys.argv[1], quiet=True, resume=True)\n"
        "except spinup.UserError as error: print(error)\n"
    )
    from spinup.runs.logger import Logger

    log = Logger(cartpole, quiet=True, resume=True)
    env = {**os.environ, "PYTHONPATH": str(Path(spinup.__file__).parents[1])}

    def other():
        command = [sys.executable, "-c", script, str(cartpole)]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=True).stdout

    assert other().startswith(f"another process is using {cartpole}")
    Logger(cartpole, quiet=True, resume=True).close()  # the same process may, for example after its run failed
    log.close()
    assert other() == ""


def test_an_environment_that_does_not_repeat_itself_continues_with_a_new_episode(tmp_path, capfd):
    class Drifts(Faulty):
        count = 0

        def step(self, action):
            Drifts.count += 1
            _, *rest = super().step(action)
            return np.full(2, Drifts.count % 97 / 97, np.float32), *rest

    class DriftsAndStops(Drifts):
        def step(self, action):
            if Drifts.count == 66:
                os.kill(os.getpid(), signal.SIGINT)
            return super().step(action)

    def go(env, resume):
        kwargs = dict(output_dir=str(tmp_path), quiet=True, resume=resume)
        spinup.ppo(env, num_envs=2, steps_per_epoch=50, epochs=4, minibatch_size=None, logger_kwargs=kwargs)

    DriftsAndStops.__name__ = "Drifts"
    with pytest.raises(KeyboardInterrupt):
        go(DriftsAndStops, resume=False)
    go(Drifts, resume=True)
    assert "Drifts: environments: 2 of 2 did not repeat their episodes from seed" in capfd.readouterr().err
    assert len(table(tmp_path)) == 4


class Ends(Faulty):
    """Rewards of 1 or, after ten calls of `step`, of another number; at step `length` the episode ends."""

    length, calls = 20, 0

    def step(self, action):
        Ends.calls += 1
        o, _, _, _, info = super().step(action)
        return o, 1.0 + (Ends.calls > 10), self.t >= self.length, False, info


@pytest.mark.parametrize(("length", "calls"), [(3, 0), (20, 6)])
def test_a_replay_that_ends_early_or_has_another_return_is_a_failure(monkeypatch, length, calls):
    monkeypatch.setattr(Ends, "calls", 0)
    envs = make_envs(Ends, 2)
    envs.reset()
    for _ in range(5):
        envs.step(envs.random_actions())
    state = envs.state_dict()
    for length_now, calls_now, failed in ((20, 0, False), (length, calls, True)):
        monkeypatch.setattr(Ends, "length", length_now)
        monkeypatch.setattr(Ends, "calls", calls_now)
        resumed = make_envs(Ends, 2)
        assert resumed.load_state_dict(state).tolist() == [failed, failed]
        assert resumed.ep_len.tolist() == ([0, 0] if failed else [5, 5])
        resumed.step(resumed.random_actions())


def test_the_state_of_another_log_info_is_refused():
    envs = make_envs(Faulty, 2, log_info=["x"])
    envs.reset()
    with pytest.raises(UserError, match=r"log_info is \[\]; the checkpoint has 1 such numbers"):
        make_envs(Faulty, 2).load_state_dict(envs.state_dict())


def test_an_error_in_the_state_of_a_checkpoint_is_not_the_disks(tmp_path, monkeypatch):
    def broken(self):
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(FlatAdam, "state_dict", broken)
    with pytest.raises(RuntimeError, match="device-side assert"):
        train("vpg", tmp_path, epochs=2)


def test_a_fault_of_the_environment_during_the_replay_is_a_fault(tmp_path):
    class Breaks(Faulty):
        def step(self, action):
            if breaking:
                raise ValueError("no license")
            return super().step(action)

    breaking = False
    options = dict(num_envs=2, steps_per_epoch=30, epochs=1, checkpoint_freq=1, train_v_iters=1)
    logger = dict(output_dir=str(tmp_path / "run"), quiet=True)
    spinup.vpg(Breaks, **options, logger_kwargs=logger)
    breaking = True
    with pytest.raises(Fault, match="Breaks: environment 0 raised ValueError: no license"):
        spinup.vpg(Breaks, **options | dict(epochs=2), logger_kwargs=dict(logger, resume=True))


def test_numpys_numbers_are_arguments_as_pythons_are(tmp_path):
    options = dict(num_envs=np.int64(2), steps_per_epoch=60, epochs=np.int64(2), checkpoint_freq=1)
    spinup.vpg(
        "CartPole-v1", **options, gamma=np.float32(0.5), logger_kwargs=dict(output_dir=tmp_path / "a", quiet=True)
    )
    assert json.loads((tmp_path / "a" / "config.json").read_text())["num_envs"] == 2
    spinup.resume(tmp_path / "a", epochs=3)
    assert len(table(tmp_path / "a")) == 3


def test_resuming_in_a_missing_folder(tmp_path):
    logger = dict(output_dir=tmp_path / "missing", resume=True)
    with pytest.raises(UserError, match=r"there is no folder '.*missing' with a run to resume"):
        spinup.vpg("CartPole-v1", logger_kwargs=logger)
    with pytest.raises(UserError, match=r"model.pt doesn't exist"):
        spinup.vpg("CartPole-v1", init_from=str(tmp_path), logger_kwargs=dict(exp_name="named", resume=True))


@pytest.mark.parametrize(
    ("freq", "killed_in", "refused"), [(0, None, True), (2, None, True), (2, 4, True), (5, 4, False)]
)
def test_a_run_whose_checkpoint_is_missing_is_not_trained_again(tmp_path, freq, killed_in, refused):
    def on_epoch(row):
        if row["Epoch"] == killed_in:
            raise ProcessEnded

    with contextlib.suppress(ProcessEnded):
        options = dict(num_envs=1, steps_per_epoch=30, train_v_iters=1, epochs=5, checkpoint_freq=freq)
        spinup.vpg("CartPole-v1", **options, on_epoch=on_epoch, logger_kwargs=dict(output_dir=tmp_path, quiet=True))
    shutil.rmtree(tmp_path / "checkpoint", ignore_errors=True)
    before = (tmp_path / "progress.txt").read_bytes()
    if refused:
        with pytest.raises(UserError, match=r"epochs and no checkpoint, .* --init_from .* would start with its policy"):
            spinup.resume(tmp_path, epochs=6)
        assert (tmp_path / "progress.txt").read_bytes() == before
    else:  # it had none yet
        spinup.resume(tmp_path)
        assert len(table(tmp_path)) == 5


def test_the_command_that_resumes_is_quoted(tmp_path, capfd):
    folder = tmp_path / "with space"

    def interrupt(row):
        os.kill(os.getpid(), signal.SIGTERM)

    logger = dict(output_dir=str(folder))
    with pytest.raises(SystemExit):
        spinup.vpg("CartPole-v1", num_envs=1, steps_per_epoch=50, on_epoch=interrupt, logger_kwargs=logger)
    assert f"To resume: python -m spinup.run resume '{folder}'" in capfd.readouterr().out


# ---- the page


def test_every_row_of_the_table_of_faults_names_existing_tests():
    root = Path(__file__).parents[1]
    rows = [row for row in (root / "docs" / "faults.md").read_text("utf-8").split("\n") if row.startswith("| ")][1:]
    rows = [row for row in rows if not row.startswith(("| ---", "| **"))]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"\ndef {test}(" in (root / "tests" / file).read_text("utf-8"), f"there is no {file}::{test}"


def test_a_module_is_imported_only_if_the_command_names_it():
    assert env_flag("my_envs.good:Mine-v3") == " --env my_envs.good:Mine-v3"
    assert env_flag("CartPole-v1") == ""
    assert env_flag(lambda: None) == ""
