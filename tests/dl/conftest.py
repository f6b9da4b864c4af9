"""A small real data set in the transform stage's form, and tiny trained networks on it, made once a session."""

from __future__ import annotations

import pytest

from mlapp.dataset import Dataset
from mlapp.dl import nets
from mlapp.etl import image_etl, quality

FAST = {"epochs": 1, "batch_size": 50, "patience": 5}


@pytest.fixture(scope="session")
def data_uri(tmp_path_factory: pytest.TempPathFactory, raw_uri: str) -> str:
    """The URI of a transform result: 1,000 real training images and as many test images."""
    folder = tmp_path_factory.mktemp("data")
    report = quality.run(quality.run.config(raw=raw_uri), folder / "validate")
    config = image_etl.run.config(raw=raw_uri, report=report.uri, limit=1000)
    return image_etl.run(config, folder / "transform").uri


@pytest.fixture(scope="session")
def dataset(data_uri: str) -> Dataset:
    return Dataset.open(data_uri)


@pytest.fixture
def tiny(dataset: Dataset) -> object:
    """An untrained network of a few thousand weights."""
    return nets.build("convnet", shape=dataset.shape, classes=10, width=0.125, seed=1)
