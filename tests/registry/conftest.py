"""Planted data and a teacher, made once a session."""

from __future__ import annotations

from pathlib import Path

import planted
import pytest

from mlapp.result import StageResult


@pytest.fixture(scope="session")
def planted_data(tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    return planted.data(tmp_path_factory.mktemp("planted") / "data")


@pytest.fixture(scope="session")
def planted_teacher(tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    return planted.models(tmp_path_factory.mktemp("planted") / "teacher", "teacher", "teacher", errors=[0])


@pytest.fixture(scope="session")
def planted_student(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A function that gives the result of a student that errs on these groups, made once for each set."""
    folder: Path = tmp_path_factory.mktemp("planted")
    made: dict[tuple[int, ...], StageResult] = {}

    def student(*errors: int) -> StageResult:
        if errors not in made:
            made[errors] = planted.models(folder / "-".join(map(str, errors)), "student", "student", errors)
        return made[errors]

    return student
