"""The pointer to the champion: one line in a file, moved by compare-and-swap, and the history of its moves."""

from __future__ import annotations

import fcntl
import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from upath import UPath

from mlapp import gcs, storage
from mlapp.errors import UserError
from mlapp.registry import history

POINTER, HISTORY, LOCK = "CHAMPION", "HISTORY.jsonl", ".lock"
POINTED = "pointer_version"
BUNDLE_ID = re.compile(r"[0-9a-f]{12}")


class Pointer:
    """The champion of one model name in a registry folder, local or in Cloud Storage.

    A move is written into the history first, with the version of the pointer that it moves: where a kill came between,
    the next move finishes it, and a pointer that somebody wrote by hand, of another version, is left alone. On a disk a
    lock file keeps other processes away. In Cloud Storage each of the two objects is written only if it is still of the
    generation that was read: of several that promote at once, one wins.
    """

    def __init__(self, registry: str, name: str) -> None:
        self.folder = storage.at(registry) / name

    def read(self) -> str | None:
        """The id of the champion's bundle, or None before the first promotion; a `UserError` if it names no bundle."""
        return self._read()[0]

    def swap(
        self, expected: str | None, new: str, entry: dict[str, Any], sign: Callable[[str], str] | None = None
    ) -> None:
        """Point at ``new`` if the pointer still is at ``expected``, with ``entry`` as the history's next line.

        ``sign`` makes a signature of that line. A `UserError` says so if it moved meanwhile; then nothing is changed.
        """
        with self._locked():
            text, noted, present, version = self._settled()
            move = {"champion": new, "before": expected, POINTED: version, **entry}
            if present != expected or not _replace(self.folder / HISTORY, history.appended(text, move, sign), noted):
                raise UserError(
                    f"the champion changed meanwhile (from {expected} to {self.read()}): run the DAG again, so that "
                    "the challenger is vetted against the present one"
                )
            # If it is of another version by now, another process has settled this very move.
            _replace(self.folder / POINTER, f"{new}\n", version)

    def settle(self) -> str | None:
        """Finish a move that was cut off between its line in the history and the pointer; returns the champion."""
        with self._locked():
            return self._settled()[2]

    def history(self) -> list[dict[str, Any]]:
        """All moves of the pointer, the oldest first; a `UserError` if the file was tampered with."""
        return history.moves(self.history_text(), self.folder / HISTORY)

    def history_text(self) -> str:
        """The history as it stands in its file."""
        return self._history()[0]

    def _read(self) -> tuple[str | None, int]:
        """The champion's bundle id, and the version of the file that names it."""
        path = self.folder / POINTER
        try:
            text, version = _read_version(path)
        except (OSError, UnicodeDecodeError) as error:
            told = f"cannot read {path} ({error}): write the champion's bundle id into it"
            raise storage.explain(error) or UserError(told) from error
        bundle = None if text is None else text.strip()
        if bundle is not None and not BUNDLE_ID.fullmatch(bundle):
            raise UserError(f"{path} names no bundle, but {bundle[:40]!r}: write the champion's bundle id into it")
        return bundle, version

    def _history(self) -> tuple[str, int]:
        path = self.folder / HISTORY
        try:
            text, version = _read_version(path)
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not a history of promotions: restore it from a copy") from error
        return text or "", version

    def _settled(self) -> tuple[str, int, str | None, int]:
        """The history's text and version, the champion and the pointer's version, of one moment.

        The history is read first: what moves after that gives it another version, and so is noticed.
        """
        text, noted = self._history()
        present, version = self._read()
        [last] = history.moves(text, self.folder / HISTORY)[-1:] or [{}]
        if last.get(POINTED) == version and present != last["champion"]:
            _replace(self.folder / POINTER, f"{last['champion']}\n", version)
            present, version = self._read()
        return text, noted, present, version

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if not storage.is_local(self.folder):
            yield
            return
        folder = Path(self.folder.path)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOCK).open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            for left in folder.glob(f".*{storage.DRAFT}"):
                left.unlink()
            yield


def _read_version(path: UPath) -> tuple[str | None, int]:
    """The text of a file and its version, for `_replace`; None and 0 where there is no file.

    In Cloud Storage the version is the generation; on a disk it is made of the content, the inode and the time of the
    last change, of which one differs even if somebody brings an old file back.
    """
    if storage.in_gcs(path):
        return gcs.read(path)
    if not path.exists():
        return None, 0
    text = storage.read_text(path)
    if not storage.is_local(path):
        return text, 0
    found = path.stat()
    return text, int(hashlib.sha256(f"{found.st_ino} {found.st_mtime_ns} {text}".encode()).hexdigest()[:12], 16)


def _replace(path: UPath, text: str, version: int) -> bool:
    """Write a file if it still is of this version, and whether it was; on a disk the lock sees to that."""
    if storage.in_gcs(path):
        return gcs.replace(path, text, version)
    storage.write_text(path, text)
    return True


def manifest_of(registry: str, name: str, bundle: str | None) -> UPath | None:
    """Where the manifest of a bundle lies; a `UserError` if the registry lacks it."""
    if bundle is None:
        return None
    path = storage.at(registry) / name / bundle / "manifest.json"
    if not path.exists():
        raise UserError(
            f"{path} is missing, though the registry names bundle {bundle}: restore it, or move the pointer"
        )
    return path
