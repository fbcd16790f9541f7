"""Training on two processes, through the real launcher: gradients, exact resume, and ending all processes together."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from test_resume import SETTINGS

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def launcher():
    pytest.importorskip("mpi4py")
    if not (Path(sys.executable).parent / "mpiexec").exists() and shutil.which("mpiexec") is None:
        pytest.skip("no mpiexec")


def launch(folder, text, *words, timeout=300):
    """Run a script on two processes; returns the completed process."""
    script = folder / "two.py"
    script.write_text("from spinup import mpi\nmpi.mpi_fork(2)\n" + textwrap.dedent(text))
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), *words]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=timeout)


GRADIENTS = """
import sys

import gymnasium as gym
import torch
from gymnasium import spaces

from spinup import nets
from spinup.algos import ddpg, ppo, sac, td3, trpo, vpg
from spinup.compute.optim import FlatAdam

torch.manual_seed(0)  # the same networks and the same batch on both
box, acts = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))
B = 10
o, o2, a = torch.randn(B, 3), torch.randn(B, 3), torch.rand(B, 2) * 2 - 1
adv, ret, r, logp_old = torch.randn(4, B)
done = (torch.rand(B) < 0.3).float()
mine = torch.arange(mpi.proc_id(), B, 2)  # this process's half
ac = nets.ActorCritic(box, acts, (8,))
logp = lambda i: ac.pi(o[i]).log_prob(a[i])
det, twin, soft = nets.DeterministicActorCritic(box, acts, (8,)), nets.TwinActorCritic(box, acts, (8,)), None
soft = nets.SoftActorCritic(box, acts, (8,))
temperature = sac.Temperature(0.3)
y = torch.randn(B)


def soft_value(i):
    torch.manual_seed(1)
    noise = torch.randn(B, 2)
    pi = soft.actor(o[i])
    u = pi.mu + pi.log_std.exp() * noise[i]
    act = pi.middle + pi.half_range * u.tanh()
    return soft.critic(o[i], act).min(0).values


losses = {
    "vpg pi": (ac.actor, lambda i: vpg.policy_loss(logp(i), adv[i])),
    "vpg v": (ac.critic, lambda i: vpg.value_loss(ac.v(o[i]), ret[i])),
    "ppo pi": (ac.actor, lambda i: ppo.policy_loss(logp(i), logp_old[i], adv[i], 0.2)),
    "ppo v": (ac.critic, lambda i: ppo.value_loss(ac.v(o[i]), ret[i], ret[i] + 0.1, 0.2)),
    "trpo pi": (ac.actor, lambda i: -trpo.surrogate(logp(i), logp_old[i], adv[i])),
    "trpo v": (ac.critic, lambda i: trpo.value_loss(ac.v(o[i]), ret[i])),
    "ddpg q": (det.critic, lambda i: ddpg.q_loss(det.critic[0](o[i], a[i]), y[i])),
    "ddpg pi": (det.actor, lambda i: -det.critic[0](o[i], det.actor(o[i])).mean()),
    "td3 q": (twin.critic, lambda i: td3.q_loss(twin.critic(o[i], a[i]), y[i])),
    "td3 pi": (twin.actor, lambda i: -twin.critic[0](o[i], twin.actor(o[i])).mean()),
    "sac q": (soft.critic, lambda i: sac.q_loss(soft.critic(o[i], a[i]), y[i])),
    "sac pi": (soft.actor, lambda i: -soft_value(i).mean()),
    "sac alpha": (temperature, lambda i: sac.alpha_loss(temperature.log_alpha, logp_old[i], -2.0)),
}
for name, (module, loss) in losses.items():
    params = list(module.parameters())
    whole = torch.cat([g.flatten() for g in torch.autograd.grad(loss(torch.arange(B)), params, materialize_grads=True)])
    half = torch.cat([g.flatten() for g in torch.autograd.grad(loss(mine), params, materialize_grads=True)])
    optimizer = FlatAdam(module, 0.0)
    optimizer.minimize(loss(mine))
    assert (half - whole).abs().max() > 1e-4, name  # otherwise the test would be vacuous
    averaged = torch.cat([p.grad.flatten() for p in params])
    torch.testing.assert_close(averaged, whole, rtol=1e-6, atol=1e-6, msg=name)

params = list(ac.actor.parameters())
v = torch.randn(sum(p.numel() for p in params))
kl = lambda i: ac.pi(o[i]).detach().kl(ac.pi(o[i])).mean()
product = trpo.fisher_vector_product(kl(mine), params, 0.1)(v)
if mpi.proc_id() == 0:
    mpi._alone = True
    mpi.world.cache_clear()
    whole = trpo.fisher_vector_product(kl(torch.arange(B)), params, 0.1)(v)
    torch.testing.assert_close(product, whole, rtol=1e-5, atol=1e-6, msg="fisher")
sys.stdout.write("done\\n")  # in one write, since both processes share the pipe
sys.stdout.flush()
"""


def test_averaged_gradients_of_two_halves_are_those_of_the_whole_batch(tmp_path):
    result = launch(tmp_path, GRADIENTS)
    assert result.stdout.split() == ["done", "done"], result.stdout + result.stderr
    assert result.returncode == 0


CAPTURED = """
import functools
import sys

import torch

from spinup.compute import optim  # for the operator average_
from spinup.compute.capture import captured, front, unguarded

front.PATIENCE = 0.0
unguarded.REWRITTEN_METHODS = ()  # Dynamo's own addcmul_ rounds differently
rank = mpi.proc_id()
y, z = torch.randn(2, 64, generator=torch.Generator().manual_seed(rank))


def agrees(state, batch):
    x = batch[0] * state
    torch.ops.spinup.average_(x)
    state.lerp_(x, 0.5)
    return {"X": x * state}


def differs_before(state, batch):
    x = (batch[0] * state).addcmul_(y, z, value=0.3)
    torch.ops.spinup.average_(x)
    state.lerp_(x, 0.5)
    return {"X": x * state}


def differs_after(state, batch):
    x = batch[0] * state
    torch.ops.spinup.average_(x)
    state.addcmul_(y, z, value=0.3).add_(x)
    return {"X": x * state}


for update in (agrees, differs_before, differs_after):
    state, expected = torch.ones(64), torch.ones(64)
    run = captured()(functools.partial(update, state))
    for i in range(12):
        x = torch.rand(64)
        result = (run.as_python if i < 3 * rank else run)((x,))  # the processes trace it at different times
        assert torch.equal(result["X"], update(expected, (x,))["X"]), update.__name__
        assert torch.equal(state, expected), update.__name__
    assert run.stays_python == (update is not agrees), update.__name__
sys.stdout.write("done\\n")
sys.stdout.flush()
"""


def test_graphs_are_compared_with_python_on_each_process_alone(tmp_path):
    """Running an update twice takes part in each average once, whatever the other process does meanwhile."""
    result = launch(tmp_path, CAPTURED, timeout=120)
    assert result.stdout.split() == ["done", "done"], result.stdout + result.stderr
    assert result.stderr.count("Dynamo computes something else than Python") == 2  # from the first process


RESUME = """
import sys
from pathlib import Path

import test_resume as t

for name in sys.argv[2:]:
    whole, cut, stopped = (Path(sys.argv[1]) / name / x for x in ("whole", "cut", "stopped"))
    more = dict(steps_per_epoch=120)
    t.train(name, whole, **more)
    try:
        t.train(name, cut, step=200, **more)
        raise AssertionError("went on")
    except t.ProcessEnded:
        pass
    try:
        action = t.terminate if mpi.proc_id() == 1 else (lambda: None)  # one gets the signal, both stop
        t.train(name, stopped, step=153, action=action, **more)
        raise AssertionError("went on")
    except SystemExit:
        pass
    for folder in (cut, stopped):
        t.train(name, folder, resume=True, **more)
        if mpi.proc_id() == 0:
            t.same_run(folder, whole)
            assert len(t.table(folder)) == 5
    sys.stdout.write(name + "\\n")
    sys.stdout.flush()
"""


STATISTICS = """
import sys

import numpy as np
from test_normalize_obs import ReplayBuffer, train

seen, store = [], ReplayBuffer.store


def store_and_keep(self, o, *rest):
    seen.append(o.copy())
    store(self, o, *rest)


ReplayBuffer.store = store_and_keep
ac = train("td3", sys.argv[1])
everything = np.concatenate([o for part in mpi.allgather(seen) for o in part])
assert len(everything) == ac.obs_norm.count == 80, (len(everything), ac.obs_norm.count)
np.testing.assert_allclose(ac.obs_norm.mean, everything.mean(0), rtol=1e-5)
np.testing.assert_allclose(ac.obs_norm.std, everything.std(0), rtol=1e-3)
means = mpi.allgather(ac.obs_norm.mean.tolist())
assert means[0] == means[1]
print("all is well")
"""


def test_observation_statistics_cover_both_processes(tmp_path):
    result = launch(tmp_path, STATISTICS, str(tmp_path / "run"))
    assert result.stdout.count("all is well") == 2, result.stderr


FAST = ("ppo", "sac-rigl")
REST = tuple(name for name in SETTINGS if name not in FAST)


@pytest.mark.parametrize("names", [FAST, pytest.param(REST, marks=pytest.mark.slow)], ids=["fast", "rest"])
def test_exact_resume_on_two_processes(tmp_path, names):
    """Killed or stopped by a signal: table and policy equal the uninterrupted run's."""
    result = launch(tmp_path, RESUME, str(tmp_path), *names, timeout=500)
    assert result.returncode == 0, result.stdout + result.stderr
    assert sorted(result.stdout.split()) == sorted([*names] * 2)


# ---- when one process ends, all end

TRAIN = """
import os, sys, time
import gymnasium as gym
import spinup

class Env(gym.Wrapper):
    steps = 0
    def step(self, action):
        Env.steps += 1
        if Env.steps == 300 and mpi.proc_id() == 1:
            print("now", time.time(), flush=True)
            %s
        return self.env.step(action)

spinup.ppo(lambda: Env(gym.make("CartPole-v1")), epochs=10_000, checkpoint_freq=1, steps_per_epoch=256,
    logger_kwargs=dict(output_dir="run", quiet=True))
"""
ENDS = {
    "raises": ("raise ZeroDivisionError('here')", "ZeroDivisionError: here"),
    "is killed": ("os.kill(os.getpid(), 9)", "KILLED BY SIGNAL: 9|EXIT STRING: Killed|EXIT CODE: 9"),
    "runs out of memory": ("import numpy; numpy.empty(10**15)", "Unable to allocate"),
    "leaves": ("os._exit(3)", ""),
}


@pytest.mark.parametrize("how", ENDS)
def test_when_one_process_ends_all_end(how, tmp_path):
    """Within 10 seconds, with its traceback, an exit status other than 0, and no process left behind."""
    code, message = ENDS[how]
    result = launch(tmp_path, TRAIN % code, timeout=200)
    late = time.time() - float(result.stdout.split()[1])
    assert result.returncode != 0
    assert late < 10
    output = result.stdout + result.stderr
    assert any(part in output for part in message.split("|")), output
    assert not processes(tmp_path / "two.py")
    if how == "raises":
        assert output.count("Traceback") <= 2  # with the cause


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_or_a_closed_terminal_stops_all_processes_with_a_checkpoint(tmp_path, number):
    (tmp_path / "two.py").write_text("from spinup import mpi\nmpi.mpi_fork(2)\n" + TRAIN % "pass")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "two.py"],
        env=env,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while "now" not in process.stdout.readline():
        assert process.poll() is None
    os.killpg(process.pid, number) if number == signal.SIGHUP else process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not processes(tmp_path / "two.py")
    (kept,) = (tmp_path / "run" / "checkpoint").iterdir()
    assert sorted(path.name for path in kept.iterdir()) == ["manifest.json", "rank0.pt", "rank1.pt"]


GRID = """
import sys

from spinup import mpi
from spinup.experiments.grid import ExperimentGrid

def once(seed, logger_kwargs):
    import spinup
    sys.stdout.write(f"trained-{seed}\\n")  # in one write, since both processes share the pipe
    sys.stdout.flush()
    spinup.vpg("CartPole-v1", seed=seed, num_envs=1, steps_per_epoch=40, epochs=1, logger_kwargs=logger_kwargs)

grid = ExperimentGrid("two")
grid.add("seed", [0, 1])
runs = grid.run(once, data_dir=".", logger_kwargs={"quiet": True})
if mpi.proc_id() == 0:
    print(",".join(run.outcome.removeprefix("done ") for run in runs))
"""


def test_a_repeated_grid_does_only_what_is_not_done(tmp_path):
    first = launch(tmp_path, GRID)
    assert sorted(first.stdout.split()) == sorted(["done,done", *["trained-0", "trained-1"] * 2]), first.stderr
    shutil.rmtree(tmp_path / "two" / "two_s1")
    second = launch(tmp_path, GRID)
    assert sorted(second.stdout.split()) == sorted(["before,done", *["trained-1"] * 2]), second.stderr
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["two_s0", "two_s1"]


def processes(script):
    """Processes with the script on their command line, after a moment to let them end."""
    for _ in range(20):
        listed = subprocess.run(["ps", "-eo", "pid,stat,args"], capture_output=True, text=True, check=True).stdout
        found = [line for line in listed.split("\n") if str(script) in line and " Z" not in line]
        if not found:
            return []
        time.sleep(0.25)
    return found


def test_differing_parameters_are_named(tmp_path):
    result = launch(
        tmp_path,
        """
        import torch
        import spinup
        from spinup.nets import ActorCritic

        class Differs(ActorCritic):
            def v(self, o):
                if mpi.proc_id() == 1 and o.dim() == 3:
                    with torch.no_grad():
                        self.critic[-1][2].weight[0, 0] += 1e-3
                return super().v(o)

        spinup.vpg("CartPole-v1", Differs, epochs=3, steps_per_epoch=64,
            logger_kwargs=dict(output_dir="run", quiet=True))
        """,
    )
    assert result.returncode != 0
    assert "critic.1.2.weight differs between processes 1 and 0 after epoch 1" in result.stderr


# ---- two hosts

HOSTS = """set -e
ip netns add {a}; ip netns add {b}
ip link add {a} type veth peer name {b}
ip link set {a} netns {a}; ip link set {b} netns {b}
ip -n {a} addr add 10.77.0.1/24 dev {a}; ip -n {b} addr add 10.77.0.2/24 dev {b}
for name in {a} {b}; do ip -n $name link set lo up; ip -n $name link set $name up; done
"""
# Stands in for ssh; called as `[-x] HOST COMMAND...`.
SSH = """#!/bin/sh
while [ "${{1#-}}" != "$1" ]; do shift; done
case $1 in 10.77.0.1) host={a};; *) host={b};; esac
shift
exec ip netns exec $host unshare --uts sh -c "hostname $host; $*"
"""


@pytest.fixture
def hosts(tmp_path):
    """Two connected network namespaces, and a command to log in to them; yields the first one's name."""
    name = f"su{os.getpid()}"
    names = dict(a=f"{name}a", b=f"{name}b")
    if not shutil.which("ip") or not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("creating network namespaces needs root and the command ip")
    try:
        if subprocess.run(["sh", "-c", HOSTS.format(**names)], capture_output=True).returncode:
            pytest.skip("this system doesn't allow network namespaces")
        (tmp_path / "ssh").write_text(SSH.format(**names))
        (tmp_path / "ssh").chmod(0o755)
        (tmp_path / "hosts").write_text("10.77.0.1:1\n10.77.0.2:1\n")
        yield names["a"]
    finally:
        for host in names.values():
            subprocess.run(["ip", "netns", "delete", host], capture_output=True)


def test_two_hosts(tmp_path, hosts):
    """A hostfile, as in the documentation; the processes communicate over the network."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launcher = Path(sys.executable).parent / "mpiexec"
    if "HYDRA" not in subprocess.run([launcher, "--version"], capture_output=True, text=True).stdout.upper():
        pytest.skip("launchers other than MPICH's have other flags")
    login = ["-launcher", "ssh", "-launcher-exec", str(tmp_path / "ssh")]
    train = [
        "-m",
        "spinup.run",
        "ppo",
        "--env",
        "CartPole-v1",
        "--steps",
        "256",
        "--epochs",
        "2",
        "--quiet",
        "--data_dir",
    ]
    result = subprocess.run(
        ["ip", "netns", "exec", hosts, launcher, *login, "-f", tmp_path / "hosts", "-n", "2", sys.executable, *train,
         str(tmp_path)], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    run = tmp_path / "cmd_ppo" / "cmd_ppo_s0"
    assert json.loads((run / "config.json").read_text())["run"]["processes"] == 2
    assert (run / "progress.txt").read_text().count("\n") == 3
    (kept,) = (run / "checkpoint").iterdir()
    assert {path.name for path in kept.iterdir()} == {"manifest.json", "rank0.pt", "rank1.pt"}
