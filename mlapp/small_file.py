"""Read files that people write (presets, policies, keys), or stages, whatever somebody put in their place."""

from __future__ import annotations

import os
import stat

from upath import UPath

from mlapp import storage
from mlapp.errors import UserError

MOST_BYTES = 1 << 20


def read(path: UPath, most: int = MOST_BYTES) -> str:
    """The text of a file that a person wrote, read no further than a person would write.

    A `UserError` for a folder, a device, a pipe, a link to nothing or an overlong file; a ValueError for what is no
    UTF-8.
    """
    try:
        return _text(path, most)
    except FileNotFoundError as error:
        raise storage.missing(path, f"there is no file {path}: give the path or URI of one that exists") from error


def written(path: UPath) -> str:
    """The text of a file that a stage wrote into a run's folder.

    A FileNotFoundError where there is none; a `UserError` for everything else that keeps it from being read.
    """
    try:
        return _text(path, storage.LARGEST_TEXT)
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and not storage.is_local(path):
            raise  # a store that does not answer says nothing of the file
        raise storage.explain(error) or UserError(f"cannot read {path} ({error}): remove it") from error


def _text(path: UPath, most: int) -> str:
    try:
        content = (_read_local if storage.is_local(path) else _read_remote)(path, most)
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder: give a file") from error
    if len(content) > most:
        raise UserError(f"{path} has more than {most:,} bytes: give a smaller file")
    return str(content.decode("utf-8"))


def _read_local(path: UPath, most: int) -> bytes:
    """The first bytes of a regular file; opened without waiting, so that a pipe without a writer holds up nothing."""
    handle = os.open(path.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UserError(f"{path} is not a regular file: give a file that holds text")
        return stream.read(most + 1)


def _read_remote(path: UPath, most: int) -> bytes:
    """The content of an object, unless it is larger than ``most``; then as much of nothing, to be refused."""
    found = path.fs.info(path.path)
    if found["type"] == "directory":
        raise IsADirectoryError(str(path))
    return bytes(most + 1) if found["size"] > most else bytes(path.fs.cat_file(path.path))
