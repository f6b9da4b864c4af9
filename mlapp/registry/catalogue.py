"""What a registry holds, to be looked at: its bundles, one of them, what differs between two.

Nothing of a bundle is shown before it is verified: in a list what the list shows, else every file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from upath import UPath

from mlapp import plain, storage
from mlapp.errors import UserError, printable
from mlapp.registry import files
from mlapp.registry.bundle import MANIFEST, Manifest, whole
from mlapp.registry.judge import Judge
from mlapp.registry.keys import UNSIGNED, keyring
from mlapp.registry.pointer import BUNDLE_ID, POINTER, Pointer
from mlapp.registry.state import State
from mlapp.result import Metric
from mlapp.schema import Signing
from mlapp.text_table import interval, percent, table
from mlapp.vetting import gates

VERDICT = "verdict.json"
FIGURES = {
    "accuracy": "test accuracy",
    "calibration_error": "calibration error",
    "corrupted_accuracy": "corrupted images",
}


@dataclass(frozen=True)
class Entry:
    """A bundle with what the verdict found, how it stands to the pointer, and how its last move is signed."""

    manifest: Manifest
    verdict: dict[str, Any]
    state: str
    moves: list[dict[str, Any]]
    signed: str = "unsigned"

    @property
    def scored(self) -> dict[str, Any]:
        """What the verdict found of this bundle's model."""
        found: dict[str, Any] = self.verdict["challenger"]
        return found


def names(registry: str) -> list[str]:
    """The models that the registry knows, by name."""
    folder = storage.at(registry)
    return [name for name in files.names(folder) if (folder / name / POINTER).exists()]


def entries(registry: str, name: str, start: str = "", keys: Signing = UNSIGNED) -> list[Entry | UserError]:
    """The bundles of a model whose ids begin with ``start``, the last promoted first, those that never were at the end.

    Of each, manifest and verdict are read and verified; what is wrong with one takes its place.
    """
    pointer = Pointer(registry, name)
    state = pointer.state()
    order = list(dict.fromkeys(move["champion"] for move in reversed(state.moves)))
    there = [each for each in files.names(pointer.folder) if BUNDLE_ID.fullmatch(each) and each.startswith(start)]
    present = set(there)
    ids = [bundle for bundle in order if bundle in present] + sorted(present - set(order))
    signed = _signed(pointer.folder, state, keys)
    read = files.read_all([pointer.folder / bundle / file for bundle in ids for file in (MANIFEST, VERDICT)])
    found: list[Entry | UserError] = []
    for bundle, manifest, verdict in zip(ids, read[::2], read[1::2], strict=True):
        if isinstance(manifest, FileNotFoundError):
            continue  # it is being written, or removed
        try:
            found.append(_entry(pointer.folder / bundle, manifest, verdict, state, signed))
        except UserError as error:
            found.append(error)
    return found


def find(registry: str, name: str, bundle: str | None, keys: Signing = UNSIGNED) -> Entry:
    """One bundle, by default the champion, of which every file is verified; its id may be cut short."""
    pointer = Pointer(registry, name)
    wanted = bundle or pointer.state().champion
    if wanted is None:
        raise UserError(f"{pointer.folder} has no champion: give --name and --registry of a promoted model")
    match entries(registry, name, wanted, keys):
        case [UserError() as error]:
            raise error
        case [Entry() as entry]:
            place = pointer.folder / entry.manifest.id
            whole(place)
            signed, _ = Judge.of(pointer.folder, keys).look(place, entry.manifest.digest)
            return Entry(entry.manifest, entry.verdict, entry.state, entry.moves, signed)
        case found:
            ids = [each for each in files.names(pointer.folder) if BUNDLE_ID.fullmatch(each)]
            told = ", ".join([each for each in ids if each.startswith(wanted)] or ids) or "none"
            raise UserError(f"{wanted!r} names {len(found)} bundles of {pointer.folder}: give one of {told}")


def listed(known: list[Entry | UserError]) -> str:
    """A line a bundle, and one for each that is damaged."""
    rows = [("bundle", "state", "test accuracy", "KB", "µs", "promoted", "by")]
    for entry in known:
        if isinstance(entry, UserError):
            continue
        scored, last = entry.scored, entry.moves[-1] if entry.moves else {}
        accuracy = percent(Metric(**scored["accuracy"]))
        figures = (accuracy, f"{scored['bytes'] / 1000:.1f}", f"{scored['latency_us']['value']:.0f}")
        state = f"{entry.state}, {entry.signed}"
        rows.append((entry.manifest.id, state, *figures, (last.get("at") or "–")[:16], last.get("by") or "–"))
    return "\n".join(
        [table(rows, right=(2, 3, 4)), *(f"damaged: {each}" for each in known if isinstance(each, UserError))]
    )


def shown(entry: Entry) -> str:
    """One bundle: what it is, its gates, how it came to be champion."""
    manifest, scored = entry.manifest, entry.scored
    with _readable(entry):
        accuracy = Metric(**scored["accuracy"])
        lines = [
            f"{manifest.name}/{manifest.id}  {entry.state}",
            f"made {manifest.created}, to replace {manifest.predecessor or 'nothing'}; serves {manifest.model}, "
            f"{scored['bytes']:,} bytes, {scored['latency_us']['value']:.0f} µs; {entry.signed}",
            f"test accuracy {percent(accuracy)} ({interval(accuracy)}, n = {accuracy.n:,})",
            "",
            *gates.listed(gates.Gate(**gate) for gate in entry.verdict["gates"]).splitlines(),
            "",
            *(
                f"{(move.get('at') or '–')[:16]}  {move.get('by') or '–'}: {move.get('why') or '–'}"
                for move in entry.moves
            ),
        ]
    return "\n".join(printable(line) for line in lines).rstrip()


def compared(first: Entry, second: Entry) -> str:
    """What differs between two bundles: figures, recall of each class, data, code."""
    ours, theirs = first.scored, second.scored
    rows: list[tuple[str, ...]] = [("", first.manifest.id, second.manifest.id)]
    with _readable(first), _readable(second):
        for name, title in FIGURES.items():
            if ours.get(name) and theirs.get(name):
                rows.append((title, *(percent(Metric(**scored[name])) for scored in (ours, theirs))))
        rows.append(("bytes", *(f"{scored['bytes']:,}" for scored in (ours, theirs))))
        rows.append(("one image", *(f"{scored['latency_us']['value']:.0f} µs" for scored in (ours, theirs))))
        if first.verdict["classes"] == second.verdict["classes"]:
            for place, name in enumerate(first.verdict["classes"]):
                recalls = (f"{100 * scored['recall'][place]['value']:.1f} %" for scored in (ours, theirs))
                rows.append((f"recall of {name}", *recalls))
        told = [table(rows, right=(1, 2)), "", *map(printable, _origins(first.manifest, second.manifest))]
    return "\n".join(told)


def _signed(folder: UPath, state: State, keys: Signing) -> dict[str, str]:
    """How the last line that names each bundle is signed."""
    trust = Judge.by(folder, state.text, ring := keyring(keys)).trust
    found = {}
    for number, move in enumerate(state.moves, start=1):
        if ring:
            found[move["champion"]] = "signed" if trust.covers(number) else "not trusted"
        else:
            found[move["champion"]] = "signature not checked" if move.get("signature") else "unsigned"
    return found


def _entry(
    place: UPath, manifest: bytes | Exception, verdict: bytes | Exception, state: State, signed: dict[str, str]
) -> Entry:
    """A bundle of which manifest and verdict are what its name says; a `UserError` if they are not."""
    for content in (manifest, verdict):
        if isinstance(content, UserError):
            raise content
    if isinstance(manifest, Exception):
        raise storage.explain(manifest) or UserError(f"bundle {place} cannot be read ({manifest}): restore it")
    made = Manifest.parse(manifest, place / MANIFEST)
    if made.id != place.name:
        raise UserError(f"{place / MANIFEST} was altered: restore the bundle from a copy")
    unreadable = UserError(f"bundle {place} has no verdict that can be read: restore it from a copy")
    if isinstance(verdict, Exception) or VERDICT not in made.files:
        raise unreadable
    if hashlib.sha256(verdict).hexdigest() != made.files[VERDICT].sha256:
        raise UserError(f"bundle {place}: {VERDICT} was altered; restore the bundle from a copy")
    try:
        content = plain.from_json(verdict.decode())
        scored = content["challenger"]
        Metric(**scored["accuracy"])
        if not isinstance(scored["bytes"] + scored["latency_us"]["value"], int | float):
            raise unreadable
    except (ValueError, KeyError, TypeError) as error:
        raise unreadable from error
    own = [move for move in state.moves if move["champion"] == place.name]
    former = "former champion" if own else "never champion"
    now = "champion" if place.name == state.champion else former
    return Entry(made, content, now, own, signed.get(place.name, "unsigned"))


@contextmanager
def _readable(entry: Entry) -> Iterator[None]:
    """A `UserError` about a bundle whose verdict or manifest is of another form than this code makes."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(
            f"bundle {entry.manifest.name}/{entry.manifest.id} holds a verdict of another version: use that one's code"
        ) from error


def _origins(first: Manifest, second: Manifest) -> list[str]:
    """Whether data and code are the same."""
    same = first.data["sha256"] == second.data["sha256"]
    codes = [
        {name.split("/")[0]: stage["code"] for name, stage in manifest.stages.items()} for manifest in (first, second)
    ]
    other = sorted(name for name in codes[0].keys() & codes[1].keys() if codes[0][name] != codes[1][name])
    return [
        f"data: {'the same' if same else 'others'}",
        f"code: {'other in ' + ', '.join(other) if other else 'the same'}",
    ]
