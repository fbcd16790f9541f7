"""Sinks: where a run's rows go besides progress.txt. TensorBoard, Weights & Biases, trackio, or your own object.

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

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from spinup.errors import UserError, closest, install


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
    """A run of Weights & Biases. Its project is $WANDB_PROJECT or, by default, the experiment's name."""

    append_only = True

    def __init__(self):
        try:
            import wandb
        except ImportError as error:
            raise UserError(f"Weights & Biases is missing: {install('wandb')}") from error
        self.wandb = wandb

    def start(self, folder: Path, config: dict, step: int | None) -> None:
        project, name = names_of(folder, config)
        self.run = self.wandb.init(
            project=project, name=name, id=config["run"]["id"], config=config, dir=str(folder), resume="allow"
        )

    def write(self, row: Mapping[str, Any], step: int) -> None:
        self.run.log(numbers_in(row), step=step)

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """A run of trackio. Its project is the experiment's name."""

    append_only = True

    def __init__(self):
        try:
            import trackio
        except ImportError as error:
            raise UserError(f"trackio is missing: {install('trackio')}") from error
        self.trackio = trackio

    def start(self, folder: Path, config: dict, step: int | None) -> None:
        project, name = names_of(folder, config)
        self.trackio.init(project=project, name=name, config=config, resume="allow")

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
    for method in ("start", "write", "close"):
        if not callable(getattr(sink, method, None)):
            raise UserError(f"the sink {sink!r:.80} has no method '{method}'; spinup.runs.sinks says what it needs")
    return sink


def numbers_in(row: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in row.items() if isinstance(value, int | float)}


def names_of(folder: Path, config: dict) -> tuple[str, str]:
    """The names of the experiment and the run."""
    return str(config.get("exp_name") or folder.parent.name), folder.name
