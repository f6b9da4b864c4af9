"""What a registry holds, to be looked at: its bundles, one of them, what differs between two.

Nothing of a bundle is shown before it is verified: in a list what the list shows, else every file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from upath import UPath

from mlapp import plain, storage
from mlapp.errors import UserError, printable
from mlapp.registry import files, verified
from mlapp.registry.bundle import Manifest, whole
from mlapp.registry.judge import Judge
from mlapp.registry.keys import UNSIGNED, keyring
from mlapp.registry.pointer import BUNDLE_ID, HISTORY, POINTER, Pointer
from mlapp.registry.state import State
from mlapp.registry.verified import Figures, Scored
from mlapp.result import Metric
from mlapp.schema import NAME, Signing
from mlapp.text_table import interval, percent, table
from mlapp.vetting import gates

UNTRUSTED = "signature not trusted"
FIGURES = {
    "accuracy": "test accuracy",
    "calibration_error": "calibration error",
    "corrupted_accuracy": "corrupted images",
}


@dataclass(frozen=True)
class Row:
    """A bundle in a list: its figures, how it stands to the pointer, and how its last move is signed."""

    bundle: str
    figures: Scored
    state: str
    moves: list[dict[str, Any]]
    signed: str


@dataclass(frozen=True)
class Entry:
    """A bundle of which every file is verified, with its verdict, how it stands to the pointer and how it is signed."""

    manifest: Manifest
    verdict: dict[str, Any]
    state: str
    moves: list[dict[str, Any]]
    signed: str

    @property
    def scored(self) -> dict[str, Any]:
        """What the verdict found of this bundle's model."""
        found: dict[str, Any] = self.verdict["challenger"]
        return found


def names(registry: str) -> list[str]:
    """The models that the registry knows, by name: every folder that holds anything of one, or poses as one."""
    folder = storage.at(registry)
    return [name for name in files.names(folder) if re.fullmatch(NAME, name) and _holds_a_model(folder / name)]


def _holds_a_model(folder: UPath) -> bool:
    if storage.is_local(folder) and files.kind(folder) != files.FOLDER:
        return files.kind(folder) != files.FILE
    return any(name in (POINTER, HISTORY) or BUNDLE_ID.fullmatch(name) for name in files.names(folder))


def rows(registry: str, name: str, keys: Signing = UNSIGNED) -> list[Row | UserError]:
    """The bundles of a model, the last promoted first, those that never were at the end.

    On a disk manifest and verdict of each are verified; what is wrong with one takes its place. Of a bucket only those
    are read of which no line that counts notes the figures: what each holds today is for `verify` to say.
    """
    pointer = Pointer(registry, name)
    state = pointer.state()
    lines, own = _signed_lines(pointer.folder, state, keys), _by_bundle(state)
    signed = {move["champion"]: how for move, how in zip(state.moves, lines, strict=True)}
    known = {} if storage.is_local(pointer.folder) else _noted(state, lines)
    present = set(_ids(pointer.folder))
    ids = [bundle for bundle in reversed(own) if bundle in present] + sorted(present - set(own))
    found: list[Row | UserError] = []
    for bundle, figures in zip(ids, verified.figures(pointer.folder, ids, known), strict=True):
        if isinstance(figures, UserError):
            found.append(figures)
        elif figures:  # else it is being written, or removed
            how = signed.get(bundle, "unsigned")
            found.append(Row(bundle, figures, _state(bundle, state, own), own.get(bundle, []), how))
    return found


def find(registry: str, name: str, bundle: str | None, keys: Signing = UNSIGNED) -> Entry:
    """One bundle, by default the champion, of which every file is verified; its id may be cut short."""
    pointer = Pointer(registry, name)
    state = pointer.state()
    wanted = bundle or state.champion
    if wanted is None:
        raise UserError(f"{pointer.folder} has no champion: give --name and --registry of a promoted model")
    known = _ids(pointer.folder)
    if len(found := [each for each in known if each.startswith(wanted)]) != 1:
        told = ", ".join(found or known) or "none"
        raise UserError(f"{wanted!r} names {len(found)} bundles of {pointer.folder}: give one of {told}")
    place, own = pointer.folder / found[0], _by_bundle(state)
    manifest = whole(place)
    try:
        verdict = plain.from_json(verified.content(place, manifest).decode())
        Figures.model_validate(verdict)
    except ValueError as error:
        raise UserError(verified.unreadable(place)) from error
    signed, _ = Judge.by(pointer.folder, state.text, keyring(keys)).look(place, manifest.digest)
    return Entry(manifest, verdict, _state(place.name, state, own), own.get(place.name, []), signed)


def listed(known: list[Row | UserError]) -> str:
    """A line a bundle, and one for each that is damaged."""
    lines = [("bundle", "state", "test accuracy", "KB", "µs", "promoted", "by")]
    for row in known:
        if isinstance(row, UserError):
            continue
        scored, last = row.figures, row.moves[-1] if row.moves else {}
        figures = (percent(scored.accuracy), f"{scored.bytes / 1000:.1f}", f"{scored.latency_us.value:.0f}")
        moved = ((last.get("at") or "–")[:16], last.get("by") or "–")
        lines.append((row.bundle, f"{row.state}, {row.signed}", *figures, *moved))
    damaged = [f"damaged: {each}" for each in known if isinstance(each, UserError)]
    return "\n".join([table(lines, right=(2, 3, 4)), *damaged])


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


def _signed_lines(folder: UPath, state: State, keys: Signing) -> list[str]:
    """How each line of the history is signed."""
    if not (ring := keyring(keys)):
        return ["signature not checked" if move.get("signature") else "unsigned" for move in state.moves]
    trust = Judge.by(folder, state.text, ring).trust
    return ["signed" if trust.covers(number) else UNTRUSTED for number in range(1, len(state.moves) + 1)]


def _noted(state: State, lines: list[str]) -> dict[str, Scored]:
    """The figures that the history's lines note of each bundle, except lines that the keys do not cover."""
    return {
        move["champion"]: figures
        for move, how in zip(state.moves, lines, strict=True)
        if how != UNTRUSTED and (figures := verified.read_noted(move))
    }


def _ids(folder: UPath) -> list[str]:
    return [name for name in files.names(folder) if BUNDLE_ID.fullmatch(name)]


def _by_bundle(state: State) -> dict[str, list[dict[str, Any]]]:
    """The moves to each bundle, in the order in which each became champion last."""
    found = dict[str, list[dict[str, Any]]]()
    for move in state.moves:
        found[move["champion"]] = [*found.pop(move["champion"], []), move]
    return found


def _state(bundle: str, state: State, own: Mapping[str, object]) -> str:
    past = "former champion" if bundle in own else "never champion"
    return "champion" if bundle == state.champion else past


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
