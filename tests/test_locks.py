"""One process at a time on a run's folder: on one host, in two name spaces, and where locks reach no other host."""

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
from spinup.system.locks import Taken, at_work, lock

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals")
ROOT = Path(__file__).parents[1]
# Another process: takes the folder as often as it is told to, and prints what came of it.
OTHER = """
import os, sys, time
from pathlib import Path
from spinup.system import locks
locks.BEAT, locks.PATIENCE, locks.SETTLE = 0.2, 3.0, 0.2
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
# On another host, on a file system that keeps locks to one.
FAR = """
import json
here, locks.lock_file = locks.identity(), lambda descriptor: True
locks.identity = lambda: {**here, "host": "far", "boot": "another"}
"""
SPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name, seconds in (("BEAT", 0.2), ("PATIENCE", 3.0), ("SETTLE", 0.2)):
        monkeypatch.setattr(locks, name, seconds)


class Other:
    """A process that is asked for the folder."""

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
        """Ends it, and returns what it had to say on stderr."""
        self.process.send_signal(how)
        if how == signal.SIGKILL:
            self.process.wait()  # before its stdin is closed, at whose end it would give the folder back
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
    return f"Taken: another process is at work on {folder} (process {process} on {host or os.uname().nodename}); "


def owner_of(folder):
    return json.loads((folder / ".lock").read_text())


# ---- one host


def test_one_process_at_a_time(tmp_path, other):
    mine, another = lock(tmp_path), other()
    assert another("lock").startswith(refusal(tmp_path, os.getpid()))
    assert lock(tmp_path) is mine, "the same process may take it again"
    mine.release()
    assert another("lock").startswith(refusal(tmp_path, os.getpid()))
    mine.release()
    assert another("lock") == "ok"
    assert at_work(tmp_path) == refusal(tmp_path, another.process.pid)[7:] + "wait for it, or end it first"
    with pytest.raises(Taken, match=r"another process is at work on .*; wait for it, or end it first"):
        lock(tmp_path)
    assert another("release") == "ok"
    assert at_work(tmp_path) == ""
    lock(tmp_path).release()


def test_one_that_was_killed_is_gone_at_once(tmp_path, other, capfd):
    another = other()
    assert another("lock") == "ok"
    another.end()
    assert owner_of(tmp_path)["process"] == another.process.pid
    assert at_work(tmp_path) == ""
    lock(tmp_path).release()
    assert capfd.readouterr().err == "", "nobody was waited for"


def test_one_that_is_not_waited_for_by_its_parent_is_gone_too(tmp_path, other):
    another = other()
    assert another("lock") == "ok"
    os.kill(another.process.pid, signal.SIGKILL)
    while locks.started(another.process.pid) not in ("", None):
        time.sleep(0.01)
    lock(tmp_path).release()  # with the zombie there


@pytest.mark.parametrize("number", ["ours", "another's"])
def test_a_process_id_that_has_a_new_bearer(tmp_path, other, capfd, number):
    """As after a restart of a container, where the process is number 1 again."""
    pid = os.getpid() if number == "ours" else other().process.pid
    content = {**locks.identity(), "process": pid, "started": "1"}
    (tmp_path / ".lock").write_text(json.dumps(content))
    assert at_work(tmp_path) == ""
    lock(tmp_path).release()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\x00", b"[1]", b"null", b"[" * 4000, b'{"process": null}', b'{"process": -1, "host": {}}'],
)
def test_an_owner_that_nobody_can_read_is_waited_for(tmp_path, content):
    file = tmp_path / ".lock"
    file.write_bytes(content)
    assert at_work(tmp_path) == ""
    mine = lock(tmp_path)
    assert owner_of(tmp_path)["process"] == os.getpid()
    mine.release()


@pytest.mark.parametrize("process", [None, True, -1, 0, 1.5, "12", 2**31, 10**400, [1], {"a": 1}])
def test_an_owner_of_no_number(tmp_path, process, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    content = {**locks.identity(), "process": process}
    assert locks.is_alive(content) is None
    (tmp_path / ".lock").write_text(json.dumps(content))
    lock(tmp_path).release()


def test_what_is_no_file_is_refused(tmp_path):
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


def test_a_lock_that_was_removed(tmp_path, other):
    mine, another = lock(tmp_path), other()
    (tmp_path / ".lock").unlink()
    mine.check()
    assert another("lock").startswith(refusal(tmp_path, os.getpid())), "it is there again"
    (tmp_path / ".lock").unlink()
    assert another("lock") == "ok"
    with pytest.raises(Taken):
        mine.check()
    with pytest.raises(Taken):
        mine.check()
    assert owner_of(tmp_path)["process"] == another.process.pid, "another's lock is not given back"
    assert another("release") == "ok"
    with pytest.raises(Taken):
        mine.check()
    lock(tmp_path).check()
    mine.release()
    lock(tmp_path).check()


def test_a_file_that_this_process_has_closed_is_locked_again(tmp_path, other):
    """POSIX: closing any descriptor of a file releases the process's locks on it."""
    mine, another = lock(tmp_path), other(before="locks.is_alive = lambda owner: False")
    shutil.copy(tmp_path / ".lock", tmp_path / "copy")
    time.sleep(1)  # some beats
    assert another("lock").startswith("Taken")
    mine.release()


def test_a_forked_child_has_no_lock(tmp_path, other):
    mine = lock(tmp_path)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            lock(tmp_path)
        except Taken:
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert other()("lock").startswith(refusal(tmp_path, os.getpid())), "the child's end took the parent's lock along"
    mine.release()


# ---- two hosts, and locks that do not reach the other


def test_a_sign_of_life_keeps_others_off(tmp_path, other):
    near, far = other(before="locks.lock_file = lambda descriptor: True"), other(before=FAR)
    assert near("lock") == "ok"
    assert far("lock").startswith(refusal(tmp_path, near.process.pid))
    assert near("check") == "ok"
    assert near("release") == "ok"
    assert far("lock") == "ok"
    assert near("lock").startswith(refusal(tmp_path, far.process.pid, "far"))


def test_without_one_the_owner_is_gone(tmp_path, other):
    near, far = other(before="locks.lock_file = lambda descriptor: True"), other(before=FAR)
    assert near("lock") == "ok"
    near.end()
    assert far("lock") == "ok"
    host = os.uname().nodename
    assert f"process {near.process.pid} on {host} has not given back {tmp_path}; waiting 3 s for a" in far.end()


def test_one_that_was_stopped_too_long_writes_no_more(tmp_path, other):
    near, far = other(before="locks.lock_file = lambda descriptor: True"), other(before=FAR)
    assert near("lock") == "ok"
    os.kill(near.process.pid, signal.SIGSTOP)
    assert far("lock") == "ok"
    os.kill(near.process.pid, signal.SIGCONT)
    time.sleep(1)  # some beats
    assert near("check").startswith(refusal(tmp_path, far.process.pid, "far"))
    assert far("check") == "ok"


def test_one_that_was_stopped_writes_no_more_though_the_other_is_done(tmp_path, other):
    near, far = other(before="locks.lock_file = lambda descriptor: True"), other(before=FAR)
    assert near("lock") == "ok"
    os.kill(near.process.pid, signal.SIGSTOP)
    assert far("lock") == "ok"
    assert far("release") == "ok"
    assert at_work(tmp_path) == ""
    os.kill(near.process.pid, signal.SIGCONT)
    said = f"Taken: another process (process {far.process.pid} on far) has worked on {tmp_path} since this one began; "
    assert near("check").startswith(said)
    assert near("release") == "ok"
    lock(tmp_path).release()


def test_of_many_hosts_one_takes_a_folder(tmp_path, other):
    """All at once, first where nobody has been, then where one was killed."""
    hosts = [other(before=FAR.replace('"another"', f'"{i}"')) for i in range(5)]
    for _ in range(2):
        for host in hosts:
            host.process.stdin.write("lock\n")
            host.process.stdin.flush()
        said = [host.process.stdout.readline().strip() for host in hosts]
        assert [word.partition(":")[0] for word in sorted(said)] == ["Taken"] * (len(hosts) - 1) + ["ok"]
        winner = hosts[said.index("ok")]
        assert winner("check") == "ok"
        winner.end()
        hosts.remove(winner)


# ---- two name spaces of process ids


@pytest.fixture
def spaces():
    if not shutil.which("unshare") or subprocess.run([*SPACE, "true"], capture_output=True).returncode:
        pytest.skip("this user or system can make no name spaces for process ids")


@pytest.mark.usefixtures("spaces")
def test_two_name_spaces(tmp_path, other, capfd):
    """In both, the process has the number 1."""
    one, two = other(wrapper=SPACE), other(wrapper=SPACE)
    assert one("lock") == "ok"
    assert owner_of(tmp_path)["process"] == 1
    assert two("lock").startswith(refusal(tmp_path, 1))
    with pytest.raises(Taken):
        lock(tmp_path)
    one.end()
    assert two("lock") == "ok"
    two.end()
    lock(tmp_path).release()
    assert "process 1 on " in capfd.readouterr().err


@pytest.mark.usefixtures("spaces")
def test_a_proc_of_another_name_space_tells_nothing(tmp_path, other):
    """Without --mount-proc, /proc/1 is not the process of number 1."""
    one = other(wrapper=[*SPACE[:-1]])
    assert one("lock") == "ok"
    assert owner_of(tmp_path)["started"] is None
    assert one("release") == "ok"
