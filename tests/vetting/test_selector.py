"""The choice: by validation only, the smallest or best within the bounds, and a reason for every other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import planted
import pytest

from mlapp import dataset
from mlapp.candidate import Candidate
from mlapp.errors import UserError
from mlapp.result import StageResult
from mlapp.schema import Selection
from mlapp.vetting import frontier, selector


def entries(*candidates: Candidate) -> list[tuple[Candidate, str]]:
    return [(candidate, candidate.name) for candidate in candidates]


TEACHER = planted.candidate("teacher", "teacher", "float32", 0.92, 900_000, latency=300)
GOOD = planted.candidate("good", "student", "int8", 0.915, 60_000, latency=90)
SMALL = planted.candidate("small", "student", "int8", 0.912, 30_000, latency=60)
POOR = planted.candidate("poor", "student", "int8", 0.88, 10_000, latency=40)
FLOAT = planted.candidate("small", "student", "float32", 0.913, 29_000, latency=50)


def test_the_smallest_within_a_point_of_the_teacher_is_chosen() -> None:
    placed = frontier.place(entries(TEACHER, GOOD, SMALL, POOR, FLOAT), Selection())
    assert frontier.choose(placed, Selection()).candidate == SMALL
    reasons = {entry.candidate.label: entry.obstacle for entry in placed}
    assert reasons["poor int8"] == "88.00 % on validation, under the floor 91.00 %"
    assert reasons["small float32"] == "precision is not int8"
    assert reasons["good int8"] is None


@pytest.mark.parametrize(
    ("change", "chosen"),
    [
        ({"max_accuracy_drop": 0.05}, "poor"),
        ({"max_accuracy_drop": 0.006}, "good"),
        ({"precision": "any"}, "small"),
        ({"prefer": "most_accurate", "max_accuracy_drop": 0.05}, "good"),
        ({"prefer": "most_accurate", "max_accuracy_drop": 0.05, "max_bytes": 59_999}, "small"),
        ({"max_latency_us": 50, "max_accuracy_drop": 0.05}, "poor"),
    ],
)
def test_each_bound_of_the_policy_acts(change: dict[str, Any], chosen: str) -> None:
    policy = Selection(**change)
    placed = frontier.place(entries(TEACHER, GOOD, SMALL, POOR, FLOAT), policy)
    assert frontier.choose(placed, policy).candidate.name == chosen


def test_ties_in_size_go_to_the_more_accurate_then_the_faster() -> None:
    slow = planted.candidate("slow", "student", "int8", 0.915, 30_000, latency=80)
    fast = planted.candidate("fast", "student", "int8", 0.915, 30_000, latency=70)
    placed = frontier.place(entries(TEACHER, SMALL, slow, fast), Selection())
    assert frontier.choose(placed, Selection()).candidate.name == "fast"


def test_the_frontier_is_what_nothing_beats_in_every_respect() -> None:
    beaten = planted.candidate("beaten", "student", "int8", 0.911, 61_000, latency=95)
    placed = frontier.place(entries(TEACHER, GOOD, SMALL, POOR, beaten), Selection())
    assert {entry.candidate.name for entry in placed if entry.on_frontier} == {"teacher", "good", "small", "poor"}


def test_the_baseline_stands_in_the_comparison_and_is_never_chosen() -> None:
    """Given boosted trees that are smaller, faster and more accurate than all networks, then they are not chosen."""
    trees = planted.candidate("xgboost", "baseline", "float32", 0.93, 5_000, latency=10)
    placed = frontier.place(entries(TEACHER, GOOD, SMALL, trees), Selection(precision="any"))
    assert frontier.choose(placed, Selection()).candidate == SMALL
    assert placed[-1].obstacle == "is the baseline, to compare with"
    assert [entry.candidate.name for entry in placed if entry.on_frontier] == ["xgboost"]


def test_without_a_qualified_candidate_every_obstacle_is_told() -> None:
    placed = frontier.place(entries(TEACHER, POOR), Selection(max_bytes=5000))
    with pytest.raises(UserError, match=r"poor int8: 10,000 bytes, over selection\.max_bytes 5,000"):
        frontier.choose(placed, Selection())


def test_without_a_teacher_it_is_told() -> None:
    with pytest.raises(UserError, match="no teacher among the results"):
        frontier.place(entries(GOOD), Selection())


def test_the_stage_leaves_challenger_frontier_and_plot_and_never_opens_a_split(
    planted_teacher: StageResult, planted_student: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset.Dataset, "open", lambda uri: pytest.fail("the choice opened the data"))
    student = planted_student(0)
    config = selector.SelectorConfig(results=(planted_teacher.uri, student.uri))
    result = selector.run(config, tmp_path)
    challenger = json.loads(result.local("challenger").read_text())
    assert challenger["candidate"]["precision"] == "int8"
    assert result.local("model").read_bytes() == result.local("int8").read_bytes()
    assert result.local("teacher_float32") == planted_teacher.local("float32")
    assert result.local("frontier_plot").read_bytes().startswith(b"\x89PNG")
    assert len(json.loads(result.local("frontier").read_text())) == 4
    assert "2,000 validation images" in result.headline


def test_the_baselines_result_may_be_among_the_results(
    planted_teacher: StageResult, planted_student: Any, planted_baseline: StageResult, tmp_path: Path
) -> None:
    """Given a result that has neither int8 nor Keras files, then the choice is what it is without it."""
    alone, beside = (planted_teacher.uri, planted_student(0).uri), planted_baseline.uri
    expected = selector.run(selector.SelectorConfig(results=alone), tmp_path / "alone")
    found = selector.run(selector.SelectorConfig(results=(beside, *alone)), tmp_path / "beside")
    assert found.artifacts["model"] == expected.artifacts["model"]
    assert json.loads(found.local("frontier").read_text())[0]["candidate"]["kind"] == "baseline"
    assert found.local("frontier_plot").read_bytes() != expected.local("frontier_plot").read_bytes()
