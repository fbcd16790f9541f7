"""Untrusted folders: no file and no number in them can take more memory or time than the folder's size allows."""

import copy
import hashlib
import json
import os
import pickle
import resource
import shutil
import signal
import struct
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import spinup
from spinup.analysis import play as watch
from spinup.errors import UserError
from spinup.runs import saved
from spinup.runs.checkpoint import unpack
from spinup.runs.config import LONGEST_CONFIG
from spinup.system.files import newest_checkpoint

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two epochs, with a checkpoint."""
    folder = tmp_path_factory.mktemp("saved") / "x_s0"
    settings = dict(num_envs=2, steps_per_epoch=20, epochs=2, max_ep_len=500, ac_kwargs=dict(hidden_sizes=[8]))
    spinup.vpg("CartPole-v1", **settings, logger_kwargs=dict(output_dir=str(folder), exp_name="x", quiet=True))
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def error_of(function, *args, **kwargs):
    with pytest.raises(UserError) as error:
        function(*args, **kwargs)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def rewrite(file, change=lambda name, data: data, compression=zipfile.ZIP_STORED, more=()):
    """Rewrite an archive member by member, and if it is a checkpoint's, its digest in the manifest."""
    with zipfile.ZipFile(file) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in [*members, *more]:
            archive.writestr(name, change(name, data))
    sign(file)


def sign(file):
    if (file.parent / "manifest.json").exists():
        edit(file.parent / "manifest.json", sha256=[hashlib.sha256(file.read_bytes()).hexdigest()])


def pickled(data):
    """A change for `rewrite` that replaces the archive's pickle."""
    return lambda name, old: data if name.endswith("data.pkl") else old


BYTEARRAY = b"\x80\x02c__builtin__\nbytearray\nJ" + struct.pack("<i", 10**9) + b"\x85R."
TENSOR = b"\x80\x02ctorch\nTensor\nJ" + struct.pack("<i", 10**9) + b"\x85R."


def model(run):
    return run / "model.pt", lambda: watch.load(run)


def checkpoint(run):
    return newest_checkpoint(run) / "rank0.pt", lambda: spinup.resume(run, epochs=4)


@pytest.mark.parametrize("what", [model, checkpoint])
def test_a_compressed_archive_is_not_decompressed(run, what):
    file, read = what(run)
    rewrite(file, compression=zipfile.ZIP_DEFLATED)
    assert error_of(read) == f"{file} is compressed, so spinup didn't write it; it is not loaded"


def test_an_archive_with_one_compressed_member(run):
    with zipfile.ZipFile(run / "model.pt", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/99", bytes(2**24))
    assert "is compressed" in error_of(watch.load, run)


@pytest.mark.parametrize("what", [model, checkpoint])
@pytest.mark.parametrize("data", [BYTEARRAY, TENSOR], ids=["bytearray", "tensor"])
def test_a_pickle_that_allocates_memory(run, what, data):
    file, read = what(run)
    rewrite(file, pickled(data))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert f"{file} is damaged or contains more than tensors; it is not loaded" == error_of(read)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 2**10  # KiB


def test_a_pickle_under_another_name_that_torch_accepts(run):
    rewrite(run / "model.pt", lambda name, data: data)
    with zipfile.ZipFile(run / "model.pt") as archive:
        members = {name.replace("data.pkl", "DATA.PKL"): archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(run / "model.pt", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, BYTEARRAY if name.endswith("DATA.PKL") else data)
    assert "is not loaded" in error_of(watch.load, run)


def test_archive_members_that_overlap(run):
    """The directory at the archive's end can list the same bytes under many names."""
    file, read = checkpoint(run)
    torch.save([torch.zeros(10_000) for _ in range(50)], file)
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        first = None
        for name, data in members.items():
            if "/data/" not in name or first is None:
                archive.writestr(name, data)
                first = archive.filelist[-1] if "/data/" in name else first
            else:
                again = copy.copy(first)
                again.filename = name
                archive.filelist.append(again)
    sign(file)
    assert file.stat().st_size < 100_000
    assert f"{file} is damaged (BadZipFile: its members are not those" in error_of(read)


def test_an_archive_that_torch_and_zipfile_read_differently(run):
    """zipfile looks for the directory just before the archive's end record, torch at the offset in that record."""
    file = run / "model.pt"
    rewrite(file, compression=zipfile.ZIP_DEFLATED)
    hidden = file.read_bytes()
    rewrite(file)
    good = file.read_bytes()
    there, here = (struct.unpack("<4s4H2LH", data[-22:])[6] for data in (hidden, good))
    file.write_bytes(hidden[:there] + bytes(here - there) + hidden[there:-22] + good)
    assert f"{file} is damaged (BadZipFile: its members are not those" in error_of(watch.load, run)


@pytest.mark.parametrize("what", [model, checkpoint])
def test_a_tensor_larger_than_its_storage(run, what):
    file, read = what(run)
    state = torch.load(file, weights_only=True)
    if what is model:
        state["actor.net.1.0.weight"] = torch.zeros(1).expand(10**6, 10**6)
    else:
        state["parts"]["envs"]["actions"] = {"__array__": torch.zeros(1).expand(10**6, 10**6)}
    torch.save(state, file)
    sign(file)
    assert "a tensor of shape (1000000, 1000000) has only 4 bytes" in error_of(read)


def test_shared_lists_are_unpacked_once():
    x = [1]
    for _ in range(60):
        x = [x, x]
    for _ in range(60):
        (x, other), y = unpack(x), x
        assert x is other
        assert y[0] is y[1]
    assert x == [1]


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_sizes": [2000] * 3000},
        {"hidden_sizes": [2**20]},
        {"hidden_sizes": [1] * 100_000},
        {"hidden_sizes": [8, 8192, 8192, 8]},
        {"hidden_sizes": [2**20] * 3, "linear": {"sparsity": 0.999999999, "block_size": 128, "schedule": "prune"}},
        {"hidden_sizes": [2**16] * 3, "linear": {"sparsity": 0.5, "block_size": 64}},
    ],
)
@pytest.mark.parametrize("what", [model, checkpoint])
def test_networks_larger_than_their_parameter_file(run, what, changes):
    edit(run / "config.json", ac_kwargs=changes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "the networks need at least " in error_of(what(run)[1])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 2**10  # KiB


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_sizes": [2000] * 3000 + ["x"]},
        {"hidden_sizes": [2000] * 3000 + [-(10**9)]},
        {"hidden_sizes": [2048] * 3000 + [-(10**9)], "linear": {"sparsity": 0.5, "block_size": 64}},
    ],
)
@pytest.mark.parametrize("what", [model, checkpoint])
def test_networks_that_would_allocate_memory_and_then_fail(run, what, changes):
    edit(run / "config.json", ac_kwargs=changes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "cannot build the networks from ac_kwargs (hidden_sizes is [" in error_of(what(run)[1])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 2**10  # KiB


def test_deeply_nested_lists(run):
    file, read = checkpoint(run)
    rewrite(file, pickled(b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"."))
    assert f"{file} is damaged (RecursionError" in error_of(read)


def test_large_networks_in_a_folder_without_a_checkpoint(run):
    shutil.rmtree(run / "checkpoint")
    (run / "progress.txt").unlink()
    edit(run / "config.json", ac_kwargs={"hidden_sizes": [20_000] * 1000})
    assert "are free; they are not built" in error_of(spinup.resume, run)


@pytest.mark.parametrize(
    "ac_kwargs",
    [
        {"hidden_sizes": []},
        {"hidden_sizes": 3},
        {"hidden_sizes": [64, 64], "linear": {"sparsity": 0.5, "block_size": 16}},
        {"hidden_sizes": [64, 64, 64], "linear": {"sparsity": 0.75, "block_size": 16, "schedule": "prune", "every": 1}},
    ],
)
@pytest.mark.parametrize("algo", ["vpg", "sac"])
def test_networks_that_match_their_file_are_built(tmp_path, algo, ac_kwargs):
    more = {} if algo == "vpg" else dict(start_steps=5, update_after=5, batch_size=4, replay_size=50, eval_freq=0)
    logger_kwargs = dict(output_dir=str(tmp_path / "x"), exp_name="x", quiet=True)
    settings = dict(num_envs=1, steps_per_epoch=20, epochs=2, ac_kwargs=ac_kwargs, **more)
    getattr(spinup, algo)("CartPole-v1", **settings, logger_kwargs=logger_kwargs)
    spinup.load(tmp_path / "x")
    spinup.resume(tmp_path / "x", epochs=3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ac_kwargs": {"hidden": 3}}, "ac_kwargs has the unknown entry 'hidden'; for actor_critic \\w+ it may have"),
        ({"ac_kwargs": 5}, "ac_kwargs is 5; it must be a dict"),
        ({"env_kwargs": 5}, "env_kwargs is 5; it must be a dict"),
        ({"actor_critic": "MLP"}, "actor_critic is 'MLP'; it must be a class, or a function"),
        ({"path": 5}, "the run's folder is 5; it must be a path"),
    ],
)
def test_load_with_wrong_arguments(run, given, message):
    with pytest.raises(UserError, match=f"^{message}"):
        spinup.load(**{"path": run, **given})


@pytest.mark.parametrize("name", ["ac_kwargs", "env_kwargs"])
def test_resume_with_something_other_than_a_dict(run, name):
    with pytest.raises(UserError, match=f"^{name} is 5; it must be a dict"):
        spinup.resume(run, **{name: 5})


def test_unbounded_numbers(run):
    edit(run / "config.json", eval_freq=1, num_test_episodes=10**12)
    assert (
        error_of(spinup.resume, run, epochs=4)
        == "num_test_episodes is 1000000000000; it must be a whole number in 1 to 10000"
    )


@pytest.mark.parametrize("what", [model, checkpoint])
def test_a_file_larger_than_free_memory(run, what, monkeypatch):
    file, _ = what(run)
    monkeypatch.setattr(saved.accel, "free_memory", lambda device: 100)
    assert f"{file} has " in error_of(saved.load_tensors, file)


# ---- what is not a file


@pytest.fixture
def alarm():
    """Interrupt a test that blocks after ten seconds."""

    def interrupt(*_):
        raise AssertionError("still reading after ten seconds")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("name", ["config.json", "model.pt", "manifest.json", "rank0.pt"])
def test_only_regular_files_are_read(run, name, kind, alarm):
    """Reading a pipe would block forever, and /dev/zero never ends."""
    file = newest_checkpoint(run) / name if name in ("manifest.json", "rank0.pt") else run / name
    file.unlink()
    {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero"), "folder": Path.mkdir}[kind](file)
    error = error_of(spinup.load, run) if name == "model.pt" else error_of(spinup.resume, run, epochs=4)
    assert str(file) in error


def test_a_huge_config(run):
    with open(run / "config.json", "ab") as file:
        file.write(b" " * LONGEST_CONFIG)
    assert f"it has more than {LONGEST_CONFIG} bytes" in error_of(watch.load, run)


def test_a_deep_folder_is_not_searched_for_runs(tmp_path):
    deep = tmp_path.joinpath(*"abcdefgh")
    deep.mkdir(parents=True)
    (deep / "config.json").write_text("{}")
    (tmp_path / "a" / "b" / "config.json").write_text("{}")
    assert error_of(watch.load, tmp_path).endswith(f"runs in it: {tmp_path / 'a' / 'b'}")


def test_our_own_pickles_contain_only_allowed_globals(run):
    for file in (run / "model.pt", run / "model_best.pt", newest_checkpoint(run) / "rank0.pt"):
        saved.load_tensors(file)
    with pytest.raises(pickle.UnpicklingError):
        saved.check_pickle(pickle.dumps(print, protocol=2))


@pytest.mark.parametrize("name", ["\n", "a\x1b[31mb", "x:\x07y\n:Z-v0"])
@pytest.mark.parametrize("key", ["actor_critic", "env_fn"])
def test_names_in_a_config_are_shown_in_one_printable_line(run, key, name):
    edit(run / "config.json", **{key: name})
    for read in (watch.load, spinup.resume):
        assert error_of(read, run).isprintable()
