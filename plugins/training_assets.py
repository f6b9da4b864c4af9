"""The assets that tie the DAGs together: data that were prepared, and the model that was made of them.

An event of `DATA` has the digest of the prepared pixels and labels; one of `MODEL` has the digest it was trained on. So
a run that new data started can see whether they are news. Whoever may use Airflow can create an event by hand, with any
content or none: what an event says is checked like any input, and a run that it starts is one that was started by hand.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from airflow.sdk import Asset, get_current_context

from mlapp.result import StageResult

DATA = Asset("fashion_mnist_data", group="data")
MODEL = Asset("fashion_mnist_model", group="model")
DIGEST = re.compile(r"[0-9a-f]{16,64}")
# A reference, as a run hands it on; the part behind # is missing in events of earlier versions.
CONFIG = re.compile(r"(gs:/)?/[^\x00-\x1f\x7f]+/config\.json(#sha256=[0-9a-f]{64})?")
FROM_TERMINAL = "dag_test"  # whom Airflow names as the user who triggered a run of `airflow dags test`
log = logging.getLogger("airflow.task")


class Announcement(NamedTuple):
    """What an event of `DATA` says that a run acts on."""

    digest: str
    config: str


def announce_data(profile: str, config: str) -> None:
    """Announce prepared data, on which a training starts; a trial and a run of the terminal are skipped."""
    from mlapp.configure import read_setting

    if read_setting(config, "transform.limit") is not None:
        _skip("transform.limit makes this a trial: it is not announced, and no training starts")
    _only_under_a_scheduler()
    get_current_context()["outlet_events"][DATA].extra = data_announcement(profile, config)


def data_announcement(profile: str, config: str) -> dict[str, Any]:
    """Of prepared data: digest, class counts and quality figures, and the settings that they were made with."""
    content = StageResult.load(profile).content("profile", dict[str, Any])
    told = {name: content[name] for name in ("name", "digest", "class_counts", "quality")}
    return {**told, "profile": profile, "config": config}


def announce_model(data: str, promoted: str) -> None:
    """Announce that a model was trained on these data, and what came of it; a run of the terminal is skipped."""
    _only_under_a_scheduler()
    get_current_context()["outlet_events"][MODEL].extra = model_announcement(data, promoted)


def model_announcement(data: str, promoted: str) -> dict[str, Any]:
    """Of a training: the digest of its data, and the outcome."""
    from mlapp.dataset import content_digest  # brings NumPy, which parsing a DAG must not

    registered = StageResult.load(promoted)
    return {
        "data": content_digest(StageResult.load(data)),
        "outcome": registered.headline.split(";")[0],
        "promoted": promoted,
    }


def as_announced(data: str) -> str:
    """The reference of prepared data, if they are the ones that were announced; a run by hand takes any.

    What was approved is what is trained on: a raw area that changed in between is refused.
    """
    announced = latest(get_current_context()["triggering_asset_events"])
    if announced is None:
        return data
    from stage_operator import BadInput

    from mlapp.dataset import content_digest

    prepared = content_digest(StageResult.load(data))
    if prepared != announced.digest:
        raise BadInput(
            f"the prepared data have digest {prepared}, and {announced.digest} was announced: the data changed in "
            "between; run the data DAG again"
        )
    return data


def is_news() -> bool:
    """Whether this run has something to train on: always by hand; started by data, only if they have changed."""
    context = get_current_context()
    announced = latest(context["triggering_asset_events"])
    if announced is None:
        return True
    events = context["inlet_events"][MODEL].ascending(False).limit(1)
    trained = _text_of(events[0], "data") if len(events) else None
    if trained != announced.digest:
        log.info("data %s are new (trained on so far: %s)", announced.digest, trained)
        return True
    log.info("data %s have been trained on already: trigger by hand to train on them again", trained)
    return False


def latest(events: Mapping[Any, Sequence[Any]]) -> Announcement | None:
    """What the last event of `DATA` that started a run announced; None where the run counts as started by hand."""
    found = events.get(DATA)  # Airflow's mapping answers with an empty list where there is none
    if not found:
        return None
    digest, config = _text_of(found[-1], "digest"), _text_of(found[-1], "config")
    if DIGEST.fullmatch(digest) and CONFIG.fullmatch(config) and ".." not in config.split("/"):
        return Announcement(digest, config)
    log.warning("the event that started this run was made by hand (no digest and config.json of data in it)")
    return None


def config_of_data(events: Mapping[Any, Sequence[Any]]) -> str:
    """URI of the settings that the data were prepared with which started this run; empty for a run by hand."""
    announced = latest(events)
    return announced.config if announced else ""


def _text_of(event: Any, name: str) -> str:
    """A text in an event's payload, which may be anything; empty where there is none."""
    extra = getattr(event, "extra", None)
    value = extra.get(name) if isinstance(extra, Mapping) else None
    return value if isinstance(value, str) else ""


def _only_under_a_scheduler() -> None:
    if get_current_context()["dag_run"].triggering_user_name == FROM_TERMINAL:
        _skip("a run of the terminal announces nothing by itself (make run ANNOUNCE=1 does)")


def _skip(reason: str) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    raise AirflowSkipException(reason)
