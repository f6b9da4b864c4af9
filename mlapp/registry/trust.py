"""Which lines of a history, and which bundles, the operator's keys vouch for.

Every line must be signed by a key that is in force there. At first all keys of signing.public_key are. A line of
*rotate*, signed by one of them, puts the key that it names in force and retires the others; *revoke* retires the key
that it names; *adopt* takes over a history that is not signed. Adopt and revoke vouch for every line before them, by
the hash of the history up to there, so that a revoked key can be taken out of signing.public_key. A bundle that a
retired key signed counts only if the history named it before.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from upath import UPath

from mlapp import plain
from mlapp.errors import UserError
from mlapp.registry import files, history, signature
from mlapp.registry.keys import Keyring

EVENT, KEY, NAME, LOST, BEFORE = "event", "key", "name", "lost", "history"
ADOPT, ROTATE, REVOKE = "adopt", "rotate", "revoke"


@dataclass(frozen=True)
class Trust:
    """What the keys say of a history: who signed each line, which keys are in force, and what is wrong, if anything."""

    signers: Sequence[str | None]
    vouched: int
    in_force: frozenset[str]
    retired: dict[str, int]
    revoked: frozenset[str]
    named: dict[str, int]
    problem: str = ""

    def covers(self, number: int) -> bool:
        """Whether this line, counted from 1, is signed, or taken over by one that is."""
        return number <= self.vouched or self.signers[number - 1] is not None

    def check_signer(self, signer: str, digest: str) -> None:
        """A `ValueError` if this key's signature does not count for the bundle whose manifest has this digest."""
        since = self.retired.get(signer, 0)
        if signer not in self.in_force and not self.named.get(digest, since) < since:
            raise ValueError(f"its key {signer[:12]} is retired since line {since} of the history")


def read(text: str, path: UPath, ring: Keyring) -> Trust:
    """Follow a history's lines; a `UserError` only where they are no chain. Without keys everything is trusted."""
    moves, lines = history.moves(text, path), history.lines(text)
    signers: list[str | None] = []
    in_force, retired, revoked = frozenset(ring), dict[str, int](), frozenset[str]()
    named, vouched = dict[str, int](), 0
    for number, (line, move) in enumerate(zip(lines, moves, strict=True), start=1):
        signer = _signer(line, move, path.parent.name, ring)
        signer = signer if signer in in_force else None
        signers.append(signer)
        if manifest := move.get("manifest"):
            named.setdefault(manifest, number)
        key = move.get(KEY)
        match move.get(EVENT) if signer else None:
            case "adopt":
                vouched = number if _vouches(move, moves, lines, number) else vouched
            case "rotate" if key and key not in revoked:
                retired |= dict.fromkeys(in_force - {key}, number)
                retired.pop(key, None)
                in_force = frozenset([key])
            case "revoke" if key:
                vouched = number if _vouches(move, moves, lines, number) else vouched
                revoked, in_force = revoked | {key}, in_force - {key}
                retired.setdefault(key, number)
    problem = ""
    if ring and (bad := [number for number, by in enumerate(signers, 1) if not by and number > vouched]):
        more = f" (and {len(bad) - 1} more)" if bad[1:] else ""
        problem = (
            f"line {bad[0]}{more} of {path} is not signed by a key in force of signing.public_key: restore the history "
            f"from a copy, or, if you know each of its moves, run `{adopt_command(path.parent)}`"
        )
    return Trust(signers, vouched, in_force, retired, revoked, named, problem)


def adopt_command(folder: UPath) -> str:
    """What takes over a history and a pointer as they are."""
    return f"{command('adopt', folder)} --why REASON"


def command(what: str, folder: UPath) -> str:
    """One of the registry's commands about this very model."""
    return f"python -m mlapp.registry {what} --name {folder.name} --registry {shlex.quote(str(folder.parent))}"


def lost_anchors(folder: UPath, text: str, moves: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The hashes of the history that bundles followed and that is missing now, each with a bundle that names it."""
    known = {history.digest(line) for line in history.lines(text)}
    known |= {anchor for move in moves for anchor in _listed(move.get(LOST))}
    found = {}
    ids = [each for each in files.names(folder) if history.BUNDLE_ID.fullmatch(each)]
    for bundle, content in zip(ids, files.read_all([folder / each / "manifest.json" for each in ids]), strict=True):
        if isinstance(content, bytes) and (anchor := _anchor(content)) and anchor not in known:
            found[anchor] = bundle
    return found


def check(folder: UPath, text: str, path: UPath, ring: Keyring) -> Trust:
    """A `UserError` unless a history may be built upon: every line trusted, none cut off that a bundle followed."""
    trust = read(text, path, ring)
    if trust.problem:
        raise UserError(trust.problem)
    if lost := lost_anchors(folder, text, history.moves(text, path)):
        raise UserError(lost_line(folder, path, next(iter(lost.values()))))
    return trust


def lost_line(folder: UPath, path: object, bundle: str) -> str:
    """What to say of a history that was cut off or rewritten."""
    return (
        f"{path} lacks the history that bundle {bundle} followed, so it was cut off or rewritten: restore it from a "
        f"copy, or, if you know that it is right, run `{adopt_command(folder)}`"
    )


def _signer(line: str, move: dict[str, Any], name: str, ring: Keyring) -> str | None:
    """Who signed a line of this model's history; a line of another model's counts as signed by nobody."""
    text, signed = history.signed_part(line) if ring else ("", "")
    return signature.signer_of_text(text, signed, ring) if signed and move.get(NAME) == name else None


def _vouches(move: dict[str, Any], moves: Sequence[dict[str, Any]], lines: Sequence[str], number: int) -> bool:
    """Whether a line names all before it: by the chain, or itself where lines of an earlier version are in no chain."""
    chained = all(history.PREVIOUS in each for each in moves[1:number])
    return chained or move.get(BEFORE) == whole_before(lines[: number - 1])


def whole_before(lines: Sequence[str]) -> str:
    """Hash of a history up to a line, by which that line vouches for it."""
    return history.digest("".join(f"{line}\n" for line in lines))


def _anchor(manifest: bytes) -> str | None:
    try:
        found = plain.from_json(manifest.decode())
    except ValueError:
        return None  # `verify` reports such a bundle; it must not stop a rollback from it
    anchor = found.get("history") if isinstance(found, dict) else None
    return anchor if isinstance(anchor, str) else None


def _listed(value: Any) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []
