"""A run's folder: every file in it is created, replaced, appended to and removed through this module.

Writes are atomic: after a full disk or a power failure, a file is either complete or absent. Nothing outside the folder
is touched, whatever an attacker has put into it: names contain no path, links are never followed for writing, new files
get names that can't be guessed, and only files that spinup created are removed (docs/security.md).
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from spinup.errors import UserError

# Names are looked up relative to an open folder, so that nobody can swap in a link. Not available on Windows.
HAS_DIR_FD = {os.open, os.stat, os.mkdir, os.unlink, os.rmdir, os.rename} <= os.supports_dir_fd
# O_NONBLOCK: opening a named pipe fails instead of waiting for its reader.
SAFE_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFE_FLAGS
APPEND_FLAGS = os.O_WRONLY | os.O_APPEND | SAFE_FLAGS
TEMPORARY = r"\.{name}\.[0-9a-f]{{16}}\.tmp"  # matches what temporary_name(name) returns
CHECKPOINT_FILES = re.compile(rf"rank\d+\.pt|manifest\.json|{TEMPORARY.format(name='manifest.json')}")
RUN_FILES = r"config\.json|status\.json|(output|error)\.txt|model(\d+|_best)?\.pt|events\.out\.tfevents\..*"  # no table
RESERVED = re.compile(rf"{RUN_FILES}|checkpoint|\..*", re.IGNORECASE)  # names that the table can't have


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError from writing `path` into a UserError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write {path}: {reason}; fix that or choose another folder with --data_dir") from error


def check_name(name: str) -> str:
    """Return a file's name unchanged. Raises UserError for a path, which could lead out of the run's folder."""
    if not isinstance(name, str) or name in ("", ".", "..") or re.search(r"[/\\\0]", name):
        raise UserError(f"{name!r:.80} is not the name of a file in a run's folder; a name without slashes is")
    if os.name == "nt" and (":" in name or name[-1] in ". "):
        raise UserError(f"{name!r:.80} contains a colon or ends in a period or space, which Windows does not allow")
    return name


def temporary_name(name: str) -> str:
    """A hidden name that can't be guessed."""
    return f".{name}.{secrets.token_hex(8)}.tmp"


def is_plain_file(status: os.stat_result) -> bool:
    """Whether this is a regular file with a single name: not a folder, link, hard link or pipe."""
    return stat.S_ISREG(status.st_mode) and status.st_nlink <= 1


class RunFolder:
    """A run's folder or, with `parent`, a folder in it, which must not be a link.

    path: may be a link if the user named it; after the first use it must remain the same folder
    """

    def __init__(self, path: Path, parent: "RunFolder | None" = None):
        self.path, self.parent = Path(path), parent
        self.identity: tuple[int, int] | None = None  # device and inode, once it has been opened

    def subfolder(self, name: str) -> "RunFolder":
        return RunFolder(self.path / check_name(name), self)

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[Callable[[str], str | Path], int | None]]:
        """Gives (at, fd): os functions take at(name) as the path of a file in this folder, and fd as their dir_fd."""
        fd, flags = None, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
        if self.parent is None:
            fd = os.open(self.path, flags) if HAS_DIR_FD else None
        else:
            with self.parent.opened() as (at, parent_fd):
                if not HAS_DIR_FD and self.is_link():
                    raise OSError(errno.ENOTDIR, "it is a link")
                fd = os.open(at(self.path.name), flags | os.O_NOFOLLOW, dir_fd=parent_fd) if HAS_DIR_FD else None
        try:
            status = os.stat(self.path if fd is None else fd)
            found = status.st_dev, status.st_ino
            if self.parent is None and self.identity not in (None, found):
                raise OSError(errno.ENOENT, "another folder has taken its place")
            self.identity = found
            yield (check_name if HAS_DIR_FD else lambda name: self.path / check_name(name)), fd
        finally:
            if fd is not None:
                os.close(fd)

    def is_link(self) -> bool:
        """Whether it is a symbolic link or, on Windows, a junction."""
        return self.path.is_symlink() or bool(getattr(os.path, "isjunction", lambda path: False)(self.path))

    def check(self) -> None:
        """Raise UserError if .lock isn't a file or checkpoint isn't a folder: either could be a link."""
        advice = "a run writes nothing outside its folder, so put all of it on another disk with --data_dir"
        for name, right, what in ((".lock", stat.S_ISREG, "file"), ("checkpoint", stat.S_ISDIR, f"folder; {advice}")):
            path = self.path / name
            if os.path.lexists(path) and (not right(os.lstat(path).st_mode) or self.subfolder(name).is_link()):
                kind = "a link" if self.subfolder(name).is_link() else "something else"
                raise UserError(f"{path} is {kind}; it must be a {what}")

    def make(self) -> None:
        """Create the folder unless it exists."""
        if self.parent is None:
            return self.path.mkdir(parents=True, exist_ok=True)
        with self.parent.opened() as (at, parent_fd), contextlib.suppress(FileExistsError):
            os.mkdir(at(self.path.name), dir_fd=parent_fd)

    def names(self) -> list[str]:
        with self.opened() as (_, fd):
            return sorted(os.listdir(self.path if fd is None else fd))

    def size(self, name: str) -> int | None:
        """A file's size in bytes; None if it doesn't exist, or is a link, a hard link, a pipe or the like."""
        try:
            with self.opened() as (at, fd):
                status = os.stat(at(name), dir_fd=fd, follow_symlinks=False)
        except OSError:
            return None
        return status.st_size if is_plain_file(status) else None

    # ---- writing

    def create(self, name: str) -> BinaryIO:
        """A new file, open for writing. Raises FileExistsError if anything has this name."""
        with self.opened() as (at, fd):
            return os.fdopen(os.open(at(name), CREATE_FLAGS, 0o666, dir_fd=fd), "wb")

    def replace(self, name: str, data: bytes) -> None:
        """Replace a file's content atomically: readers see either the old or the new content, even after a crash."""
        draft = temporary_name(check_name(name))
        with write_errors(self.path / name):
            try:
                with self.create(draft) as file:
                    write_and_sync(file, data)
                self.rename(draft, name)
            except BaseException:
                self.remove(re.compile(re.escape(draft)))
                raise

    def append(self, name: str, data: bytes) -> None:
        """Append in one write. If the disk is full, undo a partial write, so that no line is ever incomplete."""
        with write_errors(self.path / name), self.appending(name) as file:
            size = os.fstat(file.fileno()).st_size
            if file.write(data) < len(data):
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def appending(self, name: str) -> BinaryIO:
        """An unbuffered file open for appending. A link or pipe of that name is first replaced by an empty file."""
        if self.size(name) is None:
            self.replace(name, b"")
        with self.opened() as (at, fd):
            file = os.fdopen(os.open(at(name), APPEND_FLAGS, dir_fd=fd), "ab", buffering=0)
        if not is_plain_file(os.fstat(file.fileno())):  # swapped in since `size` looked
            file.close()
            raise OSError(errno.EEXIST, "something else has taken its place")
        return file

    def rename(self, old: str, new: str) -> None:
        """Rename a file or folder, replacing whatever has the new name."""
        with self.opened() as (at, fd):
            os.replace(at(old), at(new), src_dir_fd=fd, dst_dir_fd=fd)

    def sync(self) -> None:
        """Wait until the folder's entries are on disk."""
        with self.opened() as (_, fd):
            if fd is not None:
                os.fsync(fd)

    # ---- removing

    def remove(self, pattern: re.Pattern) -> None:
        """Remove the files whose names match, ignoring errors; never a link or its target."""
        with contextlib.suppress(OSError), self.opened() as (at, fd):
            names = os.listdir(self.path if fd is None else fd)
            for name in sorted(names, key="manifest.json".__eq__):  # last: it marks the other files as ours
                if pattern.fullmatch(name):
                    with contextlib.suppress(OSError):
                        if stat.S_ISREG(os.stat(at(name), dir_fd=fd, follow_symlinks=False).st_mode):
                            os.unlink(at(name), dir_fd=fd)

    def remove_folder(self, name: str, pattern: re.Pattern) -> None:
        """Remove a folder's files whose names match, then the folder itself if nothing else is in it."""
        self.subfolder(name).remove(pattern)
        self.remove_empty(name)

    def remove_empty(self, name: str) -> None:
        """Remove a folder if it is empty."""
        with contextlib.suppress(OSError), self.opened() as (at, fd):
            os.rmdir(at(name), dir_fd=fd)

    def remove_run(self, table: str = "progress.txt") -> None:
        """Remove a run's files so that another run can start here; .lock and the user's own files stay.

        Raises UserError if the folder itself is a link.
        """
        if self.is_link():
            what = f"{self.path} is a link to an unfinished run without a checkpoint"
            raise UserError(f"{what}; remove that folder's files yourself, or the link")
        status = os.lstat(self.path)
        self.identity = status.st_dev, status.st_ino  # so that a link swapped in from now on is refused
        run_files = rf"{re.escape(table)}|{RUN_FILES}"
        checkpoints = self.subfolder("checkpoint")
        with contextlib.suppress(OSError):
            for name in filter(is_checkpoint, checkpoints.names()):
                checkpoints.remove_folder(name, CHECKPOINT_FILES)
        self.remove_empty("checkpoint")
        self.remove(re.compile(f"{run_files}|{TEMPORARY.format(name=f'({run_files})')}"))


def is_checkpoint(name: str) -> bool:
    """Whether a folder's name is a checkpoint's, complete or partially written."""
    return re.fullmatch(r"[0-9]+|\.[0-9]+(\.[0-9a-f]{16})?\.tmp", name) is not None


def newest_checkpoint(folder: Path) -> Path | None:
    """The folder of a run's newest complete checkpoint, or None."""
    found = [path.parent for path in Path(folder).glob("checkpoint/*/manifest.json") if path.parent.name.isdecimal()]
    return max(found, key=lambda path: int(path.name), default=None)


def write_and_sync(file: BinaryIO, data: bytes) -> None:
    """Write to an open file and wait until the data is on disk."""
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """RunFolder.replace by path."""
    RunFolder(path.parent).replace(path.name, data)


@contextlib.contextmanager
def replacing(path: Path, interrupted: bool = False) -> Iterator[Path]:
    """Gives the path of a temporary file, for a figure or video; it is renamed to `path` once it is complete.

    A link or pipe at `path` is replaced, not written to, since the folder may be untrusted.
    interrupted: rename it after Ctrl-C as well
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    folder, draft = RunFolder(path.parent), temporary_name(path.stem) + path.suffix
    folder.create(draft).close()
    try:
        yield path.parent / draft
    except BaseException as error:
        if interrupted and isinstance(error, KeyboardInterrupt) and folder.size(draft):
            folder.rename(draft, path.name)
        folder.remove(re.compile(re.escape(draft)))
        raise
    try:
        folder.rename(draft, path.name)
    except OSError:
        folder.remove(re.compile(re.escape(draft)))
        raise


def check_file(path: Path) -> int:
    """A file's size in bytes. Raises OSError for a pipe or device, which might never end, and for a folder."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    return status.st_size


def read_text(path: Path, longest: int) -> str:
    """Read a UTF-8 file. Raises OSError if it has more than `longest` bytes or isn't a regular file."""
    check_file(path)
    with open(path, "rb") as file:
        data = file.read(longest + 1)
    if len(data) > longest:
        raise OSError(errno.EFBIG, f"it has more than {longest} bytes")
    return data.decode("utf-8")


def checksum(path: Path) -> str:
    """A file's SHA-256, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
