"""The image stage: found or built, by Cloud Build, and what it tells when it cannot be."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.rpc import code_pb2
from loopback import cloud_build, image_registry
from loopback.cloud_build import CloudBuild, Failure, Status, error_status
from pydantic import ValidationError

from mlapp import authenticate, storage
from mlapp.errors import UserError
from mlapp.images import builder
from mlapp.images.context import Context
from mlapp.result import StageResult
from mlapp.schema import Storage
from mlapp.schema_cloud import Cloud

pytest_plugins = "loopback.fixtures"
ACCOUNT = "images@my-project.iam.gserviceaccount.com"


@pytest.fixture
def registry() -> Iterator[image_registry.Registry]:
    with image_registry.serving() as registry:
        yield registry


@pytest.fixture
def build_service(
    registry: image_registry.Registry, cloud: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[CloudBuild]:
    """A Cloud Build that pushes to the registry, beside a Cloud Storage."""
    pushed = CloudBuild(pushes=lambda build: [registry.push(image) for image in build.images])
    with cloud_build.serving(pushed) as service:
        monkeypatch.setenv("MLAPP_CLOUD_BUILD_ENDPOINT", service.address)
        monkeypatch.setattr(authenticate, "member", lambda: "user:me@example.com")
        yield service


@pytest.fixture
def config(registry: image_registry.Registry) -> builder.ImageConfig:
    return builder.ImageConfig(
        repository=f"{registry.address}/mlapp/mlapp-training",
        cloud=Cloud(project="my-project"),
        storage=Storage(models="gs://models/area"),
        poll_seconds=0.05,
    )


def image_of(result: StageResult) -> dict[str, Any]:
    return json.loads(result.local("image").read_text(encoding="utf-8"))


def test_an_image_that_lacks_is_built_and_told_by_digest(config, registry, build_service, tmp_path) -> None:
    image = image_of(builder.run(config, tmp_path))
    tag = Context.read("cpu").tag
    digest = registry.digests[f"mlapp/mlapp-training:{tag}"]
    assert image == {"image": f"{config.repository}@{digest}", "tag": tag, "built": True}
    (build,) = build_service.builds.values()
    assert list(build.images) == [f"{config.repository}:{tag}", f"{config.repository}:cache-cpu"]
    assert build.name.startswith("projects/my-project/locations/europe-west4/builds/")
    assert build.timeout.total_seconds() == 40 * 60


def test_cloud_build_is_handed_the_context_and_nothing_else(config, build_service, tmp_path) -> None:
    builder.run(config, tmp_path)
    (build,) = build_service.builds.values()
    source = build.source.storage_source
    with storage.at(f"gs://{source.bucket}/{source.object_}").open("rb") as stream:
        content = io.BytesIO(stream.read())
    with tarfile.open(fileobj=content) as packed:
        assert set(packed.getnames()) == set(Context.read("cpu").files)
    assert "Dockerfile.training" in build.steps[0].args[1]
    assert "--build-arg=VARIANT=cpu" in build.steps[0].args


def test_the_build_is_of_the_generation_that_was_uploaded_and_is_to_be_verified(
    config, build_service, tmp_path
) -> None:
    """So that who else may write to the area cannot exchange the files between upload and build."""
    builder.run(config, tmp_path)
    (build,) = build_service.builds.values()
    source = build.source.storage_source
    place = storage.at(f"gs://{source.bucket}/{source.object_}")
    assert source.generation == int(place.fs.info(place.path)["generation"])
    assert build.options.requested_verify_option.name == "VERIFIED"


def _another_source(build: Any) -> None:
    build.source_provenance.resolved_storage_source.generation += 1


def _no_source(build: Any) -> None:
    build.source_provenance = {}


def _no_digest(build: Any) -> None:
    build.results.images = [image for image in build.results.images if ":cache-" in image.name]


def _another_digest(build: Any) -> None:
    build.results.images[0].digest = f"sha256:{'1' * 64}"


@pytest.mark.parametrize(
    ("tampers", "told"),
    [
        (_another_source, r"was made from gs://models/area/builds/\S+, not from generation \d+ of what was uploaded"),
        (_no_source, "was made from "),
        (_no_digest, "does not name the digest of"),
        (_another_digest, r"Cloud Build pushed sha256:1+: somebody else pushes to this repository"),
    ],
)
def test_an_image_of_another_provenance_is_refused(config, build_service, tmp_path, tampers, told) -> None:
    build_service.tampers = tampers
    with pytest.raises(UserError, match=told):
        builder.run(config, tmp_path)
    assert not (tmp_path / "result.json").exists()


def test_another_base_makes_another_image(config, build_service, tmp_path) -> None:
    base = f"example.org/python@sha256:{'2' * 64}"
    first = image_of(builder.run(config, tmp_path / "first"))
    other = image_of(builder.run(config.model_copy(update={"base": base}), tmp_path / "other"))
    assert other["tag"] != first["tag"]
    *_, build = build_service.builds.values()
    assert f"--build-arg=BASE={base}" in build.steps[0].args


@pytest.mark.parametrize("base", ["python:3.11", "python", f"python@sha256:{'2' * 63}", "$(touch x)"])
def test_a_base_without_its_digest_is_refused(base) -> None:
    with pytest.raises(ValidationError):
        builder.ImageConfig(base=base)


def test_an_image_that_is_there_costs_one_request_and_no_build(config, registry, build_service, tmp_path) -> None:
    first = image_of(builder.run(config, tmp_path / "first"))
    registry.requests.clear()
    assert image_of(builder.run(config, tmp_path / "second")) == {**first, "built": False}
    assert [method for method, _ in registry.requests] == ["HEAD"]
    assert len(build_service.builds) == 1


def test_again_builds_what_is_there(config, build_service, tmp_path) -> None:
    builder.run(config, tmp_path / "first")
    again = builder.run(config.model_copy(update={"again": True}), tmp_path / "second")
    assert image_of(again)["built"] is True
    assert len(build_service.builds) == 2


def test_each_content_has_a_result_of_its_own(config, monkeypatch) -> None:
    """Given two runs of different code at once, the one does not overwrite what the other tells."""
    cpu = builder.run.key(builder.run.resolved(config))
    monkeypatch.setattr(Context, "tag", property(lambda _: "cpu-0123456789abcdef"))
    assert builder.run.key(builder.run.resolved(config)) != cpu


def test_a_service_account_of_one_s_own_is_taken(config, build_service, tmp_path) -> None:
    builder.run(config.model_copy(update={"build_service_account": ACCOUNT}), tmp_path)
    (build,) = build_service.builds.values()
    assert build.service_account == f"projects/my-project/serviceAccounts/{ACCOUNT}"


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (
            error_status("The caller does not have permission"),
            "gcloud projects add-iam-policy-binding my-project --member=user:me@example.com "
            "--role=roles/cloudbuild.builds.editor",
        ),
        (
            error_status("Cloud Build API has not been used in project 1 before", "SERVICE_DISABLED"),
            "gcloud services enable cloudbuild.googleapis.com --project=my-project",
        ),
        (error_status("Requested entity was not found.", code=code_pb2.NOT_FOUND), "cloud.project"),
        (error_status("invalid build", code=code_pb2.INVALID_ARGUMENT), "cloud.region (europe-west4)"),
        (error_status("no", code=code_pb2.UNAUTHENTICATED), "gcloud auth application-default login"),
    ],
)
def test_a_refused_order_names_the_command_that_mends_it(config, build_service, tmp_path, refusal, told) -> None:
    build_service.refuses = refusal
    with pytest.raises(UserError) as error:
        builder.run(config, tmp_path)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "image.json").exists()
    assert not build_service.builds


@pytest.mark.parametrize(
    ("status", "failure", "told"),
    [
        (Status.FAILURE, (Failure.USER_BUILD_STEP, "exit code 1"), "failed at step build (docker build) (exit code 1)"),
        (
            Status.FAILURE,
            (Failure.PUSH_NOT_AUTHORIZED, "denied"),
            f"--member=serviceAccount:{ACCOUNT} --role=roles/artifactregistry.writer",
        ),
        (
            Status.FAILURE,
            (Failure.FETCH_SOURCE_FAILED, "403"),
            f"gcloud storage buckets add-iam-policy-binding gs://models --member=serviceAccount:{ACCOUNT} "
            "--role=roles/storage.objectViewer",
        ),
        (Status.TIMEOUT, (0, ""), "images.timeout_minutes"),
        (Status.CANCELLED, (0, ""), "run again"),
    ],
)
def test_a_build_that_fails_tells_why_and_where_its_log_is(
    config, build_service, tmp_path, status, failure, told
) -> None:
    build_service.ends.status = status
    build_service.ends.failure_info = {"type_": failure[0], "detail": failure[1]}
    with pytest.raises(UserError) as error:
        builder.run(config.model_copy(update={"build_service_account": ACCOUNT}), tmp_path)
    assert told in str(error.value)
    assert "https://console.cloud.google.com/cloud-build/builds/" in str(error.value)
    assert "\n" not in str(error.value)
    assert not build_service.running


def test_cloud_build_s_own_fault_is_no_bad_input(config, build_service, tmp_path) -> None:
    """So that the task is tried again."""
    build_service.ends.status = Status.INTERNAL_ERROR
    with pytest.raises(RuntimeError, match="INTERNAL_ERROR"):
        builder.run(config, tmp_path)


def test_a_build_that_takes_too_long_is_cancelled(config, build_service, tmp_path) -> None:
    build_service.looks = 10**9
    with pytest.raises(UserError, match=r"within 0\.02 minutes: raise images\.timeout_minutes"):
        builder.run(config.model_copy(update={"timeout_minutes": 0.02}), tmp_path)
    assert [build.status for build in build_service.builds.values()] == [Status.CANCELLED]


def test_a_push_that_nobody_finds_is_told_of(config, build_service, tmp_path) -> None:
    build_service.pushes = lambda build: [f"sha256:{'3' * 64}" for _ in build.images]
    with pytest.raises(UserError, match="was built, and"):
        builder.run(config, tmp_path)


def test_a_stage_that_is_stopped_cancels_its_build(config, build_service, tmp_path) -> None:
    """Given a build that never ends and SIGTERM, the stage ends with 143 in less than the 4 s it is given."""
    build_service.looks = 10**9
    settings = [
        *(f"images.repository={config.repository}", "cloud.project=my-project", "storage.models=gs://models/area"),
        *("images.poll_seconds=0.05", "tracking.wandb=off"),
    ]
    command = [sys.executable, "-m", "mlapp.images.builder", f"--workdir={tmp_path / 'image'}", *settings]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=dict(os.environ), **pipes) as stage:
        until = time.monotonic() + 60
        while not build_service.running:
            assert stage.poll() is None, stage.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.05)
        began = time.monotonic()
        stage.send_signal(signal.SIGTERM)
        told = stage.communicate(timeout=30)[0]
    assert stage.returncode == 143, told
    assert time.monotonic() - began < 4
    assert [build.status for build in build_service.builds.values()] == [Status.CANCELLED]


def test_cloud_build_needs_a_bucket(config, build_service, tmp_path) -> None:
    local = config.model_copy(update={"storage": Storage()})
    with pytest.raises(UserError, match=r"storage\.models=gs://BUCKET"):
        builder.run(local, tmp_path)
    assert not build_service.builds


def test_without_a_repository_the_command_that_makes_one_is_told(tmp_path) -> None:
    with pytest.raises(
        UserError, match=r"gcloud artifacts repositories create mlapp .*--location=europe-west1"
    ) as error:
        builder.run(builder.ImageConfig(cloud=Cloud(project="my-project", region="europe-west1")), tmp_path)
    assert "images.repository=europe-west1-docker.pkg.dev/my-project/mlapp/mlapp-training" in str(error.value)


def test_an_address_without_an_image_s_name_is_told_of(tmp_path) -> None:
    config = builder.ImageConfig(repository="europe-west4-docker.pkg.dev/my-project/mlapp")
    with pytest.raises(UserError, match=r"write REGION-docker\.pkg\.dev/PROJECT/REPOSITORY/IMAGE"):
        builder.run(config, tmp_path)


def test_the_stage_of_a_composer_environment_finds_its_files(tmp_path: Path) -> None:
    """Given a DAGs folder with mlapp and what stands beside it, the tag is that of the repository."""
    Context.read("cpu").write(tmp_path / "dags")
    script = "from mlapp.images.context import Context; print(Context.read('cpu').tag)"
    told = subprocess.run(
        [sys.executable, "-Pc", script],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "dags")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == Context.read("cpu").tag
