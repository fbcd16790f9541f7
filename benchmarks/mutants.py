"""Mutation testing: how many small faults, put into the code one at a time, make a test fail.

    pip install pytest-cov
    python benchmarks/mutants.py cover  .mutants                 # once: which tests run which line
    python benchmarks/mutants.py run    .mutants --sample 200    # try them; goes on where it stopped
    python benchmarks/mutants.py report .mutants

A mutant differs from the code in one operator, comparison, constant, `not`, or statement. It runs in a copy of the
package, against the tests whose own process runs the changed line, quickest first, until one fails. Tests that start
other processes are not seen, so a survivor may still be killed by the whole suite.
"""

import argparse
import ast
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
MODULES = ("spinup/algos", "spinup/nets", "spinup/buffers.py", "spinup/analysis/stats.py")
SWAPS = {
    **{ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "*", ast.Pow: "*"},
    **{ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "=="},
    **{ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in", ast.And: "or", ast.Or: "and"},
}
SECONDS = 60  # of tests for each mutant, by the times that `cover` took


class Mutant(NamedTuple):
    file: str
    line: int
    start: int  # bytes of the file that are replaced
    end: int
    new: str


# ---- which mutants there are


def mutants_of(file: Path) -> list[Mutant]:
    source = file.read_bytes()
    starts = [0]
    for text in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(text))
    found = []

    def begin(node):
        return starts[node.lineno - 1] + node.col_offset

    def end(node):
        return starts[node.end_lineno - 1] + node.end_col_offset

    def add(node, start, stop, new):
        found.append(Mutant(str(file.relative_to(ROOT)), node.lineno, start, stop, new))

    def swap(left, operator, right):
        """Replace the operator, which is what stands between two operands beside brackets and white space."""
        between = source[end(left) : begin(right)].decode()
        old = between.strip("()\n \\")
        if type(operator) in SWAPS and old and between.count(old) == 1:
            at = end(left) + between.index(old)
            add(left, at, at + len(old), SWAPS[type(operator)])

    def visit(node):
        if isinstance(node, ast.BinOp):
            swap(node.left, node.op, node.right)
        elif isinstance(node, ast.Compare) and len(node.ops) == 1:
            swap(node.left, node.ops[0], node.comparators[0])
        elif isinstance(node, ast.BoolOp):
            swap(node.values[0], node.op, node.values[1])
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            add(node, begin(node), begin(node) + (3 if isinstance(node.op, ast.Not) else 1), "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
            new = repr(not node.value) if isinstance(node.value, bool) else repr(node.value + 1)
            add(node, begin(node), end(node), new)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            add(node, begin(node), end(node), "pass")
        elif isinstance(node, ast.AugAssign) and type(node.op) in SWAPS:
            add(node, end(node.target), begin(node.value), f" {SWAPS[type(node.op)]}= ")
        for name, child in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list", "args") and not isinstance(node, ast.Call):
                continue  # no annotations, and no defaults: another one is as right
            if isinstance(node, ast.JoinedStr | ast.Raise):
                continue  # no messages
            for part in child if isinstance(child, list) else [child]:
                if isinstance(part, ast.AST):
                    visit(part)

    for statement in ast.parse(source).body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            visit(statement)
    return found


def all_mutants() -> list[Mutant]:
    files = [f for name in MODULES for f in (sorted((ROOT / name).glob("*.py")) or [ROOT / name])]
    return [mutant for file in files for mutant in mutants_of(file)]


# ---- which tests see a line


def cover(folder: Path, tests: list[str]) -> None:
    """Run the tests once under coverage, each with a context of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = ("[run]", "source = spinup", f"data_file = {folder.resolve()}/coverage", "relative_files = True")
    (folder / "rc").write_text("\n".join(settings))
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--cov", f"--cov-config={folder}/rc", "--cov-report="]
    subprocess.run([*command, "--cov-context=test", f"--junitxml={folder}/times.xml", *tests], cwd=ROOT)


class Coverage:
    """The tests that run a line, quickest first."""

    def __init__(self, folder: Path):
        import coverage

        data = coverage.CoverageData(str(folder / "coverage"))
        data.read()
        self.lines = {f: data.contexts_by_lineno(f) for f in data.measured_files()}
        self.seconds = {}
        for case in ElementTree.parse(folder / "times.xml").iter("testcase"):
            file = case.get("classname").replace(".", "/") + ".py"
            self.seconds[f"{file}::{case.get('name')}"] = float(case.get("time"))

    def tests(self, mutant: Mutant) -> list[str]:
        contexts = {c.split("|")[0] for c in self.lines.get(mutant.file, {}).get(mutant.line, []) if c}
        budget, chosen = SECONDS, []
        for test in sorted(contexts, key=lambda t: self.seconds.get(t, 1.0)):
            budget -= self.seconds.get(test, 1.0)
            if budget < 0:
                break
            chosen.append(test)
        return chosen


# ---- one mutant


def outcome(mutant: Mutant, tests: list[str], copy: Path, log: Path) -> str:
    """killed, timeout, survived or uncovered."""
    if not tests:
        return "uncovered"
    file = copy / mutant.file
    source = file.read_bytes()
    try:
        mutated = source[: mutant.start] + mutant.new.encode() + source[mutant.end :]
        compile(mutated, mutant.file, "exec")
        file.write_bytes(mutated)
        if pid := os.fork():
            return wait(pid)
        run_tests(tests, copy, log)
    finally:
        file.write_bytes(source)


def run_tests(tests: list[str], copy: Path, log: Path) -> None:
    """In the child: never returns."""
    os.setsid()
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    sys.dont_write_bytecode = True
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    import pytest

    os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])))


def wait(pid: int) -> str:
    limit = time.monotonic() + 4 * SECONDS
    while time.monotonic() < limit:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            if code not in (0, 1, 2):  # 2: a test file can't be imported
                raise SystemExit(f"pytest ended with {code}")
            return "survived" if code == 0 else "killed"
        time.sleep(0.05)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "timeout"


def run(folder: Path, sample: int, seed: int, part: int, parts: int) -> None:
    """Try a sample of the mutants; those that the record has already are not tried again."""
    for module in ("torch", "gymnasium", "matplotlib.pyplot", "pandas"):
        __import__(module)  # once, not in each child
    chosen = random.Random(seed).sample(all_mutants(), sample)
    record, copy = folder / f"record{part}.jsonl", folder / f"copy{part}"
    done = {tuple(json.loads(line)["mutant"]) for line in record.read_text().splitlines()} if record.exists() else set()
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "data", "__pycache__", "*.egg-info"))
    shutil.copytree(ROOT / "data", copy / "data")
    coverage = Coverage(folder)
    for mutant in chosen[part::parts]:
        if tuple(mutant) not in done:
            tests, start = coverage.tests(mutant), time.time()
            found = outcome(mutant, tests, copy, folder / f"log{part}")
            line = {"mutant": mutant, "outcome": found, "tests": len(tests), "seconds": round(time.time() - start, 1)}
            with record.open("a") as file:
                file.write(json.dumps(line) + "\n")


def report(folder: Path) -> None:
    lines = [json.loads(line) for file in sorted(folder.glob("record*.jsonl")) for line in file.open()]
    for line in sorted(lines, key=lambda line: line["mutant"][:2]):
        if line["outcome"] in ("survived", "uncovered"):
            file, number, start, end, new = line["mutant"]
            source = (ROOT / file).read_bytes()
            text = source.splitlines()[number - 1].decode().strip()
            print(f"{line['outcome']} {file}:{number}  {source[start:end].decode()} -> {new}   in: {text}")
    print(len(lines), dict(Counter(line["outcome"] for line in lines)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cover", "run", "report"))
    parser.add_argument("folder", type=Path, help="where records, coverage and the copies of the package are kept")
    parser.add_argument("tests", nargs="*", default=["tests"], help="test files that `cover` runs")
    parser.add_argument("--sample", type=int, default=200, help="number of mutants")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument("--part", type=int, default=0, help="the part of the sample to try, with --parts")
    parser.add_argument("--parts", type=int, default=1, help="number of processes that share the sample")
    args = parser.parse_args()
    if args.what == "cover":
        cover(args.folder, args.tests)
    elif args.what == "run":
        run(args.folder, args.sample, args.seed, args.part, args.parts)
    else:
        report(args.folder)


if __name__ == "__main__":
    main()
