"""The one exception for a mistake of the user's: the command line prints its message as one line and exits with 2."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Says in one line what was wrong and what would be right."""


def closest(word: str, choices: Iterable[str]) -> str:
    """The hint "; did you mean 'x'?" for the choice most like `word`, or "" where none is near."""
    match = difflib.get_close_matches(str(word), list(choices), n=1)
    return f"; did you mean '{match[0]}'?" if match else ""
