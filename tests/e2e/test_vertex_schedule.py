"""Vertex AI jobs under Airflow's own scheduler and triggerer, where workers and tasks are killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.cloud.aiplatform_v1 import types

from tests.e2e.loopback_cloud import loopback_cloud
from tests.e2e.standalone import Airflow, standalone
from tests.e2e.workspace import Workspace
from tests.loopback.vertex import Vertex
from tests.loopback.vertex_lives import State, runs

pytestmark = pytest.mark.timeout(900)
DATA, REAPER = "fashion_mnist_data", "vertex_reaper"
EXTRACT, TRANSFORM = "mlapp.etl.gcp_dataloader", "mlapp.etl.image_etl"


@pytest.fixture(scope="module")
def cloud(workspace: Workspace) -> Iterator[Vertex]:
    with loopback_cloud(workspace) as service:
        yield service


@pytest.fixture(scope="module")
def airflow(workspace: Workspace, cloud: Vertex) -> Iterator[Airflow]:
    with standalone(workspace, DATA, REAPER) as server:
        yield server


def jobs_of(cloud: Vertex, module: str) -> list[types.CustomJob]:
    return [job for job in cloud.jobs if job.job_spec.worker_pool_specs[0].container_spec.args[0] == module]


def test_a_killed_worker_s_job_is_taken_up_and_a_killed_waiting_task_s_job_is_reaped(
    airflow: Airflow, cloud: Vertex
) -> None:
    """Given a worker that is killed when its job is submitted and before it knows the id, then the retry takes it up.

    Given a task that waits in the triggerer, when its run is marked as failed, then the reaper cancels its job.
    """
    cloud.strike("CreateCustomJob")
    cloud.plan(runs(), module=TRANSFORM)
    airflow.ask(f"api/v2/dags/{DATA}/dagRuns", "POST", {"logical_date": None})
    [run] = airflow.runs(DATA)
    airflow.until(lambda: airflow.states(run)["transform"] == "deferred", "transform does not wait for a job")
    assert [job.state for job in jobs_of(cloud, EXTRACT)] == [State.JOB_STATE_SUCCEEDED], "one job, not two"
    assert {name: state for name, state in airflow.states(run).items() if name in ("extract", "validate")} == {
        "extract": "success",
        "validate": "success",
    }
    [waiting] = jobs_of(cloud, TRANSFORM)
    assert cloud.active == [waiting]

    airflow.ask(f"api/v2/dags/{DATA}/dagRuns/{run['dag_run_id']}", "PATCH", {"state": "failed"})
    airflow.until(lambda: airflow.states(run)["transform"] == "failed", "transform is not failed")
    assert cloud.active == [waiting], "nobody has told the job yet"
    airflow.ask(f"api/v2/dags/{REAPER}", "PATCH", {"is_paused": False})
    airflow.until(lambda: not cloud.active, "the orphan goes on")
    assert waiting.state == State.JOB_STATE_CANCELLED
    assert len(jobs_of(cloud, TRANSFORM)) == 1
