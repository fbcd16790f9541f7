"""Data-parallel training over MPI: a few averages and a launcher. With one process every function is a no-op.

mpi4py is imported only when a launcher has started more than one process, so nobody needs it to train on one.
"""

import functools
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from spinup.errors import UserError, install

# The variables in which launchers tell a process the size of its world: mpich, Open MPI, Slurm.
WORLD_SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS")
_alone = False


def launched() -> bool:
    """Whether an MPI launcher has started this process as one of several."""
    if _alone:
        return False
    return any(os.environ.get(name, "1") not in ("", "1") for name in WORLD_SIZE_VARIABLES) and (
        # Slurm sets its variable for a batch script too; only a process started by srun has a rank.
        any(name in os.environ for name in ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_STEP_ID"))
    )


@functools.cache
def world():
    """mpi4py's COMM_WORLD, or None with one process."""
    if not launched():
        return None
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"started as one of several MPI processes, but mpi4py cannot load ({error}): {install('mpi')}"
        ) from error
    if MPI.COMM_WORLD.Get_size() == 1:
        return None
    end_all_when_one_raises()
    return MPI.COMM_WORLD


def abort(status: int) -> None:
    """End all processes, after what this one has printed."""
    sys.stdout.flush(), sys.stderr.flush()
    time.sleep(0.5)  # a launcher that is told to end everything drops what it has not passed on yet
    world().Abort(status)


def end_all_when_one_raises() -> None:
    """Have an exception that nobody catches end the other processes too, which would wait for this one for ever."""
    show = sys.excepthook

    def show_and_abort(*exception) -> None:
        show(*exception)
        abort(1)

    sys.excepthook = show_and_abort


def stay_alone() -> None:
    """Act from now on as with one process, whoever started this one: for a worker that does whole runs."""
    global _alone
    _alone = True
    world.cache_clear()


def proc_id() -> int:
    """The rank of this process; 0 with one process."""
    return world().Get_rank() if world() else 0


def num_procs() -> int:
    """The number of processes that train together."""
    return world().Get_size() if world() else 1


def num_procs_here() -> int:
    """How many of them are on this machine and share its memory; all processes must call it."""
    if world() is None:
        return 1
    from mpi4py import MPI

    return world().Split_type(MPI.COMM_TYPE_SHARED).Get_size()


def mpi_fork(n: int) -> None:
    """Turn this process into a launcher of `n` MPI processes that run the same command; return at once where n <= 1
    or where a launcher has started this process already.

    Raises UserError where mpi4py or the launcher is missing.
    """
    if n <= 1 or launched():
        return
    beside_python = Path(sys.executable).parent / "mpiexec"  # the mpich wheel puts it there
    launcher = str(beside_python) if beside_python.exists() else shutil.which("mpiexec")
    if launcher is None or importlib.util.find_spec("mpi4py") is None:
        missing = "mpi4py" if launcher else "mpiexec"
        raise UserError(f"{n} processes need {missing}, which is not installed: {install('mpi')}")
    main = sys.modules["__main__"]
    program = ["-m", main.__spec__.name] if getattr(main, "__spec__", None) else [sys.argv[0]]
    command = [launcher, "-n", str(n), sys.executable, "-u", *program, *sys.argv[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    sys.stdout.flush(), sys.stderr.flush()
    if os.name == "nt":
        sys.exit(subprocess.run(command, env=environment).returncode)
    for descriptor in (1, 2):
        relay(descriptor)
    os.execve(launcher, command, environment)  # no process is left in between to lose signals or leave orphans


RELAY = """
import os, signal
signal.signal(signal.SIGINT, signal.SIG_IGN), signal.signal(signal.SIGTERM, signal.SIG_IGN)
while data := os.read(0, 65536):
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
"""


def relay(descriptor: int) -> None:
    """Have a process pass on what is written to a pipe or device, and drop it where nobody reads: a launcher that
    cannot write ends the training.
    """
    if stat.S_ISREG(os.fstat(descriptor).st_mode) or os.isatty(descriptor):
        return
    process = subprocess.Popen([sys.executable, "-SEc", RELAY], stdin=subprocess.PIPE, stdout=descriptor)
    os.dup2(process.stdin.fileno(), descriptor)  # it ends when the last one that writes has ended


def msg(text: str, string: str = "") -> None:
    """Print `text` with the rank in front; for debugging."""
    print(f"Message from {proc_id()}: {text} {string}")


def _reduce(x, operation: str):
    if world() is None:
        return x
    from mpi4py import MPI

    values = np.asarray(x, dtype=np.float64)
    total = np.empty_like(values)
    world().Allreduce(values, total, op=getattr(MPI, operation))
    return total if total.ndim else float(total)


def mpi_sum(x):
    """The sum of `x` (a number or an array of any shape) over all processes, in float64."""
    return _reduce(x, "SUM")


def mpi_min(x):
    """The elementwise minimum of `x` over all processes."""
    return _reduce(x, "MIN")


def mpi_max(x):
    """The elementwise maximum of `x` over all processes."""
    return _reduce(x, "MAX")


def mpi_avg(x):
    """The mean of `x` over all processes."""
    return mpi_sum(x) / num_procs()


def broadcast(x: np.ndarray, root: int = 0) -> None:
    """Overwrite the array `x` on every process with that of process `root`."""
    if world():
        world().Bcast(x, root=root)


def mpi_statistics_scalar(x, with_min_and_max: bool = False):
    """Mean and standard deviation (and minimum, maximum) of the numbers in `x`, (n,), of all processes; NaN of none."""
    x = np.asarray(x, dtype=np.float64)
    total, count = mpi_sum(np.array([x.sum(), x.size]))
    mean = total / count if count else np.nan
    squares = mpi_sum(np.square(x - mean).sum())
    std = np.sqrt(squares / count) if count else np.nan
    if not with_min_and_max:
        return mean, std
    return mean, std, mpi_min(x.min() if x.size else np.inf), mpi_max(x.max() if x.size else -np.inf)


def share(x: Any) -> Any:
    """Process 0's `x`, whatever it is, on all processes."""
    return world().bcast(x) if world() else x


def allgather(x: Any) -> list:
    """The list of every process's `x`, whatever it is, by rank."""
    return world().allgather(x) if world() else [x]


def barrier() -> None:
    """Wait for all processes to come here."""
    if world():
        world().Barrier()


def average_tensor(x) -> None:
    """Replace the tensor `x` (any shape) by its mean over all processes, in place."""
    if world():
        from mpi4py import MPI

        x = x.detach()
        values = x.cpu().contiguous()  # x itself, where it is so already
        world().Allreduce(MPI.IN_PLACE, values.numpy())
        x.copy_(values.div_(num_procs()))


def mpi_avg_grads(module) -> None:
    """Replace the gradients of a module's parameters by their means over all processes."""
    for p in module.parameters():
        if p.grad is not None:
            average_tensor(p.grad)


def sync_params(module) -> None:
    """Give every process the parameters and buffers of process 0."""
    if world():
        state = module.state_dict()
        for tensor in state.values():
            values = tensor.cpu().numpy().copy()
            broadcast(values)
            tensor.copy_(tensor.new_tensor(values))
        module.load_state_dict(state)  # for modules that make more of their state, as block-sparse layers
