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
        "dag_run": SimpleNamespace(triggering_user_name="admin"),
        "outlet_events": {asset: SimpleNamespace(extra={}) for asset in (assets.DATA, assets.MODEL)},
    }
    monkeypatch.setattr(assets, "get_current_context", lambda: given)
    return given


def data_event(digest: str, config: str = "/runs/a/config.json") -> SimpleNamespace:
    return SimpleNamespace(extra={"digest": digest * 16, "config": config})


def model_event(digest: str) -> SimpleNamespace:
    return SimpleNamespace(extra={"data": digest * 16})


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
    events = {assets.DATA: [data_event("a", "/a/config.json"), data_event("b", "gs://b/c d/config.json")]}
    assert assets.config_of_data(events) == "gs://b/c d/config.json"
    assert assets.config_of_data({}) == ""


BY_HAND = [
    *(None, [], "text", {}, {"from_rest_api": True}, {"digest": None, "config": "/a/config.json"}),
    *(
        {"digest": 3, "config": "/a/config.json"},
        {"digest": "a" * 16},
        {"digest": "A" * 16, "config": "/a/config.json"},
    ),
    *(
        {"digest": "a" * 16, "config": config}
        for config in (None, {}, "", "config.json", "/a/other.json", "--to=/a/config.json")
    ),
    *({"digest": "a" * 16, "config": config} for config in ("http://a/config.json", "memory://a/config.json")),
    *(
        {"digest": "a" * 16, "config": config}
        for config in ("/a/../b/config.json", "/a/\nb/config.json", "/a/{{ x }}\0/config.json")
    ),
]


@pytest.mark.parametrize("extra", BY_HAND)
def test_an_event_that_says_nothing_valid_of_data_starts_a_run_by_hand(context: dict[str, Any], extra: Any) -> None:
    """Whoever may use Airflow can create events, with any payload or none."""
    events = context["triggering_asset_events"]
    events[assets.DATA] = [data_event("b"), SimpleNamespace(extra=extra)]
    assert assets.is_news() is True
    assert assets.config_of_data(events) == ""


@pytest.mark.parametrize("extra", [None, {}, {"data": 3}, "text"])
def test_a_model_s_event_made_by_hand_hides_no_news(context: dict[str, Any], extra: Any) -> None:
    context["triggering_asset_events"][assets.DATA] = [data_event("b")]
    context["inlet_events"][assets.MODEL].append(SimpleNamespace(extra=extra))
    assert assets.is_news() is True


@pytest.mark.parametrize(
    ("limit", "user"), [(100, "admin"), (None, "dag_test")], ids=["a trial", "a run of the terminal"]
)
def test_a_trial_and_a_run_of_the_terminal_announce_nothing(
    context: dict[str, Any], tmp_path: Path, limit: int | None, user: str
) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    context["dag_run"].triggering_user_name = user
    (tmp_path / "config.json").write_text(json.dumps({"transform": {"limit": limit}}))
    with pytest.raises(AirflowSkipException):
        assets.announce_data("/nowhere", str(tmp_path / "config.json"))
    assert context["outlet_events"][assets.DATA].extra == {}
    if limit is None:
        with pytest.raises(AirflowSkipException):
            assets.announce_model("/nowhere", "/nowhere")


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
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"transform": {"limit": None}}))
    assets.announce_data(result.uri, str(config))
    assert context["outlet_events"][assets.DATA].extra == {
        **content,
        "profile": result.uri,
        "config": str(config),
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

    def announced(digest: str) -> SimpleNamespace:
        return SimpleNamespace(extra={"digest": digest, "config": "/runs/a/config.json"})

    data = planted.data(tmp_path / "data", 20)
    assert assets.as_announced(data.reference) == data.reference, "a run by hand takes any"
    context["triggering_asset_events"][assets.DATA] = [announced(content_digest(data))]
    assert assets.as_announced(data.reference) == data.reference
    context["triggering_asset_events"][assets.DATA] = [announced("0" * 16)]
    with pytest.raises(BadInput, match=r"the prepared data have digest \w+, and 0000000000000000 was announced"):
        assets.as_announced(data.reference)
