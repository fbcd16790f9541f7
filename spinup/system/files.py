"""A run's folder: the one place through which anything in it is written, made, replaced or removed.

Files are there whole or not at all, also when the disk is full or the power fails in the middle. And nothing outside
of the folder is touched, whatever a stranger has put into it: names are bare, no link is followed for writing, files
are made under names that nobody can guess, and only what spinup made is removed (docs/security.md).
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

# Where a folder can be held open while names in it are looked up, nobody can put a link in its place. Not on Windows.
DESCRIPTORS = {os.open, os.stat, os.mkdir, os.unlink, os.rmdir, os.rename} <= os.supports_dir_fd
NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # nor wait at a pipe
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_LINK
APPEND = os.O_WRONLY | os.O_APPEND | NO_LINK
TEMPORARY = r"\.{name}\.[0-9a-f]{{16}}\.tmp"  # what `temporary` makes of a name
CHECKPOINT = re.compile(rf"rank\d+\.pt|manifest\.json|{TEMPORARY.format(name='manifest.json')}")  # files of one
OURS = r"config\.json|status\.json|(output|error)\.txt|model(\d+|_best)?\.pt|events\.out\.tfevents\..*"  # and a table
RESERVED = re.compile(rf"{OURS}|checkpoint|\..*", re.IGNORECASE)  # what the table's name must not be


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system says against writing `path` into a UserError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write {path}: {reason}; fix that or choose another folder with --data_dir") from error


def bare(name: str) -> str:
    """`name`, where it is a file's name alone. Raises UserError for a path, which could lead out of a run's folder."""
    if not isinstance(name, str) or name in ("", ".", "..") or re.search(r"[/\\\0]", name):
        raise UserError(f"{name!r:.80} is not the name of a file in a run's folder; a name without slashes is")
    if os.name == "nt" and (":" in name or name[-1] in ". "):
        raise UserError(f"{name!r:.80} has a colon, or a point or space at its end, which Windows does not allow")
    return name


def temporary(name: str) -> str:
    """A hidden name that nobody can guess."""
    return f".{name}.{secrets.token_hex(8)}.tmp"


def plain(status: os.stat_result) -> bool:
    """Whether it is a file that has no other name: not a folder, link or pipe."""
    return stat.S_ISREG(status.st_mode) and status.st_nlink <= 1


class RunFolder:
    """A run's folder, or with `parent` one in it, which must not be a link.

    path: followed where it is a link itself, as the user named it; from the first use on it must stay the same folder
    """

    def __init__(self, path: Path, parent: "RunFolder | None" = None):
        self.path, self.parent = Path(path), parent
        self.identity: tuple[int, int] | None = None  # device and inode, once it has been opened

    def below(self, name: str) -> "RunFolder":
        return RunFolder(self.path / bare(name), self)

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[Callable[[str], str | Path], int | None]]:
        """Gives (at, here): what the functions of `os` take for a name in this folder, and as their dir_fd."""
        here, flags = None, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
        if self.parent is None:
            here = os.open(self.path, flags) if DESCRIPTORS else None
        else:
            with self.parent.opened() as (at, above):
                if not DESCRIPTORS and self.is_link():
                    raise OSError(errno.ENOTDIR, "it is a link")
                here = os.open(at(self.path.name), flags | os.O_NOFOLLOW, dir_fd=above) if DESCRIPTORS else None
        try:
            status = os.stat(self.path if here is None else here)
            found = status.st_dev, status.st_ino
            if self.parent is None and self.identity not in (None, found):
                raise OSError(errno.ENOENT, "another folder has taken its place")
            self.identity = found
            yield (bare if DESCRIPTORS else lambda name: self.path / bare(name)), here
        finally:
            if here is not None:
                os.close(here)

    def is_link(self) -> bool:
        """Whether it leads elsewhere; on Windows also by a junction."""
        return self.path.is_symlink() or bool(getattr(os.path, "isjunction", lambda path: False)(self.path))

    def check(self) -> None:
        """Raise UserError where .lock is not a file, or checkpoint not a folder, but for example a link."""
        advice = "a run writes nothing outside of its folder, so put all of it on another disk with --data_dir"
        for name, right, what in ((".lock", stat.S_ISREG, "file"), ("checkpoint", stat.S_ISDIR, f"folder; {advice}")):
            path = self.path / name
            if os.path.lexists(path) and (not right(os.lstat(path).st_mode) or self.below(name).is_link()):
                kind = "a link" if self.below(name).is_link() else "something else"
                raise UserError(f"{path} is {kind}; it must be a {what}")

    def make(self) -> None:
        """Make the folder where it is not there yet."""
        if self.parent is None:
            return self.path.mkdir(parents=True, exist_ok=True)
        with self.parent.opened() as (at, above), contextlib.suppress(FileExistsError):
            os.mkdir(at(self.path.name), dir_fd=above)

    def names(self) -> list[str]:
        with self.opened() as (_, here):
            return sorted(os.listdir(self.path if here is None else here))

    def size(self, name: str) -> int | None:
        """The size of a file; None where it is not there, or is no file of this folder alone: a link, a pipe."""
        try:
            with self.opened() as (at, here):
                status = os.stat(at(name), dir_fd=here, follow_symlinks=False)
        except OSError:
            return None
        return status.st_size if plain(status) else None

    # ---- writing

    def create(self, name: str) -> BinaryIO:
        """A new file, open for writing. Raises FileExistsError where there is anything of this name."""
        with self.opened() as (at, here):
            return os.fdopen(os.open(at(name), NEW, 0o666, dir_fd=here), "wb")

    def replace(self, name: str, data: bytes) -> None:
        """Give a file the content `data` at once: a reader finds all of the old or of the new, also after a crash."""
        draft = temporary(bare(name))
        with writing(self.path / name):
            try:
                with self.create(draft) as file:
                    write_all(file, data)
                self.rename(draft, name)
            except BaseException:
                self.remove(re.compile(re.escape(draft)))
                raise

    def append(self, name: str, data: bytes) -> None:
        """Append in one write, and take back what a full disk cut short: no line is ever half there."""
        with writing(self.path / name), self.appending(name) as file:
            size = os.fstat(file.fileno()).st_size
            if file.write(data) < len(data):
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def appending(self, name: str) -> BinaryIO:
        """A file open for appending, without a buffer; a new one where there is none, or a link or pipe instead."""
        if self.size(name) is None:
            self.replace(name, b"")
        with self.opened() as (at, here):
            file = os.fdopen(os.open(at(name), APPEND, dir_fd=here), "ab", buffering=0)
        if not plain(os.fstat(file.fileno())):  # put there just now
            file.close()
            raise OSError(errno.EEXIST, "something else has taken its place")
        return file

    def rename(self, old: str, new: str) -> None:
        """Give a file or folder another name, in the place of what has it."""
        with self.opened() as (at, here):
            os.replace(at(old), at(new), src_dir_fd=here, dst_dir_fd=here)

    def sync(self) -> None:
        """Wait until the names are on the disk."""
        with self.opened() as (_, here):
            if here is not None:
                os.fsync(here)

    # ---- removing

    def remove(self, pattern: re.Pattern) -> None:
        """Remove files whose names match, as far as that goes; never a link, or what one leads to."""
        with contextlib.suppress(OSError), self.opened() as (at, here):
            names = os.listdir(self.path if here is None else here)
            for name in sorted(names, key="manifest.json".__eq__):  # last: it says that the others are ours
                if pattern.fullmatch(name):
                    with contextlib.suppress(OSError):
                        if stat.S_ISREG(os.stat(at(name), dir_fd=here, follow_symlinks=False).st_mode):
                            os.unlink(at(name), dir_fd=here)

    def remove_folder(self, name: str, pattern: re.Pattern) -> None:
        """Remove the files in a folder whose names match, and the folder itself, unless it has others."""
        self.below(name).remove(pattern)
        self.remove_empty(name)

    def remove_empty(self, name: str) -> None:
        """Remove a folder that has nothing in it."""
        with contextlib.suppress(OSError), self.opened() as (at, here):
            os.rmdir(at(name), dir_fd=here)

    def remove_run(self, table: str = "progress.txt") -> None:
        """Remove what a run wrote here, so that another can begin; .lock and what is not ours stay.

        Raises UserError if the folder is a link itself.
        """
        if self.is_link():
            what = f"{self.path} is a link, and an unfinished run without a checkpoint is where it leads"
            raise UserError(f"{what}; remove that folder's files yourself, or the link")
        status = os.lstat(self.path)
        self.identity = status.st_dev, status.st_ino  # a link that takes its place from now on is another folder
        ours = rf"{re.escape(table)}|{OURS}"
        checkpoints = self.below("checkpoint")
        with contextlib.suppress(OSError):
            for name in filter(is_checkpoint, checkpoints.names()):
                checkpoints.remove_folder(name, CHECKPOINT)
        self.remove_empty("checkpoint")
        self.remove(re.compile(f"{ours}|{TEMPORARY.format(name=f'({ours})')}"))


def is_checkpoint(name: str) -> bool:
    """Whether a folder's name is that of a checkpoint, whole or left half written."""
    return re.fullmatch(r"[0-9]+|\.[0-9]+(\.[0-9a-f]{16})?\.tmp", name) is not None


def write_all(file: BinaryIO, data: bytes) -> None:
    """Write to an open file, and wait until it is on the disk."""
    file.write(data)
    file.flush()
    os.fsync(file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """RunFolder.replace for the file at `path`."""
    RunFolder(path.parent).replace(path.name, data)


@contextlib.contextmanager
def replacing(path: Path, interrupted: bool = False) -> Iterator[Path]:
    """For a figure or video: a file to write in the place of `path`, which takes its name when it is whole.

    A link or pipe of that name is replaced, not written to: the folder may be a stranger's.
    interrupted: also when Ctrl-C ended the writing
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    folder, draft = RunFolder(path.parent), temporary(path.stem) + path.suffix
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
