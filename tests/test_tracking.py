"""Whoever listens hears what stages tell, and one that fails harms neither the stage nor the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mlapp import tracking
from mlapp.result import StageResult
from mlapp.tracking import Tracker, tracked_by
from tests.tiny_stage import Tiny, run


class Listening(Tracker):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def began(self, stage: str, key: str, config: Mapping[str, Any]) -> None:
        self.heard.append(("began", stage, key, config))

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        self.heard.append((number, dict(figures)))

    def ended(self, result: StageResult) -> None:
        self.heard.append(("ended", result.uri))

    def reused(self, result: StageResult) -> None:
        self.heard.append(("reused", result.uri))

    def trial(
        self, name: str, parameters: Mapping[str, Any], history: Sequence[Mapping[str, float]], stopped_early: bool
    ) -> None:
        self.heard.append((name, parameters, history, stopped_early))

    def failed(self, reason: str) -> None:
        self.heard.append(("failed", reason))


class Broken(Tracker):
    """Fails whenever it is told something."""

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        raise RuntimeError("no network")


def test_a_tracker_hears_only_within_its_block() -> None:
    listening = Listening()
    tracking.epoch(1, {})
    with tracked_by(listening):
        tracking.epoch(2, {"validation_accuracy": 0.5})
    tracking.epoch(3, {})
    assert listening.heard == [(2, {"validation_accuracy": 0.5})]


def test_a_failing_tracker_is_told_once_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    listening = Listening()
    with tracked_by(Broken(), listening):
        tracking.epoch(1, {})
        tracking.epoch(2, {})
    assert [number for number, _ in listening.heard] == [1, 2]
    assert [record.message for record in caplog.records] == ["Broken: not tracked any more, no network"]


def test_what_stops_a_run_passes_through() -> None:
    """A search that wants no more of a trial raises what is no Exception."""

    class Stopping(Tracker):
        def epoch(self, number: int, figures: Mapping[str, float]) -> None:
            raise SystemExit

    with tracked_by(Stopping()), pytest.raises(SystemExit):
        tracking.epoch(1, {})


def test_a_search_tells_of_its_trials() -> None:
    listening = Listening()
    with tracked_by(listening):
        tracking.trial("trial-1", {"width": 0.5}, [{"validation_accuracy": 0.5}])
    assert listening.heard == [("trial-1", {"width": 0.5}, [{"validation_accuracy": 0.5}], False)]


def test_a_stage_tells_of_its_beginning_and_its_end_or_that_an_earlier_result_stands(tmp_path: Path) -> None:
    listening = Listening()
    with tracked_by(listening):
        result = run(Tiny(text="abc"), tmp_path)
        run(Tiny(text="abc"), tmp_path)
    began = ("began", "tiny", result.key, result.config)
    assert listening.heard == [began, ("ended", result.uri), ("reused", result.uri)]


def test_a_stage_that_fails_says_so(tmp_path: Path) -> None:
    listening = Listening()
    with tracked_by(listening), pytest.raises(ValueError, match="a bug"):
        run(Tiny(do="crash"), tmp_path)
    assert listening.heard[-1] == ("failed", "ValueError: a bug")
