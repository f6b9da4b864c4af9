"""Placement on Vertex AI: whatever happens there, one job at a time, and none left running."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
import vertex_stub as stub
from airflow.sdk.exceptions import TaskDeferred
from airflow.sdk.serde import deserialize, serialize
from stage_operator import StageOperator

from mlapp import configure

pytest_plugins = "loopback.fixtures"

FIRST = {"region": "europe-west4", "machine_type": "n2-standard-8", "spot": True, "preemptions": 1}
SECOND = {"region": "europe-west1", "machine_type": "n2-standard-8"}
IMAGE = f"europe-west4-docker.pkg.dev/p1/images/mlapp@sha256:{'0' * 64}"
TASK = {"dag_id": "fashion_mnist_training", "run_id": "manual__2026-11-21T10:00:00+00:00", "task_id": "train"}


@pytest.fixture
def vertex(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT", '{"conn_type": "google_cloud_platform"}')
    with stub.serving() as (service, address):
        monkeypatch.setenv("MLAPP_VERTEX_ENDPOINT", address)
        yield service


@pytest.fixture
def config(cloud, request):
    """A function that writes a run's settings to a bucket; gives their URI."""
    folder = f"gs://models/{request.node.name}"

    def write(*places: Any, **placement: Any) -> str:
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
        configure.configure("smoke", conf, uri)
        return uri

    return write


def operator(config: str, **given: Any) -> tuple[StageOperator, list[str]]:
    lines: list[str] = []
    given = {"task_id": "train", "module": "mlapp.dl.dnn_trainer", "runner": "vertex", "deferrable": False} | given
    stage = StageOperator(config=config, **given)
    stage.tell = lines.append
    return stage, lines


def context(**task: Any) -> dict[str, Any]:
    return {"ti": SimpleNamespace(**{**TASK, "map_index": -1, "start_date": datetime.now(UTC), **task})}


def through(stage: StageOperator, task: dict[str, Any]) -> str:
    """Run a deferrable task as Airflow does: its state goes through the database between two methods."""
    method, given = "execute", {}
    while True:
        try:
            return getattr(stage, method)(task, **given)
        except TaskDeferred as deferred:
            method, given = deferred.method_name, deserialize(json.loads(json.dumps(serialize(deferred.kwargs))))


@pytest.mark.parametrize("deferrable", [False, True])
def test_success_hands_on_the_uri_that_the_stage_left(vertex, config, deferrable):
    stage, lines = operator(config(), deferrable=deferrable)
    assert through(stage, context()) == stub.URI
    assert vertex.creates == 1
    assert vertex.states() == ["SUCCEEDED"]
    assert any("not estimated" in line for line in lines)
