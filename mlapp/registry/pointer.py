"""The pointer to the champion: one line in a file, moved by compare-and-swap, and the history of its moves."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from upath import UPath

from mlapp import gcs, storage
from mlapp.errors import UserError
from mlapp.registry import history

POINTER, HISTORY = "CHAMPION", "HISTORY.jsonl"
BUNDLE_ID = re.compile(r"[0-9a-f]{12}")


class Pointer:
    """The champion of one model name in a registry folder, local or in Cloud Storage.

    The pointer is the truth, the history tells how it came there. On a disk a lock file keeps other processes away. In
    Cloud Storage each of the two objects is written only if it is still of the generation that was read: of several
    that promote at once one wins, and none loses another's line of the history.
    """

    def __init__(self, registry: str, name: str) -> None:
        self.folder = storage.at(registry) / name

    def read(self) -> str | None:
        """The id of the champion's bundle, or None before the first promotion; a `UserError` if it names no bundle."""
        return self._read()[0]

    def swap(self, expected: str | None, new: str, entry: dict[str, Any]) -> None:
        """Point at ``new`` if the pointer still is at ``expected``, and append ``entry`` to the history.

        A `UserError` says so if it moved meanwhile; then nothing is changed.
        """
        with self._locked():
            present, version = self._read()
            if present != expected or not _replace(self.folder / POINTER, f"{new}\n", version):
                raise UserError(
                    f"the champion changed meanwhile (from {expected} to {self.read()}): run the DAG again, so that "
                    "the challenger is vetted against the present one"
                )
            self._append(new, expected, entry)

    def remember(self, champion: str, before: str | None, entry: dict[str, Any]) -> None:
        """Append the present champion's ``entry`` to the history where a kill in the middle of `swap` left it out."""
        with self._locked():
            if champion not in (move["champion"] for move in self.history()):
                self._append(champion, before, entry)

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

    def _append(self, champion: str, before: str | None, entry: dict[str, Any]) -> None:
        """Add a move; again on top of what another process added meanwhile."""
        written = False
        while not written:
            text, version = self._history()
            more = history.appended(text, {"champion": champion, "before": before, **entry})
            written = _replace(self.folder / HISTORY, more, version)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if not storage.is_local(self.folder):
            yield
            return
        folder = Path(self.folder.path)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            for left in folder.glob(f".*{storage.DRAFT}"):
                left.unlink()
            yield


def _read_version(path: UPath) -> tuple[str | None, int]:
    """The text of a file and its version, for `_replace`; None and 0 where there is no file."""
    if storage.in_gcs(path):
        return gcs.read(path)
    return (storage.read_text(path) if path.exists() else None), 0


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
