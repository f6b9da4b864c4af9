"""The pointer to the champion: one line in a file, moved by compare-and-swap, and the history of its moves."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from upath import UPath

from mlapp import storage
from mlapp.errors import UserError

POINTER, HISTORY = "CHAMPION", "HISTORY.jsonl"


class Pointer:
    """The champion of one model name in a registry folder."""

    def __init__(self, registry: str, name: str) -> None:
        self.folder = storage.at(registry) / name

    def read(self) -> str | None:
        """The id of the champion's bundle, or None before the first promotion."""
        path = self.folder / POINTER
        return path.read_text(encoding="utf-8").strip() or None if path.exists() else None

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
            with self._local(HISTORY).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"champion": new, "before": expected, **entry}) + "\n")

    def history(self) -> list[dict[str, Any]]:
        """All moves of the pointer, the oldest first."""
        path = self.folder / HISTORY
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._local(".lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def _local(self, name: str) -> Path:
        if not storage.is_local(self.folder):
            raise UserError(f"the registry {self.folder} is not local: promotion works on local folders")
        path = Path(self.folder.path)
        path.mkdir(parents=True, exist_ok=True)
        return path / name


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
