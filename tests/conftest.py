"""What every test runs under: one thread, no display, no colors, and a folder of its own for runs."""

import os
import signal
import sys

# Before numpy, torch and matplotlib are imported, and for the processes that tests start.
os.environ.update(OMP_NUM_THREADS="1", MPLBACKEND="Agg", PYTHON_COLORS="0")

import pytest
import torch

torch.set_num_threads(1)
# A shell has jobs in its background ignore Ctrl-C, and so would the tests of it and the processes that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def told():
    """What environments are warned of once can be told again in each test."""
    if envs := sys.modules.get("spinup.envs"):
        envs.TOLD.clear()


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
    """Runs go below the test's own temporary folder, so that no test writes into data/."""
    path = tmp_path / "data"
    monkeypatch.setenv("SPINUP_DATA_DIR", str(path))
    return path
