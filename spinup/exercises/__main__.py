"""The command line of the exercises: python -m spinup.exercises list | start | check | hint | solution."""

import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path

from spinup.errors import UserError, closest, user_path
from spinup.system.terminal import exit_status_of_output, protect_streams

HERE = Path(__file__).parent
LIMIT = 120  # seconds for a check; they take a few
USAGE = """\
Exercises. Usage: python -m spinup.exercises COMMAND

  list                    all exercises
  start 1.3 [FOLDER]      copy the starter file to the folder you are in, or to FOLDER
  check 1.3 [FILE]        is it right? FILE is exercise_1_3.py (or .toml) unless given
  hint 1.3 [N]            the first hint, or the Nth
  solution 1.3            the solution, and why it is one"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; exits with 1 for an exercise not solved yet, with 2 for a wrong command."""
    streams = protect_streams()
    try:
        status = dispatch(list(sys.argv[1:] if argv is None else argv)) or exit_status_of_output(streams)
    except UserError as error:
        print(f"exercises: error: {' '.join(str(error).split())}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("exercises: stopped", file=sys.stderr)
        status = 130
    if status:
        sys.exit(status)


def dispatch(words: list[str]) -> int:
    """Do what the words say; returns the exit status."""
    command, rest = (words[0], words[1:]) if words else ("--help", [])
    commands = {"list": list_all, "start": start, "check": check, "hint": hint, "solution": solution}
    if command in ("-h", "--help", "help") or {"-h", "--help"} & set(rest):
        print(USAGE)
        return 0
    if command not in commands:
        hint_ = closest(command, commands) or f"; the commands are {', '.join(commands)}"
        raise UserError(f"unknown command '{command}'{hint_}")
    if command == "list":
        return list_all()
    if not 1 <= len(rest) <= (1 if command == "solution" else 2):
        raise UserError(f"{command} needs the number of an exercise, as in: python -m spinup.exercises {command} 1.1")
    return commands[command](find(rest[0]), *rest[1:]) or 0


# ---- what there is


def exercises() -> dict[str, Path]:
    """The starter files by number, "1.1" and so on."""
    found = {}
    for path in sorted(HERE.glob("problem_set_*/exercise_*_*.*")):
        match = re.fullmatch(r"exercise_(\d)_(\d)\.(py|toml)", path.name)
        if match:
            found[f"{match[1]}.{match[2]}"] = path
    return found


def find(number: str) -> Path:
    """The starter file of an exercise."""
    if number not in exercises():
        raise UserError(f"there is no exercise '{number}'; there are {', '.join(exercises())}")
    return exercises()[number]


def number_of(starter: Path) -> str:
    return ".".join(starter.stem.split("_")[1:3])


def text_of(starter: Path) -> str:
    """The exercise's text in Markdown: a title, the statement, hints and the solution's explanation, folded."""
    return starter.with_suffix(".md").read_text(encoding="utf-8")


def title_of(starter: Path) -> str:
    return text_of(starter).partition("\n")[0].removeprefix("## ").partition(" ")[2]


def folded(text: str, title: str) -> list[str]:
    """The contents of the folded parts of a text whose summary begins with `title`."""
    pattern = rf"<details><summary>{title}.*?</summary>\n\n(.*?)\n\n</details>"
    return re.findall(pattern, text, re.DOTALL)


def solution_of(starter: Path) -> Path:
    """The solution's program; of an experiment, the one that computes the answers from the runs."""
    return starter.with_name(f"{starter.stem}_solution.py")


# ---- the commands


def list_all() -> int:
    """Print number and title of every exercise."""
    titles = {"1": "Formulas to turn into code", "2": "Silent bugs to find", "3": "Experiments to run and interpret"}
    for number, starter in exercises().items():
        if number.endswith(".1"):
            print(f"Problem set {number[0]}: {titles[number[0]]}")
        print(f"  {number}  {title_of(starter)}")
    return 0


def start(starter: Path, folder: str = ".") -> None:
    """Copy the starter file; never over a file that is there."""
    place = user_path(folder)
    target = place / starter.name
    if target.exists():
        raise UserError(f"{target} is there already; move it away to begin anew, or give another folder")
    try:
        place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(starter, target)
    except OSError as error:
        raise UserError(f"cannot write {target}: {error.strerror}") from None
    number, file = number_of(starter), "" if folder == "." else f" {target}"
    print(f"{target}: its first lines say what to do; then: python -m spinup.exercises check {number}{file}")


def check(starter: Path, file: str | None = None) -> int:
    """Have the user's file judged in a process of its own; returns 0 where it is right and else 1."""
    number, path = number_of(starter), user_path(file or starter.name).absolute()
    with tempfile.TemporaryDirectory() as folder:
        verdict = Path(folder) / "verdict"
        status = judged_by_child(starter, path, verdict)
        said = verdict.read_text(encoding="utf-8") if verdict.exists() else ""
    if said.isdecimal() or said == "bug":
        return status
    running = re.search(rf'File "{re.escape(str(path))}", line (\d+)', said)
    if said.startswith("Timeout"):
        where = f"line {running[1]} of {path.name}" if running else path.name
        print(f"{number} not yet: {where} is still running after {LIMIT} s; does its loop end?")
    else:
        print(f"{number} not yet: {path.name} ended the program before it was judged (exit status {status})")
    return 1


def judged_by_child(starter: Path, path: Path, verdict: Path) -> int:
    """The exit status of the process that judges the file; what it found is in the file `verdict`."""
    root = str(HERE.parents[1])
    arguments = (str(starter), str(path), str(verdict), LIMIT)
    code = (
        f"import sys; sys.path[0] = {root!r}; from spinup.exercises import child; sys.exit(child.main(*{arguments!r}))"
    )
    return subprocess.run([sys.executable, "-c", code]).returncode


def hint(starter: Path, which: str = "1") -> None:
    """Print one hint."""
    hints, number = folded(text_of(starter), "Hint"), number_of(starter)
    if not which.isdecimal() or not 1 <= int(which) <= len(hints):
        raise UserError(f"there is no hint {which}; {number} has hints 1 to {len(hints)}")
    print(hints[int(which) - 1])
    if int(which) < len(hints):
        print(f"(more: python -m spinup.exercises hint {number} {int(which) + 1})")


def solution(starter: Path) -> None:
    """Print the solution's file and its explanation."""
    print(solution_of(starter).read_text(encoding="utf-8"))
    comment = "\n\n".join(folded(text_of(starter), "Solution"))
    print(textwrap.indent(comment, "# ", lambda line: True).replace("# \n", "#\n"))


if __name__ == "__main__":
    main()
