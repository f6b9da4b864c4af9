"""What a registry holds, to be looked at: its bundles, one of them, what differs between two, whether all is whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from upath import UPath

from mlapp import plain, storage
from mlapp.errors import UserError
from mlapp.registry import history, signature
from mlapp.registry.bundle import MANIFEST, UNSIGNED, Manifest, verify
from mlapp.registry.pointer import BUNDLE_ID, HISTORY, POINTER, Pointer
from mlapp.result import Metric
from mlapp.schema import Signing
from mlapp.text_table import interval, percent, table
from mlapp.vetting import gates

FIGURES = {
    "accuracy": "test accuracy",
    "calibration_error": "calibration error",
    "corrupted_accuracy": "corrupted images",
}


@dataclass(frozen=True)
class Entry:
    """A bundle with what the verdict found, and how it stands to the pointer."""

    manifest: Manifest
    verdict: dict[str, Any]
    state: str
    moves: list[dict[str, Any]]

    @property
    def scored(self) -> dict[str, Any]:
        """What the verdict found of this bundle's model."""
        found: dict[str, Any] = self.verdict["challenger"]
        return found


def names(registry: str) -> list[str]:
    """The models that the registry knows, by name."""
    folder = storage.at(registry)
    return sorted(path.name for path in folder.iterdir() if (path / POINTER).exists()) if folder.exists() else []


def entries(registry: str, name: str, start: str = "") -> list[Entry]:
    """The bundles of a model whose ids begin with ``start``, the last promoted first, those that never were at the end.

    Only their files are read.
    """
    pointer = Pointer(registry, name)
    champion, moves = pointer.read(), pointer.history()
    order = list(dict.fromkeys(move["champion"] for move in reversed(moves)))
    present = _bundles(pointer)
    ids = [bundle for bundle in order if bundle in present] + sorted(present - set(order))
    return [_entry(pointer.folder / bundle, champion, moves) for bundle in ids if bundle.startswith(start)]


def find(registry: str, name: str, bundle: str | None) -> Entry:
    """One bundle, by default the champion; its id may be cut short."""
    pointer = Pointer(registry, name)
    wanted = bundle or pointer.read()
    if wanted is None:
        raise UserError(f"{pointer.folder} has no champion: give --name and --registry of a promoted model")
    match entries(registry, name, wanted):
        case [entry]:
            return entry
        case found:
            told = ", ".join(entry.manifest.id for entry in found or entries(registry, name)) or "none"
            raise UserError(f"{wanted!r} names {len(found)} bundles of {pointer.folder}: give one of {told}")


def listed(known: list[Entry]) -> str:
    """A line a bundle."""
    rows = [("bundle", "state", "test accuracy", "KB", "µs", "promoted", "by")]
    for entry in known:
        scored, last = entry.scored, entry.moves[-1] if entry.moves else {}
        accuracy = percent(Metric(**scored["accuracy"]))
        figures = (accuracy, f"{scored['bytes'] / 1000:.1f}", f"{scored['latency_us']['value']:.0f}")
        rows.append((entry.manifest.id, entry.state, *figures, last.get("at", "–")[:16], last.get("by", "–")))
    return table(rows, right=(2, 3, 4))


def shown(entry: Entry) -> str:
    """One bundle: what it is, its gates, how it came to be champion."""
    manifest, scored = entry.manifest, entry.scored
    accuracy = Metric(**scored["accuracy"])
    lines = [
        f"{manifest.name}/{manifest.id}  {entry.state}",
        f"made {manifest.created}, to replace {manifest.predecessor or 'nothing'}; serves {manifest.model}, "
        f"{scored['bytes']:,} bytes, {scored['latency_us']['value']:.0f} µs",
        f"test accuracy {percent(accuracy)} ({interval(accuracy)}, n = {accuracy.n:,})",
        "",
        gates.listed(gates.Gate(**gate) for gate in entry.verdict["gates"]),
        "",
        *(f"{move['at'][:16]}  {move.get('by', '–')}: {move.get('why', '–')}" for move in entry.moves),
    ]
    return "\n".join(lines).rstrip()


def compared(first: Entry, second: Entry) -> str:
    """What differs between two bundles: figures, recall of each class, data, code."""
    ours, theirs = first.scored, second.scored
    rows: list[tuple[str, ...]] = [("", first.manifest.id, second.manifest.id)]
    for name, title in FIGURES.items():
        if ours.get(name) and theirs.get(name):
            rows.append((title, *(percent(Metric(**scored[name])) for scored in (ours, theirs))))
    rows.append(("bytes", *(f"{scored['bytes']:,}" for scored in (ours, theirs))))
    rows.append(("one image", *(f"{scored['latency_us']['value']:.0f} µs" for scored in (ours, theirs))))
    if first.verdict["classes"] == second.verdict["classes"]:
        for place, name in enumerate(first.verdict["classes"]):
            recalls = (f"{100 * scored['recall'][place]['value']:.1f} %" for scored in (ours, theirs))
            rows.append((f"recall of {name}", *recalls))
    return "\n".join([table(rows, right=(1, 2)), "", *_origins(first.manifest, second.manifest)])


def damage(registry: str, name: str, keys: Signing = UNSIGNED) -> list[str]:
    """Everything that is wrong with a model's part of the registry, a line each; nothing where all is whole."""
    pointer = Pointer(registry, name)
    found = []
    try:
        champion, text = pointer.read(), pointer.history_text()
        moves = history.moves(text, pointer.folder / HISTORY)
    except UserError as error:
        return [str(error)]
    if (last := moves[-1]["champion"] if moves else None) != champion:
        found.append(f"the pointer names {champion}, the history ends with {last}: run the promotion again, or restore")
    present = _bundles(pointer)
    for bundle in sorted(present):
        try:
            found += _wrong(pointer, verify(pointer.folder / bundle, keys), text, moves)
        except UserError as error:
            found.append(str(error))
    if keys.public_key and moves:
        try:
            what = f"the last line of {pointer.folder / HISTORY}"
            signature.check_text(*history.end(text), keys.public_key, what)
        except UserError as error:
            found.append(str(error))
    gone = {move["champion"] for move in moves} - present
    return found + [f"bundle {pointer.folder / bundle} is gone: restore it from a copy" for bundle in sorted(gone)]


def _bundles(pointer: Pointer) -> set[str]:
    """The ids of the bundles there are; a folder without a manifest is one that is being written, or removed."""
    places = [path for path in pointer.folder.iterdir() if BUNDLE_ID.fullmatch(path.name)]
    return {path.name for path in places if (path / MANIFEST).exists()}


def _wrong(pointer: Pointer, manifest: Manifest, text: str, moves: list[dict[str, Any]]) -> list[str]:
    """How a bundle that is whole in itself does not fit its place and the history."""
    found = []
    if manifest.name != pointer.folder.name:
        found.append(f"bundle {pointer.folder / manifest.id} is one of {manifest.name}: remove it")
    if not history.holds(text, manifest.history):
        found.append(f"{pointer.folder} lacks the history that bundle {manifest.id} followed: restore it")
    told = [move for move in moves if move["champion"] == manifest.id]
    if any(move.get("manifest", manifest.digest) != manifest.digest for move in told):
        found.append(f"bundle {pointer.folder / manifest.id} is not the one that was promoted: restore it from a copy")
    return found


def _entry(place: UPath, champion: str | None, moves: list[dict[str, Any]]) -> Entry:
    manifest = Manifest.load(place / MANIFEST)
    try:
        verdict = plain.from_json(storage.read_text(place / "verdict.json"))
    except (OSError, ValueError) as error:
        raise UserError(f"bundle {place} has no verdict that can be read: restore it from a copy") from error
    own = [move for move in moves if move["champion"] == place.name]
    former = "former champion" if own else "never champion"
    return Entry(manifest, verdict, "champion" if place.name == champion else former, own)


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
