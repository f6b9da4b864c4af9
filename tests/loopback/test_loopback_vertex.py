"""The loopback Vertex AI itself, through the real client: what it plays, and what it refuses."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.cloud.aiplatform_v1 import JobServiceClient, types
from google.cloud.aiplatform_v1.services.job_service.transports import JobServiceGrpcTransport
from google.rpc.code_pb2 import Code

from tests.loopback.vertex import PROJECT, Vertex, serving
from tests.loopback.vertex_lives import OVER, State, executes, exits, over_quota, stocked_out, succeeds, waits

PARENT = f"projects/{PROJECT}/locations/europe-west4"
IMAGE = "europe-west4-docker.pkg.dev/project-1/mlapp/training@sha256:" + "0" * 64


@pytest.fixture
def vertex() -> Iterator[Vertex]:
    with serving() as server:
        yield server


@pytest.fixture
def client(vertex: Vertex) -> Iterator[JobServiceClient]:
    with grpc.insecure_channel(vertex.address) as channel:
        yield JobServiceClient(transport=JobServiceGrpcTransport(channel=channel))


def job(*arguments: str, **changes: Any) -> dict[str, Any]:
    """A job that breaks no rule, with these dotted changes."""
    pool: dict[str, Any] = {
        "machine_spec": {"machine_type": "n2-standard-8"},
        "replica_count": 1,
        "container_spec": {"image_uri": IMAGE, "args": list(arguments) or ["json.tool", "--help"]},
    }
    made: dict[str, Any] = {
        "display_name": "train",
        "labels": {"task": "train"},
        "job_spec": {"worker_pool_specs": [pool], "scheduling": {"timeout": {"seconds": 60}, "strategy": "SPOT"}},
    }
    for name, value in changes.items():
        *parents, leaf = name.split("__")
        branch: Any = made
        for part in parents:
            branch = pool if part == "pool" else branch.setdefault(part, {})
        branch[leaf] = value
    return made


def over(client: JobServiceClient, name: str) -> types.CustomJob:
    for _ in range(600):
        found = client.get_custom_job(name=name)
        if found.state in OVER:
            return found
        time.sleep(0.02)
    raise AssertionError(found)


def test_jobs_come_to_the_ends_that_were_planned(vertex, client, tmp_path):
    told = tmp_path / "ended.json"
    vertex.plan(succeeds("gs://x/result.json"), stocked_out(), exits(1))
    created = [
        client.create_custom_job(parent=PARENT, custom_job=job("m", f"--ended-to={told}")).name for _ in range(3)
    ]
    ended = [over(client, name) for name in created]
    assert [job.state for job in ended] == [State.JOB_STATE_SUCCEEDED, State.JOB_STATE_FAILED, State.JOB_STATE_FAILED]
    assert ended[1].error.code == Code.RESOURCE_EXHAUSTED
    assert not ended[1].start_time
    assert "non-zero status of 1" in ended[2].error.message
    assert "gs://x/result.json" in told.read_text()


def test_a_job_is_cancelled_once(vertex, client):
    vertex.plan(waits())
    name = client.create_custom_job(parent=PARENT, custom_job=job()).name
    assert len(vertex.active) == 1
    client.cancel_custom_job(name=name)
    assert over(client, name).state == State.JOB_STATE_CANCELLED
    with pytest.raises(exceptions.FailedPrecondition):
        client.cancel_custom_job(name=name)
    assert not vertex.active


def test_a_job_runs_no_longer_than_its_timeout(vertex, client):
    timeout = {"nanos": 200_000_000}
    name = client.create_custom_job(parent=PARENT, custom_job=job(job_spec__scheduling__timeout=timeout)).name
    assert over(client, name).error.code == Code.DEADLINE_EXCEEDED


def test_listing_filters_and_pages(vertex, client):
    for number in range(5):
        client.create_custom_job(parent=PARENT, custom_job=job(labels={"task": "ab"[number % 2], "run": "r"}))

    def found(text: str) -> int:
        return len(list(client.list_custom_jobs({"parent": PARENT, "filter": text, "page_size": 2})))

    assert found("labels.task=a") == 3
    assert found('labels.run:* AND (labels.task="b" OR state="JOB_STATE_FAILED")') == 2
    assert found('NOT display_name="train"') == 0
    with pytest.raises(exceptions.InvalidArgument):
        found("labels.task=a AND")
    with pytest.raises(exceptions.InvalidArgument):
        found("colour=red")
    assert len(list(client.list_custom_jobs(parent=f"projects/{PROJECT}/locations/europe-west1"))) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        job(display_name="x" * 129),
        job(labels={"Task": "train"}),
        job(labels={"task": "a b"}),
        job(pool__machine_spec={"machine_type": "n2-standard-7"}),
        job(
            pool__machine_spec={
                "machine_type": "n2-standard-8",
                "accelerator_type": "NVIDIA_L4",
                "accelerator_count": 1,
            }
        ),
        job(pool__container_spec={"image_uri": "Bad Image"}),
        job(pool__replica_count=2),
        job(pool__python_package_spec={"executor_image_uri": IMAGE, "python_module": "m"}),
        job(job_spec__scheduling={"timeout": {"seconds": 8 * 24 * 3600}}),
        job(job_spec__scheduling={"strategy": "SPOT", "max_wait_duration": {"seconds": 60}}),
        job(job_spec__service_account="someone"),
        job(job_spec__base_output_directory={"output_uri_prefix": "/local"}),
    ],
)
def test_what_breaks_a_rule_is_refused(vertex, client, wrong):
    with pytest.raises(exceptions.InvalidArgument):
        client.create_custom_job(parent=PARENT, custom_job=wrong)
    assert vertex.jobs == []


def test_quota_permission_and_region_are_refused_each_in_its_way(vertex, client):
    vertex.plan(over_quota())
    with pytest.raises(exceptions.ResourceExhausted, match="quota metrics exceed"):
        client.create_custom_job(parent=PARENT, custom_job=job())
    with pytest.raises(exceptions.PermissionDenied) as denied:
        client.create_custom_job(parent="projects/other/locations/europe-west4", custom_job=job())
    assert denied.value.reason == "IAM_PERMISSION_DENIED"
    with pytest.raises(exceptions.InvalidArgument, match="Unsupported region mars-1"):
        client.create_custom_job(parent=f"projects/{PROJECT}/locations/mars-1", custom_job=job())


def test_an_interrupted_call_may_have_done_its_work(vertex, client):
    vertex.interrupt("CreateCustomJob", Code.UNAVAILABLE, after=True)
    with pytest.raises(exceptions.ServiceUnavailable):
        client.create_custom_job(parent=PARENT, custom_job=job())
    assert len(vertex.jobs) == 1


def test_containers_run_as_processes_with_their_own_environment(vertex, client, monkeypatch, tmp_path):
    monkeypatch.setenv("MLAPP_TRAINING__EPOCHS", "3")
    script = tmp_path / "tell.py"
    script.write_text("import json, os, sys\nprint(json.dumps(dict(os.environ)))\nsys.exit(int(sys.argv[1]))\n")
    vertex.default = executes({"PYTHONPATH": str(tmp_path), "GIVEN": "yes"})
    names = [client.create_custom_job(parent=PARENT, custom_job=job("tell", code)).name for code in ("0", "2")]
    assert over(client, names[0]).state == State.JOB_STATE_SUCCEEDED
    assert "workerpool0-0 exited with a non-zero status of 2." in over(client, names[1]).error.message
    told = vertex.runs[names[0]].logs["workerpool0-0"]
    assert '"GIVEN": "yes"' in told
    assert "TF_CONFIG" in told
    assert "MLAPP_TRAINING__EPOCHS" not in told


def test_a_cancelled_container_is_asked_to_end(vertex, client, tmp_path):
    script = tmp_path / "stay.py"
    script.write_text(
        "import pathlib, signal, sys, time\n"
        "def end(*_):\n    print('saved', flush=True)\n    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, end)\npathlib.Path(sys.argv[1]).touch()\ntime.sleep(60)\n"
    )
    vertex.default = executes({"PYTHONPATH": str(tmp_path)})
    name = client.create_custom_job(parent=PARENT, custom_job=job("stay", str(tmp_path / "up"))).name
    wait_for((tmp_path / "up").exists)
    client.cancel_custom_job(name=name)
    assert over(client, name).state == State.JOB_STATE_CANCELLED
    assert vertex.runs[name].logs["workerpool0-0"] == "saved\n"


def wait_for(true: Callable[[], bool]) -> None:
    for _ in range(500):
        if true():
            return
        time.sleep(0.02)
    sys.exit("it never came true")
