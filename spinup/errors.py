"""Two exceptions with a message for people: UserError for a mistake of theirs, Fault for a run that cannot go on."""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path


def install(extra: str) -> str:
    """The pip command that brings an extra; from the folder this package is in, as others may have its name."""
    root = Path(__file__).parents[1]
    if not (root / "pyproject.toml").exists():
        return f'pip install "spinup[{extra}]"'
    where = "." if root == Path.cwd() else root
    return f'pip install -e "{where}[{extra}]"'


def printable(text: str, keep: str = "") -> str:
    """`text` for a terminal or a figure: what could be a command to it, or turn lines around, is shown as its escape.

    keep: characters to leave as they are
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


class UserError(ValueError):
    """A mistake of the user's: says in one line what was wrong and what would be right; the command exits with 2.

    The line may quote a stranger's file: what a terminal would not print is escaped.
    """

    def __init__(self, message: object):
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in str(message)))

    def __str__(self) -> str:
        return printable(super().__str__(), keep="\n")  # part of it may come from a file


class Fault(RuntimeError):
    """A run that cannot go on, through no fault of the command's: says in one line what failed, where and when.

    The command line prints that line, after the traceback of what caused it where there is one, and exits with 1.
    """

    def __str__(self) -> str:
        return printable(super().__str__(), keep="\n")


def user_path(path: str | Path) -> Path:
    """A path as the user wrote it, with a folder in place of `~` or `~name`. Raises UserError where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        home = str(path).partition(os.sep)[0]
        raise UserError(f"'{path!s:.80}': there is no home folder {home:.80}; write the path in full") from None


def first_line(error: BaseException) -> str:
    """An exception's class and message, in one line of bounded length."""
    return f"{type(error).__name__}: {printable(' '.join(str(error).split())):.200}"


def closest(word: str, choices: Iterable[str], prefix: str = "", cutoff: float = 0.6) -> str:
    """The hint "; did you mean 'x'?" for the choice most like `word`, after `prefix`, or "" where none is near.

    cutoff: how like they must be, from 0 to 1
    """
    match = difflib.get_close_matches(str(word), list(choices), n=1, cutoff=cutoff)
    return f"; did you mean '{prefix}{match[0]}'?" if match else ""
