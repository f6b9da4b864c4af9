"""A stage that does as it is told, as a real module that real subprocesses run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before anything imports Airflow, which makes its home wherever this points.
os.environ.setdefault("AIRFLOW_HOME", str(Path(__file__).parents[2] / ".airflow"))


@pytest.fixture(autouse=True)
def stub_stage(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the stub stage's module, which subprocesses find on their path."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return "stub_stage"
