"""A cheap digest of what a source folder holds, so that a changed source is extracted again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import urllib3
from upath import UPath

from mlapp import storage
from mlapp.errors import UserError
from mlapp.etl.sources import IDX_NAMES, existing_folder, is_http, usual_addresses

DEPTH = 3
TIMEOUT = urllib3.Timeout(connect=5.0, read=10.0)
VERSION_MARKS = ("etag", "md5Hash", "updated", "mtime", "created")


def fingerprint(uri: str) -> str:
    """A digest of names, sizes and times (or ETags) of a folder's files, or of the IDX files at an address."""
    if is_http(uri):
        entries = _http_entries(uri)
    else:
        folder = existing_folder(uri)
        entries = _local_entries(Path(folder.path)) if storage.is_local(folder) else _remote_entries(folder)
    return hashlib.sha256(json.dumps(sorted(entries)).encode()).hexdigest()[:16]


def _local_entries(root: Path) -> list[tuple[str, int, str]]:
    depths = ("/".join("*" * (depth + 1)) for depth in range(DEPTH))
    files = (path for pattern in depths for path in root.glob(pattern) if path.is_file())
    return [(str(path.relative_to(root)), path.stat().st_size, str(path.stat().st_mtime_ns)) for path in files]


def _http_entries(url: str) -> list[tuple[str, int, str]]:
    """What the server says of each file before sending it; a server that says nothing has a constant fingerprint."""
    entries = []
    with urllib3.PoolManager(timeout=TIMEOUT, retries=urllib3.Retry(2, status=0)) as pool:
        for address in (address for name in IDX_NAMES for address in usual_addresses(url, name)):
            try:
                answer = pool.request("HEAD", address, headers={"Accept-Encoding": "identity"})
            except urllib3.exceptions.HTTPError as error:
                raise UserError(f"cannot reach {address}: check the address and the network") from error
            if answer.status == 200:
                headers = answer.headers
                mark = headers.get("ETag") or headers.get("Last-Modified") or ""
                entries.append((address, int(headers.get("Content-Length", -1)), mark))
    return entries


def _remote_entries(folder: UPath) -> list[tuple[str, int, str]]:
    listing: dict[str, dict[str, Any]] = folder.fs.find(folder.path, maxdepth=DEPTH, detail=True)
    return [
        (name, info["size"], str(next((info[mark] for mark in VERSION_MARKS if info.get(mark)), "")))
        for name, info in listing.items()
    ]
