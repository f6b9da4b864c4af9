"""Files by URI: local paths and gs:// behind one interface, whole or not there at all."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from upath import UPath

from mlapp.errors import UserError

CHUNK = 1 << 20
DRAFT = ".draft"


def at(uri: str | os.PathLike[str]) -> UPath:
    """The path behind a URI; a local one is made absolute, so that it means the same in every process."""
    path = UPath(uri)
    return UPath(os.path.abspath(path.path)) if is_local(path) else path


def is_local(path: UPath) -> bool:
    """Whether the path is on this machine's own file system."""
    return path.protocol in ("", "file", "local")


def sha256(path: UPath | Path) -> str:
    """SHA-256 of a file's content in hex, read in chunks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def atomic_file(path: UPath | Path) -> Iterator[Path]:
    """Yield a local path to write to; on success its content appears at ``path`` at once, on failure not at all."""
    path = at(path)
    remote = not is_local(path)
    folder = None if remote else Path(path.path).parent
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=DRAFT, dir=folder)
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        if remote:
            path.fs.put_file(str(draft), path.path)
        else:
            with draft.open("rb") as stream:
                os.fsync(stream.fileno())
            draft.chmod(0o644)
            os.replace(draft, path.path)
    finally:
        draft.unlink(missing_ok=True)


def flush(folder: Path) -> None:
    """Have the disk hold every file of a folder before anything names it: a power cut must not empty them."""
    for path in folder.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())


def remove_drafts(folder: Path) -> None:
    """Remove what a kill in the middle of `atomic_file` left in a folder that is ours alone."""
    for draft in folder.rglob(f".*{DRAFT}"):
        draft.unlink()


def write_text(path: UPath | Path, text: str) -> None:
    """Write a small text file atomically, in UTF-8."""
    with atomic_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def fetch(path: UPath) -> Path:
    """A local path with the content of ``path``: itself where it is local, else a copy kept for this process."""
    if is_local(path):
        return Path(path.path)
    copy = Path(tempfile.mkdtemp(dir=_fetched().name), path.name)
    path.fs.get_file(path.path, str(copy))
    return copy


@functools.cache
def _fetched() -> tempfile.TemporaryDirectory[str]:
    """Where this process keeps copies of remote files; removed when it ends."""
    return tempfile.TemporaryDirectory(prefix="mlapp-fetch-")


@contextmanager
def workspace(workdir: UPath) -> Iterator[Path]:
    """A local folder to work in: ``workdir`` itself where it is local, else a scratch folder removed afterwards."""
    if is_local(workdir):
        folder = Path(workdir.path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UserError(f"cannot make the work directory {folder} ({reason}): give another --workdir") from error
        yield folder
    else:
        folder = Path(tempfile.mkdtemp(prefix="mlapp-work-"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


def explain(error: OSError) -> UserError | None:
    """The one line for a disk that is full or not writable; None for an error that no user can mend."""
    where = error.filename or "the work directory"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"no space left for {where}: free some disk space, or give another --workdir, and run again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(f"no permission for {where}: mend its permissions, or give another path")
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        return UserError(f"{where} is in the way: a folder was expected where a file is, or the reverse; move it away")
    return None
