"""How a command ended, in a file that whoever started it reads: on another machine there is nothing else to go by."""

from __future__ import annotations

import json
import logging

from mlapp import storage
from mlapp.errors import OneLineError

log = logging.getLogger("mlapp")


def tell(where: str | None, exit_code: int, *, uri: str = "", reason: str = "") -> None:
    """Write exit code, URI of the result, and the line that says why there is none, as JSON to ``where``, if given.

    A `UserError` where a success cannot be told; a failure that cannot stays the failure that it is.
    """
    if not where:
        return
    content = json.dumps({"exit_code": exit_code, "uri": uri, "reason": " ".join(reason.split())})
    try:
        with storage.explained():
            storage.write_text(storage.at(where), content)
    except OneLineError as error:
        if exit_code == 0:
            raise
        log.warning("how this ended is not told in %s: %s", where, error)
