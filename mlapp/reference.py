"""References: what passes from one stage to the next, a file's URI and the SHA-256 of what must be in it.

``URI#sha256=<64 hex digits>``. Whoever can write to a bucket can replace a file there, but not what a reference to it
stands for: `storage.read_referenced` refuses any other content. A plain URI works too, by hand: that hand-over is not
verified.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from mlapp.errors import UserError

MARK = "#sha256="
HASH = re.compile(r"[0-9a-f]{64}")


class Reference(NamedTuple):
    """A file's URI, and the SHA-256 of its content in hex where that is known."""

    uri: str
    sha256: str | None = None

    def __str__(self) -> str:
        return f"{self.uri}{MARK}{self.sha256}" if self.sha256 else self.uri


def parse(text: str | os.PathLike[str]) -> Reference:
    """The reference in a text; a `UserError` if it has the mark of a hash and no hash behind it."""
    uri, mark, digest = str(text).partition(MARK)
    if mark and not HASH.fullmatch(digest):
        raise UserError(f"{text} is not a valid reference: give URI{MARK} and 64 hex digits, or the URI alone")
    return Reference(uri, digest or None)


def folder(text: str) -> str:
    """The URI of the folder that a referenced file lies in."""
    return parse(text).uri.rpartition("/")[0]
