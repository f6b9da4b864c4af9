"""Files by URI: local paths and gs:// behind one interface, whole or not there at all.

What is written to Cloud Storage carries its SHA-256 as metadata. An object's content never changes within a
generation, and another generation has other metadata: so the hash can be had again without reading the file.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from upath import UPath

from mlapp import address, gcs, reference
from mlapp.errors import TryAgainError, UserError

CHUNK = 1 << 20
DRAFT = ".draft"
NOTED = "sha256"
LARGEST_TEXT = 64 << 20  # of a result, a configuration or another file that a stage wrote and that is read whole
IN_MEMORY = "memory"  # files of this process alone; no setting may name one


class Written(NamedTuple):
    """A local file that was written whole, and the SHA-256 of its content in hex."""

    path: Path
    sha256: str


def at(uri: str | os.PathLike[str]) -> UPath:
    """The path behind a URI; a local one is made absolute, so that it means the same in every process.

    Of a reference (`mlapp.reference`) it is where the file lies: what is in it is not verified here.
    """
    uri = reference.parse(uri).uri
    if wrong := address.fault(uri, (*address.FILES, IN_MEMORY)):
        raise UserError(wrong)
    gcs.check(uri)
    path = UPath(uri)
    if is_local(path):
        return UPath(os.path.abspath(path.path))
    return UPath(uri, **gcs.options()) if in_gcs(path) and not path.storage_options else path


def is_local(path: UPath) -> bool:
    """Whether the path is on this machine's own file system."""
    return path.protocol in ("", "file", "local")


def is_link(path: UPath) -> bool:
    """Whether the path is a symbolic link on this machine, be it to nothing."""
    return is_local(path) and os.path.islink(path.path)


def in_gcs(path: UPath) -> bool:
    """Whether the path is in Cloud Storage."""
    return path.protocol in gcs.PROTOCOLS


def sha256(path: UPath | Path) -> str:
    """SHA-256 of a file's content in hex, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def described(path: UPath) -> tuple[int, str]:
    """Size and SHA-256 of a file; in Cloud Storage as noted when it was uploaded, else it is read.

    The note spares reading a file to see that it is unaltered. Whoever may write the file can forge it: what is opened
    is hashed itself (`fetch`).
    """
    found = path.fs.info(path.path)
    noted = found.get("metadata", {}).get(NOTED) if in_gcs(path) else None
    return found["size"], noted or sha256(path)


def damage(path: UPath, size: int, digest: str) -> str | None:
    """How a file differs from one of this size and SHA-256: missing, altered, or not at all."""
    if is_local(path) and not Path(path.path).is_file():  # a pipe in its place would be waited on for ever
        return "missing"
    try:
        return None if described(path) == (size, digest) else "altered"
    except FileNotFoundError:
        return "missing"


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
            put(draft, path)
        else:
            with draft.open("rb") as stream:
                os.fsync(stream.fileno())
            draft.chmod(0o644)
            os.replace(draft, path.path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: UPath | Path, text: str) -> None:
    """Write a small text file atomically, in UTF-8."""
    with atomic_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_blocks(path: Path, blocks: Iterable[bytes | memoryview]) -> Written:
    """Write a local file atomically and hash it on the way, each block while the next one is made elsewhere.

    Written as a stream and not through a memory map, where a full disk would kill the process (SIGBUS).
    """
    digest = hashlib.sha256()
    with atomic_file(path) as draft, draft.open("wb") as stream, ThreadPoolExecutor(1) as beside:

        def keep(block: bytes | memoryview) -> None:
            stream.write(block)
            digest.update(block)

        kept: Future[None] | None = None
        for block in blocks:
            if kept:
                kept.result()
            kept = beside.submit(keep, block)
        if kept:
            kept.result()
    return Written(path, digest.hexdigest())


def put(source: Path, target: UPath, digest: str | None = None) -> None:
    """Upload a file with its hash; it appears whole, after the store's own checksum has been compared.

    Without ``digest``, its SHA-256, the file is read once more.
    """
    more = {"metadata": {NOTED: digest or sha256(source)}, "consistency": "md5"} if in_gcs(target) else {}
    target.fs.put_file(str(source), target.path, **more)


def copy(source: UPath, target: UPath) -> None:
    """Copy a file; within one store it does not pass through this machine."""
    if source.protocol == target.protocol and not is_local(source):
        target.fs.cp_file(source.path, target.path)
    else:
        with atomic_file(target) as draft:
            shutil.copyfile(fetch(source), draft)


def remove(path: UPath) -> None:
    """Remove a file, if it is there."""
    with suppress(FileNotFoundError):
        path.fs.rm_file(path.path)


def read_text(path: UPath) -> str:
    """The text of a file, in UTF-8, in one request."""
    return str(path.fs.cat_file(path.path).decode("utf-8"))


def read_referenced(given: str) -> tuple[str, str]:
    """The text behind a reference or a plain URI, and its SHA-256; a `UserError` if a reference names another one."""
    path, expected = at(given), reference.parse(given).sha256
    if is_local(path) and not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
        raise UserError(f"{path} is not a regular file, as a stage writes it: remove it")
    try:
        content = path.fs.cat_file(path.path, end=LARGEST_TEXT + 1)
    except Exception as error:
        if getattr(error, "code", None) != 416:  # of an empty object, none of whose bytes can be had
            raise
        content = b""
    if len(content) > LARGEST_TEXT:
        raise UserError(f"{path} is larger than {LARGEST_TEXT:,} bytes, which no stage writes: remove it")
    digest = hashlib.sha256(content).hexdigest()
    if expected and digest != expected:
        raise UserError(f"{path} is not the file that was handed over, its SHA-256 differs: run what made it again")
    return content.decode("utf-8"), digest


def absolute(given: str) -> str:
    """A reference or plain URI that means the same in every process."""
    return str(reference.Reference(str(at(given)), reference.parse(given).sha256))


def fetch(path: UPath, digest: str | None = None) -> Path:
    """A local path with the content of ``path``: itself where it is local, else a copy kept for this process.

    The same content is copied, and hashed, once. A `UserError` if it has another SHA-256 than ``digest``, where that
    is known: so whatever opens the path opens what was verified.
    """
    if is_local(path):
        return Path(path.path) if digest is None else _verified(Path(path.path), digest)
    version = (str(path), digest or path.fs.ukey(path.path))
    if version not in _copies:
        copied = Path(tempfile.mkdtemp(dir=_fetched().name), path.name)
        path.fs.get_file(path.path, str(copied))
        if digest and sha256(copied) != digest:
            raise UserError(f"{path} was altered: run the stage that makes it again")
        _copies[version] = copied
    return _copies[version]


def fetch_named(folder: UPath, names: Collection[str]) -> UPath:
    """A local folder with the files of these names from ``folder`` and all below it, fetched many at a time.

    Objects may have any name: one that would lead out of the local folder is left where it is.
    """
    if is_local(folder):
        return folder
    copied, root = tempfile.mkdtemp(dir=_fetched().name), folder.path.rstrip("/")
    inside = {path: path.removeprefix(root).split("/")[1:] for path in folder.fs.find(folder.path)}
    found = [path for path, parts in inside.items() if parts[-1] in names and not {"", ".", ".."} & {*parts}]
    if found:
        folder.fs.get(found, ["/".join((copied, *inside[path])) for path in found])
    return at(copied)


def _verified(path: Path, digest: str) -> Path:
    """A local file whose content has this SHA-256; it is read again only if it has changed since."""
    try:
        found = path.stat()
        state = (str(path), digest, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if state not in _known:
            if not stat.S_ISREG(found.st_mode) or sha256(path) != digest:
                raise UserError(f"{path} was altered: run the stage that makes it again")
            _known.add(state)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: run the stage that makes it again") from error
    return path


_known: set[tuple[str | int, ...]] = set()
_copies: dict[tuple[str, str], Path] = {}


_making = threading.Lock()


def _fetched() -> tempfile.TemporaryDirectory[str]:
    """Where this process keeps copies of remote files; removed when it ends."""
    with _making:  # else two threads make one each, and that of the first vanishes with what it holds
        return _folder()


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="mlapp-fetch-")


def missing(path: UPath, otherwise: str) -> UserError:
    """What to say of a file that is not there: that its bucket is not, else ``otherwise``."""
    if in_gcs(path) and not gcs.has_bucket(path):
        return gcs.missing_bucket(path.path.partition("/")[0])
    return UserError(otherwise)


@contextmanager
def explained() -> Iterator[None]:
    """Turn every error of a file or a store that a user can mend into a `UserError`."""
    try:
        yield
    except Exception as error:
        if told := explain(error):
            raise told from error
        raise


NO_SPACE = "no space left for {}: free some disk space, or give another --workdir, and run again"
NO_PERMISSION = "no permission for {}: mend its permissions, or give another path"
IN_THE_WAY = "{} is in the way: a folder was expected where a file is, or the reverse; move it away"
MENDABLE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), NO_SPACE),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), NO_PERMISSION),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST, errno.EISDIR), IN_THE_WAY),
    errno.ELOOP: "{} is a link that leads nowhere, or may not stand there: remove it, or give another path",
    errno.ENAMETOOLONG: "{} is longer than a name may be: give a shorter one",
}


def explain(error: Exception) -> UserError | TryAgainError | None:
    """The one line for a disk that is full or not writable, or a store that refuses; None for what no user can mend."""
    if told := gcs.explain(error):
        return told
    if not isinstance(error, OSError):
        return None
    line = MENDABLE.get(error.errno or 0)
    return UserError(line.format(str(error.filename or "the work directory")[:1000])) if line else None
