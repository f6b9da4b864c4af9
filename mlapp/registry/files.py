"""A registry's files as they are allowed to be: regular files in real folders, and locks that lock.

Who may write a registry may put links and pipes there. None of them is followed or waited for: each is refused by name.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from upath import UPath

from mlapp import storage
from mlapp.errors import UserError

LOCK = ".lock"
FILE, FOLDER = "a file", "a folder"
PIECE = 8 << 20  # of a remote file, in one request
RANGE_NOT_SATISFIABLE = 416
KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: FOLDER,
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read(path: UPath) -> tuple[bytes, os.stat_result | None]:
    """The content of a regular file and, on a disk, its state when it was read; no link is followed."""
    if not storage.is_local(path):
        return bytes(path.fs.cat_file(path.path)), None
    with os.fdopen(_opened(path), "rb") as stream:
        if (size := os.fstat(stream.fileno()).st_size) > storage.LARGEST_TEXT:
            raise UserError(f"{path} has {size:,} bytes, too many for what it should be: restore it from a copy")
        return stream.read(), os.fstat(stream.fileno())


def sha256(path: UPath, size: int) -> str:
    """SHA-256 of a regular file of this size, read in pieces; empty if it has another. No link is followed.

    A small remote file is one request.
    """
    if not storage.is_local(path):
        return _remote_sha256(path, size)
    with os.fdopen(_opened(path), "rb") as stream:
        is_as_large = os.fstat(stream.fileno()).st_size == size
        return hashlib.file_digest(stream, "sha256").hexdigest() if is_as_large else ""


def _remote_sha256(path: UPath, size: int) -> str:
    digest, offset = hashlib.sha256(), 0
    while offset <= size:
        try:
            piece = path.fs.cat_file(path.path, start=offset, end=offset + PIECE)
        except Exception as error:
            if getattr(error, "code", None) != RANGE_NOT_SATISFIABLE:  # the file ends here
                raise
            piece = b""
        digest.update(piece)
        offset += len(piece)
        if len(piece) < PIECE:
            break
    return digest.hexdigest() if offset == size else ""


def read_all(paths: Sequence[UPath]) -> list[bytes | Exception]:
    """The content of each file, or why it could not be read; remote ones many at a time."""
    if not paths or not storage.is_local(paths[0]):
        found = paths[0].fs.cat([path.path for path in paths], on_error="return") if paths else {}
        return [found[path.path] for path in paths]
    contents: list[bytes | Exception] = []
    for path in paths:
        try:
            contents.append(read(path)[0])
        except (OSError, UserError) as error:
            contents.append(error)
    return contents


def names(folder: UPath) -> list[str]:
    """The names in a folder, sorted; none where there is no folder."""
    try:
        if storage.is_local(folder):
            return sorted(os.listdir(folder.path))
        found = folder.fs.ls(folder.path, detail=False)
        return sorted({str(path).rstrip("/").rpartition("/")[2] for path in found if str(path) != folder.path})
    except FileNotFoundError:
        return []


def check_folder(folder: UPath) -> None:
    """A `UserError` if what is here is no folder of its own, but a link or a file."""
    if storage.is_local(folder) and kind(folder) not in (None, FOLDER):
        raise odd(folder)


def kind(path: UPath | Path) -> str | None:
    """What a local path is, in words; None where there is nothing. A link is a link, wherever it leads."""
    try:
        return KINDS[stat.S_IFMT(os.lstat(path.path if isinstance(path, UPath) else path).st_mode)]
    except FileNotFoundError:
        return None


def odd(path: UPath | Path) -> UserError:
    """The one line for what may not stand where it does."""
    return UserError(f"{path} is {kind(path)}, which a registry may not hold there: look at it, then move it away")


def _opened(path: UPath, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file; O_NONBLOCK, so that a pipe is not waited for."""
    try:
        handle = os.open(path.path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise odd(path) from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise odd(path)
    return handle


@contextmanager
def locked(folder: UPath) -> Iterator[None]:
    """Keep other processes of this kind out of a local folder; a remote one has generations instead.

    Some file systems accept every lock and keep nobody out (NFS without its lock service): a second lock that should be
    refused shows it.
    """
    if not storage.is_local(folder):
        yield
        return
    check_folder(folder)
    Path(folder.path).mkdir(parents=True, exist_ok=True)
    handle, second = (_opened(folder / LOCK, os.O_RDWR | os.O_CREAT) for _ in range(2))
    try:
        _lock(handle, folder)
        if try_lock(second):
            raise UserError(
                f"file locks have no effect in {folder} (NFS without locking?), so two promotions at once could spoil "
                "it: keep the registry on a local disk or in Cloud Storage, or mount it with locking"
            )
        yield
    finally:
        os.close(second)
        os.close(handle)


def _lock(handle: int, folder: UPath) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        raise UserError(
            f"the file system of {folder} has no file locks ({error.strerror}): keep the registry on a local disk or "
            "in Cloud Storage"
        ) from error


def try_lock(handle: int) -> bool:
    """Lock an open file or folder if nobody else has; whether it worked."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
