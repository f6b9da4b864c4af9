"""Networks as files and figures: what every trainer's ``save``, ``load`` and ``evaluate`` are.

``model.keras`` is written for people and other programs only. Keras imports and calls what such a file names, in its
safe mode too, so nothing here ever opens one; `load` reads `mlapp.dl.network_file`'s own files, which hold data only.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mlapp import storage
from mlapp.dataset import Dataset, Split
from mlapp.dl.network_file import NETWORK, load, save
from mlapp.dl.optimise import evaluate as loss_and_accuracy
from mlapp.errors import UserError
from mlapp.result import Metric, StageResult
from mlapp.statistics import proportion

__all__ = ["evaluate", "load", "load_from", "save", "write_keras"]


def evaluate(model: Any, split: Split) -> Metric:
    """Accuracy over a split, with its n and 95 % interval."""
    _, accuracy = loss_and_accuracy(model, split)
    return proportion(round(accuracy * len(split)), len(split))


def write_keras(model: Any, path: Path) -> None:
    """Write a model as one ``.keras`` file, whole or not at all."""
    with storage.atomic_file(path) as draft:
        named = draft.with_name(f"{draft.name}.keras")
        try:
            model.save(named)
            shutil.move(named, draft)
        finally:
            named.unlink(missing_ok=True)


def load_from(uri: str, dataset: Dataset) -> Any:
    """The network behind the URI of a model-making stage's result; a `UserError` if it is not for this data set."""
    result = StageResult.load(uri)
    model = load(result.local(NETWORK))
    takes, gives = tuple(model.input_shape[1:]), tuple(model.output_shape[1:])
    if (takes, gives) != (dataset.shape, (len(dataset.classes),)):
        raise UserError(
            f"{result.uri} ({result.stage}) takes images of shape {takes} and gives {gives} scores, the data set has "
            f"{dataset.shape} and {len(dataset.classes)} classes: give a model that was made from this data set"
        )
    return model
