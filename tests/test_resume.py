"""A resumed run continues exactly: its table and policy equal those of an uninterrupted run."""

import csv
import functools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import pytest
import torch
from probes import ALGORITHMS, OFF_POLICY, ON_POLICY, taken

import spinup
from spinup.errors import UserError

ROOT = Path(__file__).parent.parent
TIMES = {"Time", "EvalTime"}

ON = dict(num_envs=2, steps_per_epoch=60, epochs=5, checkpoint_freq=2, save_freq=2, max_ep_len=35)
OFF = dict(num_envs=2, steps_per_epoch=60, epochs=5, checkpoint_freq=2, max_ep_len=35, num_test_episodes=2)
OFF |= dict(start_steps=40, update_after=30, update_every=4, batch_size=8, replay_size=200)
OFF |= dict(ac_kwargs=dict(hidden_sizes=[16, 16]))
RIGL = dict(sparsity=0.5, block_size=16, layout="regular", schedule="rigl", every=5, fraction=0.5)
SETTINGS = {
    "vpg": ("CartPole-v1", ON | dict(train_v_iters=3, eval_freq=2, num_test_episodes=2)),
    "trpo": ("Pendulum-v1", ON | dict(train_v_iters=3)),
    "ppo": ("Pendulum-v1", ON | dict(train_pi_iters=2, train_v_iters=3, minibatch_size=16)),
    "dqn": (
        "CartPole-v1",
        taken("dqn", OFF) | dict(epsilon_steps=150, ac_kwargs=dict(hidden_sizes=[16], dueling=True)),
    ),
    "ppo_rnn": (
        "CartPole-v1",
        ON | dict(train_pi_iters=2, train_v_iters=3, minibatch_size=16, seq_len=8, eval_freq=2, num_test_episodes=2),
    ),
    "ddpg": ("Pendulum-v1", OFF | dict(noise_corr=0.7, n_step=3)),
    "td3": ("Pendulum-v1", OFF | dict(num_envs=1, update_every=1, policy_delay=3, noise_corr=0.5)),
    "sac": ("Pendulum-v1", OFF),
    "crossq": ("Pendulum-v1", OFF | dict(policy_delay=2)),
    "crossq-targets": ("Pendulum-v1", OFF | dict(polyak=0.9, joint=False, policy_average=0.0)),
    "sac-rigl": ("Pendulum-v1", OFF | dict(ac_kwargs=dict(hidden_sizes=[64, 64], linear=RIGL))),
    "ppo-prune": (
        "CartPole-v1",
        ON | dict(ac_kwargs=dict(hidden_sizes=[64, 64], linear=RIGL | dict(schedule="prune"))),
    ),
    "sac-discrete": ("CartPole-v1", OFF | dict(eval_freq=3, n_step=2, policy_average=0.9)),
}


class ProcessEnded(BaseException):
    """Simulates the end of the process: the run gets no chance to do anything more."""


class ActsAtStep(gym.Wrapper):
    """Calls a function at a certain step, counted over all training environments."""

    def __init__(self, env, count, step, action):
        super().__init__(env)
        self.count, self.step_to_act, self.action = count, step, action

    def step(self, action):
        self.count[0] += 1
        if self.count[0] == self.step_to_act:
            self.action()
        return self.env.step(action)


def acting_at_step(env_id, num_envs, step, action):
    """An env_fn. The first environment is only inspected, the next `num_envs` are for training, the rest for tests."""
    made, count = [0], [0]

    def make():
        made[0] += 1
        env = gym.make(env_id)
        return ActsAtStep(env, count, step, action) if 1 < made[0] <= 1 + num_envs else env

    return make


def end_process():
    raise ProcessEnded


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def train(name, folder, step=-1, action=end_process, resume=False, **more):
    algo = name.partition("-")[0]
    env, settings = SETTINGS[name]
    kwargs = dict(output_dir=str(folder), exp_name="x", quiet=True, resume=resume)
    settings = {**settings, **more}
    return getattr(spinup, algo)(
        acting_at_step(env, settings["num_envs"], step, action), **settings, logger_kwargs=kwargs
    )


def table(folder):
    """Rows of progress.txt without the times."""
    with open(Path(folder) / "progress.txt", newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file, delimiter="\t")]


def same_state(a, b):
    a, b = (torch.load(path, weights_only=True) for path in (a, b))
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=0, equal_nan=True, msg=key)


def same_run(a, b):
    assert table(a) == table(b)
    for file in ("model.pt", "model_best.pt"):
        same_state(a / file, b / file)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs, made once each."""
    root, made = tmp_path_factory.mktemp("whole"), {}

    def get(name):
        if name not in made:
            train(name, root / name)
            made[name] = root / name
        return made[name]

    return get


# ---- resuming is exact


def test_every_algorithm_is_among_the_runs():
    assert {name.partition("-")[0] for name in SETTINGS} == set(COMMANDS) == set(ALGORITHMS)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_that_died_is_resumed_exactly(name, whole, tmp_path):
    """Killed in the fourth epoch, so it resumes from the checkpoint after the second."""
    with pytest.raises(ProcessEnded):
        train(name, tmp_path, step=200)
    assert len(table(tmp_path)) == 3
    assert (tmp_path / "checkpoint" / "120" / "manifest.json").exists()
    train(name, tmp_path, resume=True)
    assert len(table(tmp_path)) == 5
    same_run(tmp_path, whole(name))


@pytest.mark.parametrize("step", [100, 200])  # before and after its first checkpoint
def test_a_run_of_another_version_is_not_resumed(tmp_path, step):
    """Without a checkpoint, too: it would start over with this version's defaults for what config.json doesn't name."""
    with pytest.raises(ProcessEnded):
        train("vpg", tmp_path, step=step)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    config["run"]["spinup"] = "0.9"
    file.write_text(json.dumps(config))
    message = f"{tmp_path} was begun by spinup 0.9, this is {spinup.__version__}; it can't be resumed here"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        spinup.resume(tmp_path)


def test_a_run_that_died_before_its_first_checkpoint_starts_over(whole, tmp_path):
    with pytest.raises(ProcessEnded):
        train("vpg", tmp_path, step=100)
    assert len(table(tmp_path)) == 1
    assert not (tmp_path / "checkpoint").exists()
    train("vpg", tmp_path, resume=True)
    same_run(tmp_path, whole("vpg"))


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(("action", "error"), [(terminate, SystemExit), (interrupt, KeyboardInterrupt)])
def test_a_stopped_run_is_resumed_exactly_from_that_step(name, action, error, whole, tmp_path):
    with pytest.raises(error) as stopped:
        train(name, tmp_path, step=153, action=action)
    if error is SystemExit:
        assert stopped.value.code == 128 + signal.SIGTERM
    (kept,) = (tmp_path / "checkpoint").iterdir()
    assert kept.name == ("153" if SETTINGS[name][1]["num_envs"] == 1 else "154")  # the step in progress was finished
    train(name, tmp_path, resume=True)
    same_run(tmp_path, whole(name))


@pytest.mark.parametrize(("action", "error"), [(terminate, SystemExit), (interrupt, KeyboardInterrupt)])
def test_a_signal_after_the_last_step_ends_the_process_of_a_finished_run(action, error, whole, tmp_path):
    """It arrives in the last epoch's update, evaluation or save; a grid must not go on to its next run."""
    epochs = SETTINGS["vpg"][1]["epochs"]
    with pytest.raises(error):
        train("vpg", tmp_path, on_epoch=lambda row: action() if row["Epoch"] == epochs else None)
    same_run(tmp_path, whole("vpg"))


def test_a_signal_after_a_runs_last_step_stops_its_grid(tmp_path):
    interrupts = [interrupt]  # one, in the last epoch of the first run

    def run_grid():
        grid = spinup.ExperimentGrid("g")
        settings = SETTINGS["vpg"][1] | dict(epochs=1, env_fn="CartPole-v1", seed=[0, 1])
        settings["on_epoch"] = lambda row: interrupts.pop()() if interrupts else None
        for name, value in settings.items():
            grid.add(name, value)
        return grid.run(spinup.vpg, data_dir=str(tmp_path))

    with pytest.raises(KeyboardInterrupt):
        run_grid()
    first = tmp_path / "g" / "g_s0"
    assert [file.parent for file in tmp_path.rglob("progress.txt")] == [first]
    rows = (first / "progress.txt").read_text()
    assert [run.outcome for run in run_grid()] == ["done", "done"]
    assert (first / "progress.txt").read_text() == rows


def test_a_stopped_run_has_its_best_policy(tmp_path):
    with pytest.raises(SystemExit):
        train("vpg", tmp_path, step=153, action=terminate, save_freq=1000, anneal_lr=False)
    best = torch.load(tmp_path / "model_best.pt", weights_only=True)
    epochs = sum(1 for _ in table(tmp_path))
    train("vpg", tmp_path / "shorter", epochs=epochs, anneal_lr=False)
    for name, value in torch.load(tmp_path / "shorter" / "model_best.pt", weights_only=True).items():
        assert torch.equal(value, best[name])


# ---- the command line, killed without warning


def start(folder, *words):
    """Start the command in a session of its own, so that all its processes can be killed at once."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(folder.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "spinup.run", *words], env=env, stdout=log, stderr=log, start_new_session=True
        )


EPOCHS = 80
REPLAY = f"--steps 50 --epochs {EPOCHS} --batch_size 16 --hid 32,32 --update_after 50 --eval_freq 10"
COMMANDS = {
    **dict.fromkeys([*ON_POLICY, "ppo_rnn"], f"--env CartPole-v1 --steps 200 --epochs {EPOCHS}"),
    **dict.fromkeys(OFF_POLICY, f"--env Pendulum-v1 --start_steps 100 {REPLAY}"),
    "dqn": f"--env CartPole-v1 --epsilon_steps 1000 {REPLAY}",
}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("algo", COMMANDS)
def test_killed_at_ten_random_moments(algo, processes, tmp_path):
    """kill -9 on all processes of the run, at startup or after some epochs, at any point."""
    flags = [*COMMANDS[algo].split(), "--checkpoint_freq", "1", "--cpu", str(processes), "--quiet"]
    assert start(tmp_path / "whole", algo, *flags, "--data_dir", str(tmp_path / "whole")).wait(500) == 0
    run, luck = tmp_path / "killed" / f"cmd_{algo}" / f"cmd_{algo}_s0", random.Random(f"{algo}{processes}")

    def rows():
        return (run / "progress.txt").read_bytes().count(b"\n") if (run / "progress.txt").exists() else 0

    def command():
        if (run / "config.json").exists():
            return "resume", str(run)
        shutil.rmtree(run, ignore_errors=True)
        return algo, *flags, "--data_dir", str(tmp_path / "killed")

    for _ in range(10):
        process = start(tmp_path / "killed", *command())
        enough = time.monotonic() + luck.uniform(1, 100)  # at the latest
        more = rows() + luck.randint(1, EPOCHS // 20)
        while rows() < more and time.monotonic() < enough:
            assert process.poll() in (None, 0), (tmp_path / "killed.log").read_text()
            time.sleep(0.01)
        time.sleep(luck.uniform(0, 0.2))
        assert process.poll() is None, "it ended before it was killed ten times"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert rows() == 0 or (run / "progress.txt").read_bytes().endswith(b"\n")
    assert start(tmp_path / "killed", *command()).wait(500) == 0
    same_run(run, tmp_path / "whole" / f"cmd_{algo}" / f"cmd_{algo}_s0")


# ---- environments and wrappers


def test_an_environment_made_by_a_function_must_be_passed_again(tmp_path):
    functions = {"lambda": lambda: gym.make("CartPole-v1"), "partial": functools.partial(gym.make, "CartPole-v1")}
    for name, make in functions.items():
        spinup.vpg(make, **ON | dict(epochs=1), logger_kwargs=dict(output_dir=tmp_path / name, quiet=True))
        for function in (spinup.resume, spinup.load):
            with pytest.raises(UserError, match=r": its environment was made by .*; pass that function \(env_fn=\)"):
                function(tmp_path / name)
        spinup.resume(tmp_path / name, epochs=2, env_fn=make)


def short(folder, **kwargs):
    settings = dict(ON, epochs=1, train_v_iters=1, logger_kwargs=dict(output_dir=folder, quiet=True))
    return spinup.vpg("CartPole-v1", **{**settings, **kwargs})


def test_a_resumed_run_keeps_its_wrappers_and_log_info(tmp_path):
    short(tmp_path, wrappers="gymnasium.wrappers:TimeLimit(7)", log_info="x.y", reseed=False, num_test_envs=1)
    spinup.resume(tmp_path, epochs=3)
    table = list(csv.DictReader((tmp_path / "progress.txt").read_text().splitlines(), delimiter="\t"))
    assert [float(row["EpLen"]) for row in table] == [7, 7, 7]
    assert [row["x.y"] for row in table] == ["nan"] * 3


def test_a_wrapper_that_is_not_gymnasiums_must_be_named(tmp_path):
    name = f"{__name__}:Seven"
    short(tmp_path, wrappers=[name])
    with pytest.raises(spinup.errors.UserError, match=f"--wrapper {name}"):
        spinup.resume(tmp_path, epochs=2)
    for other in (["gymnasium.wrappers:TimeLimit(7)"], [f"{__name__}:Seven()"], [name, name]):
        with pytest.raises(spinup.errors.UserError, match=rf"wrappers cannot be changed .* are \['{name}'\]$"):
            spinup.resume(tmp_path, epochs=2, wrappers=other)
    spinup.resume(tmp_path, epochs=2, wrappers=[name])
    with pytest.raises(spinup.errors.UserError, match=f"--wrapper {name}"):
        spinup.load(tmp_path)
    assert spinup.load(tmp_path, wrappers=[name])


def Seven(env):
    return gym.wrappers.TimeLimit(env, 7)
