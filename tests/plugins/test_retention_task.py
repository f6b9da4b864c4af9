"""The task of the DAG `retention`: it shows by default, removes when told to, and never touches a bundle."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from retention_task import clean
from stage_operator import BadInput

from mlapp.schema import Storage


@pytest.fixture
def areas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Areas with one old work directory."""
    for area in Storage.model_fields:
        monkeypatch.setenv(f"MLAPP_STORAGE__{area.upper()}", str(tmp_path / area))
    (tmp_path / "experiments").mkdir()
    place = tmp_path / "processed" / "transform" / ("a" * 16)
    place.mkdir(parents=True)
    (place / "result.json").touch()
    os.utime(place / "result.json", (0, 0))
    return place


def test_it_shows_by_default(areas: Path) -> None:
    assert clean(json.dumps({"preset": "quick", "storage.raw": None})) == [str(areas)]
    assert areas.exists()


@pytest.mark.parametrize("remove", ["true", "yes", 1, None])
def test_only_a_plain_yes_removes(areas: Path, remove: object) -> None:
    clean(json.dumps({"remove": remove}))
    assert areas.exists()


def test_it_removes_when_told_to(areas: Path) -> None:
    assert clean(json.dumps({"remove": True, "older_than_days": 30})) == [str(areas)]
    assert not areas.exists()


@pytest.mark.parametrize("days", ["0", "-1", "1e9", "true", '"30"', "null", "NaN", "[]"])
def test_an_age_that_is_none_removes_nothing(areas: Path, days: str) -> None:
    with pytest.raises(SystemExit):
        clean(f'{{"remove": true, "older_than_days": {days}}}')
    assert areas.exists()


def test_a_setting_that_is_none_is_one_line(areas: Path) -> None:
    with pytest.raises(BadInput, match="nosuch"):
        clean(json.dumps({"nosuch.setting": 1, "remove": True}))
    assert areas.exists()
