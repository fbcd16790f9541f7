"""One process at a time uses a folder: on one host, in two namespaces, on hosts that don't see each other's locks."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spinup.errors import UserError
from spinup.system import locks
from spinup.system.locks import FolderInUse, folder_in_use, lock

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals")
ROOT = Path(__file__).parents[1]
# Another process: locks, checks and releases the folder on command, and prints the outcome.
OTHER = """
import os, sys, time
from pathlib import Path
from spinup.system import locks
locks.HEARTBEAT, locks.TIMEOUT, locks.RACE_DELAY = 0.2, 3.0, 0.2
{before}
for command in sys.stdin:
    try:
        if command == "lock\\n":
            mine = locks.lock(Path(sys.argv[1]))
        elif command == "check\\n":
            mine.check()
        else:
            mine.release()
        print("ok", flush=True)
    except Exception as error:
        print(f"{{type(error).__name__}}: {{error}}", flush=True)
"""
# Simulates another host, on a file system that enforces locks on one host only.
FAR = """
import json
here, locks.lock_file = locks.identity(), lambda descriptor: True
locks.identity = lambda: {**here, "host": "far", "boot": "another"}
"""
SPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, seconds in (("HEARTBEAT", 0.2), ("TIMEOUT", 3.0), ("RACE_DELAY", 0.2)):
        monkeypatch.setattr(locks, name, seconds)


class Other:
    """A process that accepts commands about the folder."""

    def __init__(self, folder, before="", wrapper=()):
        command = [*wrapper, sys.executable, "-c", OTHER.format(before=before), str(folder)]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.process = subprocess.Popen(command, env=env, text=True, **pipes)

    def __call__(self, command):
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self, how=signal.SIGKILL):
        """Ends the process and returns its stderr."""
        self.process.send_signal(how)
        if how == signal.SIGKILL:
            self.process.wait()  # before its stdin is closed, which would make it release the folder
        return "" if self.process.stderr.closed else self.process.communicate()[1]


@pytest.fixture
def other(tmp_path):
    made = []

    def make(**options):
        made.append(Other(tmp_path, **options))
        return made[-1]

    yield make
    for process in made:
        process.end()


def refusal(folder, process, host=None):
    return f"FolderInUse: another process is using {folder} (process {process} on {host or os.uname().nodename}); "


def owner_of(folder):
    return json.loads((folder / ".lock").read_text())


# ---- one host


def test_one_process_at_a_time(tmp_path, other):
    mine, another = lock(tmp_path), other()
    assert another("lock").startswith(refusal(tmp_path, os.getpid()))
    assert lock(tmp_path) is mine, "the same process may lock it again"
    mine.release()
    assert another("lock").startswith(refusal(tmp_path, os.getpid()))
    mine.release()
    assert another("lock") == "ok"
    assert (
        folder_in_use(tmp_path)
        == refusal(tmp_path, another.process.pid).removeprefix("FolderInUse: ") + "wait for it, or end it first"
    )
    with pytest.raises(FolderInUse, match=r"another process is using .*; wait for it, or end it first"):
        lock(tmp_path)
    assert another("release") == "ok"
    assert folder_in_use(tmp_path) == ""
    lock(tmp_path).release()


def test_a_killed_owner_is_detected_at_once(tmp_path, other, capfd):
    another = other()
    assert another("lock") == "ok"
    another.end()
    assert owner_of(tmp_path)["process"] == another.process.pid
    assert folder_in_use(tmp_path) == ""
    lock(tmp_path).release()
    assert capfd.readouterr().err == "", "it waited for a heartbeat"


def test_a_zombie_owner_counts_as_dead(tmp_path, other):
    another = other()
    assert another("lock") == "ok"
    os.kill(another.process.pid, signal.SIGKILL)
    while locks.started(another.process.pid) not in ("", None):
        time.sleep(0.01)
    threads = Path(f"/proc/{another.process.pid}/task")  # they hold the lock until they have ended, too
    while threads.exists() and len(list(threads.iterdir())) > 1:
        time.sleep(0.01)
    lock(tmp_path).release()  # while the zombie exists


@pytest.mark.parametrize("number", ["ours", "another's"])
def test_a_reused_process_id_is_not_the_owner(tmp_path, other, capfd, number):
    """As after a container's restart, when the process has the id 1 again."""
    pid = os.getpid() if number == "ours" else other().process.pid
    content = {**locks.identity(), "process": pid, "started": "1"}
    (tmp_path / ".lock").write_text(json.dumps(content))
    assert folder_in_use(tmp_path) == ""
    lock(tmp_path).release()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\x00", b"[1]", b"null", b"[" * 4000, b'{"process": null}', b'{"process": -1, "host": {}}'],
)
def test_an_unreadable_owner_is_waited_for(tmp_path, content):
    file = tmp_path / ".lock"
    file.write_bytes(content)
    assert folder_in_use(tmp_path) == ""
    mine = lock(tmp_path)
    assert owner_of(tmp_path)["process"] == os.getpid()
    mine.release()


@pytest.mark.parametrize("process", [None, True, -1, 0, 1.5, "12", 2**31, 10**400, [1], {"a": 1}])
def test_an_owner_with_an_invalid_process_id(tmp_path, process, monkeypatch):
    monkeypatch.setattr(locks, "TIMEOUT", 0.1)
    content = {**locks.identity(), "process": process}
    assert locks.is_alive(content) is None
    (tmp_path / ".lock").write_text(json.dumps(content))
    lock(tmp_path).release()


def test_a_lock_that_is_not_a_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(UserError, match=r"\.lock is not a file"):
        lock(tmp_path)
    (tmp_path / ".lock").unlink()
    (tmp_path / "secret").write_text("kept")
    (tmp_path / ".lock").symlink_to("secret")
    with pytest.raises(UserError, match=r"\.lock is not a file"):
        lock(tmp_path)
    assert (tmp_path / "secret").read_text() == "kept"
    with pytest.raises(UserError, match="cannot write"):
        lock(tmp_path / "missing")


def test_a_removed_lock_is_acquired_again(tmp_path, other):
    mine, another = lock(tmp_path), other()
    (tmp_path / ".lock").unlink()
    mine.check()
    assert another("lock").startswith(refusal(tmp_path, os.getpid())), "it was not acquired again"
    (tmp_path / ".lock").unlink()
    assert another("lock") == "ok"
    with pytest.raises(FolderInUse):
        mine.check()
    with pytest.raises(FolderInUse):
        mine.check()
    assert owner_of(tmp_path)["process"] == another.process.pid, "another process's lock was released"
    assert another("release") == "ok"
    with pytest.raises(FolderInUse):
        mine.check()
    lock(tmp_path).check()
    mine.release()
    lock(tmp_path).check()


def test_closing_another_descriptor_does_not_lose_the_lock(tmp_path, other):
    """POSIX: closing any descriptor of a file releases the process's locks on it."""
    mine, another = lock(tmp_path), other(before="locks.is_alive = lambda owner: False")
    shutil.copy(tmp_path / ".lock", tmp_path / "copy")
    closed = time.time()
    while (tmp_path / ".lock").stat().st_mtime < closed + 0.1:  # until a heartbeat; stat doesn't open the file
        assert time.time() < closed + 60
        time.sleep(0.05)
    assert another("lock").startswith("FolderInUse")
    mine.release()


def test_a_forked_child_has_no_lock(tmp_path, other):
    mine = lock(tmp_path)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            lock(tmp_path)
        except FolderInUse:
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert other()("lock").startswith(refusal(tmp_path, os.getpid())), "the child's exit released the parent's lock"
    mine.release()


# ---- two hosts that don't see each other's locks


def test_a_heartbeat_keeps_other_hosts_out(tmp_path, other):
    near, far = other(before="locks.lock_file = lambda descriptor: True"), other(before=FAR)
    assert near("lock") == "ok"
    assert far("lock").startswith(refusal(tmp_path, near.process.pid))
    assert near("check") == "ok"
    assert near("release") == "ok"
    assert far("lock") == "ok"
    assert near("lock").startswith(refusal(tmp_path, far.process.pid, "far"))


def test_without_a_heartbeat_another_host_takes_over(tmp_path, other):
    near, far = other(before="locks.lock_file = lambda descriptor: True"), other(before=FAR)
    assert near("lock") == "ok"
    near.end()
    assert far("lock") == "ok"
    host = os.uname().nodename
    assert f"process {near.process.pid} on {host} has not released {tmp_path}; waiting 3 s for a" in far.end()


def test_a_suspended_owner_writes_no_more(tmp_path, other):
    near, far = other(before="locks.lock_file = lambda descriptor: True"), other(before=FAR)
    assert near("lock") == "ok"
    os.kill(near.process.pid, signal.SIGSTOP)
    assert far("lock") == "ok"
    os.kill(near.process.pid, signal.SIGCONT)
    time.sleep(1)  # several heartbeats
    assert near("check").startswith(refusal(tmp_path, far.process.pid, "far"))
    assert far("check") == "ok"


def test_a_suspended_owner_writes_no_more_even_after_the_other_has_finished(tmp_path, other):
    near, far = other(before="locks.lock_file = lambda descriptor: True"), other(before=FAR)
    assert near("lock") == "ok"
    os.kill(near.process.pid, signal.SIGSTOP)
    assert far("lock") == "ok"
    assert far("release") == "ok"
    assert folder_in_use(tmp_path) == ""
    os.kill(near.process.pid, signal.SIGCONT)
    who = f"another process (process {far.process.pid} on far)"
    output = f"FolderInUse: {who} has used {tmp_path} since this one started; "
    assert near("check").startswith(output)
    assert near("release") == "ok"
    lock(tmp_path).release()


def test_one_of_many_hosts_gets_the_folder(tmp_path, other):
    """All at the same time: first in an unused folder, then after the owner was killed."""
    hosts = [other(before=FAR.replace('"another"', f'"{i}"')) for i in range(5)]
    for _ in range(2):
        for host in hosts:
            host.process.stdin.write("lock\n")
            host.process.stdin.flush()
        output = [host.process.stdout.readline().strip() for host in hosts]
        assert [word.partition(":")[0] for word in sorted(output)] == ["FolderInUse"] * (len(hosts) - 1) + ["ok"]
        winner = hosts[output.index("ok")]
        assert winner("check") == "ok"
        winner.end()
        hosts.remove(winner)


# ---- two namespaces of process ids


@pytest.fixture
def spaces():
    if not shutil.which("unshare") or subprocess.run([*SPACE, "true"], capture_output=True).returncode:
        pytest.skip("can't create PID namespaces here")


@pytest.mark.usefixtures("spaces")
def test_two_pid_namespaces(tmp_path, other, capfd):
    """In both, the process has the id 1."""
    one, two = other(wrapper=SPACE), other(wrapper=SPACE)
    assert one("lock") == "ok"
    assert owner_of(tmp_path)["process"] == 1
    assert two("lock").startswith(refusal(tmp_path, 1))
    with pytest.raises(FolderInUse):
        lock(tmp_path)
    one.end()
    assert two("lock") == "ok"
    two.end()
    lock(tmp_path).release()
    assert "process 1 on " in capfd.readouterr().err


@pytest.mark.usefixtures("spaces")
def test_a_proc_of_another_namespace_is_ignored(tmp_path, other):
    """Without --mount-proc, /proc/1 is not this namespace's process 1."""
    one = other(wrapper=[*SPACE[:-1]])
    assert one("lock") == "ok"
    assert owner_of(tmp_path)["started"] is None
    assert one("release") == "ok"
