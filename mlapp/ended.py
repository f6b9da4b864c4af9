"""How a command ended, in a file that whoever started it reads: on another machine there is nothing else to go by."""

from __future__ import annotations

import json

from mlapp import storage


def tell(where: str | None, exit_code: int, *, uri: str = "", reason: str = "") -> None:
    """Write exit code, URI of the result, and the line that says why there is none, as JSON to ``where``, if given."""
    if where:
        storage.write_text(
            storage.at(where), json.dumps({"exit_code": exit_code, "uri": uri, "reason": " ".join(reason.split())})
        )
