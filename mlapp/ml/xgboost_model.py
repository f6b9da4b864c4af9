"""Boosted trees as a file and as answers: raw images in, class scores out, through the features the file names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlapp import storage
from mlapp.dataset import Split
from mlapp.errors import UserError
from mlapp.ml import tree_file
from mlapp.ml.backend import xgboost
from mlapp.ml.ml_utils import Features
from mlapp.result import Metric
from mlapp.statistics import proportion
from mlapp.vetting.scorer import median_us

FEATURES = "features"
CHUNK = 1000


def describe(model: Any, features: Features) -> None:
    """Have a freshly trained model carry its features with it, and nothing of its training."""
    model.set_attr(**dict.fromkeys(model.attributes(), None))
    model.set_attr(**{FEATURES: features.model_dump_json()})


def features_of(model: Any) -> Features:
    """The features that a model takes; it carries them with it."""
    return Features.model_validate_json(model.attr(FEATURES))


def margins(model: Any, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Class scores (n, classes) of ``images`` (n, height, width, channels): logits, their argmax decides."""
    features = features_of(model)
    if images.shape[1:] != features.shape:
        taken, given = ("×".join(map(str, shape)) for shape in (features.shape, images.shape[1:]))
        raise UserError(
            f"the trees take images of shape {taken}, the data set has {given}: score a model made from this data set"
        )
    parts = [
        model.inplace_predict(features(images[start : start + CHUNK]), predict_type="margin", strict_shape=True)
        for start in range(0, len(images), CHUNK)
    ]
    return np.concatenate(parts)


def evaluate(model: Any, split: Split) -> Metric:
    """Accuracy over a split, with its n and 95 % interval."""
    hits = margins(model, split.images).argmax(-1) == split.labels
    return proportion(int(hits.sum()), len(split))


def save(model: Any, path: Path) -> None:
    """Write a model as one JSON file, whole or not at all."""
    with storage.atomic_file(path) as draft:
        draft.write_bytes(model.save_raw("json"))


def load(path: Path) -> Any:
    """Read a model that `save` wrote; a `UserError` if the file is none. JSON holds numbers only, never code."""
    model = xgboost().Booster()
    try:
        content = tree_file.read(path)
        _, classes = tree_file.check(content)
        model.load_model(bytearray(content))
        tree_file.check(content, (features_of(model).count, classes))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:  # XGBoost's and pydantic's own too
        raise UserError(
            f"{path} is not a model of boosted trees ({' '.join(str(error).split())[:200]}): run its stage again with "
            "--force"
        ) from error
    return model


def score(path: Path, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Class scores (n, classes) of ``images`` by the model in a file, as `vetting.scorer.score` gives a network's."""
    return margins(load(path), images)


def latency_us(path: Path, image: npt.NDArray[np.uint8], runs: int) -> Metric:
    """Median time of one ``image`` (height, width, channels) on one thread, its features included, in microseconds."""
    model = load(path)
    model.set_param({"nthread": 1})
    features, single = features_of(model), np.ascontiguousarray(image)[np.newaxis]
    return median_us(lambda: model.inplace_predict(features(single), predict_type="margin"), runs)


def nodes(model: Any) -> int:
    """How many numbers the trees hold: a threshold in each split, a value in each leaf."""
    return sum(tree.count("\n") for tree in model.get_dump())
