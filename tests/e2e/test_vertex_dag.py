"""The whole training DAG with its stages as Vertex AI jobs and its files in Cloud Storage, both on loopback.

The jobs' own arguments and environment are executed, in processes that share nothing with the DAG's but the buckets.
Bad weather (`loopback.chaos`) is before both services: nothing may be lost, done twice or cancelled for it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pytest

from mlapp.gcs_files import Files
from tests.e2e.loopback_cloud import loopback_cloud
from tests.e2e.workspace import Ran, Workspace
from tests.loopback import vertex
from tests.loopback.vertex_lives import State, over_quota

TRAINING = "mlapp.dl.dnn_trainer"
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def cloud(workspace: Workspace) -> Iterator[vertex.Vertex]:
    """A Vertex AI that executes its jobs, where the first place has no quota for the teacher; and the buckets."""
    with loopback_cloud(workspace, seed=20) as service:
        service.plan(over_quota(), module=TRAINING, spot=True)
        yield service


@pytest.fixture(scope="module")
def ran(workspace: Workspace, cloud: vertex.Vertex) -> Ran:
    return workspace.run_dag({"tracking.wandb": "off", "pruning.sparsities": [0.3], "distillation.widths": [0.5]})


@pytest.fixture(scope="module")
def files(workspace: Workspace, ran: Ran) -> Files:
    return Files(token="anon", endpoint_url=workspace.cloud["STORAGE_EMULATOR_HOST"])


def test_the_dag_promotes_a_model_without_touching_the_workers_disk(workspace, ran, files):
    assert ran.code == 0, ran.output[-8000:]
    champion = files.cat("models/production/my_fashion_mnist/CHAMPION").decode().strip()
    manifest = json.loads(files.cat(f"models/production/my_fashion_mnist/{champion}/manifest.json"))
    assert {"model.int8.tflite", "model.keras", "MODEL_CARD.md", "verdict.json"} <= set(manifest["files"])
    left = {path.name for path in workspace.folder.iterdir()} - {"airflow", "gcs", "loopback.yaml"}
    assert not left


def test_every_stage_was_one_job_and_none_is_left(cloud, ran):
    assert ran.code == 0
    assert {job.state for job in cloud.jobs} == {State.JOB_STATE_SUCCEEDED}
    modules = Counter(job.job_spec.worker_pool_specs[0].container_spec.args[0] for job in cloud.jobs)
    assert set(modules.values()) - {3} == {1}
    assert modules["mlapp.tune.tuner"] == 3
    assert "mlapp.configure" not in modules
    assert "mlapp.summary" not in modules
    for job in cloud.jobs:
        assert job.labels["team"] == "vision"
        assert job.job_spec.service_account == "training@project-1.iam.gserviceaccount.com"


def test_the_hop_past_the_quota_is_told_everywhere(cloud, ran, files):
    job = next(job for job in cloud.jobs if job.job_spec.worker_pool_specs[0].container_spec.args[0] == TRAINING)
    assert "europe-west1" in job.name
    assert "quota" in ran.output
    trained = files.glob("models/mlapp/train/*/result.json")
    hops = json.loads(files.cat(trained[0]))["hops"]
    assert [hop["outcome"] == "ran" for hop in hops] == [False, True]
    assert "quota" in hops[0]["outcome"]
    champion = files.cat("models/production/my_fashion_mnist/CHAMPION").decode().strip()
    card = files.cat(f"models/production/my_fashion_mnist/{champion}/MODEL_CARD.md").decode()
    assert "europe-west1" in card
