"""Move the pointer by hand: to an earlier bundle, or back to the champion's predecessor.

Nothing is deleted, and the history keeps who moved it and why. A model that was rolled back stays out: a later run with
the same model holds it, unless promoted with --again true.
"""

from __future__ import annotations

import getpass
import platform
from datetime import UTC, datetime
from typing import Any

from mlapp.errors import UserError
from mlapp.registry.bundle import UNSIGNED, Manifest, verify
from mlapp.registry.pointer import BUNDLE_ID, Pointer, manifest_of
from mlapp.schema import Signing


def rollback(
    registry: str,
    name: str,
    to: str | None = None,
    *,
    by: str | None = None,
    why: str = "rolled back",
    keys: Signing = UNSIGNED,
) -> tuple[str, str]:
    """Point at bundle ``to``, or at the champion's predecessor; returns the former champion's id and the new one's.

    A `UserError` if there is no such bundle, if it was altered, or if the champion changes at the same moment.
    """
    pointer = Pointer(registry, name)
    present = pointer.read()
    if present is None:
        raise UserError(f"{pointer.folder} has no champion: give --name and --registry of a promoted model")
    target = to or _predecessor(registry, name, present)
    manifest = verify(pointer.folder / bundle_named(pointer, target), keys)
    if target != present:
        pointer.swap(present, target, entry(by, why, manifest.model_sha256) | {"rollback": True})
    return present, target


def bundle_named(pointer: Pointer, name: str) -> str:
    """The id of a bundle that exists; a `UserError` tells those that do."""
    if not BUNDLE_ID.fullmatch(name):
        raise UserError(f"{name!r} is no bundle's id: give one of {_bundles(pointer)}")
    if not (pointer.folder / name).is_dir():
        raise UserError(f"there is no bundle {pointer.folder / name}: give one of {_bundles(pointer)}")
    return name


def entry(by: str | None, why: str, model: str) -> dict[str, Any]:
    """What the history tells of a move: when, by whom (by default the user and the machine), why, which model."""
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    return {"at": moment, "by": by or f"{getpass.getuser()} on {platform.node()}", "why": why, "model": model}


def _predecessor(registry: str, name: str, champion: str) -> str:
    path = manifest_of(registry, name, champion)
    before = Manifest.load(path).predecessor if path else None
    if before is None:
        raise UserError(f"{name}: the champion {champion} has no predecessor: give a bundle's id")
    return before


def _bundles(pointer: Pointer) -> str:
    """Every bundle that was champion once, the latest first."""
    return ", ".join(dict.fromkeys(str(move["champion"]) for move in reversed(pointer.history()))) or "those that exist"
