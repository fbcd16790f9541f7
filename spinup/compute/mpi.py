"""Data-parallel training over MPI: a few averages and a launcher. With one process every function is a no-op.

mpi4py is imported only if a launcher has started several processes, so training in one doesn't need it.
"""

import contextlib
import functools
import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from spinup.errors import UserError, install

# Environment variables in which launchers pass the world size: mpich, Open MPI, Slurm.
WORLD_SIZE_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS")
POLLS = 200  # how often a process asks whether the others are done before it begins to sleep in between
_alone = False


def launched() -> bool:
    """Whether an MPI launcher has started this process as one of several."""
    if _alone:
        return False
    return any(os.environ.get(name, "1") not in ("", "1") for name in WORLD_SIZE_VARIABLES) and (
        # Slurm also sets its variable for a batch script; only processes started by srun have a step id.
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
    abort_on_uncaught()
    return MPI.COMM_WORLD


def abort(status: int) -> None:
    """End all processes, once this one's output has been passed on."""
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(0.5)  # on abort, a launcher drops output that it hasn't forwarded yet
    world().Abort(status)


def abort_on_uncaught() -> None:
    """Make an uncaught exception end the other processes too, which would otherwise wait for this one forever."""
    show = sys.excepthook

    def show_and_abort(*exception) -> None:
        show(*exception)
        abort(1)

    sys.excepthook = show_and_abort


def stay_alone() -> None:
    """Act as a single process from now on, even under a launcher: for workers that do whole runs."""
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
    """The number of these processes on this machine, which share its memory. Collective: all processes must call it."""
    if world() is None:
        return 1
    from mpi4py import MPI

    return world().Split_type(MPI.COMM_TYPE_SHARED).Get_size()


def mpi_fork(n: int) -> None:
    """Replace this process by a launcher of `n` MPI processes that run the same command. Returns without doing anything
    if n <= 1 or if a launcher has started this process.

    Raises UserError if mpi4py or the launcher is missing.
    """
    if n <= 1 or launched():
        return
    bundled = Path(sys.executable).parent / "mpiexec"  # installed by the mpich wheel
    launcher = str(bundled) if bundled.exists() else shutil.which("mpiexec")
    if launcher is None or importlib.util.find_spec("mpi4py") is None:
        missing = "mpi4py" if launcher else "mpiexec"
        raise UserError(f"{n} processes need {missing}, which is not installed: {install('mpi')}")
    main = sys.modules["__main__"]
    program = ["-m", main.__spec__.name] if getattr(main, "__spec__", None) else [sys.argv[0]]
    command = [launcher, "-n", str(n), sys.executable, "-u", *program, *sys.argv[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name == "nt":
        sys.exit(subprocess.run(command, env=environment).returncode)
    for descriptor in (1, 2):
        relay(descriptor)
    if not os.isatty(0):  # mpiexec would read all of it, such as the file of a shell's `while read`, or fail at 64 KB
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        nowhere = subprocess.DEVNULL
        subprocess.Popen([sys.executable, "-SEc", HANG_UP], stdin=nowhere, stdout=nowhere, stderr=nowhere)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.execve(launcher, command, environment)  # no parent process that could swallow signals or leave orphans


# When the terminal is closed: launchers die of SIGHUP, and with SIGTERM they let the processes write a checkpoint.
HANG_UP = """
import os, signal, time
launcher = os.getppid()
for number in signal.SIGINT, signal.SIGTERM:
    signal.signal(number, signal.SIG_IGN)
signal.signal(signal.SIGHUP, lambda *_: os.kill(launcher, signal.SIGTERM))
while os.getppid() == launcher:
    time.sleep(0.5)
"""
RELAY = """
import os, signal
for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
    signal.signal(number, signal.SIG_IGN)
while data := os.read(0, 65536):
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
"""


def relay(descriptor: int) -> None:
    """Put a process between this one and a pipe or device that passes output on, and drops it if the reader is gone:
    a launcher that can't write would end the training.
    """
    if stat.S_ISREG(os.fstat(descriptor).st_mode) or os.isatty(descriptor):
        return
    process = subprocess.Popen([sys.executable, "-SEc", RELAY], stdin=subprocess.PIPE, stdout=descriptor)
    os.dup2(process.stdin.fileno(), descriptor)  # it ends when its last writer has ended


def msg(text: str, string: str = "") -> None:
    """Print `text` with this process's rank, for debugging."""
    print(f"Message from {proc_id()}: {text} {string}")


def wait(request) -> None:
    """Wait until all processes have done their part of a collective operation.

    MPI's own waiting keeps a core busy. With more processes than free cores it takes the core from the very process
    that it waits for, and each operation takes milliseconds.
    """
    for _ in range(POLLS):
        if request.Test():
            return
    while not request.Test():
        time.sleep(1e-5)


def _reduce(x, operation: str):
    if world() is None:
        return x
    from mpi4py import MPI

    values = np.asarray(x, dtype=np.float64)
    total = np.empty_like(values)
    wait(world().Iallreduce(values, total, op=getattr(MPI, operation)))
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
    """Overwrite the array `x`, (...), on every process with that of process `root`, in place."""
    if world():
        wait(world().Ibcast(x, root=root))


def mpi_statistics_scalar(x, with_min_and_max: bool = False):
    """Mean, standard deviation (and minimum, maximum) of the numbers in all processes' `x`, (n,); NaN without any."""
    x = np.asarray(x, dtype=np.float64)
    total, count = mpi_sum(np.array([x.sum(), x.size]))
    mean = total / count if count else np.nan
    squares = mpi_sum(np.square(x - mean).sum())
    std = np.sqrt(squares / count) if count else np.nan
    if not with_min_and_max:
        return mean, std
    return mean, std, mpi_min(x.min() if x.size else np.inf), mpi_max(x.max() if x.size else -np.inf)


def share(x: Any) -> Any:
    """Process 0's `x`, any picklable object, on all processes."""
    barrier()
    return world().bcast(x) if world() else x


def allgather(x: Any) -> list:
    """The list of every process's `x`, any picklable object, by rank."""
    barrier()
    return world().allgather(x) if world() else [x]


def barrier() -> None:
    """Wait for all processes to get here."""
    if world():
        wait(world().Ibarrier())


def average_tensor(x) -> None:
    """Replace the tensor `x` (any shape) by its mean over all processes, in place."""
    if world():
        x = x.detach()
        values = x.cpu().contiguous()  # x itself, if it already is
        x.copy_(Twice.current.mean(values) if Twice.current else mean_over_processes(values))


def mean_over_processes(x):
    """The mean of the contiguous CPU tensor `x`, (...), which it overwrites."""
    from mpi4py import MPI

    wait(world().Iallreduce(MPI.IN_PLACE, x.numpy()))
    return x.div_(num_procs())


class Twice:
    """For code that runs twice from the same state: the second run takes the averages of the first.

    Other processes run it twice at other times, and each average takes all of them.
    """

    current: "Twice | None" = None

    def __init__(self):
        self.averages: list[tuple] = []  # of the first run: shape and bytes of what was averaged, and the mean
        self.second = False
        self.differs = False  # whether the second run has averaged something else than the first

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        Twice.current = self
        try:
            yield
        finally:
            Twice.current, self.second = None, True

    def mean(self, x):
        """The mean of the contiguous CPU tensor `x`, (...), which it may overwrite."""
        averaged = x.shape, x.numpy().tobytes()
        if not self.second:
            mean = mean_over_processes(x).clone()
            self.averages.append((averaged, mean))
            return mean
        expected, mean = self.averages.pop(0) if self.averages else (None, x)
        self.differs |= averaged != expected
        return x if self.differs else mean

    def same(self) -> bool:
        """Whether both runs have averaged the same, bit for bit."""
        return not (self.differs or self.averages)


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
        module.load_state_dict(state)  # for modules that derive more from their state, such as block-sparse layers
