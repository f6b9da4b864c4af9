"""Classifiers with planted errors, and the results of stages that would have made them.

Every image tells its class in one pixel and its group in another; there are 20 groups, two for each class, 5 % of the
images each. A planted model errs on exactly the groups it is told to, so its accuracy and recalls are known. The other
pixels are noise that models do not look at, so that no image is nearly another.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mlapp import storage
from mlapp.candidate import Candidate, Kind
from mlapp.dataset import SPLITS, Split
from mlapp.result import Artifact, Metric, StageResult

CLASSES = tuple(f"class {letter}" for letter in "abcdefghij")
SIDE, GROUP_PIXELS, NOISE_PIXELS = 8, 10, 30


def images(n: int, seed: int = 0) -> Split:
    """``n`` images, balanced over classes and groups."""
    labels = (np.arange(n) % 10).astype(np.uint8)
    groups = 2 * labels + (np.arange(n) // 10) % 2
    pixels = np.zeros((n, SIDE * SIDE), np.uint8)
    pixels[:, NOISE_PIXELS:] = np.random.default_rng(seed).integers(0, 201, (n, SIDE * SIDE - NOISE_PIXELS))
    pixels[np.arange(n), labels] = 200
    pixels[np.arange(n), GROUP_PIXELS + groups] = 200
    return Split(pixels.reshape(n, SIDE, SIDE, 1), labels)


def model(errors: Iterable[int]) -> Any:
    """A Keras model that takes the images of the ``errors`` groups for the next class."""
    from mlapp.dl.backend import keras

    image = keras.layers.Input((SIDE, SIDE, 1))
    built = keras.Model(image, keras.layers.Dense(10)(keras.layers.Flatten()(image)))
    kernel = np.zeros((SIDE * SIDE, 10), np.float32)
    kernel[np.arange(10), np.arange(10)] = 1
    for group in errors:
        kernel[GROUP_PIXELS + group, (group // 2 + 1) % 10] = 2
    built.set_weights([kernel / 255, np.zeros(10, np.float32)])
    return built


def result(folder: Path, stage: str, artifacts: dict[str, Path], key: str = "") -> StageResult:
    """A stage's result with these files, written as the stage contract writes it."""
    made = StageResult(
        stage=stage,
        key=key or f"key of {folder}",
        headline=f"{stage} in {folder.name}",
        config={},
        inputs={},
        artifacts={
            name: Artifact(uri=str(path.relative_to(folder)), sha256=storage.sha256(path), bytes=path.stat().st_size)
            for name, path in artifacts.items()
        },
        metrics={},
        timings={"wall_s": 1.0, "cpu_s": 1.0, "peak_rss_mb": 10.0},
        environment={"code": "0123456789ab"},
        finished="2026-08-26T12:00:00+00:00",
        folder=str(folder),
    )
    storage.write_text(folder / "result.json", made.model_dump_json())
    return made


def data(folder: Path, n: int = 2000, classes: tuple[str, ...] = CLASSES, leaked: bool = False) -> StageResult:
    """A transform result with ``n`` images in every split, the same in each if they are ``leaked``."""
    folder.mkdir(parents=True, exist_ok=True)
    artifacts, splits = {}, {}
    for seed, name in enumerate(SPLITS):
        split, sha256 = images(n, 0 if leaked else seed), {}
        for kind, array in (("images", split.images), ("labels", split.labels)):
            path = artifacts[f"{name}_{kind}"] = folder / f"{name}_{kind}.npy"
            np.save(path, array)
            sha256[kind] = storage.sha256(path)
        counts = np.bincount(split.labels, minlength=len(classes)).tolist()
        splits[name] = {"sha256": sha256, "images": n, "per_class": dict(zip(classes, counts, strict=False))}
    artifacts["dataset"] = folder / "dataset.json"
    description = {"name": "planted", "classes": classes, "shape": [SIDE, SIDE, 1], "splits": splits}
    artifacts["dataset"].write_text(json.dumps(description))
    return result(folder, "transform", artifacts)


def models(folder: Path, name: str, kind: Kind, errors: Iterable[int], **figures: Any) -> StageResult:
    """A model-making stage's result with a model that errs on these groups, float32 and int8, really exported."""
    from mlapp.dl.exporter import convert
    from mlapp.dl.network_file import NETWORK, save

    folder.mkdir(parents=True, exist_ok=True)
    errors = list(errors)
    built = model(errors)
    artifacts = {"keras": folder / "model.keras", NETWORK: folder / "network.safetensors"}
    built.save(artifacts["keras"])
    save(built, artifacts[NETWORK])
    candidates = []
    for precision in ("float32", "int8"):
        path = artifacts[precision] = folder / f"model.{precision}.tflite"
        path.write_bytes(convert(built, images(200) if precision == "int8" else None))
        size = path.stat().st_size + (100_000 if kind == "teacher" else 0)  # so that the student is the one chosen
        candidates.append(candidate(name, kind, precision, 1 - len(errors) / 20, size, **figures))
    artifacts["candidates"] = folder / "candidates.json"
    artifacts["candidates"].write_text(json.dumps([entry.model_dump(mode="json") for entry in candidates]))
    return result(folder, "train" if kind == "teacher" else "distill", artifacts)


def baseline(folder: Path, errors: Iterable[int]) -> StageResult:
    """A baseline stage's result with trees, really trained and saved, that take these groups for the next class."""
    from mlapp.ml import xgboost_model
    from mlapp.ml.backend import xgboost
    from mlapp.ml.ml_utils import Features

    errors, split = list(errors), images(400)
    groups = 2 * split.labels + (np.arange(400) // 10) % 2
    taught = np.where(np.isin(groups, errors), (split.labels + 1) % 10, split.labels)
    features = Features(shape=(SIDE, SIDE, 1), pixel_grid=SIDE, gradient_grids=())
    matrix = xgboost().DMatrix(features(split.images), taught)
    parameters = {"objective": "multi:softprob", "num_class": 10, "max_depth": 8, "min_child_weight": 0}
    trees = xgboost().train(parameters, matrix, 5)
    xgboost_model.describe(trees, features)
    artifacts = {"model": folder / "model.json", "candidates": folder / "candidates.json"}
    xgboost_model.save(trees, artifacts["model"])
    known = candidate("xgboost", "baseline", "float32", 1 - len(errors) / 20, artifacts["model"].stat().st_size)
    known = known.model_copy(update={"artifact": "model", "macs": None})
    storage.write_text(artifacts["candidates"], json.dumps([known.model_dump(mode="json")]))
    return result(folder, "baseline", artifacts)


def candidate(
    name: str, kind: Kind, precision: Any, accuracy: float, size: int, latency: float = 50.0, **figures: Any
) -> Candidate:
    """A candidate with these figures."""
    return Candidate(
        name=name,
        kind=kind,
        precision=precision,
        artifact=precision,
        bytes=size,
        compressed_bytes=size,
        parameters=650,
        nonzero_parameters=30,
        macs=640,
        validation_accuracy=Metric(value=accuracy, n=2000, low=accuracy - 0.01, high=accuracy + 0.01),
        latency_us=Metric(value=latency, n=20, unit="µs"),
        description="planted",
        **figures,
    )
