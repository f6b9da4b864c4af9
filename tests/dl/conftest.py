"""Tiny networks for the small real data set."""

from __future__ import annotations

import pytest

from mlapp.dataset import Dataset
from mlapp.dl import nets

FAST = {"epochs": 1, "batch_size": 50, "patience": 5}


@pytest.fixture
def tiny(dataset: Dataset) -> object:
    """An untrained network of a few thousand weights."""
    return nets.build("convnet", shape=dataset.shape, classes=10, width=0.125, seed=1)
