"""One process at a time uses a run's folder, even if several hosts or containers share it.

`.lock` in the folder is locked with fcntl. A single kernel, NFS and most cluster file systems enforce that lock, but
some enforce it on one host only, or don't support it. So the file also names its owner, which rewrites it every few
seconds as a heartbeat; a process that finds another owner's file watches it before taking over. Clocks are never
compared, and a process id counts only together with what makes it unique. The file is never removed, so that a process
that was suspended for a long time notices if another process has used the folder since.
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
from spinup.system.files import write_errors
from spinup.system.terminal import say

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

HEARTBEAT = 5.0  # seconds between two heartbeats
TIMEOUT = 20.0  # seconds without a heartbeat after which an owner on another host or in another container is gone
RACE_DELAY = 1.0  # seconds until two hosts that wrote the file at the same time both see whose write was last
FLAGS = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))

locks: dict[str, "Lock"] = {}  # this process's locks, by their folders' real paths
acquiring = threading.Lock()  # one thread at a time acquires a lock
guard = threading.RLock()  # protects `locks`, `heartbeat_thread` and the files' positions
heartbeat_thread: threading.Thread | None = None


class FolderInUse(UserError):
    """Another process is using the folder."""


class Lock:
    """This process's lock on a folder, made by `lock`; counts how often it was acquired."""

    def __init__(self, folder: Path, key: str):
        self.key, self.file, self.count = key, folder / ".lock", 1
        self.token, self.lost = secrets.token_hex(8), False
        self.descriptor = acquire(self.file, self.token)

    def is_ours(self) -> bool:
        return is_at(self.descriptor, self.file) and parse(read(self.descriptor)).get("token") == self.token

    def check(self) -> bool:
        """Call it before writing: raises FolderInUse if another process has the folder by now.

        If .lock was removed, acquires it again and returns True.
        """
        with guard, write_errors(self.file):
            if not self.lost and self.is_ours():
                return False
            if not self.lost:
                removed, self.lost = not is_at(self.descriptor, self.file), True
                os.close(self.descriptor)
                if removed:
                    self.descriptor, self.lost = acquire(self.file, self.token), False
                    return True
            raise FolderInUse(in_use_message(self.file, parse(read_file(self.file) or b"")))

    def beat(self) -> None:
        """Write a heartbeat, unless another process has the folder by now."""
        with guard, contextlib.suppress(OSError):
            if locks.get(self.key) is self and not self.lost and self.is_ours():
                write(self.descriptor, self.token)
                lock_file(self.descriptor)  # POSIX: closing another descriptor of the file has released it

    def release(self, all_holders: bool = False) -> None:
        """Undo one acquisition, or with `all_holders` every one in this process; the last one frees the folder."""
        with guard:
            self.count = 0 if all_holders else self.count - 1
            if self.count > 0 or locks.get(self.key) is not self:
                return
            del locks[self.key]
            if not self.lost:
                with contextlib.suppress(OSError):
                    if self.is_ours():
                        write(self.descriptor, self.token, free=True)
                os.close(self.descriptor)


def lock(folder: Path) -> Lock:
    """Lock a run's folder, which a process may do repeatedly. Raises FolderInUse if another process has the lock."""
    global heartbeat_thread
    key = os.path.realpath(folder)
    with acquiring:
        with guard:
            if key in locks and not locks[key].lost:
                locks[key].count += 1
                return locks[key]
        with write_errors(folder / ".lock"):
            mine = Lock(folder, key)
        with guard:
            locks[key] = mine
            if heartbeat_thread is None:
                heartbeat_thread = threading.Thread(target=send_heartbeats, daemon=True)
                heartbeat_thread.start()
    return mine


def folder_in_use(folder: Path) -> str:
    """A line that names the other process that is using a folder, or "" if none is known."""
    content = None if os.path.realpath(folder) in locks else read_file(folder / ".lock")
    owner = parse(content or b"")
    return in_use_message(folder / ".lock", owner) if is_alive(owner) else ""


def send_heartbeats() -> None:
    """Run by `heartbeat_thread` for as long as this process has a lock."""
    global heartbeat_thread
    while True:
        time.sleep(HEARTBEAT)
        with guard:
            current = list(locks.values())
            if not current:
                heartbeat_thread = None
                return
        for mine in current:
            mine.beat()


@atexit.register
def release_all() -> None:
    for mine in list(locks.values()):
        mine.release(all_holders=True)


def reset_after_fork() -> None:
    """In a forked child: its parent keeps the locks."""
    global acquiring, guard, heartbeat_thread
    acquiring, guard, heartbeat_thread = threading.Lock(), threading.RLock(), None
    for mine in locks.values():
        if not mine.lost:
            os.close(mine.descriptor)
    locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=reset_after_fork)


# ---- the file


def acquire(file: Path, token: str) -> int:
    """A descriptor of the file, locked and with this process as owner. Raises FolderInUse if another process has it."""
    stale = None  # content of a file whose owner sent no heartbeat
    while True:
        descriptor, new = open_lock(file)
        try:
            content = read(descriptor)
            owner = parse(content)
            if not lock_file(descriptor):
                raise FolderInUse(in_use_message(file, owner))
            alive = False if new else is_alive(owner)
            if alive:  # the file system doesn't enforce locks
                raise FolderInUse(in_use_message(file, owner))
            if is_at(descriptor, file) and (alive is False or content == stale):
                write(descriptor, token)
                if not new and owner.get("boot") != identity()["boot"]:
                    time.sleep(RACE_DELAY)
                    if not is_at(descriptor, file) or parse(read(descriptor)).get("token") != token:
                        raise FolderInUse(in_use_message(file, parse(read(descriptor))))
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # before `watch` opens the file: closing that descriptor would release this lock
        if alive is None and content != stale:
            watch(file, content)
            stale = content


def open_lock(file: Path) -> tuple[int, bool]:
    """A descriptor of the file, and whether this process created it."""
    while True:
        with contextlib.suppress(FileExistsError):
            return os.open(file, FLAGS | os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        with contextlib.suppress(FileNotFoundError):  # it was just removed
            if not stat.S_ISREG(os.lstat(file).st_mode):
                raise UserError(f"{file} is not a file, and a run keeps its lock there; remove it")
            return os.open(file, FLAGS | os.O_RDWR), False


def lock_file(descriptor: int) -> bool:
    """Lock the file. False if another process has locked it; True even if the file system doesn't support locks."""
    try:
        if fcntl:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def watch(file: Path, content: bytes) -> None:
    """Wait for a heartbeat of an owner that can't be looked up. Raises FolderInUse if there is one."""
    owner = parse(content)
    if content:
        what = f"{describe(owner)} has not released {file.parent}"
        say(f"{what}; waiting {TIMEOUT:g} s for a heartbeat", error=True)
    end = time.monotonic() + (TIMEOUT if content else RACE_DELAY)
    while time.monotonic() < end:
        time.sleep(min(RACE_DELAY, 0.5))
        now = read_file(file)
        if now is None:
            return
        if now != content:
            raise FolderInUse(in_use_message(file, parse(now)))


def is_at(descriptor: int, file: Path) -> bool:
    """Whether the open file is still the one at this path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(file))
    except FileNotFoundError:
        return False


def read(descriptor: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, 4096)


def read_file(file: Path) -> bytes | None:
    """The file's current content, None if there is no such file. On a network, only opening it asks the server."""
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
    """Name this process as the owner or, with `free`, as the last owner. Every call writes different content."""
    content = json.dumps({**identity(), "token": token, "free": free, "beat": secrets.token_hex(4)}).encode() + b"\n"
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, content)
    os.ftruncate(descriptor, len(content))
    getattr(os, "fdatasync", os.fsync)(descriptor)


# ---- its owner


def identity() -> dict:
    """Identifies this process across hosts, containers and earlier processes with the same id."""
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
    """When a process in this namespace started, in clock ticks since boot; "" if it has ended, None if unknown."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):  # /proc is another namespace's
            return None
        state, *rest = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return "" if state in "ZX" else rest[18]
    except (OSError, ValueError, IndexError):
        return None


def is_alive(owner: Mapping) -> bool | None:
    """Whether the owner is running and hasn't released the folder; None if this process can't look it up."""
    if owner.get("free") is True:
        return False
    mine, pid = identity(), owner.get("process")
    if any(mine[key] is None or owner.get(key) != mine[key] for key in ("boot", "space")):
        return None
    if type(pid) is not int or not 0 < pid < 2**31 or os.name == "nt":  # on Windows os.kill would terminate it
        return None
    if pid == mine["process"]:  # an earlier process with this id, or this one before an exec
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's process
        pass
    start = started(pid)
    return None if start is None or owner.get("started") is None else start == owner["started"]


def parse(content: bytes) -> dict:
    try:
        owner = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return owner if isinstance(owner, dict) else {}


def describe(owner: Mapping) -> str:
    pid, host = owner.get("process"), str(owner.get("host"))[:80]
    return f"process {pid} on {host}" if type(pid) is int and host.isprintable() else "a process"


def in_use_message(file: Path, owner: Mapping) -> str:
    who = describe(owner) if owner else ""
    if owner.get("free") is True:
        return f"another process ({who}) has used {file.parent} since this one started; this one writes no more there"
    return f"another process is using {file.parent}{who and f' ({who})'}; wait for it, or end it first"
