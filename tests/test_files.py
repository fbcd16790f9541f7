"""Untrusted folders, and folders that change during the run: nothing outside is touched, and no row is lost."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_resume import same_run, table, train

import spinup
from spinup.analysis import play as watch
from spinup.analysis import results
from spinup.errors import Fault, UserError, first_line, printable
from spinup.experiments import jobs
from spinup.experiments.jobs import Job
from spinup.run import main
from spinup.runs.config import read_config
from spinup.runs.logger import Logger
from spinup.system import files
from spinup.system.files import RunFolder

ESCAPES = ["\x1b]0;owned\x07\x1b[2J\x9b31m", "a\rspinup: done\x08\x08", "a\u202eb\u2028x", "\ud800"]


@pytest.fixture
def home(tmp_path):
    """A folder with files that must not be touched; `untouched` checks that."""
    home = tmp_path / "home"
    (home / "thesis").mkdir(parents=True)
    (home / "2024").mkdir()
    for name in (".bashrc", "thesis/chapter1", "2024/photo", "2024/rank0.pt"):
        (home / name).write_text(f"precious {name}")
    return home


def untouched(home):
    found = {str(path.relative_to(home)): path.read_text() for path in home.rglob("*") if path.is_file()}
    assert found == {n: f"precious {n}" for n in (".bashrc", "thesis/chapter1", "2024/photo", "2024/rank0.pt")}
    return True


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of two epochs, made by the command line."""
    root = tmp_path_factory.mktemp("made")
    words = "vpg --env CartPole-v1 --steps 40 --epochs 2 --num_envs 1 --hid 8 --checkpoint_freq 1 --quiet"
    main([*words.split(), "--data_dir", str(root)])
    return root


@pytest.fixture
def run(made, tmp_path):
    return Path(shutil.copytree(made / "cmd_vpg" / "cmd_vpg_s0", tmp_path / "run"))


def configure(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def rows(run):
    return [row["Epoch"] for row in table(run)]


def kinds(path, home):
    """Things other than a regular file that can be at a path, by name, with a function that creates each."""

    def hard_link():
        os.link(home / ".bashrc", path)

    def channel():
        with socket.socket(socket.AF_UNIX) as s:
            folder = os.getcwd()
            os.chdir(path.parent)  # a socket's path must be short
            s.bind(path.name)
            os.chdir(folder)

    return {
        "link": lambda: path.symlink_to(home / ".bashrc"),
        "relative link": lambda: path.symlink_to("../home/.bashrc"),
        "dangling link": lambda: path.symlink_to(home / "new"),
        "link to a device": lambda: path.symlink_to("/dev/zero"),
        "hard link": hard_link,
        "pipe": lambda: os.mkfifo(path),
        "socket": channel,
    }


# ---- names


@pytest.mark.parametrize(
    "name",
    ["../home/.bashrc", "/x", "a/b", "..", ".", "", "a\\b", "a\0b", 5, None, "a/", "//x"],
)
def test_a_name_must_not_be_a_path(tmp_path, name):
    for attempt in (RunFolder(tmp_path).replace, lambda name, data: Logger(tmp_path / "run", name, quiet=True)):
        with pytest.raises(UserError, match=r"is not the name of a file in a run's folder"):
            attempt(name, b"x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["config.json", "model.pt", "model12.pt", "checkpoint", ".lock", "status.json"])
def test_the_table_cannot_have_another_files_name(tmp_path, name):
    with pytest.raises(UserError, match="which is another file's name"):
        Logger(tmp_path / "run", name, quiet=True)


@pytest.mark.parametrize("fname", ["../home/.bashrc", "../../x", "thesis/chapter1"])
def test_resume_writes_no_table_outside(run, home, fname, tmp_path):
    fname = fname if ".." in fname else str(home / fname)
    configure(run, logger_kwargs={"output_fname": fname, "quiet": True})
    with pytest.raises(UserError, match=r"output_fname|is not the name of a file"):
        spinup.resume(run, epochs=3)
    assert untouched(home)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "run"]


def test_save_tensors_accepts_no_path(tmp_path, home):
    logger = Logger(tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match="is not the name of a file"):
        logger.save_tensors("../home/.bashrc", {"a": torch.ones(1)})
    assert untouched(home)


# ---- links, pipes and the like instead of files


@pytest.mark.parametrize("kind", kinds(Path(), Path()))
@pytest.mark.parametrize("name", ["progress.txt", "model.pt", "model_best.pt", "checkpoint/.120.tmp", "checkpoint/7"])
def test_resume_replaces_links_and_pipes_by_files(run, home, kind, name):
    (run / name).unlink(missing_ok=True)
    kinds(run / name, home)[kind]()
    spinup.resume(run, epochs=3)
    assert untouched(home)
    assert not (home / "new").exists()
    assert rows(run) == ["1", "2", "3"]
    assert stat.S_ISREG(os.lstat(run / "model.pt").st_mode)
    assert stat.S_ISREG(os.lstat(run / "progress.txt").st_mode)
    assert (run / "checkpoint" / "120" / "manifest.json").exists()


@pytest.mark.parametrize("kind", ["a file", "a link", "a folder"])
def test_nothing_at_the_next_checkpoints_path_is_removed(run, home, kind):
    there = run / "checkpoint" / "120"
    makers = {"a file": lambda: there.write_text("x"), "a link": lambda: there.symlink_to(home)}
    makers.get(kind, lambda: shutil.copytree(home, there))()
    with pytest.raises(UserError, match=r"cannot write .*checkpoint/120: "):
        spinup.resume(run, epochs=3)
    assert untouched(home)
    assert sorted(p.name for p in (run / "checkpoint").iterdir()) == ["120", "80"]
    assert kind != "a folder" or untouched(there)


@pytest.mark.parametrize("name", ["progress.txt", "config.json"])
@pytest.mark.parametrize("kind", ["pipe", "link to a device"])
def test_plot_and_progress_do_not_block_on_pipes(run, home, name, kind):
    (run / name).unlink()
    kinds(run / name, home)[kind]()
    if name == "progress.txt":
        with pytest.raises(UserError, match=r"cannot read .*progress.txt: it is not a regular file"):
            results.load(run)
    else:
        assert len(results.load(run)) == 2
    assert jobs.run_progress(run, running=True) == ("", "", "")
    for other in ("status.json", "error.txt"):
        (run / other).unlink(missing_ok=True)
        kinds(run / other, home)[kind]()
    assert jobs.read_status(run) == {}
    assert jobs.last_error_line(run, "failed") == "failed"


def test_links_are_not_followed_without_dir_fd_either(run, home, monkeypatch):
    """As on Windows."""
    monkeypatch.setattr(files, "HAS_DIR_FD", False)
    for name in ("progress.txt", "model.pt"):
        (run / name).unlink()
        (run / name).symlink_to(home / ".bashrc")
    (run / "checkpoint" / "20").symlink_to(home / "2024")
    (run / "checkpoint" / ".60.tmp").mkdir()
    spinup.resume(run, epochs=3)
    assert untouched(home)
    assert rows(run) == ["1", "2", "3"]
    assert sorted(p.name for p in (run / "checkpoint").iterdir()) == ["120", "20"]
    (run / "checkpoint").rename(run / "kept")
    (run / "checkpoint").symlink_to(home)
    folder = RunFolder(run).subfolder("checkpoint")
    for attempt in (lambda: folder.create("x"), folder.names, lambda: folder.rename("2024", "x")):
        with pytest.raises(OSError, match="it is a link"):
            attempt()
    folder.remove_folder("2024", re.compile(".*"))
    assert untouched(home)


@pytest.mark.parametrize("descriptors", [files.HAS_DIR_FD, False])
def test_a_run_behind_a_link_is_not_removed(run, tmp_path, descriptors, monkeypatch):
    monkeypatch.setattr(files, "HAS_DIR_FD", descriptors)
    link = tmp_path / "link"
    link.symlink_to(run)
    before = sorted(path.relative_to(run) for path in run.rglob("*"))
    with pytest.raises(UserError, match=f"{link} is a link.*remove that folder's files yourself, or the link"):
        RunFolder(link).remove_run()
    assert sorted(path.relative_to(run) for path in run.rglob("*")) == before
    spinup.resume(link, epochs=3)
    assert rows(run) == ["1", "2", "3"]


def test_a_run_that_becomes_a_link_is_not_removed(run, tmp_path, monkeypatch):
    """The folder may be replaced by a link after it was checked."""
    kept = sorted(path.name for path in run.iterdir())
    folder, is_link = RunFolder(tmp_path / "link"), RunFolder.is_link
    folder.path.mkdir()

    def exchange(self):
        found = is_link(self)
        if self is folder and not found:
            folder.path.rmdir()
            folder.path.symlink_to(run)
        return found

    monkeypatch.setattr(RunFolder, "is_link", exchange)
    folder.remove_run()
    assert sorted(path.name for path in run.iterdir()) == kept


@pytest.mark.parametrize("name", ["progress.txt", "model.pt"])
def test_a_folder_at_a_files_path_is_not_removed(run, home, name):
    (run / name).unlink()
    shutil.copytree(home, run / name)
    with pytest.raises(UserError, match=rf"cannot write .*{name}: Is a directory"):
        spinup.resume(run, epochs=3)
    assert untouched(run / name)
    assert [p for p in run.iterdir() if p.suffix == ".tmp"] == []


def test_a_config_that_is_a_link_is_replaced(run, home):
    (run / "config.json").rename(home.parent / "config.json")
    before = (home.parent / "config.json").read_bytes()
    (run / "config.json").symlink_to("../config.json")
    spinup.resume(run, epochs=3)
    assert (home.parent / "config.json").read_bytes() == before
    assert json.loads((run / "config.json").read_text())["epochs"] == 3


@pytest.mark.parametrize("kind", sorted(kinds(Path(), Path()).keys() - {"hard link"}))
def test_a_lock_that_is_not_a_file_is_refused(run, home, kind):
    (run / ".lock").unlink()
    kinds(run / ".lock", home)[kind]()
    with pytest.raises(UserError, match=r"\.lock is not a file, and a run keeps its lock there"):
        spinup.resume(run, epochs=3)
    assert not (home / "new").exists()


def test_temporary_names_cannot_be_guessed(run, home):
    """Links at the names that temporary files had in earlier versions, for many process ids."""
    for number in range(os.getpid() - 5, os.getpid() + 5):
        for name in ("progress.txt", "config.json", "model.pt"):
            (run / f".{name}.{number}").symlink_to(home / ".bashrc")
    spinup.resume(run, epochs=3)
    assert untouched(home)
    assert len({files.temporary_name("x") for _ in range(100)}) == 100


def test_a_temporary_file_does_not_follow_a_link(tmp_path, home, monkeypatch):
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: "0" * 16)
    (tmp_path / ".config.json.0000000000000000.tmp").symlink_to(home / ".bashrc")
    with pytest.raises(UserError, match=r"cannot write .*config.json: File exists"):
        RunFolder(tmp_path).replace("config.json", b"x")
    assert untouched(home)


# ---- the checkpoint folder


@pytest.mark.parametrize("target", ["../home", "../home/thesis", "."])
def test_a_checkpoint_folder_that_is_a_link_is_refused_before_anything_is_written(run, home, target):
    (run / "checkpoint").rename(run.parent / "scratch")
    (run / "checkpoint").symlink_to(target)
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file() and p.name != ".lock"}
    for attempt in (lambda: spinup.resume(run, epochs=4), lambda: Logger(run, resume=True)):
        with pytest.raises(UserError, match=r"checkpoint is a link; it must be a folder; .*--data_dir"):
            attempt()
    assert untouched(home)
    after = {
        p.name: p.read_bytes() for p in run.iterdir() if p.is_file() and p.name != ".lock"
    }  # this process has the lock until it ends
    assert after == before


def test_a_checkpoint_folder_that_becomes_a_link_is_not_followed(tmp_path, home):
    run = tmp_path / "run"

    def swap():
        (run / "checkpoint").rename(run / "kept")
        (run / "checkpoint").symlink_to(home)

    with pytest.raises(UserError, match=r"cannot write .*checkpoint/240: "):
        train("vpg", run, step=150, action=swap)
    assert untouched(home)
    assert sorted(p.name for p in home.iterdir()) == [".bashrc", "2024", "thesis"]


def test_only_our_own_checkpoints_are_removed(run, home):
    root = run / "checkpoint"
    shutil.copytree(home / "thesis", root / "thesis")
    shutil.copytree(home / "2024", root / "2024")  # a number, and a file name of ours, but no manifest
    shutil.copytree(root / "80", root / "40")
    (root / "40" / "notes").write_text("mine")
    (root / "40" / "rank1.pt").symlink_to(home / ".bashrc")
    (root / "20").symlink_to(home / "2024")
    (root / ".60.tmp").mkdir()  # left by a run that was killed while saving
    (root / ".60.tmp" / "rank0.pt").write_text("half")
    (root / ".60.0123456789abcdef.tmp").mkdir()
    spinup.resume(run, epochs=4)
    assert untouched(home)
    assert (root / "thesis" / "chapter1").read_text() == "precious thesis/chapter1"
    assert sorted(p.name for p in (root / "2024").iterdir()) == ["photo", "rank0.pt"]
    assert sorted(p.name for p in (root / "40").iterdir()) == ["notes", "rank1.pt"]
    assert sorted(p.name for p in root.iterdir()) == ["160", "20", "2024", "40", "thesis"]


@pytest.mark.parametrize("foreign", ["../../../home/.bashrc", "/x/passwd", "rank0.pt/../../x"])
def test_a_manifest_cannot_name_files(run, home, foreign):
    """The number of processes alone determines a checkpoint's files."""
    manifest = run / "checkpoint" / "80" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "sha256": [foreign], "files": [foreign], "epochs done": 1}))
    with pytest.raises(UserError, match=r"rank0.pt is damaged: its SHA-256 is not the one"):
        spinup.resume(run, epochs=3)
    assert untouched(home)


def test_a_full_disk_leaves_no_partial_checkpoint(tmp_path, monkeypatch):
    """No matter which file doesn't fit: the tensors, or the manifest after them."""
    replace = RunFolder.replace

    def full(self, name, data):
        if name == "manifest.json" and self.path.name.startswith(".240."):
            raise UserError("cannot write manifest.json: No space left on device")
        replace(self, name, data)

    monkeypatch.setattr(RunFolder, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        train("vpg", tmp_path / "run")
    assert [p.name for p in (tmp_path / "run" / "checkpoint").iterdir()] == ["120"]


def test_a_temporary_file_that_does_not_fit_is_removed(tmp_path):
    handler, old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "model.pt").write_bytes(b"old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*model.pt: File too large"):
            RunFolder(tmp_path).replace("model.pt", bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"model.pt": b"old"}


# ---- changes during the run


def act_during_run(folder, action):
    """Train for five epochs of 60 steps each, and call `action` in the third one."""
    train("vpg", folder, step=150, action=action)


def remove(path):
    return lambda: path.unlink()


TABLE = {
    "removed": remove,
    "emptied": lambda path: lambda: path.write_bytes(b""),
    "cut short": lambda path: lambda: os.truncate(path, 100),
    "with a row more": lambda path: lambda: path.open("a").write("foreign\n"),
    "replaced": lambda path: lambda: (path.unlink(), path.write_text("foreign")),
    "linked": lambda path: lambda: os.link(path, path.with_name("copy")),
    "moved": lambda path: lambda: path.rename(path.with_name("moved")),
    "a folder's": lambda path: lambda: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.filterwarnings("ignore:unclosed file")
@pytest.mark.parametrize("change", TABLE)
def test_a_table_that_is_changed_during_the_run_is_restored(tmp_path, change, capfd):
    run = tmp_path / "run"
    act_during_run(run, TABLE[change](run / "progress.txt"))
    act_during_run(tmp_path / "whole", lambda: None)
    assert table(run) == table(tmp_path / "whole")
    assert "progress.txt was removed or changed during the run; its rows have been restored" in capfd.readouterr().err


def test_a_hard_link_to_the_table_keeps_its_content(run):
    before = (run / "progress.txt").read_bytes()
    backup = run.parent / "backup"
    os.link(run / "progress.txt", backup)
    spinup.resume(run, epochs=4)
    assert backup.read_bytes() == before
    assert rows(run) == ["1", "2", "3", "4"]


@pytest.mark.skipif(not files.HAS_DIR_FD, reason="links cannot be refused as a file is opened")
def test_a_link_that_appears_before_a_row_is_written_is_not_followed(tmp_path, home, monkeypatch):
    """Between checking the table and opening it."""
    folder, size = RunFolder(tmp_path), RunFolder.size
    folder.replace("progress.txt", b"Epoch\n")

    def exchange(self, name):
        found = size(self, name)
        (self.path / name).unlink()
        (self.path / name).symlink_to(home / ".bashrc")
        return found

    monkeypatch.setattr(RunFolder, "size", exchange)
    with pytest.raises(UserError, match=r"cannot write .*progress\.txt"):
        folder.append("progress.txt", b"1\n")
    assert untouched(home)


def test_a_lock_that_is_removed_is_acquired_again(tmp_path, capfd):
    run = tmp_path / "run"
    act_during_run(run, remove(run / ".lock"))
    assert rows(run) == list("12345")
    assert capfd.readouterr().err.count(".lock was removed during the run") == 1


def test_a_second_resume_after_the_lock_was_removed_ends_the_first(tmp_path):
    """The process that has the lock continues alone, without rows of the other between its own."""
    run, child = tmp_path / "run", []

    def take():
        (run / ".lock").unlink()
        code = (
            "import sys; from spinup.runs.logger import Logger; l = Logger(sys.argv[1], resume=True); print(); input()"
        )
        command = [sys.executable, "-c", code, str(run)]
        child.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        child[0].stdout.readline()

    with pytest.raises(UserError, match="another process is using"):
        act_during_run(run, take)
    child[0].communicate(b"\n")
    assert rows(run) == ["1", "2"]
    train("vpg", run, resume=True)
    act_during_run(tmp_path / "whole", lambda: None)
    same_run(run, tmp_path / "whole")


def test_a_folder_that_replaces_the_runs_is_not_written_to(tmp_path):
    run = tmp_path / "run"

    def swap():
        run.rename(tmp_path / "moved")
        shutil.copytree(tmp_path / "moved", run)

    with pytest.raises(UserError, match=r"cannot write .*run"):
        act_during_run(run, swap)
    assert len(table(run)) == 2


# ---- grids


def test_starting_over_removes_only_the_runs_files(tmp_path, home):
    folder = tmp_path / "x_s0"
    folder.mkdir()
    job = Job("x", 0, print, {"seed": 0, "logger_kwargs": {"output_dir": str(folder)}})
    jobs.write_status(job, "failed", 0.0)
    for name in ("config.json", "progress.txt", "model.pt", "model7.pt", "model_best.pt", "output.txt", ".lock"):
        (folder / name).write_text("")
    (folder / "checkpoint" / ".60.tmp").mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    (folder / "model_mine.pt").write_text("mine")
    shutil.copytree(home, folder / "home")
    (folder / "error.txt").symlink_to(home / ".bashrc")
    job, folder_lock = jobs.lock_folder(job)
    folder_lock.release()
    assert sorted(p.name for p in folder.iterdir()) == [".lock", "error.txt", "home", "model_mine.pt", "notes.txt"]
    assert untouched(home)
    assert untouched(folder / "home")


def fails(**kwargs):
    print("printed")
    raise ValueError("wrong \x1b]0;owned\x07")


@pytest.mark.parametrize("name", ["status.json", "error.txt", "output.txt"])
@pytest.mark.parametrize("kind", kinds(Path(), Path()))
def test_a_grid_writes_only_in_a_runs_folder(tmp_path, home, name, kind, capsys):
    folder = tmp_path / "x_s0"
    folder.mkdir()
    kinds(folder / name, home)[kind]()
    job = Job("x", 0, fails, {"seed": 0, "logger_kwargs": {"output_dir": str(folder)}})
    with jobs.output_to(folder / "output.txt"), pytest.raises(ValueError, match="wrong"):
        jobs.run_job(job)
    assert untouched(home)
    assert not (home / "new").exists()
    assert jobs.read_status(folder)["outcome"] == "failed"
    assert "printed" in (folder / "output.txt").read_text()
    assert jobs.last_error_line(folder, "failed") == r"ValueError: wrong \x1b]0;owned\x07"


@pytest.mark.parametrize("outcome", ["\x1b[2J", "[red]x[/]", "[/x]", 5, None, {"a": 1}])
def test_the_progress_table_shows_a_status_literally(tmp_path, outcome):
    job = Job("x[/]", 0, fails, {"seed": 0, "logger_kwargs": {"output_dir": str(tmp_path)}})
    (tmp_path / "status.json").write_text(json.dumps({"outcome": outcome}))
    from rich.console import Console

    console = Console(file=None, width=80)
    with console.capture() as shown:
        console.print(jobs.GridProgress([job], quiet=True).table())
    assert (printable(outcome) if isinstance(outcome, str) else "waiting") in shown.get()
    assert "\x1b[2J" not in shown.get()


# ---- pictures


@pytest.mark.parametrize("kind", kinds(Path(), Path()))
@pytest.mark.parametrize("words", [["--out", "curves.png"], [], ["--table", "curves.csv"]])
def test_plot_replaces_links_and_pipes_by_its_file(run, home, kind, words, monkeypatch):
    """Including the default file, in the current folder."""
    monkeypatch.chdir(run)
    monkeypatch.setenv("MPLBACKEND", "agg")
    name = "curves.csv" if "--table" in words else "curves.png"
    kinds(run / name, home)[kind]()
    main(["plot", "./", *words])
    assert untouched(home)
    assert not (home / "new").exists()
    assert stat.S_ISREG(os.lstat(run / name).st_mode)
    assert (run / name).stat().st_size > 100
    assert [p.name for p in run.iterdir() if ".tmp" in p.name] == []


def test_a_video_replaces_a_link(run, home):
    pytest.importorskip("pygame")
    (run / "x.gif").symlink_to(home / ".bashrc")
    main(["test_policy", str(run), "--video", str(run / "x.gif"), "--len", "5"])
    assert untouched(home)
    assert (run / "x.gif").read_bytes().startswith(b"GIF")
    assert [p.name for p in run.iterdir() if ".tmp" in p.name] == []


def test_replacing_leaves_the_old_file_if_writing_fails(tmp_path):
    (tmp_path / "x.png").write_text("old")

    def write(text, error, **how):
        with files.replacing(tmp_path / "x.png", **how) as draft:
            draft.write_text(text)
            raise error

    for error in (OSError, KeyboardInterrupt):
        with pytest.raises(error):
            write("half", error)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"x.png": "old"}
    with pytest.raises(KeyboardInterrupt):
        write("what was played", KeyboardInterrupt, interrupted=True)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"x.png": "what was played"}
    (tmp_path / "y.png").mkdir()
    with pytest.raises(IsADirectoryError), files.replacing(tmp_path / "y.png"):
        pass


# ---- what resume takes from config.json


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logger_kwargs": {"color": 1}}, r"logger_kwargs has the unknown entry 'color'; it may have output_dir, "),
        ({"logger_kwargs": 5}, r"logger_kwargs is 5; it must be a dict"),
        ({"logger_kwargs": [["quiet", 1]]}, r"logger_kwargs is .*; it must be a dict"),
        ({"logger_kwargs": {"quiet": "yes"}}, r"logger_kwargs\['quiet'\] is 'yes'; it must be a bool"),
        ({"logger_kwargs": {"output_fname": 7}}, r"logger_kwargs\['output_fname'\] is 7; it must be a str"),
        ({"logger_kwargs": {"\x1b[2J": 1}}, r"logger_kwargs has the unknown entry '\\x1b\[2J'"),
        ({"ac_kwargs": {"device": "x"}}, r"ac_kwargs has the unknown entry 'device'; it may have hidden_sizes, "),
        ({"ac_kwargs": {"observation_space": 1}}, r"ac_kwargs has the unknown entry 'observation_space'"),
        ({"ac_kwargs": {"normalize_obs": True}}, r"ac_kwargs has the unknown entry 'normalize_obs'"),
        ({"env_fn": "GymV26Environment-v0", "env_kwargs": {"env_id": "antigravity:X"}}, "imports what its env_kwargs"),
    ],
)
def test_resume_accepts_only_known_arguments(run, changes, message):
    configure(run, **changes)
    before = (run / "progress.txt").read_bytes()
    with pytest.raises(UserError, match=message):
        spinup.resume(run, epochs=3)
    assert (run / "progress.txt").read_bytes() == before


def test_resume_does_not_start_too_many_processes(run, capsys):
    configure(run, run={"processes": 100_000})
    with pytest.raises(SystemExit):
        main(["resume", str(run), "--epochs", "3"])
    assert "asks for 100000 processes, many more than there are cores" in capsys.readouterr().err


@pytest.fixture
def no_workers(monkeypatch):
    """Starting a process for an environment fails the test."""
    started = "processes were started"
    monkeypatch.setattr("spinup.envs.vector.Workers.__init__", lambda *args, **kwargs: pytest.fail(started))


@pytest.mark.parametrize("name", ["num_envs", "num_test_envs"])
def test_resume_does_not_start_too_many_environments(run, name, no_workers, capsys):
    configure(run, vectorization="async", num_test_episodes=10_000, **{name: 10_000})
    with pytest.raises(SystemExit):
        main(["resume", str(run), "--epochs", "3"])
    assert capsys.readouterr().err.endswith(
        f"{run} asks for 10000 environments in a process each, many more than there are cores; "
        "allow it with --vectorization async, or step them in one process with --vectorization sync\n"
    )
    if name == "num_test_envs":
        main(["resume", str(run), "--epochs", "3", "--vectorization", "sync"])
        assert rows(run) == ["1", "2", "3"]


def test_environments_of_all_mpi_processes_are_counted(run, no_workers, monkeypatch):
    configure(run, vectorization="async", num_envs=(os.cpu_count() or 1) * 2)
    monkeypatch.setattr("spinup.compute.mpi.num_procs", lambda: 3)
    with pytest.raises(UserError, match=f"asks for {(os.cpu_count() or 1) * 6} environments"):
        spinup.resume(run, epochs=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_envs": None, "num_test_envs": 10_000}, "asks for 10000 environments in a process each"),
        ({"num_envs": None}, "asks for 10000 environments in a process each"),
        ({"num_envs": "x"}, r"config\.json: num_envs is 'x'; it must be an int from 1"),
        ({"vectorization": "sync", "num_test_envs": "x"}, r"num_test_envs is 'x'; it must be an int from 1"),
        ({"num_test_envs": -3}, r"num_test_envs is -3; it must be an int from 1"),
    ],
)
def test_test_policy_checks_numbers_of_environments(run, changes, message, no_workers):
    configure(run, **{"vectorization": "async", **changes})
    with pytest.raises(UserError, match=message):
        watch.main([str(run), "-nr", "--len", "5", "-n", "10000"])


@pytest.mark.parametrize("name", ["num_envs", "num_test_envs"])
def test_test_policy_does_not_start_too_many_environments(run, name, no_workers, capsys):
    configure(run, vectorization="async", **{name: 10_000})
    words = ["test_policy", str(run), "-nr", "--len", "5", "-n"]
    with pytest.raises(SystemExit):
        main([*words, "10000"])
    err = capsys.readouterr().err
    assert err.endswith("many more than there are cores; allow it with --num_envs 10000, or give fewer\n")
    with pytest.raises(pytest.fail.Exception, match="processes were started"):  # as allowed
        main([*words, "10000", "--num_envs", "10000"])
    with pytest.raises(pytest.fail.Exception, match="processes were started"):  # no more than episodes
        main([*words, "2"])


def test_resume_ignores_the_folder_named_in_the_config(run, tmp_path):
    configure(run, exp_name="../../x", logger_kwargs={"output_dir": str(tmp_path / "other"), "resume": False})
    spinup.resume(run, epochs=3)
    assert not (tmp_path / "other").exists()
    assert rows(run) == ["1", "2", "3"]


def test_a_config_that_imports_through_env_kwargs_is_refused(run):
    configure(run, env_fn="GymV21Environment-v0", env_kwargs={"env_id": "antigravity:X"})
    with pytest.raises(UserError, match="imports what its env_kwargs name; allow it with --env"):
        watch.load(run)


def test_resume_says_what_it_runs_from_a_foreign_folder(run, capsys, monkeypatch):
    spinup.resume(run, epochs=3)
    assert "note:" not in capsys.readouterr().err
    config = read_config(run)[1]
    for host, message in (
        ("other\x1b[2J", r"was made on another machine, other\x1b[2J"),
        (None, "does not say on which"),
    ):
        configure(run, run={**config["run"], "host": host})
        epochs = int(rows(run)[-1]) + 1
        spinup.resume(run, epochs=epochs)
        (line,) = capsys.readouterr().err.strip().split("\n")
        assert line.startswith(f"note: {run} {message}")
        assert line.endswith(f": training vpg on CartPole-v1, to epoch {epochs}")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    spinup.resume(run, epochs=epochs + 1)
    assert " belongs to another user: training vpg" in capsys.readouterr().err


# ---- text from files


def test_printable_by_hand():
    assert printable("é 実験 ± 🙂") == "é 実験 ± 🙂"
    assert printable("\x1b[31m\n\t\x7f\x9b\u202e\ud800") == r"\x1b[31m\n\t\x7f\x9b\u202e\ud800"
    assert printable("a\nb\tc", keep="\n\t") == "a\nb\tc"
    assert str(UserError("no \x1b[2J")) == r"no \x1b[2J"
    assert str(Fault("no \x07")) == r"no \x07"
    assert first_line(OSError("no \x1b[2J")) == r"OSError: no \x1b[2J"


def clean(text):
    """Whether the text contains only printable characters and newlines."""
    return all(c.isprintable() or c == "\n" for c in text)


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize("text", ESCAPES)
@pytest.mark.parametrize("key", ["exp_name", "env_fn", "actor_critic", "algorithm", "run", "seed"])
@pytest.mark.parametrize("command", ["plot", "resume", "test_policy"])
def test_no_command_prints_a_config_unescaped(run, key, text, command, capsys, tmp_path):
    configure(run, **{"logger_kwargs": {}, key: text})
    words = {
        "plot": ["--out", str(tmp_path / "x.svg"), "--table"],
        "resume": ["--epochs", "3"],
        "test_policy": ["-n", "1", "--norender", "--len", "5"],
    }
    with contextlib.suppress(SystemExit):
        main([command, str(run), *words[command]])
    shown = capsys.readouterr()
    assert shown.out + shown.err
    assert clean(shown.out)
    assert clean(shown.err)
    if (tmp_path / "x.svg").exists():
        assert clean((tmp_path / "x.svg").read_text("utf-8"))


@pytest.mark.parametrize("text", ESCAPES[:3])
def test_no_command_prints_other_files_unescaped(run, text, capsys, tmp_path):
    """Column names, a checkpoint's fingerprint, names of folders and files."""
    folder = run.rename(tmp_path / f"run{text.replace('/', '')}")
    header, *rest = (folder / "progress.txt").read_text().split("\n")
    (folder / "progress.txt").write_text("\n".join([f"{header}\t{text}", *(f"{row}\t1" for row in rest if row), ""]))
    manifest = folder / "checkpoint" / "80" / "manifest.json"
    content = json.loads(manifest.read_text())
    (folder / f"model{text}.pt").write_text("")
    for words in (["plot", str(folder), "-y", "Nowhere"], ["test_policy", str(folder), "-i", "99"]):
        with pytest.raises(SystemExit):
            main(words)
    manifest.write_text(json.dumps({**content, "torch": text}))
    main(["resume", str(folder), "--epochs", "3"])
    manifest = folder / "checkpoint" / "120" / "manifest.json"
    manifest.write_text(json.dumps({**content, "algorithm": text}))
    with pytest.raises(SystemExit):
        main(["resume", str(folder), "--epochs", "4"])
    shown = capsys.readouterr()
    assert clean(shown.out)
    assert clean(shown.err)


def test_a_grid_file_is_not_printed_unescaped(tmp_path, capsys):
    file = tmp_path / "grid.toml"
    file.write_text(
        'algo = "vpg"\nenv = "CartPole-v1"\nseed = [0, 1]\nsteps = 40\nepochs = 1\n"env_kwargs:x" = "\\u001b[2J"'
    )
    with pytest.raises(SystemExit):
        main(["grid", str(file), "--data_dir", str(tmp_path)])
    shown = capsys.readouterr()
    assert r"\x1b[2J" in shown.out
    assert clean(shown.out)
    assert clean(shown.err)
