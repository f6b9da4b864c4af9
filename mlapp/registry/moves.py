"""Move the pointer by hand: to an earlier bundle, or back to the champion's predecessor.

Nothing is deleted, and the history keeps who moved it and why. A model that was rolled back stays out: a later run with
the same model holds it, unless promoted with --again true.
"""

from __future__ import annotations

import getpass
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from upath import UPath

from mlapp.errors import UserError, printable
from mlapp.registry import trust, verified
from mlapp.registry.bundle import Manifest, verify
from mlapp.registry.keys import UNSIGNED, keyring
from mlapp.registry.pointer import BUNDLE_ID, HISTORY, Pointer
from mlapp.registry.signing import UNABLE_TO_SIGN
from mlapp.schema import Signing

REQUEST = "request"


def rollback(
    registry: str,
    name: str,
    to: str | None = None,
    *,
    by: str | None = None,
    why: str = "rolled back",
    request: str | None = None,
    keys: Signing = UNSIGNED,
) -> tuple[str, str]:
    """Point at bundle ``to``, or at the champion's predecessor; returns the former champion's id and the new one's.

    A ``request`` that the history's last move answered is not answered twice: who was killed may ask again. A
    `UserError` if there is no such bundle, if it was never champion, if it was altered, if the keys do not vouch for it
    or for the history, or if the champion changes at the same moment.
    """
    given = reason(by, why)
    pointer = Pointer(registry, name)
    if pointer.read() is None and not pointer.history_text():
        raise UserError(f"{pointer.folder} has no champion: give --name and --registry of a promoted model")
    present, moves = pointer.settle(keys), pointer.history()
    if request and moves and moves[-1].get(REQUEST) == request:
        return moves[-1]["before"], moves[-1]["champion"]
    target = to or _predecessor(name, present, moves)
    place = pointer.folder / bundle_named(pointer, target)
    manifest = verify(place, keys)
    if manifest.name != name or target not in {move["champion"] for move in moves}:
        raise UserError(f"{place} was never champion of {name}: give one of {_bundles(pointer)}")
    if any(move.get("manifest", manifest.digest) != manifest.digest for move in moves if move["champion"] == target):
        raise UserError(f"bundle {place} is not the one that was promoted: restore it from a copy")
    if target != present:
        asked = {REQUEST: request} if request else {}
        pointer.swap(present, target, {**given, **about(place, manifest), "rollback": True, **asked}, keys)
    return str(present), target


def check(registry: str, name: str, keys: Signing = UNSIGNED) -> None:
    """A `UserError` if no promotion could be filed now, whatever is promoted: to be known before hours of training.

    Writes nothing, and does not fetch the private key.
    """
    pointer = Pointer(registry, name)
    if keys.public_key and not keys.private_key:
        raise UserError(UNABLE_TO_SIGN)
    while True:
        state = pointer.state()
        try:
            trust.check(pointer.folder, state.text, pointer.folder / HISTORY, keyring(keys))
            state.check(pointer.folder)
        except UserError:
            if pointer.history_text() == state.text:
                raise
            continue  # somebody moved the pointer while we looked
        return


def bundle_named(pointer: Pointer, name: str) -> str:
    """The id of a bundle that exists; a `UserError` tells those that do."""
    if not BUNDLE_ID.fullmatch(name):
        raise UserError(f"{name!r} is no bundle's id: give one of {_bundles(pointer)}")
    if not (pointer.folder / name).is_dir():
        raise UserError(f"there is no bundle {pointer.folder / name}: give one of {_bundles(pointer)}")
    return name


def entry(by: str | None, why: str, place: UPath, manifest: Manifest) -> dict[str, Any]:
    """What the history says of a move: when, by whom (by default the user and the machine), why, to which bundle."""
    return {**reason(by, why), **about(place, manifest)}


def about(place: UPath, manifest: Manifest) -> dict[str, Any]:
    """What the history says of a bundle: its hashes, and the figures that a list shows of it."""
    return {"model": manifest.model_sha256, "manifest": manifest.digest, **verified.noted(place, manifest)}


def reason(by: str | None, why: str) -> dict[str, Any]:
    """When, by whom and why, as a line of the history has it: escaped. A `UserError` if no reason is given."""
    if not any(each.isprintable() and not each.isspace() for each in why):
        raise UserError("the reason is empty: say why in a few words, for the history")
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": printable(by or f"{getpass.getuser()} on {platform.node()}"),
        "why": printable(why),
    }


def _predecessor(name: str, champion: str | None, moves: Sequence[dict[str, Any]]) -> str:
    """Whom the champion replaced when it first was one; not asked of its own bundle, which may be damaged."""
    own = (move["before"] for move in moves if move["champion"] == champion)
    before = next((former for former in own if former != champion), None)
    if before is None:
        raise UserError(f"{name}: the champion {champion} has no predecessor: give a bundle's id")
    return str(before)


def _bundles(pointer: Pointer) -> str:
    """Every bundle that was champion once, the latest first."""
    return ", ".join(dict.fromkeys(str(move["champion"]) for move in reversed(pointer.history()))) or "those that exist"
