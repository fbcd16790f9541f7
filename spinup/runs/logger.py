"""What a run writes to its folder and prints.

The folder contains config.json (arguments, versions, command), progress.txt (tab-separated: a header, then one line per
epoch) and model.pt (a state_dict). Each row goes to the sinks of spinup.runs.sinks: the table file, those that the user
names or passes, and the terminal.
"""

import contextlib
import inspect
import io
import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spinup.compute import mpi
from spinup.errors import UserError, first_line, printable, user_path
from spinup.runs.config import (
    convert_json,
    exact_arguments,
    is_tensor,
    now,
    provenance,
    read_config,
    setup_logger_kwargs,
)
from spinup.runs.sinks import Sink, TableFile, Terminal, make_sink, mean_return
from spinup.system.files import RESERVED, RunFolder, check_name, write_errors
from spinup.system.locks import FolderInUse, Lock, lock
from spinup.system.terminal import say


def _create_folder(folder: Path, fname: str) -> tuple[Path, Lock]:
    """Create and lock `folder` or, if it contains a run, the first free one of folder-2, folder-3, ...

    `fname` is created exclusively, so that only one of several processes gets the folder. A folder that another process
    has locked contains a run, or soon will.
    """
    if folder.name in ("", ".."):
        folder = folder.resolve()
    for i in itertools.count(1):
        path = folder if i == 1 else folder.with_name(f"{folder.name}-{i}")
        with write_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(path / "config.json"):
                with contextlib.suppress(FileExistsError, FolderInUse):
                    taken = lock(path)
                    try:
                        RunFolder(path).create(fname).close()
                        return path, taken
                    except BaseException:
                        taken.release()
                        raise
    raise AssertionError("unreachable: the numbers never end")


class Logger:
    """Writes a run's folder and shows its progress. With several MPI processes, only the first one writes and prints.

    output_dir: the run's folder; default: that of setup_logger_kwargs(exp_name). If it already contains a run, the next
        free name (`..._s0-2`) is used; `logger.output_dir` is the folder in use (None in other processes)
    output_fname: the table's file name
    exp_name: the group that the run belongs to in plots; default: the folder's name
    quiet: print only warnings
    tensorboard: short for sinks=["tensorboard"]
    sinks: where rows go besides progress.txt: "tensorboard", "wandb", "trackio" or objects (spinup.runs.sinks)
    resume: continue the run in output_dir from its checkpoint (spinup.runs.checkpoint), or from the beginning if it has
        none yet

    Raises UserError if the folder can't be written, another process is using it, or a sink's package is missing.
    Can be used in a `with` statement; close() removes the progress bar.
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
        self.log_current_row: dict[str, Any] = {}
        self.module: Any = None
        self.output_dir: Any = None  # a Path on the process that writes
        self.epoch_return, self._closed = math.nan, False
        self.last_row: dict[str, Any] = {}
        self._steps: int = -1  # at last_row
        self._terminal, self._table = Terminal(self.quiet), None
        self._sinks: list[Sink] = []
        self._sinks_started = False
        self._written: float = -1  # the last step in the table of a resumed run
        self.resume = resume
        self.setup()
        if RESERVED.fullmatch(check_name(output_fname)):
            raise UserError(
                f"output_fname is {output_fname!r}, which is another file's name; choose another, such as progress.txt"
            )
        if not isinstance(output_dir, str | os.PathLike | None):
            raise UserError(f"output_dir is {output_dir!r:.80}; it must be the path of a folder, or None")
        if not isinstance(exp_name, str | None):
            raise UserError(f"exp_name is {exp_name!r:.80}; it must be a string, or None")
        if not self.is_root:
            return
        sinks = sinks.replace(" ", "").split(",") if isinstance(sinks, str) else sinks
        if not isinstance(sinks, list | tuple):
            raise UserError(f"sinks is {sinks!r:.80}; it must be a list of names and objects, such as ['tensorboard']")
        names = [*(["tensorboard"] if tensorboard and "tensorboard" not in sinks else []), *sinks]
        chosen = [make_sink(sink) for sink in names]
        wanted = user_path(output_dir or setup_logger_kwargs(exp_name or "experiment")["output_dir"])
        self.exp_name = exp_name or wanted.resolve().name
        if resume and not wanted.is_dir():
            raise UserError(f"there is no folder '{wanted}' with a run to resume")
        self.output_dir, self._lock = (wanted, lock(wanted)) if resume else _create_folder(wanted, output_fname)
        self.output_file = self.output_dir / output_fname
        self.folder = RunFolder(self.output_dir)
        self.folder.check()
        self._table = TableFile(self.folder, output_fname, resume)
        self._sinks = [self._table, *chosen, self._terminal]
        if resume and chosen:
            self._written = self._table.last_step()
        if self.output_dir.name not in (wanted.name, wanted.resolve().name):
            self.warn(f"{wanted} already contains a run; this one goes to {self.output_dir}")
        else:
            self.log(f"Logging to {self.output_dir}")

    def setup(self) -> None:
        """A subclass's own initialization, so that it can keep this class's signature."""

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def log(self, msg: str, color: str = "green") -> None:
        """Print a line, in color on a terminal."""
        self._terminal.log(printable(msg), color)

    def warn(self, msg: str) -> None:
        """Print a line on stderr, even if `quiet`."""
        if self.is_root:
            say(f"warning: {printable(msg)}", error=True)

    def save_config(self, config: Mapping) -> None:
        """Write config.json: the arguments, `exp_name` and, under `run`, the versions, commit, command and machine.

        Values without a JSON type become readable strings. The progress bar's length is steps_per_epoch * epochs.
        """
        if not self.is_root:
            return
        with contextlib.suppress(KeyError, TypeError):
            self._terminal.total_steps = config["steps_per_epoch"] * config["epochs"]
        content = {**convert_json({**config, "exp_name": self.exp_name}), **exact_arguments(config)}
        content["run"] = convert_json(provenance(config))
        if self.resume:
            content["run"] |= self.resume_history(content)
        self.config = (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()
        if not self.resume:
            self.write_config()
        self.progress(0)

    def resume_history(self, content: Mapping) -> dict:
        """A resumed run's part of config.json: its start, when it was resumed, and which arguments changed then."""
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
        """The last part of save_config. A resumed run calls it once its checkpoint has been restored."""
        if self.is_root:
            self.folder.replace("config.json", self.config)

    def setup_pytorch_saver(self, module) -> None:
        """Set the torch.nn.Module that save_state saves."""
        if not hasattr(module, "state_dict"):
            raise UserError(f"setup_pytorch_saver takes a torch.nn.Module, not a {type(module).__name__}")
        self.module = module

    def save_state(self, itr: int | None = None) -> None:
        """Write the module's state_dict to model.pt or model{itr}.pt; a crash leaves the old or the new file."""
        if self.module is None:
            raise UserError("save_state has nothing to save: call setup_pytorch_saver(module) first")
        self.save_tensors(f"model{'' if itr is None else int(itr)}.pt", self.module.state_dict())

    def save_tensors(self, name: str, state: Mapping) -> None:
        """Write a state_dict to the file `name` in the run's folder, as save_state does."""
        if self.is_root:
            import torch

            data = io.BytesIO()
            torch.save(state, data)
            self.check_lock()
            self.folder.replace(name, data.getvalue())

    def log_tabular(self, key: str, val) -> None:
        """Add `val` (a number, a string, an array or tensor of one element) to this epoch's row, once per key."""
        if key in self.log_current_row:
            raise UserError(f"{key} is already in this row; call dump_tabular() once per epoch, after the last value")
        val = val.detach().cpu().numpy() if is_tensor(val) else val
        self.log_current_row[key] = val.item() if isinstance(val, (np.generic, np.ndarray)) and val.size == 1 else val

    def dump_tabular(self) -> None:
        """Write this epoch's row to progress.txt and the other sinks, print it, and start the next row."""
        row, self.log_current_row = self.log_current_row, {}
        self.last_row, self.epoch_return = row, mean_return(row)
        if not self.is_root or not row:
            return
        self.check_lock()
        step = row.get("TotalEnvInteracts") or row.get("Epoch") or 0
        for sink in self._sinks:
            if not self._sinks_started:  # with the first row: only then is it known at which step a run resumes
                config = json.loads(getattr(self, "config", b"{}"))
                sink.start(self.output_dir, config, self._steps if self.resume else None)
            if not (getattr(sink, "append_only", False) and step <= self._written):
                sink.write(dict(row), step)
        self._sinks_started, self._steps = True, step

    def check_lock(self) -> None:
        """Call it before writing: raises FolderInUse if another process has the run's folder by now."""
        if self.is_root and self._lock.check():
            self.warn(f"{self.output_dir / '.lock'} was removed during the run; it has been restored")

    def state_dict(self) -> dict:
        """The table so far, for a checkpoint."""
        table = self._table.state_dict() if self._table else {"table": "", "headers": []}
        return {**table, "last_return": self._terminal.last_return, "steps": self._steps}

    def load_state_dict(self, state: Mapping) -> None:
        """Restore the table: rows of later epochs are removed and will be written again."""
        self._terminal.last_return = state["last_return"]
        self._steps = state["steps"]
        if self._table:
            self._table.load_state_dict(state)

    def clear_table(self) -> None:
        """Remove rows that an earlier attempt has written."""
        if self._table:
            self._table.load_state_dict({"table": "", "headers": []})

    def progress(self, steps: float) -> None:
        """Move the progress bar, if there is one, to `steps`. Cheap enough to call at every step."""
        self._terminal.progress(steps)

    def close(self) -> None:
        """Remove the progress bar, close the sinks and print where the run is. A second call does nothing."""
        self._terminal.close()  # has a bar even before the first row
        for sink in self._sinks if self._sinks_started else []:
            try:
                sink.close()
            except Exception as error:  # the run is complete all the same
                self.warn(f"{type(sink).__name__} raised {first_line(error)} in close")
        if self.output_dir and not self._closed:
            self.log(f"The run is in {self.output_dir}")
            self._lock.release()
        self._closed = True


class _RunningStats:
    """Count, mean, sum of squared deviations (m2), minimum and maximum of all added numbers; a NaN makes them NaN."""

    def __init__(self):
        self.n, self.mean, self.m2, self.min, self.max = 0, 0.0, 0.0, math.inf, -math.inf

    def add(self, x) -> None:
        """Add a number, or an array, tensor or list of numbers of any shape, possibly empty."""
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
        # Chan, Golub and LeVeque (1979): the moments of two samples combined, from the moments of each
        delta, share = mean - self.mean, n / (self.n + n)
        self.m2 += m2 + delta * delta * self.n * share if self.n else m2
        self.mean += delta * share if math.isfinite(delta) else mean  # infinite or NaN from now on
        self.n += n
        self.min, self.max = float(np.minimum(self.min, low)), float(np.maximum(self.max, high))

    def stats(self) -> tuple[float, float, float, float]:
        """(mean, std, min, max) over the numbers of all MPI processes; all NaN if there are no numbers.

        Every process must call it, even if it has no numbers of its own.
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
    """A Logger that also collects any number of values per epoch and logs their statistics.

        logger.store(EpRet=[10.0, 12.0])                     # as often as you like
        logger.log_tabular("EpRet", with_min_and_max=True)   # AverageEpRet, StdEpRet, MaxEpRet, MinEpRet

    Only running statistics are kept, not the values. With several MPI processes the statistics cover all of them, so
    every process must make the same calls of log_tabular and get_stats, in the same order.
    """

    def setup(self) -> None:
        self._running, self._pending = {}, {}
        self.means: list[str] = []  # columns that dump_tabular adds

    def dump_tabular(self) -> None:
        """Write the row as Logger does, after adding the mean of each key in `means`."""
        for key in self.means:
            if key in self.log_current_row:
                raise UserError(f"log_info: the table already has a column '{key}'")
            self.log_tabular(key, average_only=True)
        super().dump_tabular()

    def store(self, **values) -> None:
        """Collect, for each keyword, a number or an array, list or tensor of numbers of any shape, possibly empty.

        Tensors are copied and stay on their device until there are a hundred, or the row is written. So calling it
        after every gradient step costs almost nothing and never synchronizes with a GPU.
        """
        for key, x in values.items():
            if is_tensor(x) and not x.is_complex():
                self._pending.setdefault(key, []).append(x.detach().clone())
                if len(self._pending[key]) == 100:
                    self._flush_pending(key)
                continue
            try:
                self._running.setdefault(key, _RunningStats()).add(x)
            except (TypeError, ValueError) as error:
                raise UserError(f"store({key}=...) takes numbers or arrays of numbers, not {x!r:.80}") from error

    def not_yet_logged(self) -> list[str]:
        """Keys with values stored since the last row that are not in this row yet."""
        stored = dict.fromkeys([*self._running, *self._pending])
        return [key for key in stored if key not in self.means]

    def _flush_pending(self, key: str) -> None:
        """Add the pending tensors of `key` to its statistics."""
        if tensors := self._pending.pop(key, None):
            import torch  # already imported, since there are tensors

            self._running.setdefault(key, _RunningStats()).add(torch.cat([x.reshape(-1) for x in tensors]))

    def log_tabular(self, key: str, val=None, with_min_and_max: bool = False, average_only: bool = False) -> None:
        """Add `val` to the row or, without one, the statistics of the values stored since `key` was last logged.

        average_only: only the mean, in a column named `key`
        with_min_and_max: also minimum and maximum

        If nothing was stored, the statistics are NaN.
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
        """The table so far, and the values stored since its last row."""
        running = {key: vars(running).copy() for key, running in self._running.items()}
        waiting = {key: list(tensors) for key, tensors in self._pending.items()}
        return {**super().state_dict(), "running": running, "waiting": waiting}

    def load_state_dict(self, state: Mapping) -> None:
        super().load_state_dict(state)
        self._pending, self._running = {key: list(x) for key, x in state["waiting"].items()}, {}
        for key, values in state["running"].items():
            self._running[key] = _RunningStats()
            vars(self._running[key]).update(values)

    def get_stats(self, key: str) -> tuple[float, float, float, float]:
        """(mean, std, min, max) of the values stored since `key` was last logged; NaN if there are none."""
        self._flush_pending(key)
        return self._running.get(key, _RunningStats()).stats()


def logger_arguments() -> dict[str, type | None]:
    """A Logger's arguments and their types, None if unspecific."""
    parameters = inspect.signature(Logger).parameters.values()
    return {p.name: type(p.default) if isinstance(p.default, bool | str) else None for p in parameters}
