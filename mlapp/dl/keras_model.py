"""Keras models as files and figures: what every trainer's ``save``, ``load`` and ``evaluate`` are."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mlapp import storage
from mlapp.dataset import Split
from mlapp.dl.backend import keras
from mlapp.dl.optimise import evaluate as loss_and_accuracy
from mlapp.errors import UserError
from mlapp.result import Metric, StageResult
from mlapp.statistics import proportion


def evaluate(model: Any, split: Split) -> Metric:
    """Accuracy over a split, with its n and 95 % interval."""
    _, accuracy = loss_and_accuracy(model, split)
    return proportion(round(accuracy * len(split)), len(split))


def save(model: Any, path: Path) -> None:
    """Write a model as one ``.keras`` file, whole or not at all."""
    with storage.atomic_file(path) as draft:
        named = draft.with_name(f"{draft.name}.keras")
        try:
            model.save(named)
            shutil.move(named, draft)
        finally:
            named.unlink(missing_ok=True)


def load(path: Path) -> Any:
    """Read a ``.keras`` file that `save` wrote; it runs no code but Keras's own layers (safe mode)."""
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a model that this version reads: run its stage again with --force") from error


def load_from(uri: str) -> Any:
    """The Keras model behind the URI of a model-making stage's result."""
    return load(StageResult.load(uri).local("keras"))
