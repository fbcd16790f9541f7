"""The installed package, the cost of importing it, and pages that name only existing commands, flags and files."""

import ast
import contextlib
import importlib.metadata
import inspect
import io
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXTRAS = {
    "mujoco",
    "mpi",
    "box2d",
    "atari",
    "robotics",
    "tensorboard",
    "wandb",
    "trackio",
    "triton",
    "ray",
    "video",
    "yaml",
    "docs",
    "dev",
    "peers",
    "all",
}
HEAVY = {"torch", "gymnasium", "matplotlib", "pandas", "mpi4py", "triton", "ray", "tensorboard", "mujoco"}
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "benchmarks").glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PAGES = [page for page in PAGES if "_build" not in page.parts]


def python(*args: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": path}
    )


# ---- the package


@pytest.fixture(scope="module")
def distribution():
    try:
        return importlib.metadata.distribution("spinup")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("spinup is not installed in this environment")


def test_metadata(distribution):
    import spinup

    assert distribution.version == spinup.__version__
    assert distribution.metadata["Requires-Python"] == ">=3.11"
    assert set(distribution.metadata.get_all("Provides-Extra")) == EXTRAS
    scripts = {e.name: e.value for e in distribution.entry_points if e.group == "console_scripts"}
    assert scripts == {"spinup": "spinup.run:main"}


def test_core_dependencies_are_few(distribution):
    core = {re.match(r"[\w-]+", line)[0] for line in distribution.requires if "extra ==" not in line}
    assert core == {"torch", "gymnasium", "numpy", "matplotlib", "pandas", "rich"}


def test_pre_commit_uses_the_tested_ruff():
    tested = re.search(r"^ruff==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert re.findall(r"rev: v(\S+)", (ROOT / ".pre-commit-config.yaml").read_text()) == [tested]


# ---- what importing costs


@pytest.mark.parametrize("args", [["-c", "import spinup"], ["-m", "spinup.run", "--help"]], ids=["import", "help"])
def test_startup_imports_nothing_heavy(args):
    result = python("-X", "importtime", *args)
    assert result.returncode == 0, result.stderr
    # One line per module: "import time:  self | cumulative | name"
    modules = {
        line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if line.startswith("import time:")
    }
    assert "spinup" in modules
    assert {module.partition(".")[0] for module in modules} & HEAVY == set()


# ---- the pages


def commands(page: Path) -> list[str]:
    """All code on a page, line by line, without comments."""
    text = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))  # continued lines
    fenced = [line for block in text.split("```")[1::2] for line in block.splitlines()]
    indented = re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    return [line.partition(" #")[0].strip().removeprefix("$ ") for line in (*fenced, *indented, *spans)]


@cache
def known_flags(command: str) -> frozenset[str]:
    from spinup import run

    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        run.main([command, "--help"])
    return frozenset(re.findall(r"(?<![\w-])--?[a-z]\w*", text.getvalue()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page_names_existing_make_targets(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {match[1] for line in commands(page) if (match := re.match(r"make ([a-z-]+)", line))}
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page_names_existing_flags(page):
    for line in commands(page):
        match = re.match(r"(?:python -m spinup\.run|spinup) ([a-z]\w*)(.*)", line)
        if match:
            flags = {re.split(r"[:\[=]", word)[0] for word in shlex.split(match[2]) if re.match(r"--?[a-z]", word)}
            command = "ppo" if match[1] == "grid" else match[1]  # a grid takes the flags of its algorithm
            assert flags <= known_flags(command) | {"--help"}, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page_links_to_existing_files(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


def test_readme_table_names_existing_files():
    table = re.findall(r"^\| (`.*?) \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    for cell in table:
        first, *others = re.findall(r"`([^`]+)`", cell)
        if "/" in first:
            folder = ROOT / first if first.endswith("/") else (ROOT / first).parent
            assert (ROOT / first).exists(), first
            assert all((folder / other).exists() for other in others), cell


def test_readme_python_matches_the_signatures():
    import spinup

    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    calls = [node for block in blocks for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)]
    ours = [call for call in calls if ast.unparse(call.func).startswith("spinup.")]
    assert ours
    for call in ours:
        function = getattr(spinup, call.func.attr)
        arguments = [ast.unparse(a) for a in call.args]
        inspect.signature(function).bind(*arguments, **{k.arg: ast.unparse(k.value) for k in call.keywords})


def test_readme_names_all_extras():
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("| extra | for |")[2].partition("\n\n")[0]
    named = {name for row in section.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1] if row else "")}
    assert named == EXTRAS
