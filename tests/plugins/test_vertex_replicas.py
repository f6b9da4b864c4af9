"""A trainer on two machines of Vertex AI: two worker pools, whose replicas find each other through TF_CONFIG."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from vertex_errand import Errand, TaskKey
from vertex_task import Ladder, Waiting

from mlapp.configure import configure
from mlapp.result import StageResult
from mlapp.schema import Storage
from tests.loopback import vertex
from tests.loopback.vertex_lives import State, executes

pytest_plugins = "loopback.fixtures"
IMAGE = "europe-west4-docker.pkg.dev/project-1/mlapp/training@sha256:" + "0" * 64


def test_two_machines_train_one_network(
    data_uri: str, cloud: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a place with two replicas, when a trainer runs there, then both train and the chief alone writes."""
    place = {"region": "europe-west4", "machine_type": "n2-standard-8", "replicas": 2}
    conf = {
        "preset": "smoke",
        "training.epochs": 1,
        "tracking.wandb": "off",
        "cloud.project": vertex.PROJECT,
        "storage": {area: f"gs://models/{area}" for area in Storage.model_fields},
        "placement": {"runner": "vertex", "places": [place], "image": IMAGE},
    }
    uri = str(tmp_path / "config.json")
    config, _ = configure("smoke", conf, uri)
    task, command = TaskKey("training", "run-1", "train"), (f"--data={data_uri}", f"--config={uri}")
    errand = Errand(task, "mlapp.dl.dnn_trainer", command, uri, IMAGE)
    said: list[str] = []
    with vertex.serving(default=executes(cloud)) as service:
        monkeypatch.setenv("MLAPP_VERTEX_ENDPOINT", service.address)
        ladder = Ladder(errand, config, datetime.now(UTC) + timedelta(minutes=10), said.append)
        step = ladder.begin()
        while isinstance(step, Waiting):
            time.sleep(0.2)
            step = ladder.look(step)
        logs = [run.logs for run in service.runs.values()]
    assert (step.exit_code, len(service.jobs)) == (0, 1), (said, logs)
    assert service.jobs[0].state == State.JOB_STATE_SUCCEEDED
    assert "done, the chief writes the result" in logs[0]["workerpool1-0"]
    result = StageResult.load(step.uri)
    assert result.hops[-1].place == "europe-west4 n2-standard-8 on 2 machines"
    assert result.metrics["float32.validation_accuracy"].value > 0.3
