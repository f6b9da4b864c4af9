"""Asking a registry for a tag."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from loopback import image_registry

from mlapp import authenticate
from mlapp.errors import TryAgainError, UserError
from mlapp.images import registry as registry_module
from mlapp.images.registry import Repository

GOOGLE = "europe-west4-docker.pkg.dev/my-project/mlapp/mlapp-training"


@pytest.fixture
def registry() -> Iterator[image_registry.Registry]:
    with image_registry.serving() as registry:
        yield registry


@pytest.fixture
def artifact_registry(registry: image_registry.Registry, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A repository in Artifact Registry whose host is the one on loopback, and credentials for it."""
    monkeypatch.setattr(authenticate, "access_token", lambda: "a-token")
    monkeypatch.setattr(authenticate, "member", lambda: "serviceAccount:me@my-project.iam.gserviceaccount.com")
    monkeypatch.setattr(Repository, "address", property(lambda _: f"http://{registry.address}"))
    return Repository(GOOGLE)


def test_an_image_that_is_there_costs_one_request(registry) -> None:
    repository = Repository(f"{registry.address}/mlapp/training")
    registry.push(f"{repository.uri}:cpu-1")
    assert repository.digest("cpu-1") == registry.digests["mlapp/training:cpu-1"]
    assert registry.requests == [("HEAD", "/v2/mlapp/training/manifests/cpu-1")]


@pytest.mark.parametrize("digest", ["", "latest", "sha256:short", "sha256:" + "0" * 64 + "@evil"])
def test_an_answer_without_a_digest_is_none(registry, digest: str) -> None:
    registry.digests["mlapp/training:cpu-1"] = digest or " "
    with pytest.raises(TryAgainError, match="does not say by which digest: run again"):
        Repository(f"{registry.address}/mlapp/training").digest("cpu-1")


def test_a_registry_that_asks_for_a_day_of_patience_is_not_given_it(registry, monkeypatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    registry.retry_after, registry.refuses = "86400", (429, "TOOMANYREQUESTS", "Quota exceeded")
    with pytest.raises(TryAgainError, match="HTTP 429"):
        Repository(f"{registry.address}/mlapp/training").digest("cpu-1")
    assert sum(slept) < 60


def test_an_image_that_is_not_there_is_none(registry) -> None:
    assert Repository(f"{registry.address}/mlapp/training").digest("cpu-1") is None


def test_google_s_token_goes_to_artifact_registry_only(registry, artifact_registry) -> None:
    assert artifact_registry.digest("cpu-1") is None
    assert registry.tokens == {"Bearer a-token"}
    for other in ("ghcr.io/me/mlapp", "docker.pkg.dev.example.com/a/b/c", "europe-west4-docker.pkg.dev.evil.com/a/b/c"):
        assert Repository(other).token() is None
    assert Repository(f"{registry.address}/mlapp/training").token() is None


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            (404, "NAME_UNKNOWN", 'Repository "mlapp" not found'),
            "gcloud artifacts repositories create mlapp --repository-format=docker --location=europe-west4 "
            "--project=my-project",
        ),
        (
            (
                403,
                "DENIED",
                'Permission "artifactregistry.repositories.downloadArtifacts" denied (or it may not exist)',
            ),
            "gcloud artifacts repositories add-iam-policy-binding mlapp --location=europe-west4 --project=my-project "
            "--member=serviceAccount:me@my-project.iam.gserviceaccount.com --role=roles/artifactregistry.reader",
        ),
        (
            (403, "DENIED", "Artifact Registry API has not been used in project 1 before or it is disabled."),
            "gcloud services enable artifactregistry.googleapis.com --project=my-project",
        ),
        ((401, "UNAUTHORIZED", "authentication failed"), "gcloud auth application-default login"),
    ],
)
def test_a_refusal_names_the_command_that_mends_it(registry, artifact_registry, answer, told) -> None:
    registry.refuses = answer
    with pytest.raises(UserError) as error:
        artifact_registry.digest("cpu-1")
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert "a-token" not in str(error.value)


def test_another_registry_that_asks_for_a_password_is_told_of(registry) -> None:
    registry.refuses = (401, "UNAUTHORIZED", "authentication required")
    with pytest.raises(UserError, match="asks for no password"):
        Repository(f"{registry.address}/mlapp/training").digest("cpu-1")


def test_a_server_error_is_tried_again_and_then_told(registry, monkeypatch) -> None:
    monkeypatch.setattr(registry_module, "RETRIES", registry_module.RETRIES.new(backoff_factor=0))
    registry.refuses = (503, "UNAVAILABLE", "later")
    with pytest.raises(TryAgainError, match="HTTP 503: later"):
        Repository(f"{registry.address}/mlapp/training").digest("cpu-1")
    assert len(registry.requests) == 8


def test_a_registry_that_is_away_is_told_of() -> None:
    with pytest.raises(UserError, match=r"127\.0\.0\.1:1 does not answer.*images\.repository"):
        Repository("127.0.0.1:1/mlapp/training").digest("cpu-1")


@pytest.mark.parametrize(
    ("uri", "loopback"), [("127.0.0.1:5000/a", True), ("localhost:5000/a", True), ("127.0.0.1.example.com/a", False)]
)
def test_only_this_machine_is_spoken_to_in_plain_http(uri, loopback) -> None:
    assert Repository(uri).is_loopback is loopback
    assert Repository(uri).address.startswith("http://" if loopback else "https://")


def test_region_project_and_repository_are_read_from_the_address() -> None:
    assert Repository(GOOGLE).in_google.groups() == ("europe-west4", "my-project", "mlapp")
