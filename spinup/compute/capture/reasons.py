"""Why an update runs as Python, in plain words: what Dynamo says is a page for those who know it."""

import re
from collections.abc import Sequence
from pathlib import Path

from spinup.errors import first_line

READS_VALUE = "reads a tensor's value in Python; return the tensor, and look at it outside"
WAYS = [  # what Dynamo says, what it means
    (r"side effects happened", "changes objects that outlive it, OBJECTS; return the value, and keep it outside"),
    (r"data-dependent|\.item\(\)|tolist|Tensor\.numpy\(\)|local_scalar", READS_VALUE),
    (r"recompile.limit", "reads something new in each call; make it a tensor that is changed in place by fill_"),
    (r"grad_fn|consumed", "takes a gradient where the graph was freed; keep to one loss for each step"),
]


def explain(error: BaseException, logged: Sequence[str] = ()) -> str:
    """The line of the update at fault, what is wrong with it, and what would keep the speed.

    logged: what Dynamo wrote to its log
    """
    text = " ".join([str(error), *logged])
    otherwise = f"can't be replayed ({what_dynamo_says(error)}); move it outside"
    meaning = next((meaning for pattern, meaning in WAYS if re.search(pattern, text)), otherwise)
    objects = re.findall(r'"([^"]*)"', text.partition("double check: [")[2].partition("]\n")[0])
    place = line_of_code(error) or line_in_log(text) or "it"
    return f"{place} {meaning.replace('OBJECTS', ', '.join(map(plain_name, objects[:3])))}"


def line_of_code(error: BaseException) -> str | None:
    """file:line `code` of the innermost line of the user's that Dynamo was reading."""
    frames = [f for f in getattr(error, "real_stack", None) or () if "site-packages" not in f.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} `{frames[-1].line:.80}`" if frames else None


def line_in_log(text: str) -> str | None:
    """The same, from the guard that did not hold: "... == 0.1  # loss = coef * loss  # file.py:12 in update"."""
    found = re.search(r"last reason: .*?  # (.*?)  # (\S+?):(\d+) in", text)
    return found and f"{Path(found[2]).name}:{found[3]} `{found[1]:.80}`"


def what_dynamo_says(error: BaseException) -> str:
    found = re.search(r"Explanation: (.*?)(?:\.\s|\n)", str(error))
    return found[1] if found else first_line(error)


def plain_name(source: str) -> str:
    """The end of where Dynamo found an object: "L['update'].__closure__[0].cell_contents.d" -> "d"."""
    source = re.sub(r"\.?__closure__\[\d+\]\.cell_contents", "", source)
    return re.sub(r"^[GL]\['(\w+)'\]", r"\1", source)
