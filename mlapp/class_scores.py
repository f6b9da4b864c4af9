"""What accuracy hides where classes are uneven: the balanced accuracy, and the class that is recognised worst."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlapp.dataset import Dataset, are_uneven
from mlapp.result import Metric
from mlapp.statistics import proportion


@dataclass(frozen=True)
class ClassScores:
    """Mean of the classes' recalls on validation, and the lowest of them."""

    balanced: float
    worst: str
    recall: Metric
    classes: int

    @property
    def line(self) -> str:
        """Both in some words."""
        return (
            f"uneven classes: balanced accuracy {100 * self.balanced:.2f} %, "
            f"worst class {self.worst} {100 * self.recall.value:.1f} % of {self.recall.n:,}"
        )

    @property
    def metrics(self) -> dict[str, Metric]:
        """Both as metrics."""
        return {"balanced_accuracy": Metric(value=self.balanced, n=self.classes), "worst_class_recall": self.recall}


def class_scores(
    dataset: Dataset, score: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
) -> ClassScores | None:
    """The figures on validation of a model, which ``score`` asks for its outputs; None where classes are even."""
    if not are_uneven(np.array([*dataset.description["splits"]["train"]["per_class"].values()])):
        return None
    validation = dataset.split("validation")
    hits = score(validation.images).argmax(-1) == validation.labels
    recalls = {
        name: proportion(int(hits[own].sum()), int(own.sum()))
        for label, name in enumerate(dataset.classes)
        if (own := validation.labels == label).any()
    }
    worst = min(recalls, key=lambda name: recalls[name].value)
    balanced = float(np.mean([recall.value for recall in recalls.values()]))
    return ClassScores(balanced, worst, recalls[worst], len(recalls))
