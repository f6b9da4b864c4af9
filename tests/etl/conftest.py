"""A small made-up data set and its validation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_data import IdxFolder, images, labels

from mlapp.etl import quality


@pytest.fixture
def tiny(tmp_path: Path) -> IdxFolder:
    folder = IdxFolder(tmp_path / "tiny")
    folder.path.mkdir()
    folder.write("train-images", images(60, seed=1))
    folder.write("train-labels", labels(60))
    folder.write("t10k-images", images(30, seed=2))
    folder.write("t10k-labels", labels(30))
    return folder


@pytest.fixture
def validated(tmp_path: Path) -> Callable[[str], str]:
    """Validate a raw result with its limits wide open."""

    def validate(raw: str) -> str:
        config = quality.Validate(raw=raw, min_class_count=1, max_duplicates=1, max_leaked=1, max_constant=1)
        return quality.run(config, tmp_path / "quality").uri

    return validate
