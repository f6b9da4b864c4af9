"""The assets that tie the DAGs together: data that were prepared, and the model that was made of them.

An event of `DATA` tells the digest of the prepared pixels and labels; one of `MODEL` tells which digest it was trained
on. So a run that new data started can see whether they are news.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import Asset, get_current_context

from mlapp.result import StageResult

DATA = Asset("fashion_mnist_data", group="data")
MODEL = Asset("fashion_mnist_model", group="model")
log = logging.getLogger("airflow.task")


def announce_data(profile: str, config: str) -> None:
    """Tell of prepared data: digest, class counts and quality figures, and the settings that they were made with."""
    content = StageResult.load(profile).content("profile", dict[str, Any])
    told = {name: content[name] for name in ("name", "digest", "class_counts", "quality")}
    get_current_context()["outlet_events"][DATA].extra = {**told, "profile": profile, "config": config}


def announce_model(data: str, promoted: str) -> None:
    """Tell that a model was trained on these data, and what came of it."""
    from mlapp.dataset import content_digest  # brings NumPy, which parsing a DAG must not

    registered = StageResult.load(promoted)
    get_current_context()["outlet_events"][MODEL].extra = {
        "data": content_digest(StageResult.load(data)),
        "outcome": registered.headline.split(";")[0],
        "promoted": promoted,
    }


def as_announced(data: str) -> str:
    """The reference of prepared data, if they are the ones that were announced; a run by hand takes any.

    What was approved is what is trained on: a raw area that changed in between is refused.
    """
    event = latest(get_current_context()["triggering_asset_events"])
    if event is None:
        return data
    from stage_operator import BadInput

    from mlapp.dataset import content_digest

    prepared = content_digest(StageResult.load(data))
    if prepared != event.extra["digest"]:
        raise BadInput(
            f"the prepared data have digest {prepared}, and {event.extra['digest']} was announced: the data changed in "
            "between; run the data DAG again"
        )
    return data


def is_news() -> bool:
    """Whether this run has something to train on: always by hand; started by data, only if they have changed."""
    context = get_current_context()
    event = latest(context["triggering_asset_events"])
    if event is None:
        return True
    events = context["inlet_events"][MODEL].ascending(False).limit(1)
    trained = events[0].extra.get("data") if len(events) else None
    if trained != event.extra["digest"]:
        log.info("data %s are new (trained on so far: %s)", event.extra["digest"], trained)
        return True
    log.info("data %s have been trained on already: trigger by hand to train on them again", trained)
    return False


def latest(events: Mapping[Any, Sequence[Any]]) -> Any | None:
    """The last event of `DATA` among those that started a run; None for a run that was started by hand."""
    told = events.get(DATA)  # Airflow's mapping answers with an empty list where there is none
    return told[-1] if told else None


def config_of_data(events: Mapping[Any, Sequence[Any]]) -> str:
    """URI of the settings that the data were prepared with which started this run; empty for a run by hand."""
    event = latest(events)
    return str(event.extra["config"]) if event else ""
