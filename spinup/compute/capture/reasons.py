"""Why an update runs as Python, in one line: Dynamo's own messages fill a page and assume that you know Dynamo."""

import re
from collections.abc import Sequence
from pathlib import Path

from spinup.errors import first_line

READS_VALUE = "reads a tensor's value in Python; return the tensor, and read it outside"
EXPLANATIONS = [  # (pattern in Dynamo's message, what it means)
    (r"side effects happened", "changes objects that outlive it, OBJECTS; return the value, and store it outside"),
    (r"data-dependent|\.item\(\)|tolist|Tensor\.numpy\(\)|local_scalar", READS_VALUE),
    (r"recompile.limit", "reads something new in each call; make it a tensor that is changed in place by fill_"),
    (r"grad_fn|consumed", "takes a gradient after the graph was freed; use one loss per step"),
]


def explain(error: BaseException, logged: Sequence[str] = ()) -> str:
    """The responsible line of the update, what is wrong with it, and what to change.

    logged: Dynamo's log messages
    """
    text = " ".join([str(error), *logged])
    otherwise = f"can't be replayed ({what_dynamo_says(error)}); move it outside"
    meaning = next((meaning for pattern, meaning in EXPLANATIONS if re.search(pattern, text)), otherwise)
    objects = re.findall(r'"([^"]*)"', text.partition("double check: [")[2].partition("]\n")[0])
    place = line_of_code(error) or line_in_log(text) or "it"
    return f"{place} {meaning.replace('OBJECTS', ', '.join(map(plain_name, objects[:3])))}"


def line_of_code(error: BaseException) -> str | None:
    """file:line `code` of the innermost line of user code that Dynamo was tracing."""
    frames = [f for f in getattr(error, "real_stack", None) or () if "site-packages" not in f.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} `{frames[-1].line:.80}`" if frames else None


def line_in_log(text: str) -> str | None:
    """The same, from the guard that failed: "... == 0.1  # loss = coef * loss  # file.py:12 in update"."""
    found = re.search(r"last reason: .*?  # (.*?)  # (\S+?):(\d+) in", text)
    return found and f"{Path(found[2]).name}:{found[3]} `{found[1]:.80}`"


def what_dynamo_says(error: BaseException) -> str:
    found = re.search(r"Explanation: (.*?)(?:\.\s|\n)", str(error))
    return found[1] if found else first_line(error)


def plain_name(source: str) -> str:
    """An object's name, from Dynamo's path to it: "L['update'].__closure__[0].cell_contents.d" -> "d"."""
    source = re.sub(r"\.?__closure__\[\d+\]\.cell_contents", "", source)
    return re.sub(r"^[GL]\['(\w+)'\]", r"\1", source)
