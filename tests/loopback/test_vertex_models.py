"""The stand-in for Model Registry and ML Metadata refuses what the real services refuse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.api_core import exceptions
from loopback import vertex_models
from loopback.vertex_model_rules import NUMBER, PROJECT, REGION

from mlapp import vertex_client

LOCATION = f"projects/{PROJECT}/locations/{REGION}"
MODEL = f"{LOCATION}/models/m"
STORE = f"{LOCATION}/metadataStores/default"
IMAGE = {"image_uri": f"{REGION}-docker.pkg.dev/{PROJECT}/mlapp/serving"}
CONTEXT = {"schema_title": "system.Experiment", "schema_version": "0.0.1"}


@pytest.fixture(scope="module")
def clients() -> Iterator[dict[str, Any]]:
    """Clients of a server with the model m in two versions, and the context taken."""
    with pytest.MonkeyPatch.context() as patch, vertex_models.serving(vertex_models.Vertex()) as environ:
        for name, value in environ.items():
            patch.setenv(name, value)
        made = {kind: vertex_client.client(kind, REGION) for kind in ("model", "metadata")}
        for where in ({"model_id": "m"}, {"parent_model": MODEL}):
            request = {"parent": LOCATION, "model": {"display_name": "m"}, **where}
            made["model"].upload_model(request=request).result(timeout=10)
        made["metadata"].create_metadata_store(parent=LOCATION, metadata_store_id="default").result(timeout=10)
        made["metadata"].create_context(parent=STORE, context=CONTEXT, context_id="taken")
        yield made


def upload(**changes: Any) -> dict[str, Any]:
    where = {name: changes.pop(name) for name in ("model_id", "parent_model", "parent") if name in changes}
    return {"parent": LOCATION, "model": {"display_name": "m", **changes}, **where}


@pytest.mark.parametrize(
    ("method", "request_", "error"),
    [
        ("upload_model", upload(display_name=""), exceptions.InvalidArgument),
        ("upload_model", upload(model_id="1m"), exceptions.InvalidArgument),
        ("upload_model", upload(model_id="m"), exceptions.AlreadyExists),
        ("upload_model", upload(model_id="n", parent_model=MODEL), exceptions.InvalidArgument),
        ("upload_model", upload(parent_model=f"{LOCATION}/models/n"), exceptions.NotFound),
        ("upload_model", upload(labels={"Name": "m"}), exceptions.InvalidArgument),
        ("upload_model", upload(labels={"sha": "0" * 64}), exceptions.InvalidArgument),
        ("upload_model", upload(version_aliases=["7"]), exceptions.InvalidArgument),
        ("upload_model", upload(artifact_uri="gs://models/m"), exceptions.InvalidArgument),
        ("upload_model", upload(artifact_uri="/models/m", container_spec=IMAGE), exceptions.InvalidArgument),
        ("upload_model", upload(container_spec={"image_uri": "docker.io/x/y"}), exceptions.InvalidArgument),
        ("upload_model", upload(parent=f"projects/other/locations/{REGION}"), exceptions.PermissionDenied),
        ("list_model_versions", {"name": f"{LOCATION}/models/n"}, exceptions.NotFound),
        ("merge_version_aliases", {"name": MODEL, "version_aliases": ["a1"]}, exceptions.InvalidArgument),
        ("merge_version_aliases", {"name": f"{MODEL}@3", "version_aliases": ["a1"]}, exceptions.NotFound),
        ("merge_version_aliases", {"name": f"{MODEL}@1", "version_aliases": ["-default"]}, exceptions.InvalidArgument),
        ("merge_version_aliases", {"name": f"{MODEL}@1", "version_aliases": ["Best"]}, exceptions.InvalidArgument),
        ("create_context", {"parent": STORE, "context": CONTEXT, "context_id": "taken"}, exceptions.AlreadyExists),
        ("create_context", {"parent": STORE, "context": CONTEXT, "context_id": "A_b"}, exceptions.InvalidArgument),
        ("create_context", {"parent": STORE, "context": {}, "context_id": "untitled"}, exceptions.NotFound),
        ("update_context", {"context": {"name": f"{STORE}/contexts/taken", "etag": "0"}}, exceptions.Aborted),
        ("add_context_children", {"context": f"{STORE}/contexts/none"}, exceptions.NotFound),
        ("list_contexts", {"parent": STORE, "filter": "anything"}, exceptions.InvalidArgument),
    ],
)
def test_what_breaks_a_rule_is_refused(
    clients: dict[str, Any], method: str, request_: dict[str, Any], error: type[Exception]
) -> None:
    client = clients["metadata" if "context" in method else "model"]
    with pytest.raises(error):
        getattr(client, method)(request=request_)


def test_an_alias_names_one_version_and_answers_bear_the_projects_number(clients: dict[str, Any]) -> None:
    for version in ("1", "2", "1"):
        merged = clients["model"].merge_version_aliases(name=f"{MODEL}@{version}", version_aliases=["default", "best"])
        assert merged.version_id == version
    first, second = clients["model"].list_model_versions(name=MODEL)
    assert set(first.version_aliases) == {"default", "best"}
    assert not second.version_aliases
    assert first.name == f"projects/{NUMBER}/locations/{REGION}/models/m@1"
    assert clients["model"].get_model(name=f"{MODEL}@best").version_id == "1"
