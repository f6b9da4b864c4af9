"""The pointer to the champion: one line in a file, moved by compare-and-swap, and the history of its moves."""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from upath import UPath

from mlapp import storage
from mlapp.errors import UserError

POINTER, HISTORY = "CHAMPION", "HISTORY.jsonl"
BUNDLE_ID = re.compile(r"[0-9a-f]{12}")


class Pointer:
    """The champion of one model name in a registry folder, local or remote.

    Processes of one machine exclude each other by a lock file; in a remote folder two that promote within the same
    moment are not told apart (that takes a precondition of the store's own).
    """

    def __init__(self, registry: str, name: str) -> None:
        self.folder = storage.at(registry) / name

    def read(self) -> str | None:
        """The id of the champion's bundle, or None before the first promotion; a `UserError` if it names no bundle."""
        path = self.folder / POINTER
        if not path.exists():
            return None
        try:
            bundle = str(path.read_text(encoding="utf-8")).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {path} ({error}): write the champion's bundle id into it") from error
        if not BUNDLE_ID.fullmatch(bundle):
            raise UserError(f"{path} names no bundle, but {bundle[:40]!r}: write the champion's bundle id into it")
        return bundle

    def swap(self, expected: str | None, new: str, entry: dict[str, Any]) -> None:
        """Point at ``new`` if the pointer still is at ``expected``, and append ``entry`` to the history.

        A `UserError` says so if it moved meanwhile; then nothing is changed.
        """
        with self._locked():
            if (present := self.read()) != expected:
                raise UserError(
                    f"the champion changed meanwhile (from {expected} to {present}): run the DAG again, so that the "
                    "challenger is vetted against the present one"
                )
            storage.write_text(self.folder / POINTER, f"{new}\n")
            self._append(new, expected, entry)

    def remember(self, champion: str, before: str | None, entry: dict[str, Any]) -> None:
        """Append the present champion's ``entry`` to the history where a kill in the middle of `swap` left it out."""
        with self._locked():
            if champion not in (move["champion"] for move in self.history()):
                self._append(champion, before, entry)

    def history(self) -> list[dict[str, Any]]:
        """All moves of the pointer, the oldest first."""
        path = self.folder / HISTORY
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:
            raise UserError(f"{path} is not a history of promotions: restore it from a copy") from error

    def _append(self, champion: str, before: str | None, entry: dict[str, Any]) -> None:
        moves = [*self.history(), {"champion": champion, "before": before, **entry}]
        storage.write_text(self.folder / HISTORY, "".join(f"{json.dumps(move)}\n" for move in moves))

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
