"""Tiny networks for the small real data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from mlapp.dataset import Dataset
from mlapp.dl import nets
from mlapp.tracking import Tracker, tracked_by

FAST = {"epochs": 1, "batch_size": 50, "patience": 5}


@pytest.fixture
def tiny(dataset: Dataset) -> object:
    """An untrained network of a few thousand weights."""
    return nets.build("convnet", shape=dataset.shape, classes=10, width=0.125, seed=1)


@pytest.fixture
def told() -> Iterator[list[tuple[int, Mapping[str, float]]]]:
    """Number and figures of the epochs that trackers are told of in this test."""
    epochs: list[tuple[int, Mapping[str, float]]] = []

    class Listening(Tracker):
        def epoch(self, number: int, figures: Mapping[str, float]) -> None:
            epochs.append((number, figures))

    with tracked_by(Listening()):
        yield epochs
