"""ExperimentGrid: runs a function once for each combination of settings, each with its own name and folder."""

import itertools
import multiprocessing
import os
import string
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NamedTuple

from spinup.compute import mpi
from spinup.errors import UserError, closest, printable
from spinup.experiments.jobs import (
    BEFORE,
    DONE,
    ELSEWHERE,
    FAILED,
    STOPPED,
    WRONG,
    GridProgress,
    Job,
    ProcessExecutor,
    RayExecutor,
    Run,
    exit_on_sigterm,
    find_folder,
    lock_folder,
    record_outcome,
    report,
    run_job,
    run_jobs,
    run_locked_job,
)
from spinup.runs.config import setup_logger_kwargs
from spinup.system.locks import folder_in_use
from spinup.system.terminal import say

EXECUTORS = ("process", "ray")
LONGEST_NAME = 200  # bytes; file systems allow 255, and dates, seeds and numbers are added


class Setting(NamedTuple):
    """The values of one key of the grid, and how the runs' names show them."""

    vals: list
    shorthand: str | None
    in_name: bool


class ExperimentGrid:
    """The Cartesian product of settings.

    grid = ExperimentGrid("ppo-bench")
    grid.add("env_name", "CartPole-v1", "", in_name=True)
    grid.add("seed", [0, 10, 20])
    grid.add("ac_kwargs:hidden_sizes", [(32,), (64, 64)], "hid")
    grid.run(spinup.ppo)            # 6 runs, named ppo-bench_cartpole-v1_hid32 and ..._hid64-64
    """

    def __init__(self, name: str = ""):
        self.name = name
        self.settings: dict[str, Setting] = {}

    def add(self, key: str, vals: Any, shorthand: str | None = None, in_name: bool = False) -> None:
        """Add a key with a list of values; anything but a list is a single value. "a:b" sets b in the dict a.

        shorthand: replaces the key in names; default: see `shorthands`
        in_name: show the key in names even if it has only one value
        """
        for other in self.settings:
            if key == other or key.startswith(f"{other}:") or other.startswith(f"{key}:"):
                raise UserError(f"'{key}' and '{other}' set the same argument; give it once")
        vals = vals if isinstance(vals, list) else [vals]
        if not vals or not all(key.split(":")):
            raise UserError(f"'{key}' has no values" if not vals else f"'{key}' is not a name, such as key or key:sub")
        value, count = Counter(map(repr, vals)).most_common(1)[0]
        if count > 1:
            raise UserError(f"'{key}' has the value {value} {count} times; give each value once")
        self.settings[key] = Setting(vals, shorthand, in_name)

    def variants(self) -> list[dict]:
        """The arguments of all runs; the key added last varies fastest."""
        products = itertools.product(*(setting.vals for setting in self.settings.values()))
        return [nest(dict(zip(self.settings, vals, strict=True))) for vals in products]

    def shorthands(self) -> dict[str, str]:
        """The shorthand of each key that names show: those with several values or in_name, but never the seed.

        The default is the first three letters of each part, as in `ac-hid`. Keys whose shorthands collide use more
        letters until they differ: `trainp` and `trainv`.
        """
        named = [k for k, s in self.settings.items() if k != "seed" and (len(s.vals) > 1 or s.in_name)]
        short = {k: valid_str(self.settings[k].shorthand) for k in named if self.settings[k].shorthand is not None}
        for letters in range(3, max(map(len, named), default=0) + 1):
            trial = {k: default_shorthand(k, letters) for k in named if k not in short}
            count = Counter([*trial.values(), *short.values()])
            short |= {k: name for k, name in trial.items() if count[name] == 1}
        return {k: short.get(k, valid_str(k)) for k in named}

    def variant_name(self, variant: dict) -> str:
        """The grid's name, followed by `_`, shorthand and value of each key in `shorthands`.

        Runs that differ only in their seed share a name. A boolean key is shown if it is True.
        """
        name = self.name
        for key, short in self.shorthands().items():
            value = lookup(variant, key)
            if not all(isinstance(v, bool) for v in self.settings[key].vals):
                name += f"_{short}{valid_str(value)}"
            elif value:
                name += f"_{short}"
        return name.lstrip("_")

    def print(self) -> None:
        """Print the grid's settings and the names of its runs."""
        variants = self.variants()
        short = self.shorthands()
        say(f"Grid '{self.name}': {len(variants)} runs")
        for key, setting in self.settings.items():
            values = ", ".join(valid_str(v) if callable(v) else str(v) for v in setting.vals)
            say(printable(f"  {key}{f' [{short[key]}]' if short.get(key) else ''}: {values}"))
        seeds = Counter(self.variant_name(v) for v in variants)
        say("\n".join(f"  -> {name}" + (f" x {n} seeds" if n > 1 else "") for name, n in seeds.items()))

    def run(
        self,
        thunk: Callable | str,
        num_cpu: int | str = 1,
        data_dir: str | None = None,
        datestamp: bool = False,
        logger_kwargs: dict | None = None,
        jobs: int | str = 1,
        executor: str | Executor = "process",
    ) -> list[Run]:
        """Call `thunk(**variant, logger_kwargs=...)` for each variant, each with its own folder.
        `seed` is 0 unless the variant has one, and `env_name` is passed as `env_fn`.

        thunk: an algorithm, or the name of a key whose values are algorithms
        num_cpu: MPI processes per run, or "auto": the number of physical cores
        logger_kwargs: more arguments of the logger, such as quiet
        jobs: runs at a time, each in a process of its own with its share of the cores, or "auto": one per physical
            core; 1: one after another, in this process
        executor: "process", "ray" (a cluster) or a concurrent.futures.Executor, which decides how many run at a time

        A run that raises or dies is reported, and the others continue. If the grid is started again with the same
        settings, it does only the runs that are not done. A run that another process is doing raises UserError if that
        is found at the start; later on, the grid skips it.

        With a single run and no other executor, the grid raises what the run raises, and an earlier run never counts as
        done. Under MPI, a run that fails ends the grid: the other processes would wait for it forever.
        """
        check_how(num_cpu, jobs, executor)
        todo = self.make_jobs(thunk, data_dir, datestamp, logger_kwargs or {})
        cores = physical_cores()
        num_cpu, jobs = (cores if isinstance(n, str) else n for n in (num_cpu, jobs))
        isolated = jobs > 1 or executor != "process"
        if isolated and (num_cpu > 1 or mpi.num_procs() > 1) and not isinstance(executor, Executor):
            what = "jobs" if jobs > 1 else f"executor {executor}"
            raise UserError(f"{what} and num_cpu can't be combined; give one: {what} for many runs, num_cpu for one")
        if isolated and getattr(multiprocessing.current_process(), "_inheriting", False):
            raise UserError("a script that runs a grid with jobs must do it under: if __name__ == '__main__':")
        mpi.mpi_fork(num_cpu)
        verbose = len(todo) > 1 and mpi.proc_id() == 0 and not (logger_kwargs or {}).get("quiet")
        if verbose:
            self.print()
        if len(todo) == 1 and executor == "process":
            runs = [run_directly(job) for job in todo]
        elif mpi.num_procs() > 1 and not isolated:
            runs = [run_together(job) for job in todo]
        else:
            placed = [find_folder(job) for job in todo]
            for job, done in placed:
                if not done and (line := folder_in_use(job.folder)):
                    raise UserError(line)
            before = [Run(job.name, job.seed, str(job.folder), 0.0, BEFORE) for job, done in placed if done]
            left = [job for job, done in placed if not done]
            with exit_on_sigterm():
                now = run_in_executor(left, executor, jobs, cores, verbose) if isolated else run_sequentially(left)
            runs = [(before if done else now).pop(0) for _, done in placed]
        if verbose:
            say(results_table(runs))
        return runs

    def make_jobs(self, thunk: Callable | str, data_dir: str | None, datestamp: bool, logger_kwargs: dict) -> list[Job]:
        """The runs with their names and folders. Raises UserError if two of them would share a folder."""
        variants = self.variants()
        names = [self.variant_name(v) or "experiment" for v in variants]
        seeds = [variant.get("seed", 0) for variant in variants]
        longest = max(names, key=lambda name: len(name.encode()))
        if len(longest.encode()) > LONGEST_NAME:
            raise UserError(
                f"a run would be named '{longest[:40]}...', with {len(longest):,} letters; a folder's name can have at "
                f"most {LONGEST_NAME}: give a shorter exp_name or shorter values"
            )
        (name, seed), count = Counter(zip(names, seeds, strict=True)).most_common(1)[0]
        if count > 1:
            raise UserError(
                f"{count} runs of the grid would be named '{name}' with seed {seed}; give values or shorthands that "
                "make their names differ"
            )
        if isinstance(thunk, str) and thunk not in self.settings:
            raise UserError(f"'{thunk}' is not a key of the grid; pass an algorithm, such as spinup.ppo, or a key")
        made = []
        for name, seed, variant in zip(names, seeds, variants, strict=True):
            kwargs = {**logger_kwargs, **setup_logger_kwargs(name, seed, data_dir, datestamp)}
            arguments = {"seed": seed, **variant, "logger_kwargs": kwargs}
            function = arguments.pop(thunk) if isinstance(thunk, str) else thunk
            if "env_name" in arguments:
                arguments["env_fn"] = arguments.pop("env_name")
            made.append(Job(name, seed, function, arguments))
        return made


# ---- doing the runs


def check_how(num_cpu: int | str, jobs: int | str, executor: str | Executor) -> None:
    """Raise UserError for the first of these arguments of a grid that is invalid."""
    for name, number in (("num_cpu", num_cpu), ("jobs", jobs)):
        if number != "auto" and not (isinstance(number, int) and number >= 1):
            raise UserError(f"{name} is '{number}'; it must be auto or a whole number from 1, for example 4")
    if isinstance(executor, str) and executor not in EXECUTORS:
        raise UserError(f"executor is '{executor}'; it must be process or ray{closest(executor, EXECUTORS)}")
    if not isinstance(executor, str | Executor):
        what = "'process', 'ray' or a concurrent.futures.Executor"
        raise UserError(f"executor is {executor!r:.80}; it must be {what}")


def run_directly(job: Job) -> Run:
    """Do the run without recording its outcome. If its folder already contains a run, it gets a new one."""
    start = time.monotonic()
    job.thunk(**job.arguments)
    return Run(job.name, job.seed, str(job.folder), time.monotonic() - start, DONE)


def run_together(job: Job) -> Run:
    """Do one run on all MPI processes, unless its folder says that it is done, and record the outcome there."""
    folder_lock = None
    if mpi.proc_id() == 0:
        job, folder_lock = lock_folder(job)
    kwargs = job.arguments["logger_kwargs"]
    output_dir, resume, done = mpi.share((kwargs["output_dir"], kwargs.get("resume", False), folder_lock is None))
    if done:
        return Run(job.name, job.seed, output_dir, 0.0, BEFORE)
    job = job._replace(
        arguments={**job.arguments, "logger_kwargs": {**kwargs, "output_dir": output_dir, "resume": resume}}
    )
    if folder_lock is None:  # another process than the first
        return run_directly(job)
    try:
        return run_locked_job(job, folder_lock, isolated=False, received=[])
    finally:
        folder_lock.release(all_holders=True)


def run_sequentially(jobs: list[Job]) -> list[Run]:
    runs = []
    for job in jobs:
        start = time.monotonic()
        try:
            runs.append(run_job(job))
            if runs[-1].outcome == ELSEWHERE:
                report(job, UserError(f"another process is using {job.folder}"))
        except Exception as error:
            report(job, error)
            outcome = WRONG if isinstance(error, UserError) else FAILED
            runs.append(Run(job.name, job.seed, str(job.folder), time.monotonic() - start, outcome))
    return runs


def run_in_executor(todo: list[Job], executor: str | Executor, jobs: int, cores: int, verbose: bool) -> list[Run]:
    """Do the runs in an executor; one created here is stopped at the end, even after Ctrl-C or SIGTERM."""
    threads = max(1, cores // jobs)
    makers = {"process": lambda: ProcessExecutor(jobs, threads), "ray": lambda: RayExecutor(threads)}
    pool: Any = makers[executor]() if isinstance(executor, str) else executor
    progress = GridProgress(todo, quiet=not verbose)
    try:
        return run_jobs(todo, pool, progress)
    except (KeyboardInterrupt, SystemExit):
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        try:
            if isinstance(executor, str):
                pool.stop()
            for job in todo if isinstance(pool, ProcessExecutor) else ():
                if str(job.folder) not in progress.runs:
                    record_outcome(job, STOPPED)
        finally:
            progress.close()


def results_table(runs: list[Run]) -> str:
    """A line for each run, then one with the number of runs that are done."""
    width = max(len(run.name) for run in runs)
    lines = [f"{run.name:<{width}}  seed {run.seed:<4} {run.seconds:8.1f} s  {run.outcome}" for run in runs]
    done = sum(run.outcome in (DONE, BEFORE) for run in runs)
    return "\n".join(
        [*lines, f"{done} of {len(runs)} runs done" + (f", {len(runs) - done} not" if done < len(runs) else "")]
    )


# ---- names


def valid_str(value: Any) -> str:
    """A value as part of a file name, in lower case. Anything but letters, digits, - and _ becomes -."""
    if hasattr(value, "__name__"):
        return valid_str(value.__name__)
    if isinstance(value, list | tuple):
        return "-".join(valid_str(v) for v in value)
    allowed = string.ascii_lowercase + string.digits + "-_"
    return "".join(c if c in allowed else "-" for c in str(value).lower())


def default_shorthand(key: str, letters: int = 3) -> str:
    """The first letters of each part of a key, keeping only letters and digits: ac_kwargs:activation -> ac-act."""
    return "-".join("".join(c for c in part[:letters] if c.isascii() and c.isalnum()) for part in key.split(":"))


def nest(flat: dict[str, Any]) -> dict:
    """{"a:b": 1, "a:c": 2} -> {"a": {"b": 1, "c": 2}}."""
    nested: dict = {}
    for key, value in flat.items():
        *parents, last = key.split(":")
        inner = nested
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return nested


def lookup(nested: dict, key: str) -> Any:
    """The value at "a:b"."""
    for part in key.split(":"):
        nested = nested[part]
    return nested


def physical_cores() -> int:
    """The number of physical cores if the system reports it, otherwise of logical ones."""
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    siblings = [Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in cpus]
    if all(path.exists() for path in siblings):
        return len({path.read_text() for path in siblings})
    if sys.platform == "darwin":
        return int(subprocess.run(["sysctl", "-n", "hw.physicalcpu"], capture_output=True, text=True).stdout)
    return len(cpus)
