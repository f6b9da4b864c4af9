"""Train the classical baseline: boosted trees on simple features of the images, its best round chosen on validation."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from mlapp import workspaces
from mlapp.candidate import Candidate, write_candidates
from mlapp.class_scores import class_scores
from mlapp.curves import write_history
from mlapp.dataset import Dataset, Split
from mlapp.errors import UserError, termination_deferred
from mlapp.ml.backend import xgboost
from mlapp.ml.boosting import best, boost
from mlapp.ml.importance import draw
from mlapp.ml.ml_utils import Features
from mlapp.ml.xgboost_model import describe, evaluate, features_of, latency_us, load, nodes, save, score
from mlapp.result import Metric, Outcome, ResultUri
from mlapp.schema import Baseline
from mlapp.search_space import Real, SearchSpace, Whole
from mlapp.stage import stage
from mlapp.tuned import with_tuned

__all__ = ["SEARCH_SPACE", "XgboostTrainerConfig", "evaluate", "fit", "load", "run", "save"]

SEARCH_SPACE: SearchSpace = {
    "learning_rate": Real(low=0.05, high=0.5, log=True),
    "max_depth": Whole(low=3, high=8),
    "min_child_weight": Real(low=0.1, high=20.0, log=True),
    "subsample": Real(low=0.5, high=1.0),
    "column_sample": Real(low=0.05, high=0.5, log=True),
    "l2": Real(low=0.1, high=20.0, log=True),
}
LATENCY_RUNS = 200
log = logging.getLogger("mlapp")


class XgboostTrainerConfig(Baseline):
    """The `baseline` settings, and what to train on."""

    data: ResultUri = Field(description="result of image_etl")
    tuned: ResultUri | None = Field(None, description="result of tuner: its best parameters replace the settings'")


def fit(config: Baseline, dataset: Dataset, folder: Path) -> tuple[Any, list[dict[str, float]]]:
    """A trained model and its history, one record each few rounds; ``folder`` keeps checkpoints to resume from."""
    train, validation = dataset.split("train"), dataset.split("validation")
    _check(train, validation, dataset.classes)
    features = Features(shape=dataset.shape, pixel_grid=config.pixel_grid, gradient_grids=config.gradient_grids)
    with termination_deferred():  # XGBoost reads the arrays through callbacks, which would swallow a SIGTERM
        matrix = _matrix(train, features, config)
        matrices = matrix, _matrix(validation, features, config, like=matrix)
    place = workspaces.unfinished(folder / "checkpoints", _fingerprint(config, dataset))
    model, history = boost(*matrices, len(dataset.classes), config, place)
    describe(model, features)
    return model, history


@stage("baseline", area="models", section="baseline", resolve=with_tuned)
def run(config: XgboostTrainerConfig, workdir: Path) -> Outcome:
    """Train and measure the baseline."""
    dataset = Dataset.open(config.data)
    model, history = fit(config, dataset, workdir)
    artifacts = {name: workdir / file for name, file in {"model": "model.json", "importance": "importance.png"}.items()}
    save(model, artifacts["model"])
    draw(model, artifacts["importance"])
    candidate = _candidate(artifacts["model"], dataset.split("validation"), config)
    artifacts["candidates"] = write_candidates([candidate], workdir)
    scores = class_scores(dataset, partial(score, artifacts["model"]))
    accuracy, latency, size = candidate.validation_accuracy, candidate.latency_us, candidate.bytes
    return Outcome(
        artifacts={**artifacts, **write_history(history, workdir, along="round")},
        metrics={
            **candidate.metrics,
            "rounds": Metric(value=history[-1]["round"]),
            "best_round": Metric(value=best(history)["round"]),
            "training": Metric(value=sum(record["seconds"] for record in history), unit="s"),
            "training_cpu": Metric(value=sum(record["cpu_seconds"] for record in history), unit="s"),
            **(scores.metrics if scores else {}),
        },
        headline=f"{candidate.name}: {100 * accuracy.value:.2f} % on validation; "
        f"{size / 1000:,.0f} KB, {latency.value:.0f} µs with its features" + (f"; {scores.line}" if scores else ""),
    )


def _check(train: Split, validation: Split, classes: tuple[str, ...]) -> None:
    empty = [classes[label] for label in np.flatnonzero(np.bincount(train.labels, minlength=len(classes)) == 0)]
    if empty:
        raise UserError(
            f"{', '.join(empty[:5])}{' …' if empty[5:] else ''}: no image among the {len(train):,} to train on; "
            "add images of every class, or leave the class out"
        )
    if not len(validation):
        raise UserError("no image to validate on: raise transform.validation_fraction, or add images")


def _matrix(split: Split, features: Features, config: Baseline, like: Any = None) -> Any:
    return xgboost().QuantileDMatrix(features(split.images), split.labels, max_bin=config.max_bin, ref=like)


def _fingerprint(config: Baseline, dataset: Dataset) -> str:
    """A hash of what is being trained on what, so that other settings never resume from here."""
    settings = config.model_dump(mode="json", include=set(Baseline.model_fields))
    return hashlib.sha256(json.dumps([settings, dataset.result.digest()], sort_keys=True).encode()).hexdigest()


def _candidate(path: Path, validation: Split, config: Baseline) -> Candidate:
    """The baseline as it stands in the comparison: measured from its file, as every other model is."""
    model, content = load(path), path.read_bytes()
    rounds, numbers = model.num_boosted_rounds(), nodes(model)
    candidate = Candidate(
        name="xgboost",
        kind="baseline",
        precision="float32",
        artifact="model",
        bytes=len(content),
        compressed_bytes=len(gzip.compress(content, mtime=0)),
        parameters=numbers,
        nonzero_parameters=numbers,
        macs=None,
        validation_accuracy=evaluate(model, validation),
        latency_us=latency_us(path, validation.images[0], LATENCY_RUNS),
        description=f"{rounds} rounds of boosted trees, depth {config.max_depth}, "
        f"on {features_of(model).count} pooled pixels and gradients",
    )
    accuracy = candidate.validation_accuracy
    log.info(
        "%s: %.2f %% of %s validation images, %s KB, %.0f µs an image",
        *(candidate.label, 100 * accuracy.value, f"{accuracy.n:,}", f"{len(content) / 1000:,.0f}"),
        candidate.latency_us.value,
    )
    return candidate


if __name__ == "__main__":
    run.main()
