"""The digest of a data set's content: of its pixels, labels and class names, whatever code or settings made it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def data_digest(description: Mapping[str, Any]) -> str:
    """The digest by a description (`dataset.json`), as 16 hex digits."""
    content = [description["classes"], {name: split["sha256"] for name, split in description["splits"].items()}]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
