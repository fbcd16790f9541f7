"""One process at a time works on a run's folder, also where several hosts or containers share it.

`.lock` in the folder is locked by fcntl. One kernel, NFS and most file systems of clusters enforce that; some accept
such a lock and keep it to one host, or have none. So the file also names its owner, who changes it every few seconds
for as long as it lives; a process that finds one left behind watches it before taking it. No clocks are compared, and a
process id counts only together with what makes it unique. The file stays, so that a process that was stopped for long
sees that another one has had the folder since.
"""

import atexit
import contextlib
import errno
import json
import os
import platform
import secrets
import stat
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from spinup.errors import UserError
from spinup.system.files import writing
from spinup.system.terminal import say

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

BEAT = 5.0  # seconds between two signs of life
PATIENCE = 20.0  # seconds without one, after which an owner that cannot be looked up is gone
SETTLE = 1.0  # seconds until each of two hosts that wrote the file at once sees who was the last
FLAGS = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))

held: dict[str, "Lock"] = {}  # this process's, by the real paths of their folders
taking = threading.Lock()  # one thread at a time
guard = threading.RLock()  # for `held`, the thread, and the files' positions
thread: threading.Thread | None = None


class Taken(UserError):
    """Another process is at work on the folder."""


class Lock:
    """A folder that this process has taken, once or several times; made by `lock`."""

    def __init__(self, folder: Path, key: str):
        self.key, self.file, self.count = key, folder / ".lock", 1
        self.token, self.lost = secrets.token_hex(8), False
        self.descriptor = acquire(self.file, self.token)

    def is_ours(self) -> bool:
        return is_at(self.descriptor, self.file) and parse(read(self.descriptor)).get("token") == self.token

    def check(self) -> bool:
        """Before writing: raise Taken where another process has the folder now; take it again where .lock is gone.

        Returns whether it was gone.
        """
        with guard, writing(self.file):
            if not self.lost and self.is_ours():
                return False
            if not self.lost:
                removed, self.lost = not is_at(self.descriptor, self.file), True
                os.close(self.descriptor)
                if removed:
                    self.descriptor, self.lost = acquire(self.file, self.token), False
                    return True
            raise Taken(taken(self.file, parse(reread(self.file) or b"")))

    def beat(self) -> None:
        """Give a sign of life, unless the folder is another's now."""
        with guard, contextlib.suppress(OSError):
            if held.get(self.key) is self and not self.lost and self.is_ours():
                write(self.descriptor, self.token)
                lock_file(self.descriptor)  # a process that opens and closes a file loses its locks on it

    def release(self, wholly: bool = False) -> None:
        """Give the folder back; wholly: also for others in this process who have taken it."""
        with guard:
            self.count = 0 if wholly else self.count - 1
            if self.count > 0 or held.get(self.key) is not self:
                return
            del held[self.key]
            if not self.lost:
                with contextlib.suppress(OSError):
                    if self.is_ours():
                        write(self.descriptor, self.token, free=True)
                os.close(self.descriptor)


def lock(folder: Path) -> Lock:
    """Take a run's folder for this process, which may take it several times. Raises Taken where another one has it."""
    global thread
    key = os.path.realpath(folder)
    with taking:
        with guard:
            if key in held and not held[key].lost:
                held[key].count += 1
                return held[key]
        with writing(folder / ".lock"):
            mine = Lock(folder, key)
        with guard:
            held[key] = mine
            if thread is None:
                thread = threading.Thread(target=give_signs_of_life, daemon=True)
                thread.start()
    return mine


def at_work(folder: Path) -> str:
    """A line about the process that is at work on a folder; "" where none is known to be."""
    content = None if os.path.realpath(folder) in held else reread(folder / ".lock")
    owner = parse(content or b"")
    return taken(folder / ".lock", owner) if is_alive(owner) else ""


def give_signs_of_life() -> None:
    """What the thread does, for as long as this process has a folder."""
    global thread
    while True:
        time.sleep(BEAT)
        with guard:
            locks = list(held.values())
            if not locks:
                thread = None
                return
        for mine in locks:
            mine.beat()


@atexit.register
def release_all() -> None:
    for mine in list(held.values()):
        mine.release(wholly=True)


def forget() -> None:
    """In a forked child: the parent has the locks."""
    global taking, guard, thread
    taking, guard, thread = threading.Lock(), threading.RLock(), None
    for mine in held.values():
        if not mine.lost:
            os.close(mine.descriptor)
    held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget)


# ---- the file


def acquire(file: Path, token: str) -> int:
    """A descriptor of the file, locked and naming this process. Raises Taken where another process has it."""
    gone = None  # what the file says of an owner that gave no sign of life
    while True:
        descriptor, new = open_lock(file)
        try:
            content = read(descriptor)
            owner = parse(content)
            if not lock_file(descriptor):
                raise Taken(taken(file, owner))
            alive = False if new else is_alive(owner)
            if alive:  # on a file system whose locks do not hold
                raise Taken(taken(file, owner))
            if is_at(descriptor, file) and (alive is False or content == gone):
                write(descriptor, token)
                if not new and owner.get("boot") != identity()["boot"]:
                    time.sleep(SETTLE)
                    if not is_at(descriptor, file) or parse(read(descriptor)).get("token") != token:
                        raise Taken(taken(file, parse(read(descriptor))))
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # before `watch` opens it: closing that would unlock this
        if alive is None and content != gone:
            watch(file, content)
            gone = content


def open_lock(file: Path) -> tuple[int, bool]:
    """A descriptor of the file, and whether this process has made it."""
    while True:
        with contextlib.suppress(FileExistsError):
            return os.open(file, FLAGS | os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        with contextlib.suppress(FileNotFoundError):  # somebody has just removed it
            if not stat.S_ISREG(os.lstat(file).st_mode):
                raise UserError(f"{file} is not a file, and a run keeps its lock there; remove it")
            return os.open(file, FLAGS | os.O_RDWR), False


def lock_file(descriptor: int) -> bool:
    """Lock it; False where another process has done so. True also where the file system has no locks."""
    try:
        if fcntl:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def watch(file: Path, content: bytes) -> None:
    """Raise Taken where an owner that cannot be looked up gives a sign of life; come back where it gives none."""
    owner = parse(content)
    if content:
        what = f"{describe(owner)} has not given back {file.parent}"
        say(f"{what}; waiting {PATIENCE:g} s for a sign of life", error=True)
    end = time.monotonic() + (PATIENCE if content else SETTLE)
    while time.monotonic() < end:
        time.sleep(min(SETTLE, 0.5))
        now = reread(file)
        if now is None:
            return
        if now != content:
            raise Taken(taken(file, parse(now)))


def is_at(descriptor: int, file: Path) -> bool:
    """Whether the open file still has this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(file))
    except FileNotFoundError:
        return False


def read(descriptor: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, 4096)


def reread(file: Path) -> bytes | None:
    """The file as it is now, also on a network: there, opening it is what asks. None where it is not there."""
    try:
        descriptor = os.open(file, FLAGS | os.O_RDONLY)
    except OSError:
        return None
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def write(descriptor: int, token: str, free: bool = False) -> None:
    """Name this process as the owner, or as the last one; each time in other words, of the same length."""
    content = json.dumps({**identity(), "token": token, "free": free, "beat": secrets.token_hex(4)}).encode() + b"\n"
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, content)
    os.ftruncate(descriptor, len(content))
    getattr(os, "fdatasync", os.fsync)(descriptor)


# ---- its owner


def identity() -> dict:
    """What tells this process from all others: of other hosts, other containers, and earlier ones with its number."""
    boot: str | None
    space: str | None
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        boot, space = (None, None) if sys.platform == "linux" else (platform.node(), sys.platform)
    pid = os.getpid()
    return {"host": platform.node(), "boot": boot, "space": space, "process": pid, "started": started(pid)}


def started(pid: int) -> str | None:
    """When a process of this name space began, in the kernel's ticks; "" of one that has ended, None if unknown."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):  # of another name space
            return None
        state, *rest = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return "" if state in "ZX" else rest[18]
    except (OSError, ValueError, IndexError):
        return None


def is_alive(owner: Mapping) -> bool | None:
    """Whether the process that a file names has the folder; None where this process cannot look it up."""
    if owner.get("free") is True:
        return False
    mine, pid = identity(), owner.get("process")
    if any(mine[key] is None or owner.get(key) != mine[key] for key in ("boot", "space")):
        return None
    if type(pid) is not int or not 0 < pid < 2**31 or os.name == "nt":  # on Windows os.kill would end it
        return None
    if pid == mine["process"]:  # an earlier one, or this one before it executed another program
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        pass
    began = started(pid)
    return None if began is None or owner.get("started") is None else began == owner["started"]


def parse(content: bytes) -> dict:
    try:
        owner = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return owner if isinstance(owner, dict) else {}


def describe(owner: Mapping) -> str:
    pid, host = owner.get("process"), str(owner.get("host"))[:80]
    return f"process {pid} on {host}" if type(pid) is int and host.isprintable() else "a process"


def taken(file: Path, owner: Mapping) -> str:
    who = describe(owner) if owner else ""
    if owner.get("free") is True:
        return f"another process ({who}) has worked on {file.parent} since this one began; this one leaves it alone"
    return f"another process is at work on {file.parent}{who and f' ({who})'}; wait for it, or end it first"
