"""Where a stage works: its work directory itself, or a scratch folder that stands for a remote one.

A machine can be taken away in the middle of a remote work: what a stage's body says to `keep`, its checkpoints, is
copied beside the future result and brought back by anyone who starts the same work again. It goes when the result is
written. Two machines may work for the same remote work directory at once, as nothing locks there: each kept folder is
one object, whole and of one of them; their results are of the same key, and the last one written stands. Only what
such a work has kept itself is brought back (`mlapp.ledger`): nobody else's weights are trained on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import socket
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from upath import UPath

from mlapp import ledger, storage
from mlapp.errors import UserError
from mlapp.spending import SPENT, Spending

log = logging.getLogger("mlapp")
KEPT, OWNER, ARCHIVE = "kept", "worker.json", ".tar"
SHARE = 0.1  # of the time, at most, that goes into keeping


class Workspace:
    """The local folder that a stage's body works in, and the work directory it is for."""

    def __init__(self, local: Path, workdir: UPath, resumes: bool = True) -> None:
        self.local, self.workdir, self.resumes = local, workdir, resumes
        self.remote = not storage.is_local(workdir)
        self.key, self.fresh = "", False
        self._next: dict[Path, float] = {}
        self._waiting: dict[Path, str] = {}
        self._kept: set[UPath] = set()
        self._folders: set[Path] = set()

    def resume(self, key: str, fresh: bool = False) -> Spending:
        """Bring back what an attempt that broke off has kept, and say in the work directory who works there now.

        Work that is to be done from the beginning (``fresh``) takes up none of it. Returns what the work of this
        ``key`` has cost so far.
        """
        self.key, self.fresh = key, fresh
        self._spending = Spending((self.workdir / KEPT if self.remote else self.workdir) / SPENT, key)
        if self.remote:
            self._take_over()
        else:
            for draft in self.local.rglob(f".*{storage.DRAFT}"):  # of a kill in the middle of `storage.atomic_file`
                draft.unlink()
            self._take_up(self._spending.note)
        return self._spending

    def keep(self, folder: Path, pattern: str) -> None:
        """Copy the files of ``folder`` that fit ``pattern``, unless that was done so lately that it costs too much.

        Where the work directory is local, they are kept as they lie, and what they cost is noted.
        """
        if not self.remote:
            self._folders.add(folder)
            self._spending.write()
            return
        self._waiting[folder] = pattern
        if time.monotonic() >= self._next.get(folder, 0.0):
            self._copy(folder)

    def leave(self) -> None:
        """Leave unfinished work to the next start: copy what was not lately, and no note of what is there no more."""
        for folder in [*self._waiting]:
            self._copy(folder)
        if self._folders and not any(folder.exists() for folder in self._folders):
            storage.remove(self._spending.note)

    def forget(self) -> None:
        """Remove what was kept: the result stands."""
        for kept in self._kept:
            storage.remove(kept)
        if any(kept.suffix == ARCHIVE for kept in self._kept):
            ledger.forget_kept(self.key)
        self._kept.clear()
        self._waiting.clear()

    def _copy(self, folder: Path) -> None:
        began = time.monotonic()
        target = self.workdir / KEPT / f"{folder.relative_to(self.local)}{ARCHIVE}"
        files = sorted(folder.glob(self._waiting.pop(folder)))
        try:
            self._spending.write()
            self._kept.add(self._spending.note)
            with storage.atomic_file(target) as draft:
                with tarfile.open(draft, "w") as archive:
                    for path in files:
                        archive.add(path, path.name)
                ledger.enter_kept(self.key, storage.sha256(draft))  # first: a kill in between leaves a known one there
        except Exception as error:  # a store that does not answer for a while ends no training
            log.warning("not kept for another start, %s: %s", target, storage.explain(error) or repr(error))
        else:
            self._kept.add(target)
        now = time.monotonic()
        self._next[folder] = now + (now - began) / SHARE

    def _take_over(self) -> None:
        place = self.workdir / KEPT
        for name in sorted(place.fs.find(place.path)) if self.resumes else ():
            kept = place / name.removeprefix(f"{place.path}/")
            with suppress(FileNotFoundError):  # another machine got its result in this moment
                self._take_up(kept)
        here = {"host": f"{socket.gethostname()}:{os.getpid()}", "at": datetime.now(UTC).isoformat(timespec="seconds")}
        storage.write_text(place / OWNER, json.dumps(here))
        self._kept.add(place / OWNER)

    def _take_up(self, kept: UPath) -> None:
        self._kept.add(kept)
        if kept == self._spending.note:
            self._spending.take_up()
            return
        if kept.suffix != ARCHIVE:
            content = kept.fs.cat_file(kept.path)[:200].decode(errors="replace")
            log.info("another process began this: %s", ascii(content))
            return
        fetched = storage.fetch(kept)
        if not ledger.knows_kept(self.key, storage.sha256(fetched)):
            log.warning("%s is not known to be the project's own: it is not used", kept)
            return
        folder = str(kept.path).removeprefix(f"{(self.workdir / KEPT).path}/").removesuffix(ARCHIVE)
        if not _is_inside(folder):
            raise UserError(f"{kept} leads out of the work directory, as nothing that a stage keeps: remove it")
        try:
            with tarfile.open(fetched, "r:") as archive:  # never a compressed one, which could hold any amount
                # Filters do this better, but Python 3.11.2, which is Debian's, knows none.
                members = archive.getmembers()
                if odd := [member.name for member in members if not _is_plain(member)]:
                    raise UserError(f"{kept} holds {odd[0]!r}, which no stage has kept: remove it")
                archive.extractall(self.local / folder, members)  # noqa: S202 - each was looked at
        except (tarfile.TarError, ValueError, EOFError) as error:
            raise UserError(f"{kept} is not an archive that a stage has kept ({error}): remove it") from error


def _is_plain(member: tarfile.TarInfo) -> bool:
    """Whether a member is a file or a folder inside the folder that it is unpacked to, no larger than the archive."""
    return (member.isfile() or member.isdir()) and not member.issparse() and _is_inside(member.name)


def _is_inside(name: str) -> bool:
    return not {"/", ".."} & {*PurePosixPath(name).parts} and "\0" not in name


@contextmanager
def workspace(workdir: UPath, *, resumes: bool = True) -> Iterator[Workspace]:
    """A place to work in: ``workdir`` itself where it is local, else a scratch folder removed afterwards.

    What an earlier try kept in a remote one is only taken up by work that ``resumes``. Nothing says whose it is, so
    that must be work whose result is judged by others: models are vetted, data are not.
    """
    place = Workspace(_folder(workdir), workdir, resumes)
    _open.append(place)
    try:
        yield place
    except BaseException:
        place.leave()
        raise
    finally:
        _open.remove(place)
        if place.remote:
            shutil.rmtree(place.local)


def _folder(workdir: UPath) -> Path:
    if not storage.is_local(workdir):
        return Path(tempfile.mkdtemp(prefix="mlapp-work-"))
    folder = Path(workdir.path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"cannot make the work directory {folder} ({reason}): give another --workdir") from error
    return folder


def unfinished(parent: Path, name: str, prefix: str = "") -> Path:
    """The folder in ``parent`` for the unfinished work of this name: only a start of the same key finds it again.

    A work directory may be given to work of another key, on other data or by other code.
    """
    places = [place for place in _open if parent.is_relative_to(place.local)]
    told = json.dumps([name, *(place.key for place in places)])
    folder = parent / f"{prefix}{hashlib.sha256(told.encode()).hexdigest()[:12]}"
    if any(place.fresh for place in places) and folder.exists():
        shutil.rmtree(folder)
    return folder


def keep(folder: Path, pattern: str = "*") -> None:
    """Have the next start of this work find the files of ``folder`` as they are now, on whatever machine it is.

    To be called when they are consistent. What the work has cost until now is noted beside them.
    """
    for place in _open:
        if folder.is_relative_to(place.local):
            place.keep(folder, pattern)


def publish(path: Path) -> UPath:
    """Make a report on why the work is refused outlast it, beside the result to be; returns where a reader finds it."""
    for place in _open:
        if place.remote and path.is_relative_to(place.local):
            target = place.workdir / str(path.relative_to(place.local))
            storage.copy(storage.at(path), target)
            return target
    return storage.at(path)


_open: list[Workspace] = []
