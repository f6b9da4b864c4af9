"""The locks: requirements files of exact versions, each with the hashes of the files that may be installed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PIN = re.compile(r"([a-z0-9._-]+)(?:\[[a-z0-9,-]+\])?==([^=\s;]+)(?: ; [^\\]+)?((?: --hash=sha256:[0-9a-f]{64})+)")


class Pin(NamedTuple):
    """One package of a lock."""

    version: str
    hashes: list[str]


def read(name: str) -> dict[str, Pin]:
    """The packages of a lock; an AssertionError names a line that is not a pinned package with its hashes."""
    text = re.sub(r"[ \t]*\\\n[ \t]*", " ", (ROOT / name).read_text(encoding="utf-8"))
    found = {}
    for line in filter(None, (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines())):
        pin = PIN.fullmatch(line)
        assert pin, f"{name}: {line[:100]}"
        found[pin[1]] = Pin(pin[2], re.findall(r"[0-9a-f]{64}", pin[3]))
    return found
