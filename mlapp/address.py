"""Which addresses a setting or a flag may hold: a path on this machine, gs://, and http(s):// where it is documented.

The library behind `mlapp.storage` opens anything that looks like one of its forty protocols (github://, data:, chained
ones with ``::``), some of which run code or reach other machines. So the few that the project documents are listed.
"""

from __future__ import annotations

import re

LOCAL, BUCKET, WEB = ("file", "local"), ("gs", "gcs"), ("http", "https")
FILES = (*LOCAL, *BUCKET)
LONGEST = 2000
# As the library takes them: a scheme of two letters or more, then ``:/``, ``://`` or ``::``; or ``data:``.
USER = re.compile(r"(https?://)[^/?#]*@", re.IGNORECASE)
HOST = re.compile(r"(?<=://)\[[0-9A-Fa-f:.]+\]")  # an IPv6 address, which may hold ``::``
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)(?=:/|::)|(data)(?=:)", re.IGNORECASE)


def fault(address: str, schemes: tuple[str, ...] = FILES) -> str | None:
    """What is wrong with an address whose scheme must be one of these, with the fix; None where nothing is."""
    if USER.search(address):
        return "it holds a user name or password, which logs and records would keep: leave that out"
    shown = address if len(address) <= 100 else f"{address[:100]}…"
    if not address.strip():
        return "it is empty: give a path, or leave the setting out"
    if CONTROL.search(address):
        return f"{shown!r} holds control characters: give a plain path or address"
    if len(address) > LONGEST:
        return f"{shown} has {len(address):,} characters: give at most {LONGEST:,}"
    return _fault_of_form(address, schemes, shown)


def _fault_of_form(address: str, schemes: tuple[str, ...], shown: str) -> str | None:
    if address.startswith("~") and WEB[0] not in schemes:  # a source expands it
        return f"{shown} begins with ~, which only a shell expands: give the whole path"
    found = SCHEME.match(address)
    scheme = found[0] if found else ""
    if "::" in HOST.sub("", address) and found:
        return f"{shown} chains addresses: give one, {_known(schemes)}"
    return f"{shown} has the scheme {scheme}: give {_known(schemes)}" if scheme and scheme not in schemes else None


def masked(text: str) -> str:
    """The text without the names and passwords of addresses in it."""
    return USER.sub(r"\1…@", text)


def usable(address: str) -> str:
    """A validator of settings that name files: the address, or a ValueError that says what is wrong with it."""
    if wrong := fault(address):
        raise ValueError(wrong)
    return address


def usable_source(address: str) -> str:
    """The same for a setting that may also be an address on the web."""
    if wrong := fault(address, (*FILES, *WEB)):
        raise ValueError(wrong)
    return address


def _known(schemes: tuple[str, ...]) -> str:
    return "a local path or gs://" if WEB[0] not in schemes else "a local path, gs:// or http(s)://"
