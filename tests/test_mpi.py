"""spinup.compute.mpi: no-ops in one process, and the same calls in two processes started by mpiexec."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from spinup.compute import mpi
from spinup.errors import UserError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def not_launched(monkeypatch):
    """Removes a launcher's environment variables, in case the tests themselves run under one."""
    for name in (*mpi.WORLD_SIZE_VARIABLES, "PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    mpi.world.cache_clear()
    yield
    mpi.world.cache_clear()


pytestmark = pytest.mark.usefixtures("not_launched")


# ---- one process


def test_one_process_is_rank_0_of_1():
    assert (mpi.proc_id(), mpi.num_procs(), mpi.num_procs_here()) == (0, 1, 1)


@pytest.mark.parametrize("x", [3.5, 2, np.array([1.0, -2.0]), np.ones((2, 3))])
def test_reductions_of_one_process_change_nothing(x):
    for reduce in (mpi.mpi_sum, mpi.mpi_avg, mpi.mpi_min, mpi.mpi_max):
        np.testing.assert_array_equal(reduce(x), x)


def test_in_place_functions_of_one_process_change_nothing():
    x, t, module = np.arange(3.0), torch.arange(3.0), nn.Linear(2, 2)
    module(torch.ones(1, 2)).sum().backward()
    before = [p.clone() for p in [*module.parameters(), *(p.grad for p in module.parameters())]]
    mpi.broadcast(x)
    mpi.average_tensor(t)
    mpi.sync_params(module)
    mpi.mpi_avg_grads(module)
    assert x.tolist() == t.tolist() == [0, 1, 2]
    after = [*module.parameters(), *(p.grad for p in module.parameters())]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_mpi_fork_of_one_returns():
    for n in (1, 0):
        mpi.mpi_fork(n)


def test_statistics_by_hand():
    assert mpi.mpi_statistics_scalar([1, 2, 3, 4]) == pytest.approx((2.5, 1.25**0.5), rel=1e-15)
    assert mpi.mpi_statistics_scalar([1, 2, 3, 4], with_min_and_max=True)[2:] == (1, 4)
    assert mpi.mpi_statistics_scalar([7.0], with_min_and_max=True) == (7, 0, 7, 7)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_statistics_match_numpy(dtype):
    x = (1e4 + 100 * np.random.default_rng(0).normal(size=1000)).astype(dtype)
    wide = x.astype(np.float64)
    expected = (wide.mean(), wide.std(), wide.min(), wide.max())
    assert mpi.mpi_statistics_scalar(x, with_min_and_max=True) == pytest.approx(expected, rel=1e-12)
    assert mpi.mpi_statistics_scalar(x.tolist()) == pytest.approx(expected[:2], rel=1e-12)


def test_statistics_of_nothing_are_nan_without_a_warning():
    mean, std, low, high = mpi.mpi_statistics_scalar([], with_min_and_max=True)
    assert np.isnan([mean, std]).all()
    assert (low, high) == (np.inf, -np.inf)


def test_msg_says_its_rank(capsys):
    mpi.msg("hello", "there")
    assert capsys.readouterr().out == "Message from 0: hello there\n"


def test_one_process_never_imports_mpi4py():
    code = """
        import sys
        import numpy as np
        import torch
        from spinup.compute import mpi
        from spinup.buffers import normalize
        from spinup.nets import RunningNorm
        mpi.proc_id(), mpi.num_procs(), mpi.mpi_sum(1.0), mpi.mpi_avg(np.ones(2)), mpi.mpi_statistics_scalar([1, 2])
        mpi.broadcast(np.ones(2)), mpi.sync_params(torch.nn.Linear(1, 1)), mpi.mpi_fork(1)
        mpi.average_tensor(torch.ones(2)), normalize(torch.ones(2, 2)), RunningNorm((2,)).update(torch.ones(3, 2))
        assert not any(name.split(".")[0] == "mpi4py" for name in sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, cwd=ROOT, timeout=300)


# ---- launchers


@pytest.mark.parametrize(
    ("variables", "launched"),
    [
        ({}, False),
        ({"PMI_SIZE": "2", "PMI_RANK": "0"}, True),
        ({"PMI_SIZE": "1", "PMI_RANK": "0"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}, True),
        ({"SLURM_NTASKS": "8"}, False),  # a Slurm batch script, not started by srun
        ({"SLURM_NTASKS": "8", "SLURM_STEP_ID": "0"}, True),
        ({"SLURM_NTASKS": "", "SLURM_STEP_ID": "0"}, False),
    ],
)
def test_launchers_are_recognized_by_their_variables(variables, launched, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert mpi.launched() is launched


def test_a_launched_process_does_not_fork_again(monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("started processes"))
    mpi.mpi_fork(2)


def test_a_launched_process_without_mpi4py_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setitem(sys.modules, "mpi4py", None)  # makes its import fail
    with pytest.raises(UserError, match=r'mpi4py.*pip install .*\[mpi\]"$'):
        mpi.num_procs()


@pytest.mark.parametrize("missing", ["mpi4py", "mpiexec"])
def test_mpi_fork_says_what_is_missing(missing, monkeypatch, tmp_path):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))  # no mpiexec next to it
    monkeypatch.setattr(shutil, "which", lambda name: None if missing == "mpiexec" else f"/usr/bin/{name}")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing == "mpi4py" else find_spec(name)
    )
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("started processes"))
    with pytest.raises(UserError, match=rf'2 processes need {missing}.*pip install .*\[mpi\]"$'):
        mpi.mpi_fork(2)


def test_mpi_fork_replaces_the_process_by_a_launcher_of_the_same_command(monkeypatch, tmp_path):
    class Became(Exception):
        pass

    def execve(*arguments):
        raise Became(*arguments)

    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(sys, "argv", ["train.py", "--env", "CartPole-v1"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN)  # nothing to do when the terminal closes
    with pytest.raises(Became) as became:
        mpi.mpi_fork(4)
    program, command, env = became.value.args
    assert program == "/usr/bin/mpiexec"
    assert command == [
        *("/usr/bin/mpiexec", "-n", "4", str(tmp_path / "python"), "-u", "train.py", "--env", "CartPole-v1")
    ]
    assert env["OMP_NUM_THREADS"] == "1"
    assert env["PATH"] == os.environ["PATH"]


# ---- two processes

TWO = """
import sys

from spinup.compute import mpi

mpi.mpi_fork(2)

import numpy as np
import torch

from spinup.buffers import normalize
from spinup.nets import BatchNorm, RunningNorm
from spinup.compute.optim import FlatAdam



def abort(*error):  # otherwise the other process would wait forever
    sys.__excepthook__(*error)
    mpi.world().Abort(1)


sys.excepthook = abort
rank = mpi.proc_id()
assert mpi.num_procs() == mpi.num_procs_here() == 2 and rank in (0, 1)

# numbers and arrays
assert mpi.mpi_sum(rank + 1) == 3 and isinstance(mpi.mpi_sum(1.5), float)
assert mpi.mpi_avg(rank) == 0.5
assert mpi.mpi_avg(np.float32([rank, 4])).tolist() == [0.5, 4]
assert mpi.mpi_sum(np.array([[1, rank]])).tolist() == [[2, 1]]
assert (mpi.mpi_min(rank), mpi.mpi_max(rank)) == (0, 1)

# statistics of the union of unequal and empty parts
x = np.random.default_rng(0).normal(50, 3, size=10)
part = x[:7] if rank == 0 else x[7:]
expected = (x.mean(), x.std(), x.min(), x.max())
np.testing.assert_allclose(mpi.mpi_statistics_scalar(part, with_min_and_max=True), expected, rtol=1e-12)
np.testing.assert_allclose(mpi.mpi_statistics_scalar(x if rank else [], with_min_and_max=True), expected, rtol=1e-12)
z = normalize(torch.as_tensor(x[5 * rank :][:5]).float().reshape(5, 1)).double()
np.testing.assert_allclose(mpi.mpi_statistics_scalar(z.flatten()), (0, 1), atol=1e-6)

# tensors and modules
array = np.full(3, float(rank))
mpi.broadcast(array, root=1)
assert array.tolist() == [1, 1, 1]
for dtype in (torch.float32, torch.float64):
    t, scalar = torch.tensor([[1.0, 2.0 * rank]], dtype=dtype), torch.tensor(float(rank), dtype=dtype)
    mpi.average_tensor(t), mpi.average_tensor(scalar)
    assert t.tolist() == [[1, 1]] and scalar.item() == 0.5 and t.dtype == scalar.dtype == dtype
torch.manual_seed(rank)
net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).double()
net[1].num_batches_tracked += 5 - rank
mpi.sync_params(net)
assert net[1].num_batches_tracked == 5
values = torch.cat([v.double().flatten() for v in net.state_dict().values()]).numpy()
assert (mpi.mpi_min(values) == mpi.mpi_max(values)).all()
net[0](torch.full((1, 2), float(rank)).double()).sum().backward()
mpi.mpi_avg_grads(net)
assert net[0].weight.grad.tolist() == [[0.5, 0.5]] * 3 and net[1].weight.grad is None

# a step with half of the batch on each process equals a step with the whole batch
twin = torch.nn.Linear(2, 1).double()
mpi.sync_params(twin)
before = torch.nn.utils.parameters_to_vector(twin.parameters()).detach().clone()
data = torch.randn(8, 2, generator=torch.Generator().manual_seed(0)).double()
FlatAdam(twin, 0.1, max_grad_norm=0.01).minimize(twin(data[4 * rank :][:4]).square().mean())
after = torch.nn.utils.parameters_to_vector(twin.parameters()).detach()
torch.nn.utils.vector_to_parameters(before, twin.parameters())
whole = torch.optim.Adam(twin.parameters(), 0.1)
twin.zero_grad()
twin(data).square().mean().backward()
torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.01)
whole.step()
torch.testing.assert_close(torch.nn.utils.parameters_to_vector(twin.parameters()).detach(), after)

# batch normalization by each process's own batch, with running statistics toward the average over both
batch_norm = BatchNorm(1, momentum=0.5, eps=0.0)
y = batch_norm(torch.tensor([[0.0], [2.0 + 4 * rank]]), training=True)  # means 1 and 3, variances 1 and 9
assert y.tolist() == [[-1], [1]]
assert abs(batch_norm.mean.item() - 1) < 1e-5 and abs(batch_norm.var.item() - 3) < 1e-5, batch_norm.state_dict()

# running statistics of unequal parts
norm, seen = RunningNorm((3,)), []
rng = np.random.default_rng(1)
for n in (5, 1, 40):
    parts = [rng.normal(7, 2, size=(n, 3)), rng.normal(-1, 1, size=(2 * n, 3))]
    norm.update(torch.as_tensor(parts[rank]).float())
    seen += parts
    union = np.concatenate(seen)
    assert int(norm.count) == len(union)
    np.testing.assert_allclose(norm.mean, union.mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(norm.std, union.std(0), rtol=1e-5)

sys.stdout.write(" ".join(["done", str(rank), *sys.argv[1:]]) + "\\n")
sys.stdout.flush()
sys.exit(int(sys.argv[1]))
"""


def launch(tmp_path, text, *words, stdin=None):
    pytest.importorskip("mpi4py")
    beside = Path(sys.executable).parent / "mpiexec"
    if not beside.exists() and shutil.which("mpiexec") is None:
        pytest.skip("no mpiexec")
    script = tmp_path / "two.py"
    script.write_text(text)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, script, *words]
    return subprocess.run(command, env=env, stdin=stdin, capture_output=True, text=True, timeout=300, cwd=tmp_path)


def test_two_processes(tmp_path):
    result = launch(tmp_path, TWO, "7", "a b")
    assert sorted(result.stdout.split("\n")) == ["", "done 0 7 a b", "done 1 7 a b"], result.stderr
    assert result.returncode == 7


@pytest.mark.skipif(os.name == "nt", reason="mpiexec of Windows has another stdin")
def test_two_processes_leave_stdin_alone(tmp_path):
    """As in a shell's `while read`. mpiexec reads all of it, and fails if that is more than a pipe holds."""
    text = "import sys\nfrom spinup.compute import mpi\nmpi.mpi_fork(2)\nimport time\ntime.sleep(1)\nprint('done')"
    given = tmp_path / "given"
    given.write_text("a line\n" * 100_000)
    with given.open() as stdin:
        result = launch(tmp_path, text, stdin=stdin)
        assert result.stdout == "done\ndone\n", result.stderr
        assert os.lseek(stdin.fileno(), 0, os.SEEK_CUR) == 0
    assert result.returncode == 0


# Each off-policy algorithm, for 60 steps in total, with updates after steps 20, 22, ..., 60.
OFF_POLICY = """
import importlib
import sys

from spinup.compute import mpi

mpi.mpi_fork(2)

import torch
import gymnasium as gym


def abort(*error):  # otherwise the other process would wait forever
    sys.__excepthook__(*error)
    mpi.world().Abort(1)


sys.excepthook = abort
for algo in ("crossq", "ddpg", "dqn", "sac", "td3"):
    module = importlib.import_module(f"spinup.algos.{algo}")
    batches, buffers = [], []

    class Recorder(module.ReplayBuffer):
        def __init__(self, size, *args):
            super().__init__(size, *args)
            buffers.append((self, size))

        def sample(self, batch_size):
            batches.append((self.t, super().sample(batch_size)))
            return batches[-1][1]

    module.ReplayBuffer = Recorder
    ac = getattr(module, algo)(
        "CartPole-v1" if algo == "dqn" else "Pendulum-v1", steps_per_epoch=30, epochs=2, update_after=20, batch_size=9,
        replay_size=101, **(dict(epsilon_steps=20, n_step=1) if algo == "dqn" else dict(start_steps=10)),
        ac_kwargs=dict(hidden_sizes=(8,)), num_test_episodes=1, max_ep_len=7,
        logger_kwargs=dict(output_dir=algo, quiet=True),
    )
    assert [t for t, _ in batches] == [10, *(t for t in range(11, 31) for _ in range(2))], batches
    assert all(len(batch.r) == 5 for _, batch in batches)  # half of 9, rounded up
    assert buffers[0][0].rows == 50 and buffers[0][0].t == 30
    values = torch.cat([x.detach().double().flatten() for x in ac.state_dict().values()]).numpy()
    assert (mpi.mpi_min(values) == mpi.mpi_max(values)).all(), "the processes' networks differ"
    seen = buffers[0][0].o[:30].double().flatten().numpy()
    assert (mpi.mpi_min(seen) != mpi.mpi_max(seen)).all(), "both processes have seen the same"
    if mpi.proc_id() == 0:
        rows = [line.split() for line in open(f"{algo}/progress.txt")]
        column = rows[0].index("TotalEnvInteracts")
        assert [float(row[column]) for row in rows[1:]] == [30, 60]

sys.stdout.write("done\\n")
sys.stdout.flush()
"""


def test_off_policy_in_two_processes(tmp_path):
    """Both processes have the same networks, learned from half batches of their own experience."""
    result = launch(tmp_path, OFF_POLICY)
    assert result.stdout.split() == ["done", "done"], result.stderr
    assert result.returncode == 0
