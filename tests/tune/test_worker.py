"""What a trial tells the search of its epochs."""

from __future__ import annotations

from typing import Any

import pytest

from mlapp.tracking import PRELIMINARY
from mlapp.tune.worker import Reporter


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[dict[int, float]]:
    """The accuracies of each report."""
    made: list[dict[int, float]] = []

    def report(reporter: Reporter, state: str, **more: Any) -> None:
        made.append(dict(reporter.accuracies))

    monkeypatch.setattr(Reporter, "report", report)
    return made


def test_every_epoch_is_reported(reports: list[dict[int, float]]) -> None:
    reporter = Reporter()
    for number in (1, 2):
        reporter.epoch(number, {"validation_accuracy": 0.4 * number})
    assert reports == [{1: 0.4}, {1: 0.4, 2: 0.8}]


def test_a_student_that_loses_filters_is_judged_by_its_end_alone(reports: list[dict[int, float]]) -> None:
    """Early stopping must not hear of it: wide, it is another network, and right after it has epochs to recover."""
    reporter = Reporter()
    for number, preliminary in ((1, 1.0), (2, 1.0), (3, 0.0), (4, 0.0)):
        reporter.epoch(number, {"validation_accuracy": 0.2 * number, PRELIMINARY: preliminary})
    assert reports == []
    assert reporter.accuracies == {3: pytest.approx(0.6), 4: 0.8}
