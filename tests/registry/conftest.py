"""What several of the registry's tests start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chain
import pytest
from loopback import vertex_models
from registered import LENIENT

from mlapp.result import StageResult


@pytest.fixture(autouse=True)
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands without a name are about the model of these tests."""
    monkeypatch.setenv("MLAPP_PROMOTION__NAME", chain.NAME)


@pytest.fixture
def vetted(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any
) -> chain.Chain:
    """The verdict on a student of 95 %, to be promoted."""
    return chain.vet(tmp_path, planted_data, planted_teacher, planted_student(3))


@pytest.fixture
def vertex(monkeypatch: pytest.MonkeyPatch) -> Iterator[vertex_models.Vertex]:
    """A Vertex AI on loopback, that this process and its children are connected to."""
    made = vertex_models.Vertex()
    with vertex_models.serving(made) as environ:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def run_of(tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any) -> Any:
    """A function that chooses, vets and promotes a student that errs on these groups."""

    def run(*errors: int, **settings: object) -> chain.Chain:
        return chain.run(tmp_path, planted_data, planted_teacher, planted_student(*errors), **{**LENIENT, **settings})

    return run
