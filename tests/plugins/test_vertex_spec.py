"""The custom job's content: what a stage runs on, whom it is for, and nothing secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from google.cloud.aiplatform_v1 import CustomJob
from vertex_case import IMAGE
from vertex_errand import Attempt, Errand, TaskKey
from vertex_spec import custom_job, for_stage, hop, label_value, place_name
from vertex_stub import check

from mlapp import cluster
from mlapp.schema_cloud import Place, Placement

ROOT = Path(__file__).parents[2]
PREFIX = "gs://experiments/experiments/.mlapp/jobs"
TASK = TaskKey("fashion_mnist_training", "manual__2026-11-21T10:00:00+00:00", "distill", 1)
GPU = Place(region="europe-west4", machine_type="n1-standard-8", accelerator_type="NVIDIA_TESLA_T4", replicas=3)


def job(place: Place = GPU, task: TaskKey = TASK, **placement) -> CustomJob:
    errand = Errand(task, "mlapp.dl.dnn_trainer", ("--data=gs://d/result.json",), "gs://c/config.json", IMAGE)
    attempt = Attempt("f" * 32, "20261121-100000-000000-abcd", 0, 0, (hop(place, "ran"),))
    content = custom_job(
        errand, attempt, place, Placement(**placement), prefix=PREFIX, project="p-one-1", limit=timedelta(hours=1)
    )
    return CustomJob(content)


def test_the_container_runs_the_module_and_tells_its_end_to_the_jobs_own_file():
    container = job().job_spec.worker_pool_specs[0].container_spec
    end = f"{PREFIX}/attempts/{'f' * 32}/20261121-100000-000000-abcd/ended.json"
    assert list(container.args) == ["mlapp.dl.dnn_trainer", "--data=gs://d/result.json", f"--ended-to={end}"]
    assert (container.image_uri, list(container.command)) == (IMAGE, [])
    assert end.startswith(f"{job().job_spec.base_output_directory.output_uri_prefix}/"), "deleted by the same rule"


def test_it_says_exactly_which_task_instance_it_is_for():
    environ = {variable.name: variable.value for variable in job().job_spec.worker_pool_specs[0].container_spec.env}
    assert TaskKey(**json.loads(environ["MLAPP_TASK"])) == TASK
    assert environ["MLAPP_IMAGE"] == IMAGE
    told = {"MLAPP_TASK", "MLAPP_HOPS", "MLAPP_IMAGE", "GOOGLE_CLOUD_PROJECT"}
    assert set(environ) == told, "and nothing else, no secret"


def test_several_replicas_are_a_chief_and_its_workers():
    chief, workers = job().job_spec.worker_pool_specs
    assert (chief.replica_count, workers.replica_count) == (1, 2)
    assert chief.machine_spec == workers.machine_spec
    assert chief.machine_spec.accelerator_type.name == "NVIDIA_TESLA_T4"
    assert [arg.rpartition("/")[2] for arg in (chief.container_spec.args[-1], workers.container_spec.args[-1])] == [
        "ended.json",
        "ended-worker.json",
    ]


@pytest.mark.parametrize(("module", "count"), [("mlapp.dl.dnn_trainer", 3), ("mlapp.vetting.selector", 1)])
def test_only_what_can_train_on_several_machines_gets_them(module, count):
    assert for_stage(GPU, module).replicas == count


def test_what_vertex_says_of_the_cluster_is_understood():
    """As Vertex AI sets TF_CONFIG for two worker pools: with keys that TensorFlow does not know."""
    told = {
        "cluster": {
            "chief": ["cmle-training-workerpool0-ab12-0:2222"],
            "worker": ["cmle-training-workerpool1-ab12-0:2222", "cmle-training-workerpool1-ab12-1:2222"],
        },
        "environment": "cloud",
        "job": json.dumps({"worker_pool_specs": []}),
        "task": {"type": "worker", "index": 1, "cloud": "t7ba4b7e5f5b1d5e1-tp"},
    }
    found = cluster.read({"TF_CONFIG": json.dumps(told)})
    assert found is not None
    assert (len(found.tasks), found.task.name, found.is_chief) == (3, "worker 1", False)
    told["task"] = {"type": "chief", "index": 0, "cloud": "t7ba4b7e5f5b1d5e1-tp"}
    alone = {**told, "cluster": {"chief": told["cluster"]["chief"]}}
    assert cluster.read({"TF_CONFIG": json.dumps(alone)}) is None


@pytest.mark.parametrize(("spot", "strategy"), [(True, "SPOT"), (False, "STANDARD")])
def test_how_it_is_scheduled(spot, strategy):
    scheduling = job(GPU.model_copy(update={"spot": spot})).job_spec.scheduling
    assert scheduling.strategy.name == strategy
    assert scheduling.timeout == timedelta(hours=1)
    assert scheduling.disable_retries


@pytest.mark.parametrize(
    "run",
    ["manual__2026-11-21T10:00:00+00:00", "ÄÖÜ, $(rm -rf /); `x`", "x" * 300, "дата", "", "a/b\nc"],
)
def test_whatever_a_run_is_called_the_job_is_well_formed(run):
    made = job(task=TaskKey("dag" * 80, run, "task", 0), labels={"team": "vision"})
    check(made)
    assert made.labels["team"] == "vision"
    assert made.labels["run"] == label_value(run)


def test_the_users_labels_cannot_take_the_place_of_ours():
    assert job(labels={"mlapp_identity": "mine"}).labels["mlapp_identity"] == "f" * 32


def test_what_airflow_loads_at_its_start_brings_nothing_heavy():
    code = (
        "import sys, vertex_task, vertex_orphans, vertex_ladder; "
        "print([name for name in ('google.cloud.aiplatform', 'grpc', 'numpy') if name in sys.modules])"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "plugins")])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_how_a_place_is_called():
    assert place_name(GPU) == "europe-west4 n1-standard-8 1×NVIDIA_TESLA_T4 on 3 machines"
    assert place_name("local") == "local"
