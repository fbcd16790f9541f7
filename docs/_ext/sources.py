"""The algorithms' source on the site, made from the files when the site is built.

- `{annotated-source} ppo`: spinup/algos/ppo.py with the equations of its page beside the lines that compute them
- `{source-diff} vpg ppo`: what one file has and the other has not
- `{source-lines}`: lines of any file, quoted as `nets/norms.py: x = 1`, with links there
- below each labelled equation of an algorithm's page, the lines that compute it, with links there, those of the shared
  files among them; equations carry their labels, as (ppo-2), in place of numbers
"""

import ast
import difflib
import html
import io
import re
import tokenize
from pathlib import Path

from docutils import nodes
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]
ALGORITHMS = "|".join(file.stem for file in (ROOT / "spinup" / "algos").glob("[!_]*.py"))
LABEL = re.compile(rf"\b(?:{ALGORITHMS}|her)-\d+\b")
SHARED = ("buffers", "hindsight", "nets/distributions")  # files in which equations of several algorithms are computed
CONTEXT = 3  # equal lines shown around a difference; the others fold


def equation_id(label: str) -> str:
    """The anchor that Sphinx gives an equation."""
    return nodes.make_id(f"equation-{label}")


def source_of(algo: str) -> Path:
    return ROOT / "spinup" / "algos" / f"{algo}.py"


def page_of(algo: str) -> Path:
    return ROOT / "docs" / "algorithms" / f"{algo}.md"


def labelled_lines(text: str) -> dict[str, list[int]]:
    """{label: the numbers of the lines whose comment has it}."""
    found: dict[str, list[int]] = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            for label in LABEL.findall(token.string):
                found.setdefault(label, []).append(token.start[0])
    return found


def owner(text: str, line: int) -> str:
    """The dotted name of the innermost function or class that holds a line: its id on the page of the source."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    found, body = [], ast.parse(text).body
    while inner := [node for node in body if isinstance(node, kinds) and node.lineno <= line <= node.end_lineno]:
        found.append(inner[0].name)
        body = inner[0].body
    return ".".join(found)


def shared_lines() -> list[tuple[str, int, str, str]]:
    """(label, line number, source line, address) of every label in the shared files."""
    found = []
    for name in SHARED:
        text = (ROOT / "spinup" / f"{name}.py").read_text(encoding="utf-8")
        code = highlighted(text)
        found += [
            (label, line, code[line - 1], f"../_modules/spinup/{name}.html#{owner(text, line)}")
            for label, lines in labelled_lines(text).items()
            for line in lines
        ]
    return found


def equations(markdown: str) -> dict[str, str]:
    """{label: TeX} of a page."""
    return dict(re.findall(r"^```\{math\}\n:label: *(\S+)\n(.*?)^```$", markdown, re.MULTILINE | re.DOTALL))


def highlighted(text: str) -> list[str]:
    """Each line of Python as HTML."""
    lexer = PythonLexer(stripnl=False)
    out = io.StringIO()
    HtmlFormatter(nowrap=True).format(lexer.get_tokens(text), out)
    return out.getvalue().splitlines()


def pieces(text: str) -> list[tuple[int, int]]:
    """(first, last) line numbers, from 1, of the parts between blank lines, a docstring's own aside."""
    lines = text.splitlines()
    inside = set()  # of a string over several lines
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.STRING:
            inside |= set(range(token.start[0], token.end[0]))
    starts = [1] + [i + 1 for i in range(1, len(lines)) if not lines[i - 1].strip() and i not in inside]
    starts = [s for i, s in enumerate(starts) if i == 0 or lines[s - 1].strip()]
    return list(zip(starts, [s - 1 for s in starts[1:]] + [len(lines)], strict=True))


class AnnotatedSource(SphinxDirective):
    """`{annotated-source} ppo`: the code on the left, equations where they are computed on the right."""

    required_arguments = 1

    def run(self):
        algo = self.arguments[0]
        path, page = source_of(algo), page_of(algo)
        for file in (path, page):
            self.env.note_dependency(str(file))
        text = path.read_text(encoding="utf-8")
        code, labels = highlighted(text), labelled_lines(text)
        tex = equations(page.read_text(encoding="utf-8"))
        rows, plain = [], None
        for first, last in pieces(text):
            here = [label for label in tex if any(first <= n <= last for n in labels.get(label, ()))]
            if not here and plain is not None:  # lengthen the part before, which has no equation either
                plain[1] = last
                continue
            rows.append([first, last, here])
            plain = rows[-1] if not here else None
        return [nodes.container("", *(self.row(algo, code, tex, *row) for row in rows), classes=["annotated-source"])]

    def row(self, algo: str, code: list[str], tex: dict[str, str], first: int, last: int, labels: list[str]):
        lines = "".join(self.line(algo, n, code[n - 1]) for n in range(first, last + 1))
        block = f'<div class="highlight"><pre>{lines}</pre></div>'
        piece = nodes.container("", nodes.raw("", block, format="html"), classes=["piece"])
        if not labels:
            return piece
        notes = nodes.container("", classes=["notes"])
        for label in labels:
            link = f'<a class="label" href="../algorithms/{algo}.html#{equation_id(label)}">{label}</a>'
            notes += nodes.raw("", link, format="html")
            lines = re.split(r"\s*\\qquad\s*", tex[label].strip())  # below each other, as the column is narrow
            lines = " \\\\ ".join(f"& {line}" for line in lines) if len(lines) > 1 else lines[0]
            notes += nodes.math_block("", lines, nowrap=False, number=None, label=None, docname=None)
        piece += notes
        return piece

    def line(self, algo: str, number: int, code: str) -> str:
        def link(match: re.Match) -> str:
            return f'<a href="../algorithms/{algo}.html#{equation_id(match[0])}">{match[0]}</a>'

        start = code.find('<span class="c1">')
        if start >= 0:
            code = code[:start] + LABEL.sub(link, code[start:])
        return f'<span class="line" id="L{number}"><a class="number" href="#L{number}">{number}</a>{code}\n</span>'


class SourceDiff(SphinxDirective):
    """`{source-diff} vpg ppo`: both files in one column, what they share folded."""

    required_arguments = 2

    def run(self):
        old, new = (source_of(algo) for algo in self.arguments)
        for file in (old, new):
            self.env.note_dependency(str(file))
        a, b = (file.read_text(encoding="utf-8") for file in (old, new))
        return [nodes.raw("", diff_html(a, b, old.name, new.name), format="html")]


def diff_html(a: str, b: str, old: str, new: str) -> str:
    """Two Python files as one listing: lines of the first alone marked -, of the second alone +."""
    left, right = a.splitlines(), b.splitlines()
    a_code, b_code = highlighted(a), highlighted(b)
    out, gone, added, same = [], 0, 0, 0

    def line(kind: str, i: int | None, j: int | None) -> str:
        code = a_code[i] if j is None else b_code[j]
        numbers = "".join(f'<span class="number">{"" if k is None else k + 1}</span>' for k in (i, j))
        mark = {"gone": "-", "added": "+", "same": " "}[kind]
        return f'<span class="line {kind}">{numbers}<b>{mark}</b>{code}\n</span>'

    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if tag == "equal":
            same += i2 - i1
            equal = [line("same", i, j) for i, j in zip(range(i1, i2), range(j1, j2), strict=True)]
            head = 0 if i1 == 0 else CONTEXT
            tail = len(equal) - (0 if i2 == len(left) else CONTEXT)
            if tail - head > 2:
                fold = f"<details><summary>{tail - head} lines in both</summary>{''.join(equal[head:tail])}</details>"
                equal = [*equal[:head], fold, *equal[tail:]]
            out += equal
        else:
            gone, added = gone + i2 - i1, added + j2 - j1
            out += [line("gone", i, None) for i in range(i1, i2)] + [line("added", None, j) for j in range(j1, j2)]
    counts = f"{same} lines in both, {gone} only in {old} (-), {added} only in {new} (+)"
    return f'<p>{html.escape(counts)}</p><div class="source-diff highlight"><pre>{"".join(out)}</pre></div>'


def line_of(text: str, code: str) -> int:
    """The number of the line that contains `code`, of which there must be one."""
    found = [i for i, line in enumerate(text.splitlines(), 1) if code in line]
    if len(found) != 1:
        raise ValueError(f"{code!r} is in {len(found)} lines; quote one that is there once")
    return found[0]


class SourceLines(SphinxDirective):
    """`{source-lines}`: each line of the content is `FILE: CODE`, a file in spinup/ and a part of one of its lines."""

    has_content = True

    def run(self):
        rows = []
        for quoted in self.content:
            name, _, code = quoted.partition(": ")
            path = ROOT / "spinup" / name
            self.env.note_dependency(str(path))
            text = path.read_text(encoding="utf-8")
            try:
                n = line_of(text, code)
            except ValueError as error:
                raise self.error(f"{name}: {error}") from None
            own = name.startswith("algos/")  # the only files whose pages have an anchor for every line
            place = f"code/{path.stem}.html#L{n}" if own else f"_modules/spinup/{name.removesuffix('.py')}.html"
            rows.append(f'<a href="../{place}">{path.name}:{n}</a><code>{highlighted(text)[n - 1].strip()}</code>')
        return [nodes.raw("", source_block(rows), format="html")]


def source_block(rows: list[str]) -> str:
    return f'<div class="equation-source highlight">{"".join(f"<div>{row}</div>" for row in rows)}</div>'


def add_source_lines(app, doctree) -> None:
    """Below each labelled equation of an algorithm's page, the lines that compute it; the label as its number."""
    docname = app.env.docname
    algo = docname.removeprefix("algorithms/")
    known, own = docname.startswith("algorithms/"), source_of(algo)  # HER has no algorithm's file
    text = own.read_text(encoding="utf-8") if known and own.exists() else ""
    if known:
        for file in (own, *(ROOT / "spinup" / f"{name}.py" for name in SHARED)):
            app.env.note_dependency(str(file))
    lines, code, shared = labelled_lines(text), highlighted(text), shared_lines() if known else []
    for equation in list(doctree.findall(nodes.math_block)):
        label = equation.get("label")
        if label is None:
            continue
        equation["number"] = label
        app.env.domains.math_domain.equations[label] = (docname, label)
        rows = [
            f'<a href="../code/{algo}.html#L{n}">{algo}.py:{n}</a><code>{code[n - 1].strip()}</code>'
            for n in lines.get(label, ())
        ]
        rows += [
            f'<a href="{address}">{address.split("/")[-1].partition(".")[0]}.py:{n}</a><code>{source.strip()}</code>'
            for name, n, source, address in shared
            if name == label
        ]
        if rows:
            parent = equation.parent
            parent.insert(parent.index(equation) + 1, nodes.raw("", source_block(rows), format="html"))


def setup(app) -> dict:
    app.add_directive("annotated-source", AnnotatedSource)
    app.add_directive("source-diff", SourceDiff)
    app.add_directive("source-lines", SourceLines)
    app.connect("doctree-read", add_source_lines)
    return {"parallel_read_safe": True}
