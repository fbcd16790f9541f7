"""What `check` starts: judges one file in a process of its own, and leaves its verdict in another file.

A file that never ends, or that ends the process, takes only this process with it, and leaves no verdict.
"""

import faulthandler
import importlib
import sys
import traceback
from pathlib import Path

from spinup.errors import UserError
from spinup.exercises import judge

BUG = "bug"  # the verdict where the error is ours, and its traceback is on the screen


def main(starter: str, file: str, verdict: str, limit: float) -> int:
    """Judge `file`, print the message, write the exit status to `verdict` and return it.

    starter: the exercise's starter file; limit: seconds after which the stack is written instead, and the process ends
    """
    with open(verdict, "w", encoding="utf-8") as out:
        faulthandler.dump_traceback_later(limit, exit=True, file=out)
        status = BUG
        try:
            status = judged(Path(starter), Path(file))
        except UserError as error:
            print(f"exercises: error: {' '.join(str(error).split())}", file=sys.stderr)
            status = 2
        except KeyboardInterrupt:  # check says so
            status = 130
        finally:
            faulthandler.cancel_dump_traceback_later()
            out.write(str(status))
    return status


def judged(starter: Path, path: Path) -> int:
    """Print what the checker says of the file; 0 where it is right, else 1. Raises UserError for what is not a file."""
    _, of_set, of_exercise = starter.stem.split("_")
    number = f"{of_set}.{of_exercise}"
    checker = importlib.import_module(f"spinup.exercises.{starter.parent.name}.check_{of_set}_{of_exercise}")
    try:
        if starter.suffix == ".toml":
            message = checker.check(path)
        else:
            module = judge.load(path, starter)
            judge.seed()
            message = checker.check(module)
    except judge.Wrong as wrong:
        print(f"{number} not yet: {wrong}")
        return 1
    except NotImplementedError as error:
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        print(f"{number} not yet: line {line} of {path.name} is still to be written")
        return 1
    except (Exception, SystemExit) as error:
        own = None if isinstance(error, UserError) else judge.own_traceback(error, path)
        if own is None:
            raise
        print(f"{number} not yet: your file raises an error\n{own}")
        return 1
    print(f"{number} right: {message}")
    return 0
