"""A stage that does as it is told, as a real module that real subprocesses run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Before anything imports Airflow, which makes its home wherever this points.
os.environ["AIRFLOW_HOME"] = os.environ.get("MLAPP_AIRFLOW_HOME", f"{Path(__file__).parents[2]}/.airflow") + "/terminal"


@pytest.fixture(autouse=True)
def stub_stage(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the stub stage's module, which subprocesses find on their path."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return "stub_stage"


@pytest.fixture
def vertex(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Vertex AI that this process is connected to."""
    import vertex_case

    with vertex_case.vertex(monkeypatch) as service:
        yield service


@pytest.fixture
def config(cloud: dict[str, str], request: pytest.FixtureRequest) -> Callable[..., str]:
    """A function that writes the run's settings to a bucket; gives their URI."""
    import vertex_case

    folder = f"gs://models/{request.node.name.partition('[')[0]}"
    return lambda *places, **placement: vertex_case.settings(folder, *places, **placement)
