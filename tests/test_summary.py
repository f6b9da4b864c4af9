"""The run's table says what a person wants to know first."""

from __future__ import annotations

import json
from pathlib import Path

import planted
import pytest

from mlapp import summary
from mlapp.errors import UserError
from mlapp.result import StageResult


@pytest.fixture
def results(tmp_path: Path) -> list[StageResult]:
    made = []
    for stage in ("extract", "train", "distill", "distill", "vet"):
        folder = tmp_path / f"{stage}-{len(made)}"
        folder.mkdir()
        made.append(planted.result(folder, stage, {}))
    return made


def summarise(folder: Path, results: list[StageResult], **settings: str) -> str:
    config = summary.SummaryConfig(results=tuple(result.uri for result in results), **settings)
    return summary.run(config, folder / "summary").local("summary.txt").read_text(encoding="utf-8")


def test_the_table_has_a_line_a_stage_and_the_verdict(tmp_path: Path, results: list[StageResult]) -> None:
    text = summarise(tmp_path, results, run="manual-1")
    lines = text.splitlines()
    assert lines[0] == "run manual-1"
    assert sum(line.startswith("distill") for line in lines) == 2
    assert any(line.startswith("verdict") and "vet in vet-4" in line for line in lines)
    assert "stages took 5 s" in text


def test_results_older_than_the_run_are_told_as_reused(tmp_path: Path, results: list[StageResult]) -> None:
    text = summarise(tmp_path, results, started="2026-08-26T12:00:01+00:00")
    assert text.count("reused") == 5
    assert "stages took 0 s" in text
    assert "reused" not in summarise(tmp_path, results, started="2026-08-26T11:59:59+00:00")
    assert summarise(tmp_path, results, started="2026-08-26T12:00:01").count("reused") == 5  # no zone means UTC


def test_jobs_in_the_cloud_are_told_with_their_cost_and_those_that_did_not_do(
    tmp_path: Path, results: list[StageResult]
) -> None:
    folder = tmp_path / "placed"
    job = {"task": "train", "place": "europe-west4 spot", "outcome": "ran", "cost": 0.25, "currency": "USD"}
    told = [job | {"outcome": "no machine to be had", "cost": 0.0}, job, job | {"cost": None}]
    assert "cloud" not in summarise(tmp_path, results, placed=str(folder))
    folder.mkdir()
    for number, content in enumerate(told):
        (folder / f"2026-{number}.json").write_text(json.dumps(content))
    lines = summarise(tmp_path, results, placed=str(folder)).splitlines()
    assert lines[-2:] == [
        "cloud       3 jobs: 0.25 USD by the listed prices, 1 of them not priced",
        "            train at europe-west4 spot: no machine to be had",
    ]


def test_a_time_that_is_none_is_told(tmp_path: Path, results: list[StageResult]) -> None:
    with pytest.raises(UserError, match="started is no ISO 8601 time: 'yesterday'"):
        summarise(tmp_path, results, started="yesterday")
