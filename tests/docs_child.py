"""A process that runs one block of a page. Its imports are made once, in the server that forks it."""

import multiprocessing.process
import os
import runpy
import sys
import traceback

import gymnasium  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import pandas  # noqa: F401
import torch


def run(words: list[str], folder: str, output: str, environment: dict[str, str]) -> None:
    """`python *words` in a folder, with what it prints in a file; exits with its status.

    words: ["-m", "module", ...] or ["file.py", ...]
    """
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    multiprocessing.process.ORIGINAL_DIR = folder  # there a process that the block starts looks for its script
    sys.path.insert(0, folder if words[0] == "-m" else os.path.join(folder, os.path.dirname(words[0])))
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
    torch.set_num_threads(1)
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)
