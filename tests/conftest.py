"""What every room's tests may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlapp.etl import gcp_dataloader

DATASETS = Path(__file__).parents[1] / ".cache" / "datasets"


@pytest.fixture(scope="session")
def raw_uri() -> str:
    """URI of the extract stage's result on the real Fashion-MNIST; the 70,000 images are fetched once and kept."""
    return gcp_dataloader.run(gcp_dataloader.Extract(), DATASETS / "fashion_mnist").uri
