"""Our docstrings as reStructuredText, for autodoc; and `arguments`, the table of all that an algorithm takes.

Docstrings are written for readers of the source: `name: text` explains an argument, deeper lines continue it, and
paragraphs that are indented, or that are Python, are code.
"""

import ast
import inspect
import re

from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

KNOB = re.compile(r"(\w+): (\S.*)")


def escape(text: str) -> str:
    """Text in which *, | and a trailing _ mean nothing, except between backquotes."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"(?<=\w)_(?!\w)", r"\_", re.sub(r"([*|\\])", r"\\\1", part)) for part in parts[::2]]
    return "`".join(parts)


def is_python(paragraph: list[str]) -> bool:
    """Whether these lines are statements rather than a sentence that happens to parse."""
    try:
        body = ast.parse("\n".join(paragraph)).body
    except SyntaxError:
        return False
    return any(isinstance(node, ast.Call) for statement in body for node in ast.walk(statement))


def paragraphs(lines: list[str]) -> list[list[str]]:
    """The lines between blank ones."""
    found: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [paragraph for paragraph in found if paragraph]


def convert(lines: list[str], arguments: set[str]) -> list[str]:
    """A docstring's lines as reStructuredText; `name: text` becomes a field where name is an argument."""
    out: list[str] = []
    for paragraph in paragraphs(lines):
        if paragraph[0].startswith("    ") or is_python(paragraph):
            out += ["::", "", *(f"    {line}" for line in paragraph), ""]
            continue
        field = False
        for line in paragraph:
            knob = KNOB.fullmatch(line)
            if knob and knob[1] in arguments:
                out += [""] if out and out[-1] and not field else []
                out.append(f":param {knob[1]}: {escape(knob[2])}")
                field = True
            elif field and line.startswith(" "):
                out.append(f"    {escape(line.strip())}")
            else:
                out += [""] if field else []
                out.append(escape(line.strip()))
                field = False
        out.append("")
    return out


def parameters(obj) -> set[str]:
    """Names of what a function, class or method takes; empty where that cannot be told."""
    try:
        return set(inspect.signature(obj).parameters)
    except (TypeError, ValueError):
        return set()


def process(app, what, name, obj, options, lines) -> None:
    module, _, last = name.rpartition(".")
    if module == f"spinup.algos.{last}":  # its page has a table of the arguments
        lines[:] = lines[:1]
    elif what == "module":
        lines[:] = [] if module == "spinup.algos" else convert(lines, set())
    else:
        lines[:] = convert(lines, parameters(obj))


class Arguments(SphinxDirective):
    """`{arguments} ppo`: a table of an algorithm's arguments, its own first, with their defaults."""

    required_arguments = 1

    def run(self):
        from spinup.algorithm import find

        algo = self.arguments[0]
        rows = ["| argument | default | |", "| --- | --- | --- |"]
        algorithm = find(algo)
        for argument in sorted(algorithm.arguments.values(), key=lambda argument: argument.shared):
            default, name = argument.default, argument.name
            shown = f"`{getattr(default, '__name__', default)!s}`" if name in algorithm.defaults else "required"
            text, bold = argument.help.replace("|", "\\|").replace("*", "\\*"), "" if argument.shared else "**"
            rows.append(f"| {bold}`{name}`{bold} | {shown} | {text} |")
        container = self.parse_text_to_nodes(StringList(rows, source=f"arguments of {algo}"))
        return container


def setup(app) -> dict:
    app.connect("autodoc-process-docstring", process)
    app.add_directive("arguments", Arguments)
    return {"parallel_read_safe": True}
