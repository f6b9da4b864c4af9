"""What is found out about the models of a verdict: each by itself, and the challenger against each of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mlapp import statistics, storage
from mlapp.dataset import Split
from mlapp.ml import xgboost_model
from mlapp.policy import Policy
from mlapp.result import Metric, Record
from mlapp.schema_policy import Measure, Vetting
from mlapp.vetting.corruptions import SEVERITIES, corruptions
from mlapp.vetting.gates import Measured
from mlapp.vetting.scorer import latency_us, score

LATENCY_RUNS = 200
Scores = npt.NDArray[np.float32]


class Scored(Record):
    """How one model did on the test set."""

    label: str
    sha256: str = Field(description="hash of the model file that was scored")
    accuracy: Metric
    accuracy_apart: Metric | None = Field(
        None, description="on the test images that are no near-duplicates; unset where all are"
    )
    recall: list[Metric]
    confusion: list[list[int]]
    calibration_error: Metric | None = None
    corrupted: dict[str, list[float]] | None = Field(
        None, description="accuracy by kind of corruption, a figure a severity; of challenger and champion alone"
    )
    corrupted_accuracy: Metric | None = Field(None, description="mean over all of them")
    bytes: int
    latency_us: Metric


class Comparison(Record):
    """Challenger against another model on the same images."""

    difference: Metric
    difference_apart: Metric | None = Field(None, description="on the test images that are no near-duplicates")
    only_challenger_right: int
    only_other_right: int
    p_value: float
    churn: Metric | None = Field(None, description="share of the images that the two tell apart")


@dataclass(frozen=True)
class Model:
    """A model under test: the challenger, champion, teacher or baseline."""

    who: str
    path: Path

    def score(self, images: npt.NDArray[np.uint8]) -> Scores:
        """Class scores (n, classes)."""
        return xgboost_model.score(self.path, images) if self.who == "baseline" else score(self.path, images)

    def latency(self, image: npt.NDArray[np.uint8]) -> Metric:
        """Median time of one image on one thread."""
        time_of = xgboost_model.latency_us if self.who == "baseline" else latency_us
        return time_of(self.path, image, LATENCY_RUNS)


def scored(model: Model, scores: Scores, test: Split, apart: npt.NDArray[np.bool_], config: Vetting) -> Scored:
    """All that is known of a model by itself; ``apart`` (n,) says which test images are no near-duplicates."""
    confusion = statistics.confusion_matrix(test.labels, scores.argmax(-1), scores.shape[1])
    hits = scores.argmax(-1) == test.labels
    corrupted = _corrupted(model, test, config) if model.who in ("challenger", "champion") else None
    return Scored(
        label=model.who,
        sha256=storage.sha256(model.path),
        accuracy=statistics.proportion(int(hits.sum()), len(test)),
        accuracy_apart=statistics.proportion(int(hits[apart].sum()), int(apart.sum())) if apart.any() else None,
        recall=statistics.class_recall(confusion),
        confusion=confusion.tolist(),
        calibration_error=statistics.calibration_error(scores, test.labels),
        corrupted=corrupted,
        corrupted_accuracy=corrupted and _mean(corrupted, min(config.corrupted_images, len(test))),
        bytes=model.path.stat().st_size,
        latency_us=model.latency(test.images[0]),
    )


def compare(
    challenger: Scores, other: Scores, test: Split, apart: npt.NDArray[np.bool_], config: Vetting
) -> Comparison:
    """The challenger against another model, image by image."""
    ours, theirs = challenger.argmax(-1), other.argmax(-1)
    right, other_right = ours == test.labels, theirs == test.labels
    paired, paired_apart = (statistics.Paired.of(right[which], other_right[which]) for which in (slice(None), apart))
    samples, seed = config.bootstrap_samples, config.seed
    return Comparison(
        difference=statistics.difference(paired, samples, seed),
        difference_apart=statistics.difference(paired_apart, samples, seed) if apart.any() else None,
        only_challenger_right=paired.b,
        only_other_right=paired.c,
        p_value=statistics.mcnemar(paired),
        churn=statistics.proportion(int((ours != theirs).sum()), len(test)),
    )


def class_inferiority(challenger: Scores, champion: Scores, test: Split, margin: float) -> list[float]:
    """For each class the p-value that the challenger loses ``margin`` of its recall or more.

    Together they need no correction: a gate asks for the largest, so a challenger that ruins any one class passes no
    more often than that class's own test errs (Berger, R. L. (1982), intersection-union tests. Technometrics 24).
    """
    right, other = challenger.argmax(-1) == test.labels, champion.argmax(-1) == test.labels
    of_class = (test.labels == number for number in range(challenger.shape[1]))
    return [statistics.inferiority(statistics.Paired.of(right[which], other[which]), margin) for which in of_class]


def measures(
    found: Mapping[str, Scored],
    against: Mapping[str, Comparison],
    inferiority: list[float] | None,
    classes: tuple[str, ...],
    policy: Policy,
) -> dict[Measure, Measured]:
    """Every measure that a policy can bound, as far as there is a champion and a baseline."""
    ours = found["challenger"]
    recalls = [metric.value for metric in ours.recall]
    of_class = [sum(row) for row in ours.confusion]  # a row for each true class
    assert ours.calibration_error
    assert ours.corrupted_accuracy
    measured: dict[Measure, Measured] = {
        "accuracy": Measured(ours.accuracy.value),
        "class_recall": Measured(min(recalls), classes[int(np.argmin(recalls))]),
        "calibration_error": Measured(ours.calibration_error.value),
        "corrupted_accuracy": Measured(ours.corrupted_accuracy.value, _weakest(ours)),
        "bytes": Measured(ours.bytes),
        "latency_us": Measured(ours.latency_us.value),
        "test_images": Measured(ours.accuracy.n or 0),
        "test_images_per_class": Measured(min(of_class), classes[int(np.argmin(of_class))]),
    }
    if ours.accuracy_apart:
        measured["accuracy_apart"] = Measured(ours.accuracy_apart.value)
    for who, (worse, better) in PAIRED.items():
        if who in against:
            measured |= {worse: _p(against[who], "less"), better: _p(against[who], "greater")}
    if "champion" in against:
        measured |= _against_champion(ours, found["champion"], against["champion"], classes)
    if inferiority is not None:
        margin = policy["class_inferior_p"].margin
        told = (
            f"the largest p that a class loses {100 * (margin or 0):g} points: {classes[int(np.argmax(inferiority))]}"
        )
        measured["class_inferior_p"] = Measured(float(np.max(inferiority)), told)
    return measured


PAIRED: dict[str, tuple[Measure, Measure]] = {
    "champion": ("champion_worse_p", "champion_better_p"),
    "baseline": ("baseline_worse_p", "baseline_better_p"),
}


def _p(comparison: Comparison, alternative: Literal["greater", "less"]) -> Measured:
    """The exact one-sided p-value, small where the challenger is better (``greater``) or worse (``less``)."""
    paired = statistics.Paired(0, comparison.only_challenger_right, comparison.only_other_right, 0)
    difference = f"{100 * comparison.difference.value:+.2f} points, McNemar's exact test"
    return Measured(statistics.mcnemar(paired, alternative), difference)


def _against_champion(
    ours: Scored, theirs: Scored, comparison: Comparison, classes: tuple[str, ...]
) -> dict[Measure, Measured]:
    drops = [before.value - after.value for before, after in zip(theirs.recall, ours.recall, strict=True)]
    assert comparison.churn
    assert ours.corrupted_accuracy
    assert theirs.corrupted_accuracy
    measured: dict[Measure, Measured] = {
        "class_recall_drop": Measured(max(drops), classes[int(np.argmax(drops))]),
        "corrupted_accuracy_drop": Measured(theirs.corrupted_accuracy.value - ours.corrupted_accuracy.value),
        "churn": Measured(comparison.churn.value),
    }
    if comparison.difference_apart:
        measured["champion_gain_apart"] = Measured(comparison.difference_apart.value)
    return measured


def _corrupted(model: Model, test: Split, config: Vetting) -> dict[str, list[float]]:
    chosen = np.linspace(0, len(test) - 1, min(config.corrupted_images, len(test)), dtype=np.int64)
    images, labels = test.images[chosen], test.labels[chosen]
    found: dict[str, list[float]] = {kind: [] for kind in SEVERITIES}
    for kind, _, views in corruptions(images, config.seed):
        found[kind].append(float((model.score(views).argmax(-1) == labels).mean()))
    return found


def _mean(corrupted: Mapping[str, list[float]], images: int) -> Metric:
    return Metric(value=float(np.mean(list(corrupted.values()))), n=images)


def _weakest(model: Scored) -> str:
    """What kind of corruption costs a model most."""
    means = {kind: float(np.mean(accuracies)) for kind, accuracies in (model.corrupted or {}).items()}
    worst = min(means, key=means.__getitem__)
    return f"least with {worst}, {100 * means[worst]:.1f} %"
