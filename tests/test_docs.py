"""Every block of code on every page runs, or says why not; every link leads somewhere or is listed in docs/links.txt.

A page's blocks run in order, in a folder of their own: Python as a file, and each line of a console by itself. A
training command runs for two short epochs, a policy plays two short episodes and a program of spinup/examples makes
two short steps, whatever the page says. The scripts in benchmarks and the records in data are there to be used.
Comments before a block say more:

    <!-- not run: REASON -->           it is left out, and counted
    <!-- needs command: NAME -->       left out where `python -m spinup.run` has no such command
    <!-- run with: epochs=2 -->        in the block's Python, this value is used for that keyword
    <!-- file: NAME -->                the block is a file that a later one uses

`% not run: REASON` and so on mean the same.
"""

import functools
import multiprocessing
import multiprocessing.forkserver
import os
import re
import shlex
import subprocess
import textwrap
from pathlib import Path
from typing import NamedTuple

import docs_child
import pytest

from spinup import algorithm, run

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "benchmarks").glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PAGES = [page for page in PAGES if "_build" not in page.parts]
RUN, DATA = ("python", "console", "bash"), ("toml", "yaml", "text", "json")
SHORT = {"--epochs": "2", "--steps_per_epoch": "1024", "--max_ep_len": "100"}
SHORT_OFF_POLICY = {"--steps_per_epoch": "200", "--start_steps": "100", "--update_after": "100"}
SHORT_EXAMPLE = {"epochs": "2", "steps": "2", "warm_up_steps": "2"}  # defaults of a program in spinup/examples


# ---- reading


class Block(NamedTuple):
    """Some code on a page. kind: the fence's word, or "console" for indented lines; directives: of the comment above"""

    kind: str
    text: str
    line: int
    directives: dict[str, str]


def blocks(markdown: str) -> list[Block]:
    """A page's blocks of code, fenced or indented; those of Sphinx directives aside."""
    found, lines = [], markdown.splitlines()
    i, listed, fence = 0, False, None
    while i < len(lines):
        line = lines[i]
        fence = re.match(r"( *)(`{3,})(.*)$", line)
        start = i
        if fence:
            i += 1
            while i < len(lines) and lines[i].strip() != fence[2]:
                i += 1
            if not fence[3].startswith("{"):
                body = textwrap.dedent("\n".join(lines[start + 1 : i]))
                found.append(Block(fence[3].strip(), f"{body}\n", start + 2, directives(lines[:start])))
        elif line.startswith("    ") and not listed and (i == 0 or not lines[i - 1].strip()):
            while i + 1 < len(lines) and (lines[i + 1].startswith("    ") or not lines[i + 1].strip()):
                i += 1
            body = textwrap.dedent("\n".join(lines[start : i + 1])).rstrip()
            found.append(Block("console", f"{body}\n", start + 1, directives(lines[:start])))
        elif line.strip() and not line.startswith(" "):
            listed = bool(re.match(r"[-*] |\d+\. ", line))
        i += 1
    return found


def directives(above: list[str]) -> dict[str, str]:
    """{"not run": "why"} and the like, of the comments that stand last above a block."""
    found = {}
    for line in reversed(above):
        comment = re.fullmatch(r"\s*(?:<!--|%) ([a-z ]+): (.*?)(?: -->)?\s*", line)
        if comment:
            found[comment[1]] = comment[2]
        elif line.strip():
            break
    return found


def console_lines(text: str) -> list[str]:
    """The commands of a console: what follows `$`, or every line where there is no `$`; a backslash continues."""
    text = re.sub(r"\\\n\s*(?:> )?", "", text)
    prompted = re.findall(r"^\$ (.*)$", text, re.MULTILINE)
    return prompted or [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def shortened(words: list[str]) -> list[str]:
    """A training command's words with few steps; any other as it is."""
    if words[:3] == ["-m", "spinup.run", "test_policy"]:
        return words if {"--episodes", "-n", "--video"} & set(words) else [*words, "--episodes", "2", "--len", "100"]
    if words[:2] == ["-m", "spinup.run"] and len(words) > 2:
        algo, flags = words[2].removesuffix("_pytorch"), words[3:]
    elif words[0] == "-m" and words[1].startswith("spinup.algos."):
        algo, flags = words[1].rpartition(".")[2], words[2:]
    else:
        return words
    if algo not in algorithm.files() or "--help" in flags:
        return words
    facts = algorithm.find(algo)
    short = SHORT if facts.on_policy else SHORT | SHORT_OFF_POLICY
    short = {flag: value for flag, value in short.items() if flag.removeprefix("--") in facts.arguments}
    keep = list(words)
    for flag, value in short.items():
        if flag in keep:
            at = keep.index(flag) + 1
            keep[at] = str(min(int(keep[at]), int(value)))
        elif not (flag == "--steps_per_epoch" and "--steps" in keep):
            keep += [flag, value]
    return keep


def shortened_example(module: str) -> str:
    """The source of a program in spinup/examples with smaller defaults."""
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    for name, value in SHORT_EXAMPLE.items():
        source = re.sub(rf"\b{name}: int = \d+", f"{name}: int = {value}", source)
    return source


# ---- running

POSIX = os.name == "posix"
if POSIX:
    SERVER = multiprocessing.get_context("forkserver")
    SERVER.set_forkserver_preload(["docs_child"])


@functools.cache
def start_server(path: str) -> None:
    """Start the process that imports docs_child once and is forked for each block; it looks for modules in `path`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        multiprocessing.forkserver.ensure_running()


def python(words: list[str], folder: Path) -> None:
    """`python *words` in the folder; fails the test with what it printed where its status is not 0."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    start_server(os.pathsep.join([path, str(Path(__file__).parent)]))
    environment = {k: v for k, v in os.environ.items() if k != "SPINUP_DATA_DIR"} | {"PYTHONPATH": path}
    output = folder / ".output"
    process = SERVER.Process(target=docs_child.run, args=(words, str(folder), str(output), environment))
    process.start()
    process.join(300)
    if process.exitcode is None:
        process.kill()
    assert process.exitcode == 0, f"{shlex.join(words)}: status {process.exitcode}\n{output.read_text()[-4000:]}"
    # A script that runs a grid exits with 0 whatever became of its runs.
    errors = re.findall("^spinup: error: .*", output.read_text("utf-8", "replace"), re.MULTILINE)
    assert not errors, f"{shlex.join(words)}: status 0, but {errors[0]}"


def run_line(line: str, folder: Path) -> None:
    """One line of a console."""
    words = shlex.split(line, comments=True)
    if words[0] == "spinup":
        words = ["python", "-m", "spinup.run", *words[1:]]
    if words[:2] == ["python", "-m"] and words[2].startswith("spinup.examples."):
        file = folder / f"{words[2].rpartition('.')[2]}.py"
        file.write_text(shortened_example(words[2]), encoding="utf-8")
        python([str(file), *words[3:]], folder)
        return
    if words[0] == "python":
        python(shortened(words[1:]), folder)
        return
    done = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{line}: status {done.returncode}\n{done.stdout}{done.stderr}"


def run_block(block: Block, number: int, folder: Path) -> None:
    if "file" in block.directives:
        (folder / block.directives["file"]).write_text(block.text, encoding="utf-8")
        if block.kind == "python":
            python([block.directives["file"]], folder)
    elif block.kind == "python":
        code = block.text
        for name, value in re.findall(r"(\w+)=(\S+)", block.directives.get("run with", "")):
            code, times = re.subn(rf"\b{name}=[^,)\n]+", f"{name}={value}", code)
            assert times, f"the block has no {name}= to replace"
        (folder / f"block{number}.py").write_text(code, encoding="utf-8")
        python([f"block{number}.py"], folder)
    else:
        for line in console_lines(block.text):
            run_line(line, folder)


def is_left_out(block: Block) -> bool:
    command = block.directives.get("needs command")
    return "not run" in block.directives or (command is not None and command not in run.commands())


WITH_CODE = [page for page in PAGES if any(not is_left_out(b) for b in blocks(page.read_text(encoding="utf-8")))]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.skipif(not POSIX, reason="the consoles' commands are those of a POSIX shell")
@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_blocks_run(page, tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("benchmarks", "data/benchmarks", "data/reference"):
        (tmp_path / name).symlink_to(ROOT / name)
    for number, block in enumerate(blocks(page.read_text(encoding="utf-8"))):
        if not is_left_out(block):
            try:
                run_block(block, number, tmp_path)
            except AssertionError as error:
                raise AssertionError(f"{name_of(page)}:{block.line}: {error}") from None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_are_marked(page):
    """Each block is of a kind that is run, or says what it is; a reason is a sentence, not a word."""
    for block in blocks(page.read_text(encoding="utf-8")):
        where = f"{name_of(page)}:{block.line}"
        assert block.kind in (*RUN, *DATA), f"{where}: what is a {block.kind!r}? use one of {RUN + DATA}"
        assert set(block.directives) <= {"not run", "needs command", "run with", "file"}, where
        assert len(block.directives.get("not run", "long enough")) >= 10, f"{where}: why is it not run?"
        if block.kind in DATA:
            assert {"file", "not run"} & set(block.directives), f"{where}: a file's name, or why it is not used"


def test_most_blocks_run(capsys):
    """The counts, for readers of the log; and that "not run" stays the exception, whatever this machine lacks."""
    every = [block for page in PAGES for block in blocks(page.read_text(encoding="utf-8")) if block.kind in RUN]
    not_run = [block for block in every if "not run" in block.directives]
    with capsys.disabled():
        left_out = sum(map(is_left_out, every))
        print(f"\n{len(every) - left_out} of the pages' {len(every)} blocks of code run, {len(not_run)} say why not")
    assert len(not_run) < len(every) / 3


# ---- links


def external_links(markdown: str) -> set[str]:
    """Addresses that a page leads to, arXiv and doi references among them; those in code aside."""
    text = re.sub(r"^( *)```.*?^\1```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "", text)
    found = {link.rstrip(".,;)") for link in re.findall(r"https?://[^\s\])>\"]+", text)}
    text = re.sub(r"https?://[^\s\])>\"]+", "", text)
    found |= {f"https://arxiv.org/abs/{i}" for i in re.findall(r"\barXiv:(\d{4}\.\d{4,5})", text)}
    return found | {f"https://doi.org/{i.rstrip('.,;')}" for i in re.findall(r"\bdoi:(10\.[^\s,;:)\]]+)", text)}


def listed_links() -> set[str]:
    lines = (ROOT / "docs" / "links.txt").read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def all_external_links() -> set[str]:
    """Of all pages, and of the source, whose docstrings the site shows."""
    files = [*PAGES, *(ROOT / "spinup").rglob("*.py")]
    return set().union(*(external_links(file.read_text(encoding="utf-8")) for file in files))


def test_external_links_are_listed():
    """`python tests/test_docs.py` writes the list anew."""
    assert all_external_links() ^ listed_links() == set()


# ---- what the pages say of the package


def test_the_comparison_has_every_algorithm():
    page = (ROOT / "docs" / "introduction" / "kinds-of-algorithms.md").read_text(encoding="utf-8")
    section = page.partition("\n## The algorithms here, side by side\n")[2]
    table = re.search(r"^\|.*\n(?:\|.*\n)+", section, re.MULTILINE)[0].splitlines()
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table]
    names = {name.upper().replace("-", "_"): name for name in rows[0][1:]}
    assert sorted(names) == sorted(name.upper() for name in algorithm.files())
    assert {len(row) for row in rows} == {len(rows[0])}
    on_policy = {names[name.upper()] for name in algorithm.files() if algorithm.find(name).on_policy}
    assert {name for name, data in zip(rows[0], rows[2], strict=True) if data == "on-policy"} == on_policy


# ---- the parser can fail


def test_blocks_of_a_page():
    page = textwrap.dedent("""\
        Text.

            make demo

            make test

        - item

            continues

        <!-- not run: takes an hour -->
        ```console
        $ spinup ppo
        out
        ```

        1. item

           <!-- run with: epochs=2 -->
           ```python
           f()
           ```

        ```{math}
        x
        ```
    """)
    assert blocks(page) == [
        Block("console", "make demo\n\nmake test\n", 3, {}),
        Block("console", "$ spinup ppo\nout\n", 13, {"not run": "takes an hour"}),
        Block("python", "f()\n", 21, {"run with": "epochs=2"}),
    ]


def test_console_lines():
    assert console_lines("$ a \\\n  b\nout\n$ c\n") == ["a b", "c"]
    assert console_lines("a\n# no\nb\n") == ["a", "b"]


def test_shortened():
    ppo = ["-m", "spinup.run", "ppo", "--env", "CartPole-v1"]
    assert shortened(ppo) == [*ppo, "--epochs", "2", "--steps_per_epoch", "1024", "--max_ep_len", "100"]
    assert shortened([*ppo, "--epochs", "1", "--steps", "50"]) == [
        *ppo,
        *("--epochs", "1", "--steps", "50", "--max_ep_len", "100"),
    ]
    assert shortened(["-m", "spinup.run", "plot", "data"]) == ["-m", "spinup.run", "plot", "data"]
    assert shortened(["-m", "spinup.algos.sac"])[2:4] == ["--epochs", "2"]


def test_shortened_example():
    """Only defaults change, and every program that takes long and whose block is run has some that do."""
    changed = {}
    for file in (ROOT / "spinup" / "examples").glob("[!_]*.py"):
        lines = file.read_text(encoding="utf-8").splitlines()
        short = shortened_example(f"spinup.examples.{file.stem}").splitlines()
        changed[file.stem] = [re.findall(r"(\w+): int = 2\b", b) for a, b in zip(lines, short, strict=True) if a != b]
    assert changed.pop("grpo") == [["steps"], ["warm_up_steps"]]
    assert changed.pop("tabular") == changed.pop("explore") == []  # seconds
    assert changed.pop("goals") == []  # environments
    assert changed.pop("offline") == changed.pop("model_based") == [["steps"]]  # their pages don't run them
    assert set(changed) >= {"pg_1_simplest", "pg_4_gae"}
    assert all(["epochs"] in names for names in changed.values())


GRID = """\
import spinup

if __name__ == "__main__":
    grid = spinup.ExperimentGrid("two")
    grid.add("env_name", "CartPole-v1")
    grid.add("seed", [0, 1])
    grid.add("epochs", {epochs})
    grid.add("steps_per_epoch", 50)
    grid.run(spinup.vpg, jobs=2)
"""


@pytest.mark.skipif(not POSIX, reason="the consoles' commands are those of a POSIX shell")
def test_a_block_may_run_a_grid_in_processes(tmp_path):
    run_block(Block("python", GRID.format(epochs=1), 1, {}), 0, tmp_path)
    assert len(list(tmp_path.rglob("progress.txt"))) == 2


@pytest.mark.skipif(not POSIX, reason="the consoles' commands are those of a POSIX shell")
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("python", "assert 1 + 1 == 3"),
        ("python", "raise SystemExit(2)"),
        ("console", "$ python -m spinup.run ppo --env CartPol-v1"),
        ("console", "$ ls nowhere"),
        ("console", "$ python -m spinup.run plot nowhere --out x.png"),
        ("python", GRID.format(epochs=0)),
    ],
)
def test_a_wrong_block_fails(kind, text, tmp_path):
    with pytest.raises(AssertionError, match="status"):
        run_block(Block(kind, text, 1, {}), 0, tmp_path)


def test_external_links_of_a_page():
    page = "[a](https://a.org/b). arXiv:1707.06347, doi:10.1000/x.\n```\nhttps://c.org\n```\n`https://d.org`"
    found = {"https://a.org/b", "https://arxiv.org/abs/1707.06347", "https://doi.org/10.1000/x"}
    assert external_links(page) == found
    assert external_links("[doi:10.1000/x](https://doi.org/10.1000/x)") == {"https://doi.org/10.1000/x"}


if __name__ == "__main__":
    file = ROOT / "docs" / "links.txt"
    head = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    file.write_text("\n".join([*head, *sorted(all_external_links())]) + "\n", encoding="utf-8")
