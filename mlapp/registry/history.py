"""The history of a pointer's moves: lines of JSON, each with the hash of the line before, so that none can be changed.

Who may write the file may still write all of it anew, or cut its end off. So each bundle's manifest, which is hashed
and may be signed, holds the hash of the last line when it was made; and where there is a key, each line is signed.
`trust` checks both.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

from mlapp import plain
from mlapp.errors import UserError

PREVIOUS, SIGNATURE = "previous", "signature"
BUNDLE_ID = re.compile(r"[0-9a-f]{12}")
TEXTS = ("at", "by", "why", "model", "manifest", "verdict", "name", "event", "key", "request", "history", SIGNATURE)


def moves(text: str, path: object) -> list[dict[str, Any]]:
    """The moves that a history's text tells, the oldest first; a `UserError` names the line that was tampered with.

    Lines of an earlier version, which know nothing of the line before, may only come first.
    """
    found: list[dict[str, Any]] = []
    before: str | None = None
    chained = False
    for number, line in enumerate(lines(text), start=1):
        try:
            move = _checked(plain.from_json(line))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not a history of promotions (line {number}): restore it from a copy") from error
        if move.get(PREVIOUS, before if not chained else "") != before:
            raise UserError(
                f"{path} was altered at or before line {number}, the move to {move['champion']}: restore it from a copy"
            )
        found.append(move)
        chained = chained or PREVIOUS in move
        before = digest(line)
    return found


def appended(text: str, move: dict[str, Any], sign: Callable[[str], str] | None = None) -> str:
    """The history's text with one more move, signed where ``sign`` makes a signature of a text."""
    move = {**move, PREVIOUS: head(text)}
    if sign:
        move[SIGNATURE] = sign(_written(move))
    return "".join(f"{line}\n" for line in (*lines(text), _written(move)))  # an editor may have taken the last break


def signed_part(line: str) -> tuple[str, str]:
    """What the signature of a line is of, and that signature; both empty where there is none.

    A line counts as signed only in the very form that it was written in.
    """
    move = plain.from_json(line)
    if not isinstance(move.get(SIGNATURE), str) or _written(move) != line:
        return "", ""
    signature = move.pop(SIGNATURE)
    return _written(move), signature


def head(text: str) -> str | None:
    """Hash of a history's last line; None where there is none."""
    written = lines(text)
    return digest(written[-1]) if written else None


def holds(text: str, sha256: str | None) -> bool:
    """Whether one of a history's lines has this hash, or none is asked for."""
    return sha256 is None or sha256 in {digest(line) for line in lines(text)}


def lines(text: str) -> list[str]:
    """The lines of a history; a reason may hold any other character that some take for a line's end."""
    return text.removesuffix("\n").split("\n") if text else []


def digest(line: str) -> str:
    """SHA-256 of a line, by which the next one and bundles name it."""
    return hashlib.sha256(line.encode()).hexdigest()


def _checked(move: Any) -> dict[str, Any]:
    """A line's content, with every field of the kind that the rest of the code takes it for."""
    if not isinstance(move, dict) or not BUNDLE_ID.fullmatch(move["champion"]):
        raise ValueError("it names no bundle")
    if (before := move.setdefault("before", None)) is not None and not BUNDLE_ID.fullmatch(before):
        raise ValueError("it names no bundle before")
    if odd := [name for name in TEXTS if not isinstance(move.get(name, ""), str | None)]:
        raise ValueError(f"its {odd[0]} is no text")
    return move


def _written(move: dict[str, Any]) -> str:
    return json.dumps(move, ensure_ascii=False)
