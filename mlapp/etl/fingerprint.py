"""A cheap digest of what a source folder holds, so that a changed source is extracted again."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import urllib3
from upath import UPath

from mlapp import storage
from mlapp.errors import UserError
from mlapp.etl.sources import IDX_NAMES, existing_folder, is_http, usual_addresses
from mlapp.etl.web import Web

DEPTH = 3
LENGTH = re.compile(r"[0-9]{1,18}")
READ_S, ATTEMPTS = 10.0, 3
VERSION_MARKS = ("etag", "md5Hash", "updated", "mtime", "created")


def fingerprint(uri: str, allow_private: bool = False) -> str:
    """A digest of names, sizes and times (or ETags) of a folder's files, or of the IDX files at an address."""
    if is_http(uri):
        entries = _http_entries(uri, allow_private)
    else:
        folder = existing_folder(uri)
        entries = _local_entries(Path(folder.path)) if storage.is_local(folder) else _remote_entries(folder)
    return hashlib.sha256(json.dumps(sorted(entries)).encode()).hexdigest()[:16]


def _local_entries(root: Path) -> list[tuple[str, int, str]]:
    """Everything there, folders and what is not a file by name: extract refuses some of it."""
    depths = ("/".join("*" * (depth + 1)) for depth in range(DEPTH))
    return [_local_entry(path, str(path.relative_to(root))) for pattern in depths for path in root.glob(pattern)]


def _local_entry(path: Path, name: str) -> tuple[str, int, str]:
    with suppress(OSError):  # a link that leads nowhere, or a folder without permission
        found = path.stat()
        if stat.S_ISREG(found.st_mode):
            return name, found.st_size, str(found.st_mtime_ns)
    return name, -1, ""


def _http_entries(url: str, allow_private: bool) -> list[tuple[str, int, str]]:
    """What the server says of each file before sending it; a server that says nothing has a constant fingerprint."""
    entries = []
    web = Web(url, allow_private, READ_S)
    try:
        for address in (address for name in IDX_NAMES for address in usual_addresses(url, name)):
            if headers := _head(web, address):
                mark = headers.get("ETag") or headers.get("Last-Modified") or ""
                length = headers.get("Content-Length", "")
                entries.append((address, int(length) if LENGTH.fullmatch(length) else -1, mark))
    finally:
        web.close()
    return entries


def _head(web: Web, address: str) -> Mapping[str, str] | None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with web.request("HEAD", address, {"Accept-Encoding": "identity"}) as answer:
                return answer.headers if answer.status == 200 else None
        except urllib3.exceptions.HTTPError as error:
            if attempt == ATTEMPTS:
                raise UserError(f"cannot reach {address}: check the address and the network") from error
    return None


def _remote_entries(folder: UPath) -> list[tuple[str, int, str]]:
    listing: dict[str, dict[str, Any]] = folder.fs.find(folder.path, maxdepth=DEPTH, detail=True)
    return [
        (name, info["size"], str(next((info[mark] for mark in VERSION_MARKS if info.get(mark)), "")))
        for name, info in listing.items()
    ]
