"""What a user can mend is told in one line, with the command that mends it, and leaves no job behind."""

from __future__ import annotations

import grpc
import pytest
import vertex_case as case
import vertex_jobs
import vertex_stub as stub
from stage_operator import BadInput

from mlapp.config import validate
from mlapp.errors import UserError
from mlapp.schema import Config

pytest_plugins = "loopback.fixtures"
Code = grpc.StatusCode
ACCOUNT = "stages@p-one-1.iam.gserviceaccount.com"


@pytest.mark.parametrize(
    ("code", "message", "reason", "command"),
    [
        (
            Code.PERMISSION_DENIED,
            "Vertex AI API has not been used in project 12 before or it is disabled.",
            "SERVICE_DISABLED",
            "gcloud services enable aiplatform.googleapis.com --project=p-one-1",
        ),
        (
            Code.PERMISSION_DENIED,
            "Permission 'aiplatform.customJobs.create' denied on resource '//aiplatform.googleapis.com/p'",
            "IAM_PERMISSION_DENIED",
            "--role=roles/aiplatform.user",
        ),
        (
            Code.PERMISSION_DENIED,
            "Permission denied on resource project p-one-1.",
            "CONSUMER_INVALID",
            "gcloud projects describe p-one-1",
        ),
        (
            Code.INVALID_ARGUMENT,
            f"You do not have permission to act as service_account: {ACCOUNT}. (or it may not exist).",
            "",
            f"gcloud iam service-accounts add-iam-policy-binding {ACCOUNT} --project=p-one-1",
        ),
        (
            Code.INVALID_ARGUMENT,
            'Machine type "n2-standard-8" is not supported.',
            "",
            "gcloud compute machine-types list --filter='zone~europe-west4'",
        ),
        (
            Code.INVALID_ARGUMENT,
            'Accelerator "NVIDIA_TESLA_K80" is not supported for machine type "n1-standard-4".',
            "",
            "gcloud compute accelerator-types list",
        ),
        (
            Code.NOT_FOUND,
            f"Image {case.IMAGE} not found.",
            "",
            f"gcloud artifacts docker images describe {case.IMAGE}",
        ),
        (Code.NOT_FOUND, "The bucket gs://runs does not exist.", "", "buckets list (correct storage.experiments)"),
        (Code.FAILED_PRECONDITION, "This method requires billing.", "BILLING_DISABLED", "gcloud billing projects link"),
        (Code.UNAUTHENTICATED, "Request had invalid credentials.", "", "gcloud auth application-default login"),
        (Code.INVALID_ARGUMENT, "List of found errors: 1.Field: x", "", "List of found errors: 1.Field: x"),
    ],
)
def test_what_vertex_refuses_fails_at_once_with_what_mends_it(vertex, config, code, message, reason, command):
    vertex.scenes["europe-west4"] = [stub.Refusal(code, message, reason)]
    stage, _ = case.operator(config(service_account=ACCOUNT))
    with pytest.raises(BadInput) as raised:
        stage.execute(case.context())
    told = str(raised.value)
    assert told.startswith("train: error: ")
    assert command in told
    assert "\n" not in told
    assert (vertex.creates, vertex.jobs) == (1, {}), "no other place would do"


def test_an_image_that_cannot_be_pulled_is_told_with_the_command_that_shows_it(vertex, config):
    message = f"Failed to pull image {case.IMAGE}: artifactregistry.repositories.downloadArtifacts denied"
    vertex.scenes["europe-west4"] = [(stub.pending, stub.failed(9, message))]
    with pytest.raises(BadInput, match="gcloud artifacts docker images describe europe-west4-docker"):
        case.operator(config())[0].execute(case.context())
    assert (vertex.creates, vertex.active) == (1, [])


def test_without_credentials(vertex, config, monkeypatch, tmp_path):
    uri = config()
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", vertex_jobs.ENDPOINT):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    with pytest.raises(BadInput, match=r"no valid Google Cloud credentials .*: gcloud auth application-default login"):
        case.operator(uri)[0].execute(case.context())


def test_without_a_connection_in_airflow(vertex, config, monkeypatch):
    uri = config()
    monkeypatch.delenv("AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT")
    with pytest.raises(BadInput, match="airflow connections add google_cloud_default --conn-type google_"):
        case.operator(uri)[0].execute(case.context())


def test_a_region_that_does_not_exist(vertex, config, monkeypatch):
    uri = config({**case.SECOND, "region": "europe-west15"})
    monkeypatch.delenv(vertex_jobs.ENDPOINT)
    connection = '{"conn_type": "google_cloud_platform", "extra": {"is_anonymous": true}}'
    monkeypatch.setenv("AIRFLOW_CONN_GOOGLE_CLOUD_DEFAULT", connection)
    with pytest.raises(BadInput, match=r"europe-west15-aiplatform.*: gcloud compute regions list"):
        case.operator(uri)[0].execute(case.context())


def test_without_an_image(vertex, config):
    with pytest.raises(BadInput, match=r"no training image: set placement\.image"):
        case.operator(config(image=None))[0].execute(case.context())
    assert vertex.creates == 0


def test_without_places(vertex, cloud):
    uri = case.settings("gs://models/without-places", places=[])
    with pytest.raises(BadInput, match=r"placement\.places is empty: .*MLAPP_DEPLOYMENT=vertex_cpu"):
        case.operator(uri)[0].execute(case.context())


def test_with_files_that_no_job_can_reach(vertex, tmp_path):
    with pytest.raises(
        BadInput, match=rf"storage\.raw is {tmp_path}/raw, on this machine: set storage\.raw to a gs://"
    ):
        case.operator(case.settings(str(tmp_path)))[0].execute(case.context())
    assert vertex.creates == 0


def test_the_worker_itself_is_the_last_of_places():
    with pytest.raises(UserError, match="give `local` last, or not at all"):
        validate(Config, {"placement": {"places": ["local", case.SECOND]}}, {})
