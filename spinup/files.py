"""Files that are there whole or not at all, also when the disk is full or the power fails in the middle."""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from spinup.errors import UserError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system says against writing `path` into a UserError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write {path}: {reason}; mend that or choose another folder with --data_dir") from error


def replace_file(path: Path, data: bytes) -> None:
    """Gives `path` the content `data` at once: a reader finds all of the old or of the new, also after a crash."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def append_to_file(path: Path, data: bytes) -> None:
    """Appends in one write, and takes back what a full disk cut short: no line is ever half there."""
    with writing(path), open(path, "ab", buffering=0) as file:
        size = file.tell()
        if file.write(data) < len(data):
            file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def check_file(path: Path) -> int:
    """A file's size. Raises OSError for a pipe, a device or a folder, which could be read for ever."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    return status.st_size


def read_text(path: Path, longest: int) -> str:
    """A text file of at most `longest` bytes. Raises OSError for a longer one, and for what is not a file."""
    check_file(path)
    with open(path, "rb") as file:
        data = file.read(longest + 1)
    if len(data) > longest:
        raise OSError(errno.EFBIG, f"it has more than {longest} bytes")
    return data.decode("utf-8")


def checksum(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def to_disk(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    with contextlib.suppress(PermissionError):  # Windows opens no folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def lock(folder: Path) -> int | None:
    """Take a run's folder for this process; a file descriptor to close when done, or None where locks are not known.

    The end of the process closes it too, and the same process may take the folder again. Raises UserError where another
    one has it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    descriptor = os.open(folder / ".lock", os.O_WRONLY | os.O_CREAT)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # other errors: a network's file system without locks
        os.close(descriptor)
        if isinstance(error, BlockingIOError | PermissionError):
            raise UserError(f"another process is at work on {folder}; wait for it, or end it first") from None
        return None
    return descriptor
