"""Where a boosting stands, on disk: one file that holds trees and history, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from mlapp import storage, workspaces
from mlapp.errors import UserError
from mlapp.ml import tree_file

log = logging.getLogger("mlapp")
Record = dict[str, float]
HISTORY = "history"


class Checkpoints:
    """The latest checkpoint of a boosting in a folder of its own.

    A file is named by its round and by the hash of its content: a damaged one is reported, and never read by XGBoost.
    One that somebody made is refused unless it is sound (`tree_file`), of so many ``features`` and ``classes``.
    """

    def __init__(
        self, folder: Path, fresh: Callable[[], Any], parameters: Mapping[str, Any], *, features: int, classes: int
    ) -> None:
        self.folder = folder
        self._of = features, classes
        self._fresh = fresh
        self._parameters = dict(parameters)

    def restore(self) -> tuple[Any, list[Record]]:
        """A booster with the trees of the latest checkpoint, and its history; a fresh one where there is none."""
        booster = self._fresh()
        for path in sorted(self.folder.glob("*.json"), reverse=True):
            content = tree_file.read(path)
            if path.name != _name(path.name.partition("-")[0], content):
                log.warning("checkpoint %s is damaged: not read, training starts from the beginning", path)
                continue
            try:
                tree_file.check(content, self._of)
                booster.load_model(bytearray(content))
                booster.set_param(self._parameters)
                history = TypeAdapter(list[Record]).validate_json(booster.attr(HISTORY) or "")
            except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
                why = " ".join(str(error).split())[:200]
                raise UserError(
                    f"checkpoint {path} is not of this training ({why}): remove it, and train again"
                ) from error
            return booster, history
        return booster, []

    def save(self, booster: Any, history: list[Record]) -> None:
        """Write trees and history, then drop the former checkpoint."""
        booster.set_attr(**{HISTORY: json.dumps(history)})
        content = bytes(booster.save_raw("json"))
        tree_file.vouch(content, *self._of)
        name = _name(f"{history[-1]['round']:06d}", content)
        with storage.atomic_file(self.folder / name) as draft:
            draft.write_bytes(content)
        for path in self.folder.glob("*.json"):
            if path.name != name:
                path.unlink()
        workspaces.keep(self.folder)


def _name(rounds: str, content: bytes) -> str:
    return f"{rounds}-{hashlib.sha256(content).hexdigest()[:16]}.json"
