"""A training task on the Vertex AI of this process, with its files in a bucket on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
import vertex_jobs
import vertex_stub
from airflow.sdk.exceptions import TaskDeferred
from airflow.sdk.serde import deserialize, serialize
from loopback.chaos import Weather
from stage_operator import StageOperator

from mlapp import configure, storage

FIRST = {"region": "europe-west4", "machine_type": "n2-standard-8", "spot": True, "preemptions": 1}
SECOND = {"region": "europe-west1", "machine_type": "n2-standard-8"}
IMAGE = f"europe-west4-docker.pkg.dev/p1/images/mlapp@sha256:{'0' * 64}"
TASK = {"dag_id": "fashion_mnist_training", "run_id": "manual__2026-11-21T10:00:00+00:00", "task_id": "train"}


@contextmanager
def vertex(monkeypatch: pytest.MonkeyPatch, weather: Weather | None = None) -> Iterator[vertex_stub.Vertex]:
    """A Vertex AI that this process is connected to, in bad weather if so, with the pauses between calls cut short."""
    monkeypatch.setenv("AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT", '{"conn_type": "google_cloud_platform"}')
    monkeypatch.setattr(vertex_jobs, "BACKOFF_S", (0.01, 0.01))
    monkeypatch.setattr(vertex_jobs, "CONFIRM_EVERY_S", 0.01)
    monkeypatch.setattr(vertex_jobs, "PATIENCE_S", 1.0)
    with vertex_stub.serving(weather) as (service, address):
        monkeypatch.setenv(vertex_jobs.ENDPOINT, address)
        yield service


def settings(folder: str, *places: Any, **placement: Any) -> str:
    """Write a run's settings below a folder; gives their URI."""
    conf = {
        "cloud": {"project": "p-one-1"},
        "storage": {area: f"{folder}/{area}" for area in ("raw", "processed", "models", "experiments", "registry")},
        "placement": {
            "runner": "vertex",
            "places": list(places or (FIRST, SECOND)),
            "image": IMAGE,
            "poll_seconds": 0.05,
            **placement,
        },
    }
    uri = f"{folder}/experiments/run/config.json"
    # Not by configure, which refuses early what some of these tests are about.
    storage.write_text(storage.at(uri), configure.resolve("smoke", conf).model_dump_json())
    return uri


def operator(config: str, **given: Any) -> tuple[StageOperator, list[str]]:
    """The task, and the lines that it says."""
    lines: list[str] = []
    given = {"task_id": "train", "module": "mlapp.dl.dnn_trainer", "runner": "vertex", "deferrable": False} | given
    stage = StageOperator(config=config, **given)
    stage.tell = lines.append
    return stage, lines


def context(**task: Any) -> dict[str, Any]:
    """What Airflow gives the task that matters here."""
    return {"ti": SimpleNamespace(**{**TASK, "map_index": -1, "start_date": datetime.now(UTC), **task})}


def through(stage: StageOperator, task: dict[str, Any], lost: bool = False) -> str:
    """Run a deferrable task as Airflow does: its state goes through the database from one method to the next.

    ``lost``: as ``airflow dags test`` does, which gives the trigger's event instead.
    """
    method, given = "execute", {}
    while True:
        try:
            return str(getattr(stage, method)(task, **given))
        except TaskDeferred as deferred:
            method, given = deferred.method_name, deserialize(json.loads(json.dumps(serialize(deferred.kwargs))))
            given = {"event": datetime.now(UTC)} if lost else given


def placed(config: str) -> list[dict[str, Any]]:
    """What the run's folder says of the jobs whose end was heard of, in order."""
    found = storage.at(config).parent / "placed"
    return [json.loads(path.read_text()) for path in sorted(found.iterdir(), key=str)] if found.exists() else []
