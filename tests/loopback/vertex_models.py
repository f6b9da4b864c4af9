"""Vertex Model Registry on loopback, with the real API's types over gRPC, as strict as its rules are known.

Sources of the rules: the reference of aiplatform v1 (the docstrings of google.cloud.aiplatform_v1.types), the page
"How to use model version aliases", and what the SDK and gcloud refuse. As in the real one, a version is seen only once
its upload is done.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
from google.cloud import aiplatform_v1 as api
from google.longrunning import operations_pb2
from loopback.chaos import Interceptor, Weather
from loopback.vertex_metadata import Metadata
from loopback.vertex_model_rules import (
    EXISTS,
    INVALID,
    MISSING,
    NUMBER,
    REGION,
    Front,
    Method,
    RefusedError,
    check_alias,
    check_labels,
    copy,
    located,
    of,
)
from loopback.vertex_operations import Operations

MODEL_ID = re.compile(r"[a-z_][a-z0-9_-]{0,62}")
BUCKET = re.compile(r"gs://[a-z0-9][a-z0-9._-]+(/.*)?")
IMAGE = re.compile(r"([a-z0-9-]+-docker\.pkg\.dev|([a-z]+\.)?gcr\.io)/[a-z0-9-]+/.+")
PAGE = 2


class Vertex:
    """Both services behind one front: ``front.calls`` counts, ``front.faults`` are raised."""

    def __init__(self) -> None:
        self.front, self.operations = Front(), Operations()
        self.models = Models(self.operations, self.front.lock)
        self.metadata = Metadata(self.operations)

    def add_to(self, server: grpc.Server) -> None:
        """Serve ModelService, MetadataService and their operations."""
        self.front.add(server, "google.cloud.aiplatform.v1.ModelService", self.models.methods)
        self.front.add(server, "google.cloud.aiplatform.v1.MetadataService", self.metadata.methods)
        self.front.add(server, "google.longrunning.Operations", self.operations.methods)


class Models:
    """Models and versions. Uploads end at once, or if ``slow`` when told to; in ``upload_error`` if there is one."""

    def __init__(self, operations: Operations, lock: threading.RLock) -> None:
        self.known: dict[str, list[api.Model]] = {}
        self.images: dict[str, str] = {}
        self.slow = False
        self._under_way: list[tuple[str, str, api.Model]] = []
        self.upload_error: RefusedError | None = None
        self._operations, self._lock = operations, lock

    @property
    def methods(self) -> dict[str, Method]:
        """What ModelService answers here."""
        return {
            "UploadModel": (api.UploadModelRequest, operations_pb2.Operation, self._upload_model),
            "GetModel": (api.GetModelRequest, api.Model, self._get_model),
            "ListModelVersions": (
                api.ListModelVersionsRequest,
                api.ListModelVersionsResponse,
                self._list_model_versions,
            ),
            "MergeVersionAliases": (api.MergeVersionAliasesRequest, api.Model, self._merge_version_aliases),
        }

    def aliases(self, model: str) -> dict[str, str]:
        """The version that each alias of a model names."""
        versions = self.known.get(model, [])
        return {alias: version.version_id for version in versions for alias in version.version_aliases}

    def _upload_model(self, request: api.UploadModelRequest) -> operations_pb2.Operation:
        place = located(request.parent)
        _check(request)
        if request.parent_model:
            model_id = of(request.parent_model, "models")
            if model_id not in self.known:
                raise RefusedError(MISSING, f"The Model {request.parent_model} does not exist.")
        else:
            model_id = request.model_id or str(len(self.known) + 1)
            if request.model_id and not MODEL_ID.fullmatch(request.model_id):
                raise RefusedError(INVALID, f"Invalid model_id {request.model_id}.")
            if model_id in self.known or any(
                f"/models/{model_id}/" in n for n, o in self._operations.known.items() if not o.done
            ):
                raise RefusedError(EXISTS, f"The Model {model_id} already exists.")
        operation = self._operations.begin(f"{place}/models/{model_id}", api.UploadModelOperationMetadata())
        self._under_way.append((operation.name, model_id, request.model))
        if not self.slow:
            self.finish_uploads()
        return copy(operation)

    def finish_uploads(self) -> None:
        """End what is under way."""
        with self._lock:
            while self._under_way:
                self._finish_upload(*self._under_way.pop(0))

    def _finish_upload(self, operation: str, model_id: str, model: api.Model) -> None:
        finished = self._operations.known[operation]
        finished.done = True
        if self.upload_error:
            finished.error.code = self.upload_error.code.value[0]
            finished.error.message = self.upload_error.message
            return
        versions = self.known.setdefault(model_id, [])
        kept = api.Model(model)
        kept.name = f"projects/{NUMBER}/locations/{REGION}/models/{model_id}"
        kept.version_id = str(len(versions) + 1)
        self.images[kept.version_id] = kept.container_spec.image_uri
        kept.container_spec = None  # input only
        kept.version_aliases = [] if versions else ["default"]
        versions.append(kept)
        for alias in model.version_aliases:
            self._move(alias, kept, versions)
        reply = api.UploadModelResponse(model=kept.name, model_version_id=kept.version_id)
        finished.response.Pack(api.UploadModelResponse.pb(reply))

    def _get_model(self, request: api.GetModelRequest) -> api.Model:
        model_id, _, wanted = of(request.name, "models").partition("@")
        for version in self.known.get(model_id, []):
            if (wanted or "default") in (version.version_id, *version.version_aliases):
                return version
        raise RefusedError(MISSING, f"The Model {request.name} does not exist.")

    def _list_model_versions(self, request: api.ListModelVersionsRequest) -> api.ListModelVersionsResponse:
        model_id = of(request.name, "models")
        if model_id not in self.known:
            raise RefusedError(MISSING, f"The Model {request.name} does not exist.")
        if request.filter:
            raise RefusedError(INVALID, "This stand-in knows no filters of versions.")
        start = int(request.page_token or 0)
        page = []
        for version in self.known[model_id][start : start + PAGE]:
            shown = api.Model(version)
            shown.name = f"{version.name}@{version.version_id}"
            page.append(shown)
        more = start + PAGE < len(self.known[model_id])
        return api.ListModelVersionsResponse(models=page, next_page_token=str(start + PAGE) if more else "")

    def _merge_version_aliases(self, request: api.MergeVersionAliasesRequest) -> api.Model:
        model_id, _, wanted = of(request.name, "models").partition("@")
        if not wanted.isdecimal():
            raise RefusedError(INVALID, f"{request.name} does not include a version ID.")
        versions = self.known.get(model_id, [])
        version = next((each for each in versions if each.version_id == wanted), None)
        if version is None:
            raise RefusedError(MISSING, f"The Model {request.name} does not exist.")
        if not request.version_aliases:
            raise RefusedError(INVALID, "version_aliases is required.")
        for alias in request.version_aliases:
            check_alias(alias.removeprefix("-"))
        if "-default" in request.version_aliases:
            raise RefusedError(INVALID, "There must be exactly one default version: give the alias to another version.")
        for alias in request.version_aliases:
            if alias.startswith("-"):
                version.version_aliases = [each for each in version.version_aliases if each != alias[1:]]
            else:
                self._move(alias, version, versions)
        return version

    @staticmethod
    def _move(alias: str, version: api.Model, versions: list[api.Model]) -> None:
        """An alias is unique within a model."""
        for each in versions:
            each.version_aliases = [other for other in each.version_aliases if other != alias]
        version.version_aliases = [*version.version_aliases, alias]


def _check(request: api.UploadModelRequest) -> None:
    model = request.model
    if request.parent_model and request.model_id:
        raise RefusedError(INVALID, "Only one of parent_model and model_id can be set.")
    if not 1 <= len(model.display_name) <= 128:
        raise RefusedError(INVALID, "Display name must be of 1 to 128 characters.")
    check_labels(model.labels)
    for alias in model.version_aliases:
        check_alias(alias)
    if model.artifact_uri and not model.container_spec.image_uri:
        raise RefusedError(INVALID, "`container_spec.image_uri` is required where `artifact_uri` is given.")
    if model.artifact_uri and not re.fullmatch(r"gs://[a-z0-9][a-z0-9._-]+(/.*)?", model.artifact_uri):
        raise RefusedError(INVALID, f"The artifact_uri {model.artifact_uri} is not a Cloud Storage directory.")
    if model.container_spec.image_uri and not IMAGE.fullmatch(model.container_spec.image_uri):
        raise RefusedError(INVALID, f"{model.container_spec.image_uri} is not in Artifact or Container Registry.")


@contextmanager
def serving(vertex: Vertex, weather: Weather | None = None) -> Iterator[dict[str, str]]:
    """Serve on a free port of loopback; yields the environment that leads there."""
    server = grpc.server(futures.ThreadPoolExecutor(8), interceptors=[Interceptor(weather)] if weather else [])
    vertex.add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield {"MLAPP_VERTEX_ENDPOINT": f"127.0.0.1:{port}"}
    finally:
        server.stop(grace=None).wait()
