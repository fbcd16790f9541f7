"""What a run leaves behind and what it shows.

In the run's folder: config.json (arguments, versions, command), progress.txt (tab-separated, a header, then a line per
epoch) and model.pt (a state_dict). On a terminal a table per epoch above a progress bar; elsewhere the table alone.

A column that first appears in a later epoch is added on the right: progress.txt is rewritten with the wider header.
A cell with no value, in that case or any other, is `nan`, so that every line has as many cells as the header.
"""

import contextlib
import io
import itertools
import json
import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spinup.compute import mpi
from spinup.errors import UserError, printable, user_path
from spinup.runs.config import (
    convert_json,
    exact_arguments,
    is_tensor,
    now,
    read_config,
    record,
    setup_logger_kwargs,
)
from spinup.runs.sinks import Sink, make_sink
from spinup.system.files import RESERVED, RunFolder, bare, writing
from spinup.system.locks import Lock, Taken, lock
from spinup.system.terminal import Bar, cell, colorize, say, table


def _claim(folder: Path, fname: str) -> tuple[Path, Lock]:
    """Makes and locks `folder`, or the first of folder-2, folder-3, ... without a run, taking it by creating `fname`.

    Creation is exclusive, so of two processes that want the same folder at once only one gets it. One that another
    process has locked holds a run, or is about to.
    """
    if folder.name in ("", ".."):
        folder = folder.resolve()
    for i in itertools.count(1):
        path = folder if i == 1 else folder.with_name(f"{folder.name}-{i}")
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(path / "config.json"):
                with contextlib.suppress(FileExistsError, Taken):
                    taken = lock(path)
                    try:
                        RunFolder(path).create(fname).close()
                        return path, taken
                    except BaseException:
                        taken.release()
                        raise
    raise AssertionError("a name is found before numbers end")


def last_step(table: Path) -> float:
    """Environment steps, or epochs, at the last row of a progress.txt; -1 without any."""
    try:
        lines = [line.split("\t") for line in table.read_text("utf-8").splitlines()]
        column = next(lines[0].index(name) for name in ("TotalEnvInteracts", "Epoch") if name in lines[0])
        return float(lines[-1][column])
    except (OSError, ValueError, IndexError, StopIteration):
        return -1


class Logger:
    """Writes a run's folder and shows its progress; with several MPI processes the first one alone does so.

    output_dir: the run's folder; by default that of setup_logger_kwargs(exp_name). Where it holds a run already the
        next free name (`..._s0-2`) is taken instead; `logger.output_dir` is the one in use (None in other processes)
    output_fname: the table's file name
    exp_name: by what runs are grouped in plots; by default the folder's name
    quiet: show warnings only
    tensorboard: short for sinks=["tensorboard"]
    sinks: where the table's rows go as well: "tensorboard", "wandb", "trackio", and objects (spinup.runs.sinks)
    resume: go on with the run that output_dir holds, from its checkpoint (spinup.runs.checkpoint), or from the
        beginning where there is none yet

    Raises UserError if the folder cannot be written, another process is writing to it, or a sink's package is missing.
    Usable in a `with` statement; close() ends the progress bar.
    """

    def __init__(
        self,
        output_dir: str | Path | None = None,
        output_fname: str = "progress.txt",
        exp_name: str | None = None,
        quiet: bool = False,
        tensorboard: bool = False,
        resume: bool = False,
        sinks: Sequence[str | Sink] = (),
    ):
        self.is_root = mpi.proc_id() == 0
        self.quiet = quiet or not self.is_root
        self.log_headers, self.log_current_row = [], {}
        self.total_steps: int | None = None
        self.module: Any = None
        self.output_dir: Any = None  # Path, on the process that writes
        self._bar: Bar | None = None
        self.epoch_return, self._last_return, self._closed = math.nan, math.nan, False
        self.last_row: dict[str, Any] = {}  # the newest row, and its step
        self._steps: int = -1
        self._sinks, self._sinks_started = [], False
        self._written: float = -1  # the last step in the table of a run that goes on
        self.resume = resume
        self.begin()
        isatty = getattr(sys.stdout, "isatty", lambda: False)
        self._live = not self.quiet and isatty() and os.environ.get("TERM") != "dumb"
        self._colour = self._live and not os.environ.get("NO_COLOR")
        if RESERVED.fullmatch(bare(output_fname)):
            raise UserError(f"output_fname is {output_fname!r}, which is another file's name; progress.txt would do")
        if not self.is_root:
            return
        sinks = sinks.replace(" ", "").split(",") if isinstance(sinks, str) else sinks
        names = [*(["tensorboard"] if tensorboard and "tensorboard" not in sinks else []), *sinks]
        self._sinks = [make_sink(sink) for sink in names]
        wanted = user_path(output_dir or setup_logger_kwargs(exp_name or "experiment")["output_dir"])
        self.exp_name = exp_name or wanted.resolve().name
        self.output_dir, self._lock = (wanted, lock(wanted)) if resume else _claim(wanted, output_fname)
        self.output_file = self.output_dir / output_fname
        self.folder, self._table = RunFolder(self.output_dir), None if resume else bytearray()
        self.folder.check()
        if resume and self._sinks:
            self._written = last_step(self.folder.path / output_fname)
        if self.output_dir.name not in (wanted.name, wanted.resolve().name):
            self.warn(f"{wanted} holds a run already; this one goes to {self.output_dir}")
        else:
            self.log(f"Logging to {self.output_dir}")

    def begin(self) -> None:
        """For what a subclass keeps: its signature stays this one's."""

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def log(self, msg: str, color: str = "green") -> None:
        """Print a line, coloured on a terminal."""
        if not self.quiet:
            msg = printable(msg)
            say(colorize(msg, color, bold=True) if self._colour else msg)

    def warn(self, msg: str) -> None:
        """Print a line on stderr, `quiet` or not."""
        if self.is_root:
            say(f"warning: {printable(msg)}", error=True)

    def save_config(self, config: Mapping) -> None:
        """Write config.json: the arguments, `exp_name`, and as `run` the versions, commit, command and machine.

        What JSON has no form for becomes a readable string. steps_per_epoch * epochs is the progress bar's length.
        """
        if not self.is_root:
            return
        with contextlib.suppress(KeyError, TypeError):
            self.total_steps = config["steps_per_epoch"] * config["epochs"]
        content = {**convert_json({**config, "exp_name": self.exp_name}), **exact_arguments(config)}
        content["run"] = convert_json(record(config))
        if self.resume:
            content["run"] |= self.history(content)
        self.config = (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()
        if not self.resume:
            self.write_config()
        self.progress(0)

    def history(self, content: Mapping) -> dict:
        """What config.json says of a run that goes on: its beginning, when it went on, and what was changed then."""
        before = read_config(self.output_dir)[1]
        run: dict = before["run"] if isinstance(before.get("run"), dict) else {}
        history = {name: run[name] for name in ("started", "command", "id") if name in run}
        resumed, changes = (x if isinstance(x, list) else [] for x in (run.get("resumed"), run.get("changed")))
        history["resumed"] = [*resumed, now()]
        plain = (bool, int, float, str, type(None))
        names = [k for k, value in before.items() if k in content and k != "run" and isinstance(value, plain)]
        changed = convert_json({k: [before[k], content[k]] for k in names if before[k] != content[k]})
        entries = [*changes, *([{"time": now(), **changed}] if changed else [])]
        return {**history, "changed": entries} if entries else history

    def write_config(self) -> None:
        """The part of save_config that has to wait, where a run goes on, until it is known that it can."""
        if self.is_root:
            self.folder.replace("config.json", self.config)

    def setup_pytorch_saver(self, module) -> None:
        """Name the torch.nn.Module whose parameters save_state writes."""
        if not hasattr(module, "state_dict"):
            raise UserError(f"setup_pytorch_saver takes a torch.nn.Module, not a {type(module).__name__}")
        self.module = module

    def save_state(self, itr: int | None = None) -> None:
        """Write the module's state_dict to model.pt (model{itr}.pt), which a crash leaves whole, old or new."""
        if self.module is None:
            raise UserError("save_state has nothing to save: call setup_pytorch_saver(module) first")
        self.save_tensors(f"model{'' if itr is None else int(itr)}.pt", self.module.state_dict())

    def save_tensors(self, name: str, state: Mapping) -> None:
        """Write a state_dict to the file `name` of the run's folder, as save_state does."""
        if self.is_root:
            import torch

            data = io.BytesIO()
            torch.save(state, data)
            self.check_lock()
            self.folder.replace(name, data.getvalue())

    def log_tabular(self, key: str, val) -> None:
        """Put `val` (a number, a one-element array or tensor, a word) under `key` in this epoch's row, once."""
        if key in self.log_current_row:
            raise UserError(f"{key} is in this row already; call dump_tabular() once per epoch, after the last value")
        val = val.detach().cpu().numpy() if is_tensor(val) else val
        self.log_current_row[key] = val.item() if isinstance(val, (np.generic, np.ndarray)) and val.size == 1 else val

    def dump_tabular(self) -> None:
        """Write this epoch's row to progress.txt, show it, and begin the next."""
        row, self.log_current_row = self.log_current_row, {}
        ret = row.get("AverageTestEpRet", row.get("AverageEpRet", math.nan))
        self.epoch_return = ret if isinstance(ret, (int, float)) else math.nan  # NaN where no episode ended
        self.last_row = row
        if not self.is_root or not row:
            return
        self._write(row)
        steps = row.get("TotalEnvInteracts", 0)
        self._write_to_sinks(row, steps or row.get("Epoch") or 0)
        self._steps = steps or row.get("Epoch") or 0
        if not self.quiet:
            width = shutil.get_terminal_size().columns if self._live else 80
            say(table(row, width) + "\n", end="")  # one write, so the bar is drawn once
        if not math.isnan(self.epoch_return):
            self._last_return = self.epoch_return
        self.progress(steps, now=True)

    def check_lock(self) -> None:
        """Before writing: raise Taken where another process has the run's folder now."""
        if self.is_root and self._lock.check():
            self.warn(f"{self.output_dir / '.lock'} was removed while the run is at work; it is there again")

    def _write(self, row: dict) -> None:
        self.check_lock()
        name = self.output_file.name
        if self._table is None:  # of a program that goes on with a run by itself
            self._table = bytearray(self.output_file.read_bytes() if self.folder.size(name) else b"")
            self.log_headers = self._table.partition(b"\n")[0].decode().split("\t") if self._table else []
        new = [key for key in row if key not in self.log_headers]
        if new:
            self.log_headers += new
            rows = bytes(self._table).splitlines()[1:]
            header = "\t".join(map(cell, self.log_headers)).encode()
            self._replace_table(
                b"".join(line + b"\n" for line in (header, *(row + b"\tnan" * len(new) for row in rows)))
            )
        elif self.folder.size(name) != len(self._table):
            self.warn(f"{self.output_file} was removed or changed while the run is at work; all its rows are back")
            self._replace_table(bytes(self._table))
        line = ("\t".join(cell(row.get(key)) for key in self.log_headers) + "\n").encode()
        self.folder.append(name, line)
        self._table += line

    def _replace_table(self, content: bytes) -> None:
        self.folder.replace(self.output_file.name, content)
        self._table = bytearray(content)

    def _write_to_sinks(self, row: Mapping, step: int) -> None:
        """They start with the first row, when it is known where a run resumes."""
        for sink in self._sinks:
            if not self._sinks_started:
                config = json.loads(getattr(self, "config", b"{}"))
                sink.start(self.output_dir, config, self._steps if self.resume else None)
            if not (getattr(sink, "append_only", False) and step <= self._written):
                sink.write(row, step)
        self._sinks_started = True

    def state_dict(self) -> dict:
        """The table so far, for a checkpoint."""
        table = (self._table or b"").decode() if self.is_root else ""
        state = {"table": table, "headers": list(self.log_headers)}
        return {**state, "last_return": self._last_return, "steps": self._steps}

    def load_state_dict(self, state: Mapping) -> None:
        """Bring the table to where it was: rows of later epochs will come again."""
        self.log_headers, self._last_return = list(state["headers"]), state["last_return"]
        self._steps = state.get("steps", 0)  # checkpoints of version 1 have none
        if self.is_root:
            self._replace_table(state["table"].encode())

    def begin_table(self) -> None:
        """Let go of rows that the file has from an earlier try."""
        if self.is_root:
            self._replace_table(b"")

    def progress(self, steps: float, now: bool = False) -> None:
        """Move the progress bar, where there is one, to `steps`; cheap enough to call at every step."""
        if not self._live:
            return
        if self._bar is None:
            self._bar = Bar(self.total_steps)
        self._bar.draw(steps, self._last_return, now)

    def close(self) -> None:
        """End the progress bar and say where the run is. A second call does nothing."""
        if self._bar:
            self._bar.stop()
        for sink in self._sinks if self._sinks_started else []:
            sink.close()
        if self.output_dir and not self._closed:
            self.log(f"The run is in {self.output_dir}")
            self._lock.release()
        self._live, self._closed = False, True


class _Running:
    """Count, mean, sum of squared deviations (m2), minimum and maximum of all numbers added; one NaN makes all NaN."""

    def __init__(self):
        self.n, self.mean, self.m2, self.min, self.max = 0, 0.0, 0.0, math.inf, -math.inf

    def add(self, x) -> None:
        """Take in a number, or an array, tensor or list of numbers of any shape, also empty."""
        if isinstance(x, (int, float)):
            return self._merge(1, float(x), 0.0, float(x), float(x))
        if isinstance(x, (list, tuple)):
            x = [y.detach().cpu() if is_tensor(y) else y for y in x]
        x = x.detach().cpu().double().numpy() if is_tensor(x) else np.asarray(x, dtype=np.float64)
        if x.size:
            with np.errstate(all="ignore"):
                mean = x.mean()
                self._merge(x.size, *map(float, (mean, np.square(x - mean).sum(), x.min(), x.max())))

    def _merge(self, n: int, mean: float, m2: float, low: float, high: float) -> None:
        # Chan, Golub and LeVeque (1979): the moments of a union of two samples from those of each
        delta, share = mean - self.mean, n / (self.n + n)
        self.m2 += m2 + delta * delta * self.n * share if self.n else m2
        self.mean += delta * share if math.isfinite(delta) else mean  # not finite: infinite or NaN it is from now on
        self.n += n
        self.min, self.max = float(np.minimum(self.min, low)), float(np.maximum(self.max, high))

    def stats(self) -> tuple[float, float, float, float]:
        """(mean, std, min, max) over the numbers of all MPI processes; four NaN where there are none.

        Every process takes part in the same sums, with numbers of its own or without.
        """
        n: float = self.n
        mean, m2, low, high = self.mean, self.m2, self.min, self.max
        if mpi.num_procs() > 1:
            n, total = map(float, mpi.mpi_sum(np.array([n, n * mean])))
            mean = total / max(n, 1)
            delta = self.mean - mean
            m2 = mpi.mpi_sum(m2 + self.n * delta * delta if self.n else 0.0)
            low, high = mpi.mpi_min(low), mpi.mpi_max(high)
        if n == 0:
            return (math.nan,) * 4
        return float(mean), math.sqrt(m2 / n) if math.isfinite(mean) else math.nan, float(low), float(high)


class EpochLogger(Logger):
    """A Logger that also takes in any number of values per epoch and logs their statistics.

        logger.store(EpRet=[10.0, 12.0])                     # as often as you like
        logger.log_tabular("EpRet", with_min_and_max=True)   # AverageEpRet, StdEpRet, MaxEpRet, MinEpRet

    The values themselves are not kept. With several MPI processes the statistics are those of all of them, so all must
    call log_tabular and get_stats, in the same order.
    """

    def begin(self) -> None:
        self._running, self._waiting = {}, {}
        self.means: list[str] = []  # columns that dump_tabular adds

    def dump_tabular(self) -> None:
        """Write the row as Logger does, with the means of what was stored under the names in `means`."""
        for key in self.means:
            if key in self.log_current_row:
                raise UserError(f"log_info: the table has a column '{key}' of its own")
            self.log_tabular(key, average_only=True)
        super().dump_tabular()

    def store(self, **values) -> None:
        """Take in, per keyword, a number or an array, list or tensor of numbers (of any shape, also empty).

        Tensors wait on their device, as they are now, until the row or a hundred of them: a store in every gradient
        step then costs next to nothing, and makes no GPU wait.
        """
        for key, x in values.items():
            if is_tensor(x) and not x.is_complex():
                self._waiting.setdefault(key, []).append(x.detach().clone())
                if len(self._waiting[key]) == 100:
                    self._take_in(key)
                continue
            try:
                self._running.setdefault(key, _Running()).add(x)
            except (TypeError, ValueError) as error:
                raise UserError(f"store({key}=...) takes numbers or arrays of numbers, not {x!r:.80}") from error

    def unlogged(self) -> list[str]:
        """The names of what was stored since the last row and is not in this row yet."""
        stored = dict.fromkeys([*self._running, *self._waiting])
        return [key for key in stored if key not in self.means]

    def _take_in(self, key: str) -> None:
        """Put the tensors that wait under `key` into its statistics."""
        if tensors := self._waiting.pop(key, None):
            import torch  # imported already, as there are tensors

            self._running.setdefault(key, _Running()).add(torch.cat([x.reshape(-1) for x in tensors]))

    def log_tabular(self, key: str, val=None, with_min_and_max: bool = False, average_only: bool = False) -> None:
        """Put `val` in the row or, without one, the statistics of what was stored since `key` was last logged.

        average_only: the mean alone, under `key` itself
        with_min_and_max: minimum and maximum too
        Nothing stored makes NaN.
        """
        if val is not None:
            return super().log_tabular(key, val)
        mean, std, low, high = self.get_stats(key)
        self._running.pop(key, None)
        super().log_tabular(key if average_only else "Average" + key, mean)
        if not average_only:
            super().log_tabular("Std" + key, std)
        if with_min_and_max:
            super().log_tabular("Max" + key, high)
            super().log_tabular("Min" + key, low)

    def state_dict(self) -> dict:
        """The table so far, and what is stored since its last row."""
        running = {key: vars(running).copy() for key, running in self._running.items()}
        waiting = {key: list(tensors) for key, tensors in self._waiting.items()}
        return {**super().state_dict(), "running": running, "waiting": waiting}

    def load_state_dict(self, state: Mapping) -> None:
        super().load_state_dict(state)
        self._waiting, self._running = {key: list(x) for key, x in state["waiting"].items()}, {}
        for key, values in state["running"].items():
            self._running[key] = _Running()
            vars(self._running[key]).update(values)

    def get_stats(self, key: str) -> tuple[float, float, float, float]:
        """(mean, std, min, max) of what was stored since `key` was last logged; NaN where nothing was."""
        self._take_in(key)
        return self._running.get(key, _Running()).stats()
