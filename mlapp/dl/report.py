"""What every trainer leaves besides its model: the history as JSON and as a plot, and the headline figures."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from mlapp import tracking
from mlapp.candidate import Candidate
from mlapp.class_scores import ClassScores, class_scores
from mlapp.curves import write_history
from mlapp.dataset import Dataset
from mlapp.dl.augment import policy_of
from mlapp.errors import UserError
from mlapp.result import Metric, Outcome
from mlapp.schema import Optimization
from mlapp.statistics import most_by_luck
from mlapp.vetting.scorer import score

RISE = 1.5  # of the training loss, over a whole training
JUDGED_IMAGES = 100  # of fewer validation images, a network that learnt may have as many right as luck has
JUDGED_STEPS = 40  # a training of fewer is warned about: the averages of batch normalisation still lag behind
log = logging.getLogger("mlapp")


def outcome(
    workdir: Path,
    artifacts: dict[str, Path],
    candidates: list[Candidate],
    history: list[dict[str, float]],
    dataset: Dataset,
    config: Optimization,
) -> Outcome:
    """The trainer's outcome; its headline is the float model's line, and what accuracy alone does not say."""
    written = artifacts | write_history(history, workdir)
    metrics = {name: metric for candidate in candidates for name, metric in candidate.metrics.items()}
    metrics["epochs"] = Metric(value=len(history))
    metrics["training"] = Metric(value=sum(record["seconds"] for record in history), unit="s")
    scores = class_scores(dataset, lambda images: score(artifacts["int8"], images))
    told = [*doubt(history, dataset), *([scores.line] if scores else []), *_mirroring(config)]
    headline = "; ".join([_headline(candidates), *told])
    return Outcome(artifacts=dict(written), metrics=metrics | _metrics(scores), headline=headline)


def require_learnt(history: list[dict[str, float]], dataset: Dataset, config: Optimization) -> None:
    """A `UserError` if a training has diverged, or its best epoch is no better than chance."""
    if failure := _failure(history, dataset):
        images = int(dataset.description["splits"]["train"]["images"])
        if images // config.batch_size * len(history) >= JUDGED_STEPS:
            raise failure
        log.warning("%s", failure)


def _failure(history: list[dict[str, float]], dataset: Dataset) -> UserError | None:
    classes, first, last = len(dataset.classes), history[0], history[-1]
    if last["loss"] > RISE * first["loss"] and last["validation_loss"] > math.log(classes):
        return UserError(
            f"the loss rose from {first['loss']:.3g} to {last['loss']:.3g}: training diverged; lower learning_rate or "
            "batch_size, raise epochs, or look at the data"
        )
    best = _best(history)
    if best <= 1 / classes or (len(dataset.split("validation")) >= JUDGED_IMAGES and _is_luck(best, history, dataset)):
        return UserError(
            f"the network has learnt nothing: {100 * best:.1f} % on validation at best, and guessing among {classes} "
            f"classes gives {100 / classes:.1f} % on average: lower learning_rate or batch_size, raise epochs, or look "
            "at the data"
        )
    return None


def _best(history: list[dict[str, float]]) -> float:
    """The best epoch's accuracy on validation, of the network that a training ended with."""
    return max(record["validation_accuracy"] for record in history if not record.get(tracking.PRELIMINARY))


def _is_luck(best: float, history: list[dict[str, float]], dataset: Dataset) -> bool:
    """Whether a network that only guesses may reach this in the best of as many epochs."""
    images = len(dataset.split("validation"))
    return round(best * images) <= most_by_luck(images, len(dataset.classes), len(history))


def _headline(candidates: list[Candidate]) -> str:
    float32, int8 = (
        next(candidate for candidate in candidates if candidate.precision == precision)
        for precision in ("float32", "int8")
    )
    accuracies = f"{100 * float32.validation_accuracy.value:.2f} %, int8 {100 * int8.validation_accuracy.value:.2f} %"
    return f"{float32.name}: {accuracies} on validation; {int8.bytes / 1000:.0f} KB, {int8.latency_us.value:.0f} µs"


def _metrics(scores: ClassScores | None) -> dict[str, Metric]:
    return scores.metrics if scores else {}


def doubt(history: list[dict[str, float]], dataset: Dataset) -> list[str]:
    """Whether the validation split is too small to show that anything was learnt."""
    if not _is_luck(_best(history), history, dataset):
        return []
    return [f"no better than luck may be on {len(dataset.split('validation')):,} validation images"]


def _mirroring(config: Optimization) -> list[str]:
    """Whether images were mirrored in training, where a person decided that or the data may not bear it."""
    if config.flip is None:
        return []
    return ["trained on mirror images too" if policy_of(config.augmentation, config.flip).mirrors else "not mirrored"]
