"""Several generations of a teacher: each learns from the one before, and one that is done is not trained again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlapp.dataset import Dataset, Split
from mlapp.dl import dnn_trainer
from mlapp.schema import Training

ONE = Training(width=0.125, epochs=2, batch_size=50, patience=5, seed=3)
TWO = ONE.model_copy(update={"generations": 2})


@pytest.fixture
def lessons(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Split]]:
    """Each network that a later one learnt from, and what it said."""
    found: list[tuple[Any, Split]] = []
    taught_by = dnn_trainer.taught_by

    def remembered(teacher: Any, train: Split, augmentation: str) -> Split:
        found.append(([weight.copy() for weight in teacher.get_weights()], taught_by(teacher, train, augmentation)))
        return found[-1][1]

    monkeypatch.setattr(dnn_trainer, "taught_by", remembered)
    return found


def test_a_second_generation_learns_from_the_first_and_takes_it_up_if_it_is_done(
    dataset: Dataset, tmp_path: Path, lessons: list[tuple[Any, Split]], told: list[int]
) -> None:
    first, history = dnn_trainer.fit(ONE, dataset, tmp_path)
    assert not lessons
    second, longer = dnn_trainer.fit(TWO, dataset, tmp_path)
    [(weights, train)] = lessons
    for expected, found in zip(first.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(expected, found)
    assert train.answers is not None
    assert told == [1, 2, 3, 4]  # the first two stood when the second generation was asked for
    assert longer[:2] == history
    assert len(longer) == 4
    assert any((a != b).any() for a, b in zip(first.get_weights(), second.get_weights(), strict=True))


def test_what_the_first_generation_says_decides_what_the_second_becomes(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a first generation that calls everything class 7, then so does the second, half the time at least."""

    def of_one_mind(teacher: Any, train: Split, augmentation: str) -> Split:
        answers = np.zeros((len(train), 10), np.float16)
        answers[:, 7] = 20
        return Split(train.images, train.labels, answers)

    monkeypatch.setattr(dnn_trainer, "taught_by", of_one_mind)
    model, _ = dnn_trainer.fit(TWO, dataset, tmp_path)
    images = dataset.split("validation").images.astype(np.float32)
    assert (model(images).numpy().argmax(-1) == 7).mean() > 0.5
