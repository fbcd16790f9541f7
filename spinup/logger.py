"""What a run leaves behind and what it shows.

In the run's folder: config.json (arguments, versions, command), progress.txt (tab-separated, a header, then a line per
epoch) and model.pt (a state_dict). On a terminal a table per epoch above a progress bar; elsewhere the table alone.

A column that first appears in a later epoch is added on the right: progress.txt is rewritten with the wider header.
A cell with no value, in that case or any other, is `nan`, so that every line has as many cells as the header.
"""

import contextlib
import datetime
import functools
import importlib.metadata
import io
import itertools
import json
import math
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from pathlib import Path, PurePath

import numpy as np

from spinup import mpi
from spinup.errors import UserError, closest, first_line
from spinup.files import append_to_file, lock, replace_file, writing

COLORS = {"gray": 30, "red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36, "white": 37}
RECORDED = ("torch", "numpy", "gymnasium", "mujoco", "mpi4py")  # packages whose version can change a result


def colorize(string: str, color: str, bold: bool = False, highlight: bool = False) -> str:
    """`string` between the terminal's codes for `color` (a key of COLORS); `highlight` colours the background."""
    code = COLORS[color] + (10 if highlight else 0)
    return f"\x1b[{code}{';1' if bold else ''}m{string}\x1b[0m"


def _is_tensor(x) -> bool:
    torch = sys.modules.get("torch")  # who has no torch loaded has no tensor either
    return torch is not None and isinstance(x, torch.Tensor)


def _name(obj) -> str:
    name = f"{getattr(obj, '__module__', None) or 'builtins'}.{obj.__qualname__}"
    code = getattr(obj, "__code__", None)
    if code is not None and "<" in name:  # a lambda or an inner function: the name alone would not say which
        name += f" ({PurePath(code.co_filename).name}:{code.co_firstlineno})"
    return name


def convert_json(obj, _above: tuple = ()):
    """`obj` in types that strict JSON has; what it has no form for (NaN, a class, a lambda) as a readable string."""
    if obj is None or isinstance(obj, (bool, str)):
        return obj
    if isinstance(obj, np.bool_):
        return bool(obj)
    if isinstance(obj, (int, np.integer)):
        return int(obj)
    if isinstance(obj, (float, np.floating)):
        return float(obj) if math.isfinite(float(obj)) else str(float(obj))
    if id(obj) in _above or len(_above) > 50:
        return "<cycle>" if id(obj) in _above else "<nested too deeply>"
    convert = functools.partial(convert_json, _above=(*_above, id(obj)))
    if isinstance(obj, Mapping):
        return {key if isinstance(key, str) else str(convert(key)): convert(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [convert(x) for x in obj]
    if isinstance(obj, (set, frozenset)):
        return sorted((convert(x) for x in obj), key=str)
    if isinstance(obj, np.ndarray) or _is_tensor(obj):
        summary = f"{type(obj).__name__} of shape {tuple(obj.shape)}, {obj.dtype}"
        return convert(obj.tolist()) if math.prod(obj.shape) <= 1000 else summary
    if isinstance(obj, functools.partial):
        func, *args = (convert(x) if callable(x) else repr(convert(x)) for x in (obj.func, *obj.args))
        return f"partial({', '.join([func, *args, *(f'{k}={convert(v)!r}' for k, v in obj.keywords.items())])})"
    try:
        if isinstance(obj, type) or hasattr(obj, "__qualname__"):
            return _name(obj)
        text = re.sub(r" at 0x[0-9a-fA-F]+", "", str(obj))  # an address would differ in every run
    except Exception:  # whatever a foreign __repr__ raises, the run goes on
        text = f"<{_name(type(obj))}>"
    return text if len(text) <= 1000 else text[:1000] + "..."


def setup_logger_kwargs(
    exp_name: str, seed: int | None = None, data_dir: str | None = None, datestamp: bool = False
) -> dict:
    """The Logger's arguments for a run in data_dir/exp_name/exp_name_s{seed}; no `_s` without a seed.

    exp_name: the experiment's name; runs that differ in the seed alone share it
    data_dir: where runs go; by default $SPINUP_DATA_DIR, else ./data
    datestamp: begin the outer folder's name with the date and the inner one's with date and time
    """
    now = datetime.datetime.now()
    outer, inner = (f"{now:%Y-%m-%d}_", f"{now:%Y-%m-%d_%H-%M-%S}-") if datestamp else ("", "")
    root = Path(data_dir or os.environ.get("SPINUP_DATA_DIR") or "data").expanduser()
    run = inner + exp_name + ("" if seed is None else f"_s{seed}")
    return {"output_dir": str(root / (outer + exp_name) / run), "exp_name": exp_name}


def _claim(folder: Path, fname: str) -> Path:
    """Makes and returns `folder`, or the first of folder-2, folder-3, ... without a run, taking it by creating `fname`.

    Creation is exclusive, so of two processes that want the same folder at once only one gets it.
    """
    if folder.name in ("", ".."):
        folder = folder.resolve()
    for i in itertools.count(1):
        path = folder if i == 1 else folder.with_name(f"{folder.name}-{i}")
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            if not (path / "config.json").exists():
                with contextlib.suppress(FileExistsError):
                    (path / fname).touch(exist_ok=False)
                    return path


def _git(folder: Path) -> dict | None:
    """The commit that is checked out where `folder` is, and whether tracked files differ from it; None outside git."""
    command = ["git", "-C", str(folder), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        run = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, text=True, timeout=3, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeError):
        return None
    commit = re.search(r"^# branch\.oid (\w+)$", run.stdout, re.MULTILINE)
    return {"commit": commit[1], "dirty": bool(re.search("^[^#]", run.stdout, re.MULTILINE))} if commit else None


def _record(config: Mapping) -> dict:
    """What one needs to know, beside the arguments, to run it again."""
    torch = sys.modules.get("torch")
    device = str(config.get("device", "cpu"))
    if torch and device.startswith("cuda") and torch.cuda.is_available():
        device += f" ({torch.cuda.get_device_name()})"
    versions = {"spinup": getattr(sys.modules["spinup"], "__version__", None), "python": platform.python_version()}
    for package in RECORDED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    git = {"git": _git(Path.cwd())}
    here = Path(__file__).parent
    if "site-packages" not in here.parts and _git(here) != git["git"]:
        git["git_spinup"] = _git(here)
    return {
        "command": shlex.join(sys.orig_argv),
        "started": _now(),
        **versions,
        **git,
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads() if torch else None,
        "processes": mpi.num_procs(),
    }


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def read_config(path: str | Path) -> tuple[Path, dict]:
    """A run's folder and its config.json, with env_kwargs and ac_kwargs as dicts.

    Raises UserError where there is no run, or the file is not one of ours.
    """
    folder = Path(path).expanduser()
    file = folder / "config.json"
    if not folder.is_dir():
        names = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise UserError(f"there is no folder '{folder}'{closest(folder.name, names)}")
    if not file.exists():
        below = sorted(str(p.parent) for p in folder.glob("**/config.json"))
        raise UserError(f"'{folder}' holds no run (no config.json); runs below it: {', '.join(below[:5]) or 'none'}")
    try:
        config = json.loads(file.read_text("utf-8"))
        return folder, {**config, **{key: dict(config.get(key) or {}) for key in ("env_kwargs", "ac_kwargs")}}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is not a config.json that spinup wrote ({first_line(error)})") from error


def _cell(value) -> str:
    """A cell of progress.txt: all digits, no tab or newline inside."""
    return "nan" if value is None else " ".join(str(value).split())


def _show(value) -> str:
    """A cell for the eye: about four digits."""
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return _cell(value)
    if value != 0 and not 1e-3 <= abs(value) < 1e7:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _table(row: dict, width: int) -> str:
    """`row` as aligned `key value` pairs, read downwards, in as many columns as `width` characters hold."""
    cells = [(key, _show(value)) for key, value in row.items()]
    for columns in range(len(cells), 0, -1):
        height = math.ceil(len(cells) / columns)
        stacks = [cells[i : i + height] for i in range(0, len(cells), height)]
        widths = [(max(len(k) for k, _ in stack), max(9, *(len(v) for _, v in stack))) for stack in stacks]
        texts = [[f"{k:<{w}} {v:>{u}}" for k, v in stack] for stack, (w, u) in zip(stacks, widths, strict=True)]
        lines = ["   ".join(line).rstrip() for line in itertools.zip_longest(*texts, fillvalue="")]
        if len(lines[0]) <= width or columns == 1:
            return "\n".join(["-" * len(lines[0]), *lines])


class _Bar:
    """A progress bar on the terminal's last line, above which everything else is printed. No thread draws it."""

    stop_last = staticmethod(lambda: None)

    def __init__(self, total: float | None):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        _Bar.stop_last()  # that of a run which an exception ended: two bars cannot share a terminal
        self.total, self.started, self.drawn = total, None, 0.0
        columns = BarColumn(bar_width=None), TextColumn("{task.fields[text]}")
        stderr_too = sys.stderr is not None and sys.stderr.isatty()
        self.rich = Progress(
            *columns, console=Console(), auto_refresh=False, transient=True, expand=True, redirect_stderr=stderr_too
        )
        self.task = self.rich.add_task("", total=total, text="")
        self.rich.start()
        self.rich.console.show_cursor(True)  # rich hides it, and it would stay so if the process were killed
        self.stop = _Bar.stop_last = weakref.finalize(self, self.rich.stop)  # also when the interpreter exits

    def draw(self, steps: float, ret: float, now: bool = False) -> None:
        """Show `steps` done and the return `ret`; at most five times a second unless `now`."""
        clock = time.monotonic()
        if self.started is None:
            self.started = clock, steps
        if not now and clock - self.drawn < 0.2:
            return
        self.drawn = clock
        rate = (steps - self.started[1]) / max(clock - self.started[0], 1e-9)
        text = f"{_short(steps)}/{_short(self.total)} steps" if self.total else f"{_short(steps)} steps"
        if rate > 0:
            text += f"  {_short(rate)}/s"
        if not math.isnan(ret):
            text += f"  return {_show(float(ret))}"
        if rate > 0 and self.total:
            text += f"  {datetime.timedelta(seconds=round(max(self.total - steps, 0) / rate))} left"
        self.rich.update(self.task, completed=steps, text=text, refresh=True)


def _short(n: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(n) >= 0.9995 * size:  # 999,999 is 1M, not 1e+03k
            return f"{n / size:.3g}{unit}"
    return f"{n:.3g}"


class Logger:
    """Writes a run's folder and shows its progress; with several MPI processes the first one alone does so.

    output_dir: the run's folder; by default that of setup_logger_kwargs(exp_name). Where it holds a run already the
        next free name (`..._s0-2`) is taken instead; `logger.output_dir` is the one in use (None in other processes)
    output_fname: the table's file name
    exp_name: by what runs are grouped in plots; by default the folder's name
    quiet: show warnings only
    tensorboard: also write the table's numbers as TensorBoard events
    resume: go on with the run that output_dir holds, from its checkpoint (spinup.checkpoint), or from the beginning
        where there is none yet

    Raises UserError where the folder cannot be written, where another process is at work on it, and where tensorboard
    is not installed.
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
    ):
        self.is_root = mpi.proc_id() == 0
        self.quiet = quiet or not self.is_root
        self.log_headers, self.log_current_row = [], {}
        self.total_steps = self.module = self.output_dir = self._tensorboard = self._bar = None
        self.epoch_return, self._last_return, self._closed = math.nan, math.nan, False
        self.resume = resume
        isatty = getattr(sys.stdout, "isatty", lambda: False)
        self._live = not self.quiet and isatty() and os.environ.get("TERM") != "dumb"
        self._colour = self._live and not os.environ.get("NO_COLOR")
        if not self.is_root:
            return
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise UserError('TensorBoard is missing: pip install "spinup[tensorboard]"') from error
        wanted = Path(output_dir or setup_logger_kwargs(exp_name or "experiment")["output_dir"]).expanduser()
        self.exp_name = exp_name or wanted.resolve().name
        self.output_dir = wanted if resume else _claim(wanted, output_fname)
        self.output_file = self.output_dir / output_fname
        with writing(self.output_dir):
            self._lock = lock(self.output_dir)
        if self.output_dir.name not in (wanted.name, wanted.resolve().name):
            self.warn(f"{wanted} holds a run already; this one goes to {self.output_dir}")
        else:
            self.log(f"Logging to {self.output_dir}")
        if tensorboard:
            self._tensorboard = SummaryWriter(str(self.output_dir))

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def log(self, msg: str, color: str = "green") -> None:
        """Print a line, coloured on a terminal."""
        if not self.quiet:
            print(colorize(msg, color, bold=True) if self._colour else msg, flush=True)

    def warn(self, msg: str) -> None:
        """Print a line on stderr, `quiet` or not."""
        if self.is_root:
            print(f"warning: {msg}", file=sys.stderr, flush=True)

    def save_config(self, config: Mapping) -> None:
        """Write config.json: the arguments, `exp_name`, and as `run` the versions, commit, command and machine.

        What JSON has no form for becomes a readable string. steps_per_epoch * epochs is the progress bar's length.
        """
        if not self.is_root:
            return
        with contextlib.suppress(KeyError, TypeError):
            self.total_steps = config["steps_per_epoch"] * config["epochs"]
        record = _record(config)
        if self.resume:
            earlier = read_config(self.output_dir)[1].get("run", {})
            record = {**record, "started": earlier.get("started"), "command": earlier.get("command")}
            record["resumed"] = [*earlier.get("resumed", []), _now()]
        content = convert_json({**config, "exp_name": self.exp_name, "run": record})
        replace_file(self.output_dir / "config.json", (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
        self.progress(0)

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
            replace_file(self.output_dir / name, data.getvalue())

    def log_tabular(self, key: str, val) -> None:
        """Put `val` (a number, a one-element array or tensor, a word) under `key` in this epoch's row, once."""
        if key in self.log_current_row:
            raise UserError(f"{key} is in this row already; call dump_tabular() once per epoch, after the last value")
        val = val.detach().cpu().numpy() if _is_tensor(val) else val
        self.log_current_row[key] = val.item() if isinstance(val, (np.generic, np.ndarray)) and val.size == 1 else val

    def dump_tabular(self) -> None:
        """Write this epoch's row to progress.txt, show it, and begin the next."""
        row, self.log_current_row = self.log_current_row, {}
        ret = row.get("AverageTestEpRet", row.get("AverageEpRet", math.nan))
        self.epoch_return = ret if isinstance(ret, (int, float)) else math.nan  # NaN where no episode ended
        if not self.is_root or not row:
            return
        self._write(row)
        steps = row.get("TotalEnvInteracts", 0)
        for key, value in row.items() if self._tensorboard else ():
            if isinstance(value, (int, float)):
                self._tensorboard.add_scalar(key, value, steps or row.get("Epoch"))
        if not self.quiet:
            width = shutil.get_terminal_size().columns if self._live else 80
            print(_table(row, width) + "\n", end="", flush=True)  # one write, so the bar is drawn once
        if not math.isnan(self.epoch_return):
            self._last_return = self.epoch_return
        self.progress(steps, now=True)

    def _write(self, row: dict) -> None:
        new = [key for key in row if key not in self.log_headers]
        if new:
            self.log_headers += new
            with writing(self.output_file):
                rows = self.output_file.read_bytes().splitlines()[1:]
            lines = ["\t".join(map(_cell, self.log_headers)).encode(), *(line + b"\tnan" * len(new) for line in rows)]
            replace_file(self.output_file, b"\n".join(lines) + b"\n")
        append_to_file(self.output_file, ("\t".join(_cell(row.get(key)) for key in self.log_headers) + "\n").encode())

    def state_dict(self) -> dict:
        """The table so far, for a checkpoint."""
        table = self.output_file.read_text("utf-8") if self.is_root else ""
        return {"table": table, "headers": list(self.log_headers), "last_return": self._last_return}

    def load_state_dict(self, state: Mapping) -> None:
        """Bring the table to where it was: rows of later epochs will come again."""
        self.log_headers, self._last_return = list(state["headers"]), state["last_return"]
        if self.is_root:
            replace_file(self.output_file, state["table"].encode())

    def begin_table(self) -> None:
        """Let go of rows that the file has from an earlier try."""
        if self.is_root:
            replace_file(self.output_file, b"")

    def progress(self, steps: float, now: bool = False) -> None:
        """Move the progress bar, where there is one, to `steps`; cheap enough to call at every step."""
        if not self._live:
            return
        if self._bar is None:
            self._bar = _Bar(self.total_steps)
        self._bar.draw(steps, self._last_return, now)

    def close(self) -> None:
        """End the progress bar and say where the run is. A second call does nothing."""
        if self._bar:
            self._bar.stop()
        if self._tensorboard:
            self._tensorboard.close()
        if self.output_dir and not self._closed:
            self.log(f"The run is in {self.output_dir}")
            if self._lock is not None:
                os.close(self._lock)
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
            x = [y.detach().cpu() if _is_tensor(y) else y for y in x]
        x = x.detach().cpu().double().numpy() if _is_tensor(x) else np.asarray(x, dtype=np.float64)
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
        n, mean, m2, low, high = self.n, self.mean, self.m2, self.min, self.max
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

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._running, self._waiting = {}, {}

    def store(self, **values) -> None:
        """Take in, per keyword, a number or an array, list or tensor of numbers (of any shape, also empty).

        Tensors wait on their device, as they are now, until the row or a hundred of them: a store in every gradient
        step then costs next to nothing, and makes no GPU wait.
        """
        for key, x in values.items():
            if _is_tensor(x) and not x.is_complex():
                self._waiting.setdefault(key, []).append(x.detach().clone())
                if len(self._waiting[key]) == 100:
                    self._take_in(key)
                continue
            try:
                self._running.setdefault(key, _Running()).add(x)
            except (TypeError, ValueError) as error:
                raise UserError(f"store({key}=...) takes numbers or arrays of numbers, not {x!r:.80}") from error

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
