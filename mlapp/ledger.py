"""What this project made itself: the hash of each result and checkpoint, where who writes models and data cannot write.

A result's key is a hash of public things, so anyone who can write to a bucket can plant a result of the right key, with
files of his own, or a checkpoint whose weights are his. So what lies in a bucket is only reused if it was entered here
when it was made. Files on local disks need no entry: who writes there can change the code as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from upath import UPath

from mlapp import storage
from mlapp.result import StageResult

KEPT = "kept"
FOLDER = ".mlapp"  # in the experiments area, beside the runs' folders; a run's name never begins with a dot

_area: ContextVar[str | None] = ContextVar("ledger", default=None)


@contextmanager
def kept_in(experiments: str) -> Iterator[None]:
    """Know results and checkpoints by the entries in this experiments area, inside."""
    token = _area.set(experiments)
    try:
        yield
    finally:
        _area.reset(token)


def enter(result: StageResult) -> None:
    """Enter a result that was computed just now; outside `kept_in` nothing is entered, and nothing is known."""
    if entry := _entry(result):
        storage.write_text(entry, f"{result.reference}\n")


def knows(result: StageResult) -> bool:
    """Whether this very result was entered."""
    entry = _entry(result)
    return entry is not None and entry.exists()


def enter_kept(key: str, sha256: str) -> None:
    """Enter what an unfinished work of this key is about to keep for its next start."""
    if entry := _kept(key, sha256):
        storage.write_text(entry, f"{key}\n")


def knows_kept(key: str, sha256: str) -> bool:
    """Whether an earlier start of the work of this key has kept just this."""
    entry = _kept(key, sha256)
    return entry is not None and entry.exists()


def forget_kept(key: str) -> None:
    """Remove the entries of what a work of this key has kept: it is done."""
    folder = _kept(key)
    if folder and folder.exists():
        folder.fs.rm(folder.path, recursive=True)


def _entry(result: StageResult) -> UPath | None:
    area = _area.get()
    if area is None or result.sha256 is None:
        return None
    return storage.at(area) / FOLDER / "results" / result.stage / result.key[:16] / result.sha256


def _kept(key: str, *sha256: str) -> UPath | None:
    area = _area.get()
    return storage.at(area).joinpath(FOLDER, KEPT, key[:16], *sha256) if area else None
