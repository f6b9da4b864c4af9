"""A cheap digest of what a source folder holds, so that a changed source is extracted again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from upath import UPath

from mlapp import storage
from mlapp.etl.sources import existing_folder, is_http

DEPTH = 3
VERSION_MARKS = ("etag", "md5Hash", "updated", "mtime", "created")


def fingerprint(uri: str) -> str | None:
    """A digest of names, sizes and times (or ETags) of a folder's files; None for http(s), which lists nothing."""
    if is_http(uri):
        return None
    folder = existing_folder(uri)
    entries = _local_entries(Path(folder.path)) if storage.is_local(folder) else _remote_entries(folder)
    return hashlib.sha256(json.dumps(sorted(entries)).encode()).hexdigest()[:16]


def _local_entries(root: Path) -> list[tuple[str, int, str]]:
    depths = ("/".join("*" * (depth + 1)) for depth in range(DEPTH))
    files = (path for pattern in depths for path in root.glob(pattern) if path.is_file())
    return [(str(path.relative_to(root)), path.stat().st_size, str(path.stat().st_mtime_ns)) for path in files]


def _remote_entries(folder: UPath) -> list[tuple[str, int, str]]:
    listing: dict[str, dict[str, Any]] = folder.fs.find(folder.path, maxdepth=DEPTH, detail=True)
    return [
        (name, info["size"], str(next((info[mark] for mark in VERSION_MARKS if info.get(mark)), "")))
        for name, info in listing.items()
    ]
