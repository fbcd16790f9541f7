"""Running a grid's jobs: in this process, in separate processes, on a Ray cluster, or in any executor.

Each run is done by `run_job`, which records the result in the run's folder: status.json (arguments, outcome, seconds),
output.txt (the output of a run in a process of its own) and error.txt (the traceback of a failed run). When a grid is
started again, it reads them to find out which runs are left.
"""

import contextlib
import datetime
import io
import itertools
import json
import multiprocessing
import os
import pickle
import platform
import re
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

from spinup.compute import mpi
from spinup.errors import UserError, first_line, install, printable, user_path
from spinup.runs.config import convert_json
from spinup.system.files import RunFolder, check_file, newest_checkpoint, replace_file, write_errors
from spinup.system.locks import FolderInUse, Lock, lock
from spinup.system.signals import TERMINATION_SIGNALS, ignore_at_exit, is_signal
from spinup.system.terminal import dropping_output_on_error, open_closed_streams, say

DONE, BEFORE, WRONG, FAILED, KILLED, STOPPED = "done", "done before", "wrong input", "failed", "killed", "stopped"
ELSEWHERE = "running elsewhere"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
STATUS, OUTPUT, ERROR = "status.json", "output.txt", "error.txt"


class Job(NamedTuple):
    """A run to be done: thunk(**arguments); the arguments include its folder."""

    name: str
    seed: int
    thunk: Callable
    arguments: dict

    @property
    def folder(self) -> Path:
        return user_path(self.arguments["logger_kwargs"]["output_dir"])


class Run(NamedTuple):
    """The result of one run.

    outcome: "done", "done before", "wrong input" (a UserError), "failed", "killed", "stopped" (by a signal) or "running
        elsewhere" (in another process)
    """

    name: str
    seed: int
    folder: str
    seconds: float
    outcome: str


# ---- one run


def run_job(job: Job, isolated: bool = False) -> Run:
    """Do one run, unless its folder says that it is done, and record the outcome there.

    isolated: the run has this process to itself. Its output goes to output.txt, and an exception becomes its outcome
        instead of being raised
    """
    if isolated:
        mpi.stay_alone()
    with exit_on_sigterm() as received:
        try:
            job, folder_lock = lock_folder(job)
            if folder_lock is None:
                return Run(job.name, job.seed, str(job.folder), 0.0, DONE)
            try:
                return run_locked_job(job, folder_lock, isolated, received)
            finally:
                folder_lock.release(all_holders=True)  # including a logger that was not closed
        except FolderInUse:
            return Run(job.name, job.seed, str(job.folder), 0.0, ELSEWHERE)


def run_locked_job(job: Job, folder_lock: Lock, isolated: bool, received: list) -> Run:
    """Do one run whose folder this process has locked. received: as given by `exit_on_sigterm`"""
    start, outcome = time.monotonic(), DONE
    write_status(job, "running", 0.0)
    with output_to(job.folder / OUTPUT) if isolated else contextlib.nullcontext():
        try:
            job.thunk(**job.arguments)
        except BaseException as error:
            outcome = outcome_of(error)
            if outcome == STOPPED and isinstance(error, SystemExit):
                received.append(error.code)  # the run handled the signal; ignore further ones
            folder_lock.check()
            write_status(job, outcome, time.monotonic() - start)
            if outcome != STOPPED and mpi.proc_id() == 0:
                replace_file(job.folder / ERROR, traceback.format_exc().encode("utf-8", "backslashreplace"))
            if not isolated or outcome == STOPPED:
                raise
            report(job, error)
        else:
            folder_lock.check()
            write_status(job, outcome, time.monotonic() - start)
    return Run(job.name, job.seed, str(job.folder), time.monotonic() - start, outcome)


def outcome_of(error: BaseException) -> str:
    """The outcome of a run that raised `error`."""
    if isinstance(error, UserError):
        return WRONG
    return STOPPED if is_signal(error) else FAILED


@contextlib.contextmanager
def exit_on_sigterm() -> Iterator[list]:
    """In this block, SIGTERM and SIGHUP raise SystemExit, as Ctrl-C raises KeyboardInterrupt.

    Only the first one does: `timeout` and Slurm signal both a process and its parent, which passes the signal on. Gives
    the list of received signals. Once it is not empty, further signals are ignored, even after the block, until the
    process exits.
    """
    received = getattr(signal.getsignal(signal.SIGTERM), "received", [])  # an enclosing block's list

    def end(number: int, frame: Any) -> None:
        if not received:
            received.append(number)
            raise SystemExit(128 + number)

    ours = {}
    vars(end)["received"] = received
    if threading.current_thread() is threading.main_thread():
        ours = {
            number: signal.signal(number, end)
            for number in TERMINATION_SIGNALS
            if signal.getsignal(number) is signal.SIG_DFL
        }
    try:
        yield received
    except SystemExit:
        if received:
            ours.clear()
            ignore_at_exit()
        raise
    finally:
        for number, before in ours.items():
            signal.signal(number, before)


def report(job: Job, error: BaseException) -> None:
    """Print one line for an error in a run, after the traceback unless it is a user's mistake."""
    if not isinstance(error, UserError):
        say("".join(traceback.format_exception(error)), error=True, end="")
    say(f"spinup: error: {job.name}, seed {job.seed}: {' '.join(str(error).split())}", error=True)


@contextlib.contextmanager
def output_to(file: Path) -> Iterator[None]:
    """Redirect all output of this process and its children to `file` in this block."""
    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        with dropping_output_on_error(stream):
            stream.flush()
    kept = [os.dup(1), os.dup(2)]
    streams = sys.stdout, sys.stderr
    with RunFolder(file.parent).appending(file.name) as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    # An executor's worker may have replaced the streams.
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(os.fdopen(os.dup(fd), "wb"), "utf-8", "backslashreplace", line_buffering=True) for fd in (1, 2)
    )
    try:
        yield
    finally:
        sys.stdout.close()
        sys.stderr.close()
        sys.stdout, sys.stderr = streams
        for fd, old in zip((1, 2), kept, strict=True):
            os.dup2(old, fd)
            os.close(old)


# ---- status.json and the run's folder


def read_status(folder: Path) -> dict:
    """The content of status.json; {} if it doesn't exist or spinup did not write it."""
    try:
        check_file(folder / STATUS)
        status = json.loads((folder / STATUS).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return status if isinstance(status, dict) and isinstance(status.get("outcome"), str) else {}


def write_status(job: Job, outcome: str, seconds: float) -> None:
    """Write status.json. Only the process that has locked the folder may call it."""
    status = {"outcome": outcome, "seconds": seconds, "process": [platform.node(), os.getpid()]}
    status["arguments"] = recorded_arguments(job.arguments)
    replace_file(job.folder / STATUS, (json.dumps(status, indent=1) + "\n").encode())


def recorded_arguments(arguments: Mapping) -> dict:
    """The arguments that identify a run in status.json: all but those of its logger."""
    return convert_json({key: value for key, value in arguments.items() if key != "logger_kwargs"})


def find_folder(job: Job) -> tuple[Job, bool]:
    """The job with the folder it uses, and whether the run is already done there.

    That is the first of folder, folder-2, ... that contains no run, or this one: a status.json with equal arguments.
    """
    for i in itertools.count(1):
        folder = job.folder if i == 1 else job.folder.with_name(f"{job.folder.name}-{i}")
        status = read_status(folder)
        if status.get("arguments") == recorded_arguments(job.arguments):
            break
        if not status and not (folder / "config.json").exists() and not (folder / "progress.txt").exists():
            break
    kwargs = {**job.arguments["logger_kwargs"], "output_dir": str(folder)}
    return job._replace(arguments={**job.arguments, "logger_kwargs": kwargs}), status.get("outcome") == DONE


def lock_folder(job: Job) -> tuple[Job, Lock | None]:
    """The job with its folder, locked and prepared, and the lock; None for the lock if the run is already done there.

    Between choosing a folder and locking it, another process may take that folder or finish the run, so the choice is
    checked again once the lock is acquired. Raises FolderInUse if another process is doing the run.
    """
    deadline = time.monotonic() + 2  # a process that has just locked a folder needs a moment to write status.json
    while True:
        placed, done = find_folder(job)
        if done:
            return placed, None
        with write_errors(placed.folder):
            placed.folder.mkdir(parents=True, exist_ok=True)
        try:
            folder_lock = lock(placed.folder)
        except FolderInUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
            continue
        try:
            if find_folder(job) == (placed, False):
                return prepare_folder(placed), folder_lock
        except BaseException:
            folder_lock.release()
            raise
        folder_lock.release()


def prepare_folder(job: Job) -> Job:
    """Make the job resume from an earlier attempt's checkpoint; an attempt without a checkpoint is removed."""
    if read_status(job.folder):
        if newest_checkpoint(job.folder):
            RunFolder(job.folder).remove(re.compile(re.escape(ERROR)))
            kwargs = {**job.arguments["logger_kwargs"], "resume": True}
            return job._replace(arguments={**job.arguments, "logger_kwargs": kwargs})
        RunFolder(job.folder).remove_run(job.arguments["logger_kwargs"].get("output_fname", "progress.txt"))
    return job


def record_outcome(job: Job, outcome: str, failure_reason: str = "") -> Run:
    """Record the outcome of a run whose process did not, unless another process has the folder by now."""
    placed, done = find_folder(job)
    if not done and read_status(placed.folder):
        with contextlib.suppress(UserError):  # another process has the folder, or the disk is full
            folder_lock = lock(placed.folder)
            try:
                status = read_status(placed.folder)
                if status.get("outcome") == "running":
                    write_status(placed, outcome, 0.0)
                    if failure_reason:
                        RunFolder(placed.folder).append(
                            ERROR, f"{failure_reason}\n".encode("utf-8", "backslashreplace")
                        )
                else:
                    outcome = status.get("outcome", outcome)
            finally:
                folder_lock.release()
    return Run(job.name, job.seed, str(placed.folder), 0.0, DONE if done else outcome)


# ---- executors


class ProcessExecutor(ThreadPoolExecutor):
    """Runs each call in a new process, at most `jobs` at a time, so that a killed process affects no other call.

    threads: how many threads each process may use
    """

    def __init__(self, jobs: int, threads: int):
        super().__init__(jobs)
        open_closed_streams()  # otherwise a pipe to a child process could get the descriptor of a closed stream
        self.context, self.threads = multiprocessing.get_context("spawn"), threads
        self.processes: set = set()
        self.starting, self.stopped = threading.Lock(), False

    def submit(self, function: Callable, /, *args: Any) -> Future:
        return super().submit(self.run_in_process, function, args)

    def run_in_process(self, function: Callable, args: tuple) -> Any:
        """Call function(*args) in a new process. Raises ProcessDied if it ends without a result."""
        receiver, sender = self.context.Pipe(duplex=False)
        process = self.context.Process(target=child_main, args=(sender, function, args))
        with self.starting, environment(dict.fromkeys(THREADS, str(self.threads))):
            if self.stopped:
                raise CancelledError
            process.start()
            self.processes.add(process)
        sender.close()
        try:
            result = receiver.recv()
            if isinstance(result, UserError):
                raise result
            return result
        except EOFError:
            process.join()
            raise ProcessDied(process.exitcode or 0) from None
        finally:
            process.join()
            self.processes.discard(process)

    def stop(self) -> None:
        """End all processes and start no more. They have a minute to write checkpoints; Ctrl-C kills them at once."""
        self.shutdown(wait=False, cancel_futures=True)
        with self.starting:
            self.stopped = True
        for process in list(self.processes):
            process.terminate()
        try:
            wait_for(self.processes, 60)
        finally:
            for process in list(self.processes):
                process.kill()
            wait_for(self.processes, 5)


def wait_for(processes: set, seconds: float) -> None:
    """Wait until the set is empty, at most this long."""
    deadline = time.monotonic() + seconds
    while processes and time.monotonic() < deadline:
        time.sleep(0.05)


class ProcessDied(Exception):
    """A process ended without a result."""

    def __init__(self, status: int):
        self.killed = status < 0
        how = f"killed by {signal.Signals(-status).name}" if self.killed else f"ended with status {status}"
        super().__init__(how)


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables in this block, for a process started in it: libraries read some when they load."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def child_main(sender, function: Callable, args: tuple) -> None:
    """The main function of ProcessExecutor's child processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets Ctrl-C as well and ends its children
    threading.Thread(target=exit_with_parent, daemon=True).start()
    with exit_on_sigterm():
        try:
            result = function(*args)
        except UserError as error:  # the parent prints it as one line, without a traceback
            result = error
        sender.send(result)
        sender.close()


def exit_with_parent() -> None:
    """Wait for the parent to end, then end this process; it has a minute to write a checkpoint."""
    if parent := multiprocessing.parent_process():
        parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
    os._exit(1)


class RayExecutor(Executor):
    """Runs calls as tasks on a Ray cluster: the one at $RAY_ADDRESS or, by default, this machine.

    threads: cores per task. If a task's node dies, the task is repeated on another node.
    """

    def __init__(self, threads: int):
        try:
            import ray
        except ImportError:
            raise UserError(f"executor ray needs: {install('ray')}") from None
        self.ray, self.threads, self.ours = ray, threads, not ray.is_initialized()
        if self.ours:
            ray.init(log_to_driver=False, logging_level="warning")

    def submit(self, function: Callable, /, *args: Any) -> Future:
        task = self.ray.remote(num_cpus=self.threads, max_retries=3)(function)
        return task.remote(*args).future()

    def stop(self) -> None:
        if self.ours:  # not the caller's
            self.ray.shutdown()


# ---- all runs of a grid


def run_jobs(jobs: list[Job], executor: Executor, grid_progress: "GridProgress") -> list[Run]:
    """Do the jobs in the executor. Returns their results in the same order.

    Raises UserError if the executor uses threads, or if a job can't be sent to another process.
    """
    if isinstance(executor, ThreadPoolExecutor) and not isinstance(executor, ProcessExecutor):
        raise UserError(
            "executor uses threads, which would share one seed and one output; give one that uses processes"
        )
    for job in jobs:
        check_picklable(job)
    futures = [executor.submit(run_job, job, True) for job in jobs]
    runs, waiting = {}, set(futures)
    while waiting:
        ended, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in ended:
            runs[future], failure_reason = result(future, jobs[futures.index(future)])
            grid_progress.ended(runs[future], failure_reason)
        grid_progress.draw()
    return [runs[future] for future in futures]


def result(future: Future, job: Job) -> tuple[Run, str]:
    """A future's run, and why its process or the executor failed, if it did."""
    try:
        return future.result(), ""
    except Exception as error:  # a user's executor can raise anything
        if isinstance(error, UserError):
            run = record_outcome(job, WRONG, str(error))  # its folder may contain an earlier attempt's outcome
            return run if run.outcome == DONE else run._replace(outcome=WRONG), str(error)
        outcome = KILLED if isinstance(error, ProcessDied) and error.killed else FAILED
        return record_outcome(job, outcome, first_line(error)), first_line(error)


def check_picklable(job: Job) -> None:
    try:
        pickle.dumps(job)
    except Exception as error:
        raise UserError(
            f"{job.name}: cannot be sent to another process ({error}); define its functions at the top level of a "
            "module, or run the grid with jobs=1"
        ) from None


class GridProgress:
    """Shows a grid's progress: a live table on a terminal, otherwise a line for each run that ends."""

    def __init__(self, jobs: list[Job], quiet: bool):
        self.jobs, self.quiet, self.runs, self.live, self.drawn = jobs, quiet, {}, None, 0.0
        if not quiet and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            from rich.live import Live

            self.live = Live(auto_refresh=False)
            self.live.start()
            self.draw()

    def ended(self, run: Run, failure_reason: str = "") -> None:
        """Report a run that has ended. failure_reason: why its process failed, if its folder doesn't say"""
        self.runs[run.folder] = run
        if run.outcome == ELSEWHERE:
            what = f"another process is using {run.folder}"
            say(f"spinup: error: {run.name}, seed {run.seed}: {what}", error=True)
        elif run.outcome not in (DONE, BEFORE):
            error = failure_reason or last_error_line(Path(run.folder), run.outcome)
            output = Path(run.folder) / OUTPUT  # missing if the folder could not be made
            more = f"; see {output}" if output.exists() else ""
            say(f"spinup: error: {run.name}, seed {run.seed}: {error}{more}", error=True)
        elif not self.quiet and not self.live:
            say(f"{run.outcome}: {run.name}, seed {run.seed}, {run.seconds:.1f} s")

    def draw(self) -> None:
        if self.live and time.monotonic() - self.drawn > 1:
            self.live.update(self.table(), refresh=True)
            self.drawn = time.monotonic()

    def close(self) -> None:
        if self.live:
            self.live.update(self.table(), refresh=True)
            self.live.stop()

    def table(self):
        from rich.table import Table
        from rich.text import Text  # shows brackets literally instead of reading them as markup

        ended = {folder: run.outcome for folder, run in self.runs.items()}
        outcomes = [
            ended.get(str(job.folder)) or printable(str(read_status(job.folder).get("outcome", "waiting")))
            for job in self.jobs
        ]
        rows = list(zip(self.jobs, outcomes, strict=True))
        caption = None
        if len(rows) > (room := self.live.console.height - 3 if self.live else len(rows)):
            rows = sorted(rows, key=lambda row: row[1] != "running")[: max(1, room)]  # running ones first
            caption = ", ".join(f"{n} {outcome}" for outcome, n in Counter(outcomes).most_common())
        table = Table("run", "seed", "", "steps", "return", "time left", box=None, pad_edge=False, caption=caption)
        for job, outcome in rows:
            table.add_row(
                Text(job.name), str(job.seed), Text(outcome), *run_progress(job.folder, running=outcome == "running")
            )
        return table


def last_error_line(folder: Path, outcome: str) -> str:
    """The last line of error.txt, which is the exception; without the class name if it is a UserError."""
    try:
        check_file(folder / ERROR)
        lines = (folder / ERROR).read_text("utf-8").split("\n")
    except (OSError, ValueError):
        return outcome
    last = next((line for line in reversed(lines) if line.strip()), outcome)
    return printable(last.removeprefix("spinup.errors.UserError: "))


def first_and_last_line(file: Path) -> tuple[str, str]:
    """The first and last line of a table, read without the lines between. Raises LookupError if it has no row yet."""
    with open(file, "rb") as table:
        first = table.readline()
        table.seek(max(len(first), table.seek(0, os.SEEK_END) - 2**16))
        return first.decode().rstrip("\n"), table.read().split(b"\n")[-2].decode()


def run_progress(folder: Path, running: bool) -> tuple[str, str, str]:
    """Steps, last return and time left of a run, from the last row of its table; empty strings if it has none."""
    try:
        check_file(folder / "config.json")
        check_file(folder / "progress.txt")
        config = json.loads((folder / "config.json").read_text("utf-8"))
        header, last = first_and_last_line(folder / "progress.txt")
        row = dict(zip(header.split("\t"), map(float, last.split("\t")), strict=True))
        done, steps = row["Epoch"] / config["epochs"], f"{row['TotalEnvInteracts']:,.0f}"
        left = datetime.timedelta(seconds=round(row.get("Time", 0) * (1 / done - 1))) if done else ""
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
        return "", "", ""
    ret = row.get("AverageTestEpRet", row.get("AverageEpRet", float("nan")))
    return steps, f"{ret:,.4g}", str(left) if running else ""
