"""The history of a pointer's moves: lines of JSON, each with the hash of the line before, so that none can be changed.

Who may write the file may still write all of it anew, or cut its end off. So each bundle's manifest, which is hashed
and may be signed, holds the hash of the last line when it was made; and where there is a key, each line is signed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from mlapp import plain
from mlapp.errors import UserError

PREVIOUS, SIGNATURE = "previous", "signature"


def moves(text: str, path: object) -> list[dict[str, Any]]:
    """The moves that a history's text tells, the oldest first; a `UserError` names the line that was tampered with.

    Lines of an earlier version, which know nothing of the line before, may only come first.
    """
    found: list[dict[str, Any]] = []
    before: str | None = None
    chained = False
    for number, line in enumerate(_lines(text), start=1):
        try:
            move = plain.from_json(line)
            champion = move["champion"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not a history of promotions (line {number}): restore it from a copy") from error
        if move.get(PREVIOUS, before if not chained else "") != before:
            raise UserError(
                f"{path} was altered at or before line {number}, the move to {champion}: restore it from a copy"
            )
        found.append(move)
        chained = chained or PREVIOUS in move
        before = _digest(line)
    return found


def appended(text: str, move: dict[str, Any], sign: Callable[[str], str] | None = None) -> str:
    """The history's text with one more move, signed where ``sign`` makes a signature of a text."""
    move = {**move, PREVIOUS: head(text)}
    if sign:
        move[SIGNATURE] = sign(_written(move))
    return f"{text}{_written(move)}\n"


def end(text: str) -> tuple[str, str]:
    """What the signature of a history's last line is of, and that signature; both empty where there is none."""
    move = plain.from_json(_lines(text)[-1]) if text else {}
    signature = str(move.pop(SIGNATURE, ""))
    return (_written(move), signature) if signature else ("", "")


def head(text: str) -> str | None:
    """Hash of a history's last line; None where there is none."""
    lines = _lines(text)
    return _digest(lines[-1]) if lines else None


def holds(text: str, digest: str | None) -> bool:
    """Whether one of a history's lines has this hash, or none is asked for."""
    return digest is None or digest in (_digest(line) for line in _lines(text))


def _written(move: dict[str, Any]) -> str:
    return json.dumps(move, ensure_ascii=False)


def _lines(text: str) -> list[str]:
    """The lines of a history; a reason may hold any other character that some take for a line's end."""
    return text.removesuffix("\n").split("\n") if text else []


def _digest(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()
