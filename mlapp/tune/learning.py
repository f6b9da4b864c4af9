"""Whether a search found anything: what its best trial reached must be more than luck, or one class for all images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mlapp.errors import UserError
from mlapp.statistics import most_by_luck
from mlapp.tune.trials import Trial, best_of


def require_learning(trainer: str, trials: Sequence[Trial], labels: npt.NDArray[np.uint8], classes: int) -> None:
    """A `UserError` where no trial learnt: the best is within luck of guessing, or all take one class for every image.

    ``labels`` are those of the validation split, on which accuracies are measured.
    """
    usable = [trial for trial in trials if trial.usable]
    best = best_of(usable)
    if best is None:
        return  # all failed, which is reported with the reason
    images, right = len(labels), round(best.accuracy * len(labels))
    luck = most_by_luck(images, classes, len(usable))
    if right <= luck:
        why = f"guessing comes to {_percent(luck, images)}"
    elif {round(trial.accuracy * images) for trial in usable} <= set(np.bincount(labels).tolist()):
        why = "as many are of the commonest class: each trial takes one class for every image"
    else:
        return
    raise UserError(
        f"{trainer}: the search found nothing: the best of {len(usable)} trials has {_percent(right, images)} "
        f"of {images} validation images right, and {why}: search other values (tuning.space), train longer "
        "(tuning.epochs and the trainer's own), or check in the data's profile that images and labels belong together"
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %"
