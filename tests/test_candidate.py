"""Candidates are read back from what another version of the code may have written."""

from __future__ import annotations

import pytest

from mlapp import storage
from mlapp.candidate import read_candidates
from mlapp.errors import UserError
from mlapp.result import StageResult


@pytest.mark.parametrize("content", ["[", "{}", '[{"name": "student"}]'])
def test_a_file_of_another_form_is_told_in_one_line(planted_teacher: StageResult, tmp_path, content: str) -> None:
    path = tmp_path / "candidates.json"
    path.write_text(content)
    artifact = planted_teacher.artifacts["candidates"].model_copy(
        update={"uri": str(path), "sha256": storage.sha256(path)}
    )
    result = planted_teacher.model_copy(update={"artifacts": {"candidates": artifact}})
    with pytest.raises(UserError, match="is not a candidates of this version: run the train stage again"):
        read_candidates(result)
