"""What the DAGs tell each other of data and models, and when new data are news."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import planted
import pytest
import training_assets as assets

from mlapp.dataset import content_digest
from mlapp.result import StageResult


class Events(list[Any]):
    """The events of an asset as Airflow hands them to a task, the newest first once asked for."""

    def ascending(self, ascending: bool) -> Events:
        return Events(reversed(self)) if not ascending else self

    def limit(self, count: int) -> Events:
        return Events(self[:count])


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The context of a running task, for a run by hand before anything was ever trained."""
    given = {
        "triggering_asset_events": defaultdict(list),
        "inlet_events": {assets.MODEL: Events()},
        "outlet_events": {asset: SimpleNamespace(extra={}) for asset in (assets.DATA, assets.MODEL)},
    }
    monkeypatch.setattr(assets, "get_current_context", lambda: given)
    return given


def data_event(digest: str, config: str = "config.json") -> SimpleNamespace:
    return SimpleNamespace(extra={"digest": digest, "config": config})


def model_event(digest: str) -> SimpleNamespace:
    return SimpleNamespace(extra={"data": digest})


@pytest.mark.parametrize(
    ("announced", "trained", "news"),
    [
        ([], [], True),
        ([], ["a"], True),
        (["a"], [], True),
        (["a"], ["a"], False),
        (["b"], ["a"], True),
        (["b"], ["b", "a"], True),
        (["a"], ["b", "a"], False),
        (["a", "b"], ["a"], True),
        (["b", "a"], ["a"], False),
    ],
    ids=[
        "by hand at first",
        "by hand",
        "the first data",
        "the same data",
        "new data",
        "data of before the last",
        "the last again",
        "the newest of several",
        "changed and changed back",
    ],
)
def test_a_run_trains_by_hand_or_on_a_digest_that_it_has_not_trained_on(
    context: dict[str, Any], announced: list[str], trained: list[str], news: bool
) -> None:
    if announced:
        context["triggering_asset_events"][assets.DATA] = [data_event(digest) for digest in announced]
    context["inlet_events"][assets.MODEL].extend(model_event(digest) for digest in trained)
    assert assets.is_news() is news


def test_a_run_takes_the_settings_of_the_data_that_started_it() -> None:
    events = {assets.DATA: [data_event("a", "old.json"), data_event("b", "new.json")]}
    assert assets.config_of_data(events) == "new.json"
    assert assets.config_of_data({}) == ""


def test_data_are_announced_with_digest_counts_quality_and_settings(context: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    content = {
        "name": "tiny",
        "digest": "0123",
        "class_counts": {"train": {"a": 3}},
        "quality": {"train duplicates": 0},
    }
    path.write_text(json.dumps({**content, "origin": "a test"}))
    result = planted.result(tmp_path, "profile", {"profile": path})
    assets.announce_data(result.uri, "config.json")
    assert context["outlet_events"][assets.DATA].extra == {
        **content,
        "profile": result.uri,
        "config": "config.json",
    }


def test_a_model_is_announced_with_the_digest_that_the_data_were_announced_with(
    context: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(
        json.dumps(
            {
                "name": "letters",
                "shape": [8, 8, 1],
                "classes": ["a", "b"],
                "splits": {"train": {"sha256": {"images": "1", "labels": "2"}}},
            }
        )
    )
    data = planted.result(tmp_path / ".", "transform", {"dataset": path})
    promoted = tmp_path / "promoted"
    promoted.mkdir()
    registered: StageResult = planted.result(promoted, "promote", {})
    assets.announce_model(data.uri, registered.uri)
    told = context["outlet_events"][assets.MODEL].extra
    assert told["data"] == content_digest(data)
    assert told["outcome"] == registered.headline


def test_other_data_than_those_announced_are_not_trained_on(context: dict[str, Any], tmp_path: Path) -> None:
    """Given a raw area that somebody changed between the data's announcement and the training that it starts."""
    from stage_operator import BadInput

    data = planted.data(tmp_path / "data", 20)
    assert assets.as_announced(data.reference) == data.reference, "a run by hand takes any"
    context["triggering_asset_events"][assets.DATA] = [data_event(content_digest(data))]
    assert assets.as_announced(data.reference) == data.reference
    context["triggering_asset_events"][assets.DATA] = [data_event("0" * 16)]
    with pytest.raises(BadInput, match=r"the prepared data have digest \w+, and 0000000000000000 was announced"):
        assets.as_announced(data.reference)
