"""The exceptions whose messages are for users: UserError for their mistakes, Fault for a run that can't continue."""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path


def install(extra: str) -> str:
    """The pip command that installs an extra, from a checkout's own folder: on PyPI the name may be someone else's."""
    root = Path(__file__).parents[1]
    if not (root / "pyproject.toml").exists():
        return f'pip install "spinup[{extra}]"'
    source = "." if root == Path.cwd() else root
    return f'pip install -e "{source}[{extra}]"'


def printable(text: str, keep: str = "") -> str:
    """`text` with unprintable characters escaped: they could control the terminal, or reverse the writing direction.

    keep: unprintable characters to leave unescaped
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


class UserError(ValueError):
    """A user's mistake: one line that says what is wrong and what would be right. The command exits with status 2.

    The line may quote an untrusted file, so unprintable characters are escaped.
    """

    def __init__(self, message: object):
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in str(message)))

    def __str__(self) -> str:
        return printable(super().__str__(), keep="\n")


class Fault(RuntimeError):
    """A run that can't continue, although the command was right: one line that says what failed, where and when.

    The command line prints that line, after the cause's traceback if there is one, and exits with status 1.
    """

    def __str__(self) -> str:
        return printable(super().__str__(), keep="\n")


def user_path(path: str | Path) -> Path:
    """The user's path with `~` or `~name` expanded. Raises UserError if that home folder doesn't exist."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        home = str(path).partition(os.sep)[0]
        raise UserError(f"'{path!s:.80}': there is no home folder {home:.80}; write the path in full") from None


def first_line(error: BaseException) -> str:
    """An exception's class and message, on one line of bounded length."""
    return f"{type(error).__name__}: {printable(' '.join(str(error).split())):.200}"


def closest(word: str, choices: Iterable[str], prefix: str = "", cutoff: float = 0.6) -> str:
    """The hint "; did you mean 'x'?" with the choice most similar to `word`, or "" if none is similar enough.

    prefix: put before the choice
    cutoff: how similar they must be, from 0 to 1
    """
    match = difflib.get_close_matches(str(word), list(choices), n=1, cutoff=cutoff)
    return f"; did you mean '{prefix}{match[0]}'?" if match else ""
