"""The runs of a grid at work: in this process, in processes of their own, on a Ray cluster, or in any executor.

Wherever a run is done, `perform` does it. Its folder tells how it went: status.json (arguments, outcome, seconds),
output.txt (what it printed, where it had a process of its own) and error.txt (the traceback of one that failed). A grid
that is started again reads these to know what is left.
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
from spinup.runs.checkpoint import newest
from spinup.runs.config import convert_json
from spinup.runs.signals import ENDING, ignore_at_exit
from spinup.system.files import RunFolder, check_file, replace_file, writing
from spinup.system.locks import Lock, Taken, lock
from spinup.system.terminal import open_closed_streams, say, writing_to

DONE, BEFORE, WRONG, FAILED, KILLED, STOPPED = "done", "done before", "wrong input", "failed", "killed", "stopped"
ELSEWHERE = "at work elsewhere"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
STATUS, OUTPUT, ERROR = "status.json", "output.txt", "error.txt"


class Job(NamedTuple):
    """One run that is to be done: thunk(**arguments), with its folder among the arguments."""

    name: str
    seed: int
    thunk: Callable
    arguments: dict

    @property
    def folder(self) -> Path:
        return user_path(self.arguments["logger_kwargs"]["output_dir"])


class Run(NamedTuple):
    """What became of one run.

    outcome: "done", "done before", "wrong input" (a UserError), "failed", "killed", "stopped" (by a signal), or
        "at work elsewhere": another process is doing it
    """

    name: str
    seed: int
    folder: str
    seconds: float
    outcome: str


# ---- one run


def perform(job: Job, apart: bool = False) -> Run:
    """Do one run, unless its folder says that it is done, and note in the folder how it went.

    apart: the run has this process to itself: its output goes to output.txt, and what it raises is its outcome
    """
    if apart:
        mpi.stay_alone()
    with ended_by_sigterm() as told:
        try:
            job, held = take(job)
            if held is None:
                return Run(job.name, job.seed, str(job.folder), 0.0, DONE)
            try:
                return perform_held(job, held, apart, told)
            finally:
                held.release(wholly=True)  # also for a logger that was not closed
        except Taken:
            return Run(job.name, job.seed, str(job.folder), 0.0, ELSEWHERE)


def perform_held(job: Job, held: Lock, apart: bool, told: list) -> Run:
    """Do one run whose folder this process holds. told: as from `ended_by_sigterm`"""
    start, outcome = time.monotonic(), DONE
    write_status(job, "running", 0.0)
    with output_to(job.folder / OUTPUT) if apart else contextlib.nullcontext():
        try:
            job.thunk(**job.arguments)
        except BaseException as error:
            outcome = outcome_of(error)
            if outcome == STOPPED and isinstance(error, SystemExit):
                told.append(error.code)  # to the run, which had its own way to take it; no second one cuts this short
            held.check()
            write_status(job, outcome, time.monotonic() - start)
            if outcome != STOPPED and mpi.proc_id() == 0:
                replace_file(job.folder / ERROR, traceback.format_exc().encode("utf-8", "backslashreplace"))
            if not apart or outcome == STOPPED:
                raise
            report(job, error)
        else:
            held.check()
            write_status(job, outcome, time.monotonic() - start)
    return Run(job.name, job.seed, str(job.folder), time.monotonic() - start, outcome)


def outcome_of(error: BaseException) -> str:
    """What a run comes to that raises this."""
    if isinstance(error, UserError):
        return WRONG
    code = error.code if isinstance(error, SystemExit) else None
    return STOPPED if isinstance(error, KeyboardInterrupt) or code in [128 + number for number in ENDING] else FAILED


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[list]:
    """SIGTERM in the block, and the hangup of a terminal, raise SystemExit, as Ctrl-C raises KeyboardInterrupt.

    They do so once: `timeout` and Slurm tell both a process and its parent, which tells it again. Gives the list of
    what was told; once anything is in it, no more is raised, also in the rest of a process that ends for this reason.
    """
    told = getattr(signal.getsignal(signal.SIGTERM), "told", [])  # of the block around this one

    def end(number: int, frame: Any) -> None:
        if not told:
            told.append(number)
            raise SystemExit(128 + number)

    ours = {}
    vars(end)["told"] = told
    if threading.current_thread() is threading.main_thread():
        ours = {number: signal.signal(number, end) for number in ENDING if signal.getsignal(number) is signal.SIG_DFL}
    try:
        yield told
    except SystemExit:
        if told:
            ours.clear()
            ignore_at_exit()
        raise
    finally:
        for number, before in ours.items():
            signal.signal(number, before)


def report(job: Job, error: BaseException) -> None:
    """Print one line for a mistake of the user's, and the traceback before it for a bug."""
    if not isinstance(error, UserError):
        say("".join(traceback.format_exception(error)), error=True, end="")
    say(f"spinup: error: {job.name}, seed {job.seed}: {' '.join(str(error).split())}", error=True)


@contextlib.contextmanager
def output_to(file: Path) -> Iterator[None]:
    """Everything that this process and its children print goes to `file`, for as long as the block lasts."""
    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        with writing_to(stream):
            stream.flush()
    kept = [os.dup(1), os.dup(2)]
    streams = sys.stdout, sys.stderr
    with RunFolder(file.parent).appending(file.name) as out:
        os.dup2(out.fileno(), 1), os.dup2(out.fileno(), 2)
    # An executor's worker may have put something else in place of the streams.
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


# ---- what a folder says


def read_status(folder: Path) -> dict:
    """What status.json says; {} where there is none, or not one of ours."""
    try:
        check_file(folder / STATUS)
        status = json.loads((folder / STATUS).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return status if isinstance(status, dict) and isinstance(status.get("outcome"), str) else {}


def write_status(job: Job, outcome: str, seconds: float) -> None:
    """For the process that holds the folder."""
    status = {"outcome": outcome, "seconds": seconds, "process": [platform.node(), os.getpid()]}
    status["arguments"] = as_recorded(job.arguments)
    replace_file(job.folder / STATUS, (json.dumps(status, indent=1) + "\n").encode())


def as_recorded(arguments: Mapping) -> dict:
    """The arguments that make a run what it is, as status.json has them: not where or how loudly it logs."""
    return convert_json({key: value for key, value in arguments.items() if key != "logger_kwargs"})


def place(job: Job) -> tuple[Job, bool]:
    """The job with a folder that is free or its own, and whether it is done there already.

    Its own is one whose status.json has the same arguments. Another run's folder is left alone; folder-2 follows it.
    """
    for i in itertools.count(1):
        folder = job.folder if i == 1 else job.folder.with_name(f"{job.folder.name}-{i}")
        status = read_status(folder)
        if status.get("arguments") == as_recorded(job.arguments):
            break
        if not status and not (folder / "config.json").exists() and not (folder / "progress.txt").exists():
            break
    kwargs = {**job.arguments["logger_kwargs"], "output_dir": str(folder)}
    return job._replace(arguments={**job.arguments, "logger_kwargs": kwargs}), status.get("outcome") == DONE


def take(job: Job) -> tuple[Job, Lock | None]:
    """The job with its folder, which this process holds from now on and has made ready; None where it is done there.

    Another process may take the folder that is free, or finish the run, before this one: so it is looked at once more.
    Raises Taken where another process is at work on the run.
    """
    patience = time.monotonic() + 2  # one that has just taken a folder needs a moment to say what for
    while True:
        placed, done = place(job)
        if done:
            return placed, None
        with writing(placed.folder):
            placed.folder.mkdir(parents=True, exist_ok=True)
        try:
            held = lock(placed.folder)
        except Taken:
            if time.monotonic() > patience:
                raise
            time.sleep(0.1)
            continue
        try:
            if place(job) == (placed, False):
                return make_ready(placed), held
        except BaseException:
            held.release()
            raise
        held.release()


def make_ready(job: Job) -> Job:
    """Have the job go on from the checkpoint of an unfinished try; one without is removed, and will be repeated."""
    if read_status(job.folder):
        if newest(job.folder):
            RunFolder(job.folder).remove(re.compile(re.escape(ERROR)))
            kwargs = {**job.arguments["logger_kwargs"], "resume": True}
            return job._replace(arguments={**job.arguments, "logger_kwargs": kwargs})
        RunFolder(job.folder).remove_run(job.arguments["logger_kwargs"].get("output_fname", "progress.txt"))
    return job


def settle(job: Job, outcome: str, why: str = "") -> Run:
    """The run of a process that ended without a word; its folder is told so, unless another process has it by now."""
    placed, done = place(job)
    if not done and read_status(placed.folder):
        with contextlib.suppress(UserError):  # it is another's, or the disk is full
            held = lock(placed.folder)
            try:
                status = read_status(placed.folder)
                if status.get("outcome") == "running":
                    write_status(placed, outcome, 0.0)
                    if why:
                        RunFolder(placed.folder).append(ERROR, f"{why}\n".encode("utf-8", "backslashreplace"))
                else:
                    outcome = status.get("outcome", outcome)
            finally:
                held.release()
    return Run(job.name, job.seed, str(placed.folder), 0.0, DONE if done else outcome)


# ---- executors


class ProcessExecutor(ThreadPoolExecutor):
    """At most `jobs` processes at once, a new one for each call: one that is killed takes no other along.

    threads: what each may use of the processor's cores
    """

    def __init__(self, jobs: int, threads: int):
        super().__init__(jobs)
        open_closed_streams()  # else a pipe to a child takes the number of one
        self.context, self.threads = multiprocessing.get_context("spawn"), threads
        self.processes: set = set()
        self.starting, self.stopped = threading.Lock(), False

    def submit(self, function: Callable, /, *args: Any) -> Future:
        return super().submit(self.in_process, function, args)

    def in_process(self, function: Callable, args: tuple) -> Any:
        """function(*args) in a process of its own. Raises ProcessDied where it ends without a result."""
        receiver, sender = self.context.Pipe(duplex=False)
        process = self.context.Process(target=child, args=(sender, function, args))
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
        """End all processes, and start no more. They have a minute for their checkpoints; Ctrl-C ends them at once."""
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
    """Wait until all have left the set, but not longer than that."""
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
    """Environment variables that a process started in the block gets: libraries read some of them as they load."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def child(sender, function: Callable, args: tuple) -> None:
    """The child's side of ProcessExecutor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends its children
    threading.Thread(target=end_with_parent, daemon=True).start()
    with ended_by_sigterm():
        try:
            result = function(*args)
        except UserError as error:  # one line for the parent to tell, not a traceback
            result = error
        sender.send(result)
        sender.close()


def end_with_parent() -> None:
    """Have this process end after its parent; it has a minute for a checkpoint."""
    if parent := multiprocessing.parent_process():
        parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
    os._exit(1)


class RayExecutor(Executor):
    """Calls as tasks on a Ray cluster: the one that $RAY_ADDRESS names, or else this machine.

    threads: cores that a task takes. A task whose node dies is done again on another.
    """

    def __init__(self, threads: int):
        try:
            import ray
        except ImportError:
            raise UserError(f"executor ray needs: {install('ray')}") from None
        self.ray, self.threads = ray, threads
        if not ray.is_initialized():
            ray.init(log_to_driver=False, logging_level="warning")

    def submit(self, function: Callable, /, *args: Any) -> Future:
        task = self.ray.remote(num_cpus=self.threads, max_retries=3)(function)
        return task.remote(*args).future()

    def stop(self) -> None:
        self.ray.shutdown()


# ---- all of them


def perform_all(jobs: list[Job], executor: Executor, overview: "Overview") -> list[Run]:
    """Do the jobs in the executor, and return what became of them, in their order.

    Raises UserError for an executor of threads and where a job cannot be sent to another process.
    """
    if isinstance(executor, ThreadPoolExecutor) and not isinstance(executor, ProcessExecutor):
        raise UserError("executor has threads, which would share one seed and one output; give one that has processes")
    for job in jobs:
        check_picklable(job)
    futures = [executor.submit(perform, job, True) for job in jobs]
    runs, waiting = {}, set(futures)
    while waiting:
        ended, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in ended:
            runs[future], why = result(future, jobs[futures.index(future)])
            overview.ended(runs[future], why)
        overview.draw()
    return [runs[future] for future in futures]


def result(future: Future, job: Job) -> tuple[Run, str]:
    """The run that a future came to, and what its process or the executor failed of."""
    try:
        return future.result(), ""
    except Exception as error:  # also what an executor of the user's raises
        if isinstance(error, UserError):
            run = settle(job, WRONG, str(error))  # its folder may tell of an earlier try
            return run if run.outcome == DONE else run._replace(outcome=WRONG), str(error)
        outcome = KILLED if isinstance(error, ProcessDied) and error.killed else FAILED
        return settle(job, outcome, first_line(error)), first_line(error)


def check_picklable(job: Job) -> None:
    try:
        pickle.dumps(job)
    except Exception as error:
        raise UserError(
            f"{job.name}: cannot be sent to another process ({error}); define its functions at the top level of a "
            "module, or run the grid with jobs=1"
        ) from None


class Overview:
    """Tells how a grid is going: on a terminal a live table, elsewhere a line for each run that ends."""

    def __init__(self, jobs: list[Job], quiet: bool):
        self.jobs, self.quiet, self.runs, self.live, self.drawn = jobs, quiet, {}, None, 0.0
        if not quiet and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            from rich.live import Live

            self.live = Live(auto_refresh=False)
            self.live.start()
            self.draw()

    def ended(self, run: Run, why: str = "") -> None:
        """Tell of a run that has ended. why: what its process failed of, where its folder does not say"""
        self.runs[run.folder] = run
        if run.outcome == ELSEWHERE:
            what = f"another process is at work on {run.folder}"
            say(f"spinup: error: {run.name}, seed {run.seed}: {what}", error=True)
        elif run.outcome not in (DONE, BEFORE):
            where = f"{why or reason(Path(run.folder), run.outcome)}; see {Path(run.folder) / OUTPUT}"
            say(f"spinup: error: {run.name}, seed {run.seed}: {where}", error=True)
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
        from rich.text import Text  # as it stands: brackets are not markup

        ended = {folder: run.outcome for folder, run in self.runs.items()}
        outcomes = [
            ended.get(str(job.folder)) or printable(str(read_status(job.folder).get("outcome", "waiting")))
            for job in self.jobs
        ]
        rows = list(zip(self.jobs, outcomes, strict=True))
        caption = None
        if len(rows) > (room := self.live.console.height - 3 if self.live else len(rows)):
            rows = sorted(rows, key=lambda row: row[1] != "running")[: max(1, room)]  # those at work first
            caption = ", ".join(f"{n} {outcome}" for outcome, n in Counter(outcomes).most_common())
        table = Table("run", "seed", "", "steps", "return", "time left", box=None, pad_edge=False, caption=caption)
        for job, outcome in rows:
            table.add_row(
                Text(job.name), str(job.seed), Text(outcome), *progress(job.folder, running=outcome == "running")
            )
        return table


def reason(folder: Path, outcome: str) -> str:
    """The last line of error.txt: a traceback's is the error, of whose class a mistake of the user's needs no word."""
    try:
        check_file(folder / ERROR)
        lines = (folder / ERROR).read_text("utf-8").split("\n")
    except (OSError, ValueError):
        return outcome
    last = next((line for line in reversed(lines) if line.strip()), outcome)
    return printable(last.removeprefix("spinup.errors.UserError: "))


def first_and_last_line(file: Path) -> tuple[str, str]:
    """Those of a table, without the rows between; LookupError where it has no whole row yet."""
    with open(file, "rb") as table:
        first = table.readline()
        table.seek(max(len(first), table.seek(0, os.SEEK_END) - 2**16))
        return first.decode().rstrip("\n"), table.read().split(b"\n")[-2].decode()


def progress(folder: Path, running: bool) -> tuple[str, str, str]:
    """Steps, last return and time left of the run in `folder`, from its last row; blank where there is none."""
    try:
        check_file(folder / "config.json"), check_file(folder / "progress.txt")
        config = json.loads((folder / "config.json").read_text("utf-8"))
        header, last = first_and_last_line(folder / "progress.txt")
        row = dict(zip(header.split("\t"), map(float, last.split("\t")), strict=True))
        done, steps = row["Epoch"] / config["epochs"], f"{row['TotalEnvInteracts']:,.0f}"
        left = datetime.timedelta(seconds=round(row.get("Time", 0) * (1 / done - 1))) if done else ""
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
        return "", "", ""
    ret = row.get("AverageTestEpRet", row.get("AverageEpRet", float("nan")))
    return steps, f"{ret:,.4g}", str(left) if running else ""
