"""Messages for users: hints at what was meant, and commands that install what is missing."""

from pathlib import Path

from spinup import errors
from spinup.errors import closest, install

ROOT = Path(__file__).parents[1]


def test_closest():
    assert closest("epoch", ["epochs", "gamma"]) == "; did you mean 'epochs'?"
    assert closest("zzz", ["epochs", "gamma"]) == ""


def test_an_extra_comes_from_this_package_and_not_from_one_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert install("mpi") == 'pip install -e ".[mpi]"'
    monkeypatch.chdir(tmp_path)
    assert install("mpi") == f'pip install -e "{ROOT}[mpi]"'
    monkeypatch.setattr(errors, "__file__", str(tmp_path / "site-packages" / "spinup" / "errors.py"))
    assert install("mpi") == 'pip install "spinup[mpi]"'
