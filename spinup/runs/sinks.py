"""Sinks: where a run's rows go. The table file, the terminal, TensorBoard, Weights & Biases, trackio, your own object.

    class Printer:
        def start(self, folder, config, step):
            print("run in", folder)

        def write(self, row, step):
            print(step, row["AverageEpRet"])

        def close(self):
            pass

    spinup.ppo("CartPole-v1", logger_kwargs=dict(sinks=["tensorboard", Printer()]))

With several MPI processes, only the first one writes.
"""

import math
import os
import secrets
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from spinup.errors import UserError, closest, install, printable
from spinup.system.files import RunFolder
from spinup.system.terminal import ProgressBar, colorize, format_cell, format_table, say


class Sink(Protocol):
    """Receives the rows of a run's table.

    start: called before the first row; config is the content of config.json. A resumed run continues after `step`
        environment steps (None in a new run), and rows beyond that step are written again
    write: called with each row, {column: number or string}, after `step` environment steps
    close: called at the end

    With the class attribute append_only = True, rows that were written before an interruption are not written again.
    """

    def start(self, folder: Path, config: dict, step: int | None) -> None: ...

    def write(self, row: Mapping[str, Any], step: int) -> None: ...

    def close(self) -> None: ...


class TableFile:
    """progress.txt: a header, then a line per row, with tabs between the cells.

    A column that first appears in a later row is added on the right, and the file is rewritten with the new header.
    Missing values are `nan`, so that every line has as many cells as the header.
    """

    def __init__(self, folder: RunFolder, name: str, resume: bool):
        self.folder, self.name, self.path = folder, name, folder.path / name
        self.headers: list[str] = []
        self.content, self.known = bytearray(), not resume  # what the file should contain, once that is known

    def start(self, folder: Path, config: dict, step: int | None) -> None:
        if not self.known and self.folder.size(self.name):  # a user's program resumes a run without a checkpoint
            self.content = bytearray(self.path.read_bytes())
            self.headers = self.content.partition(b"\n")[0].decode().split("\t")

    def write(self, row: Mapping[str, Any], step: int) -> None:
        new = [key for key in row if key not in self.headers]
        if new:
            self.headers += new
            rows = bytes(self.content).splitlines()[1:]
            header = "\t".join(map(format_cell, self.headers)).encode()
            self.replace(b"".join(line + b"\n" for line in (header, *(row + b"\tnan" * len(new) for row in rows))))
        elif self.folder.size(self.name) != len(self.content):
            message = f"{self.path} was removed or changed during the run; its rows have been restored"
            say(f"warning: {printable(message)}", error=True)
            self.replace(bytes(self.content))
        line = ("\t".join(format_cell(row.get(key)) for key in self.headers) + "\n").encode()
        self.folder.append(self.name, line)
        self.content += line

    def close(self) -> None:
        """Nothing to do: each row is in the file already."""

    def replace(self, content: bytes) -> None:
        self.folder.replace(self.name, content)
        self.content, self.known = bytearray(content), True

    def state_dict(self) -> dict:
        return {"table": self.content.decode(), "headers": list(self.headers)}

    def load_state_dict(self, state: Mapping) -> None:
        self.headers = list(state["headers"])
        self.replace(state["table"].encode())

    def last_step(self) -> float:
        """Environment steps, or epochs, in the file's last row; -1 if it has no row."""
        try:
            lines = [line.split("\t") for line in self.path.read_text("utf-8").splitlines()]
            column = next(lines[0].index(name) for name in ("TotalEnvInteracts", "Epoch") if name in lines[0])
            return float(lines[-1][column])
        except (OSError, ValueError, IndexError, StopIteration):
            return -1


class Terminal:
    """Prints each row as a small table: on a terminal, above a progress bar.

    total_steps: the length of the bar; last_return: the newest mean return, shown beside it
    """

    def __init__(self, quiet: bool):
        isatty = getattr(sys.stdout, "isatty", lambda: False)
        self.quiet = quiet
        self.live = not quiet and isatty() and os.environ.get("TERM") != "dumb"
        self.color = self.live and not os.environ.get("NO_COLOR")
        self.bar: ProgressBar | None = None
        self.total_steps: int | None = None
        self.last_return = math.nan

    def start(self, folder: Path, config: dict, step: int | None) -> None:
        """Nothing to do: the progress bar appears with the first step."""

    def log(self, msg: str, color: str) -> None:
        if not self.quiet:
            say(colorize(msg, color, bold=True) if self.color else msg)

    def write(self, row: Mapping[str, Any], step: int) -> None:
        if not self.quiet:
            width = shutil.get_terminal_size().columns if self.live else 80
            say(format_table(row, width) + "\n", end="")  # a single write, so that the bar is redrawn once
        ret = mean_return(row)
        self.last_return = self.last_return if math.isnan(ret) else ret
        self.progress(row.get("TotalEnvInteracts", 0), now=True)

    def progress(self, steps: float, now: bool = False) -> None:
        if not self.live:
            return
        if self.bar is None:
            self.bar = ProgressBar(self.total_steps)
        self.bar.draw(steps, self.last_return, now)

    def close(self) -> None:
        if self.bar:
            self.bar.stop()
        self.live = False


class TensorBoard:
    """Event files in the run's folder. A resumed run starts a new file, which hides the rows that it writes again."""

    def __init__(self):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(f"TensorBoard is missing: {install('tensorboard')}") from error
        self.make = SummaryWriter

    def start(self, folder: Path, config: dict, step: int | None) -> None:
        suffix = f".{secrets.token_hex(8)}"  # an attacker could have put a link at a name that can be guessed
        self.writer = self.make(str(folder), purge_step=None if step is None else step + 1, filename_suffix=suffix)

    def write(self, row: Mapping[str, Any], step: int) -> None:
        for key, value in numbers_in(row).items():
            self.writer.add_scalar(key, value, step)

    def close(self) -> None:
        self.writer.close()


class WandB:
    """A run of Weights & Biases, in `project`; by default $WANDB_PROJECT or, if unset, the experiment's name."""

    append_only = True

    def __init__(self, project: str | None = None):
        self.project = project
        try:
            import wandb
        except ImportError as error:
            raise UserError(f"Weights & Biases is missing: {install('wandb')}") from error
        self.wandb = wandb

    def start(self, folder: Path, config: dict, step: int | None) -> None:
        group, name = names_of(folder, config)
        project = self.project or (None if os.environ.get("WANDB_PROJECT") else group)  # an argument would override it
        run_id = config.get("run", {}).get("id")
        self.run = self.wandb.init(
            project=project, name=name, id=run_id, config=config, dir=str(folder), resume="allow"
        )

    def write(self, row: Mapping[str, Any], step: int) -> None:
        self.run.log(numbers_in(row), step=step)

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """A run of trackio, in `project`, by default the experiment's name."""

    append_only = True

    def __init__(self, project: str | None = None):
        self.project = project
        try:
            import trackio
        except ImportError as error:
            raise UserError(f"trackio is missing: {install('trackio')}") from error
        self.trackio = trackio

    def start(self, folder: Path, config: dict, step: int | None) -> None:
        group, name = names_of(folder, config)
        self.trackio.init(project=self.project or group, name=name, config=config, resume="allow")

    def write(self, row: Mapping[str, Any], step: int) -> None:
        self.trackio.log(numbers_in(row), step=step)

    def close(self) -> None:
        self.trackio.finish()


NAMED: dict[str, type] = {"tensorboard": TensorBoard, "wandb": WandB, "trackio": Trackio}


def make_sink(sink: str | Sink) -> Sink:
    """The sink with this name, or the object itself. Raises UserError if it is neither, or if a package is missing."""
    if isinstance(sink, str):
        if sink not in NAMED:
            raise UserError(f"unknown sink {sink!r:.80}; the sinks are {', '.join(NAMED)}{closest(sink, NAMED)}")
        return NAMED[sink]()
    if isinstance(sink, type):
        raise UserError(f"sinks has the class {sink.__name__}; it needs an object of it: {sink.__name__}()")
    for method in ("start", "write", "close"):
        if not callable(getattr(sink, method, None)):
            raise UserError(f"the sink {sink!r:.80} has no method '{method}'; spinup.runs.sinks says what it needs")
    return sink


def mean_return(row: Mapping[str, Any]) -> float:
    """Of the test episodes if the row has any, else of the training episodes; NaN if none ended."""
    ret = row.get("AverageTestEpRet", row.get("AverageEpRet", math.nan))
    return ret if isinstance(ret, (int, float)) else math.nan


def numbers_in(row: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if isinstance(value, int | float)}


def names_of(folder: Path, config: dict) -> tuple[str, str]:
    """The names of the experiment and the run."""
    return str(config.get("exp_name") or folder.parent.name), folder.name
