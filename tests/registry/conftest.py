"""What several of the registry's tests start from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import chain
import pytest

from mlapp.result import StageResult


@pytest.fixture
def vetted(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any
) -> chain.Chain:
    """The verdict on a student of 95 %, to be promoted."""
    return chain.vet(tmp_path, planted_data, planted_teacher, planted_student(3))
