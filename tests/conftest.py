"""What every test runs under: one thread (or OMP_NUM_THREADS), no display, no colors, a folder of its own for runs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

# Before numpy, torch and matplotlib are imported, and for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(MPLBACKEND="Agg", PYTHON_COLORS="0")

import hypothesis
import pytest
import torch

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
# Waiting for the disk matters after a power failure only, and would be a good part of the tests' time.
os.fsync = lambda fd: None
if hasattr(os, "fdatasync"):
    os.fdatasync = lambda fd: None
# The same examples in each run, so that the same code has the same result; `make test-slow` draws others.
hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.register_profile("random", derandomize=False)
hypothesis.settings.load_profile("repeatable")
# A shell has jobs in its background ignore Ctrl-C, and so would the tests of it and the processes that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):  # as nohup does with the hangup of a terminal
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def reset_warnings():
    """Let each test see the warnings that are shown only once per process."""
    if terminal := sys.modules.get("spinup.system.terminal"):
        terminal.WARNED.clear()


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
    """Runs go below the test's own temporary folder, so that no test writes into data/."""
    path = tmp_path / "data"
    monkeypatch.setenv("SPINUP_DATA_DIR", str(path))
    return path


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The folder of the built site; the build fails for any warning."""
    pytest.importorskip("sphinx", reason="the extra docs is not installed")
    folder, docs = tmp_path_factory.mktemp("site"), Path(__file__).parents[1] / "docs"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", str(folder / "trees")]
    done = subprocess.run([*command, str(docs), str(folder / "html")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    assert done.stderr == ""
    return folder / "html"
