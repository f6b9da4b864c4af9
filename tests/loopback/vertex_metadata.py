"""Vertex ML Metadata on loopback: contexts and artifacts in the default store, with the real API's types and rules."""

from __future__ import annotations

import re
import time
from typing import Any

import grpc
from google.cloud import aiplatform_v1 as api
from google.longrunning import operations_pb2
from google.protobuf import json_format
from loopback.vertex_model_rules import (
    EXISTS,
    INVALID,
    MISSING,
    Method,
    RefusedError,
    check_labels,
    copy,
    found,
    located,
    numbered,
    of,
)
from loopback.vertex_operations import Operations

METADATA_ID = re.compile(r"[a-z0-9-]{4,128}")
SCHEMAS = {("system.Experiment", "0.0.1"), ("system.ExperimentRun", "0.0.1"), ("system.Model", "0.0.1")}


class Metadata:
    """The state of MetadataService."""

    def __init__(self, operations: Operations) -> None:
        self.contexts: dict[str, api.Context] = {}
        self.artifacts: dict[str, api.Artifact] = {}
        self.in_context: dict[str, list[str]] = {}
        self.stores: set[str] = set()
        self._operations = operations

    @property
    def methods(self) -> dict[str, Method]:
        """What MetadataService answers here."""
        operation = operations_pb2.Operation
        return {
            "GetMetadataStore": (api.GetMetadataStoreRequest, api.MetadataStore, self._get_metadata_store),
            "CreateMetadataStore": (api.CreateMetadataStoreRequest, operation, self._create_metadata_store),
            "CreateContext": (api.CreateContextRequest, api.Context, self._create_context),
            "GetContext": (api.GetContextRequest, api.Context, self._get_context),
            "UpdateContext": (api.UpdateContextRequest, api.Context, self._update_context),
            "ListContexts": (api.ListContextsRequest, api.ListContextsResponse, self._list_contexts),
            "ListExecutions": (api.ListExecutionsRequest, api.ListExecutionsResponse, self._list_executions),
            "AddContextChildren": (
                api.AddContextChildrenRequest,
                api.AddContextChildrenResponse,
                self._add_context_children,
            ),
            "CreateArtifact": (api.CreateArtifactRequest, api.Artifact, self._create_artifact),
            "GetArtifact": (api.GetArtifactRequest, api.Artifact, self._get_artifact),
            "AddContextArtifactsAndExecutions": (
                api.AddContextArtifactsAndExecutionsRequest,
                api.AddContextArtifactsAndExecutionsResponse,
                self._add_context_artifacts,
            ),
        }

    def _get_metadata_store(self, request: api.GetMetadataStoreRequest) -> api.MetadataStore:
        if of(request.name, "metadataStores") not in self.stores:
            raise RefusedError(MISSING, f"MetadataStore {request.name} does not exist.")
        return api.MetadataStore(name=numbered(request.name))

    def _create_metadata_store(self, request: api.CreateMetadataStoreRequest) -> operations_pb2.Operation:
        place = located(request.parent)
        if request.metadata_store_id in self.stores:
            raise RefusedError(EXISTS, f"MetadataStore {request.metadata_store_id} already exists.")
        self.stores.add(request.metadata_store_id)
        name = f"{place}/metadataStores/{request.metadata_store_id}"
        operation = self._operations.begin(name, api.CreateMetadataStoreOperationMetadata())
        operation.response.Pack(api.MetadataStore.pb(api.MetadataStore(name=name)))
        operation.done = True
        return copy(operation)

    def _create_context(self, request: api.CreateContextRequest) -> api.Context:
        return self._create(request, request.context, request.context_id, "contexts", self.contexts)

    def _create_artifact(self, request: api.CreateArtifactRequest) -> api.Artifact:
        return self._create(request, request.artifact, request.artifact_id, "artifacts", self.artifacts)

    def _create(self, request: Any, given: Any, its_id: str, kind: str, kept: dict[str, Any]) -> Any:
        if of(request.parent, "metadataStores") not in self.stores:
            raise RefusedError(MISSING, f"MetadataStore {request.parent} does not exist.")
        if not METADATA_ID.fullmatch(its_id):
            raise RefusedError(INVALID, f"Invalid resource id {its_id!r}: 4-128 characters of [a-z0-9-].")
        name = f"{numbered(request.parent)}/{kind}/{its_id}"
        if name in kept:
            raise RefusedError(EXISTS, f"{name} already exists.")
        self._check_metadata(given)
        made = type(given)(given)
        made.name, made.etag = name, str(time.time_ns())
        kept[name] = made
        return made

    @staticmethod
    def _check_metadata(given: Any) -> None:
        if (given.schema_title, given.schema_version) not in SCHEMAS:
            raise RefusedError(MISSING, f"MetadataSchema {given.schema_title} {given.schema_version} does not exist.")
        if len(given.display_name) > 128:
            raise RefusedError(INVALID, "Display name is longer than 128 characters.")
        if len(json_format.MessageToJson(type(given).pb(given))) > 200_000:
            raise RefusedError(INVALID, "metadata exceeds 200KB.")
        check_labels(given.labels)

    def _get_context(self, request: api.GetContextRequest) -> api.Context:
        return found(self.contexts, request.name)

    def _get_artifact(self, request: api.GetArtifactRequest) -> api.Artifact:
        return found(self.artifacts, request.name)

    def _update_context(self, request: api.UpdateContextRequest) -> api.Context:
        present = found(self.contexts, request.context.name)
        if request.context.etag and request.context.etag != present.etag:
            raise RefusedError(grpc.StatusCode.ABORTED, "The etag does not match.")
        changed = api.Context(present)
        for path in request.update_mask.paths:
            if path not in ("metadata", "description", "display_name", "labels"):
                raise RefusedError(INVALID, f"Invalid update_mask path {path}.")
            setattr(changed, path, getattr(request.context, path))
        self._check_metadata(changed)
        changed.etag = str(time.time_ns())
        self.contexts[changed.name] = changed
        return changed

    def _list_contexts(self, request: api.ListContextsRequest) -> api.ListContextsResponse:
        """As far as the SDK's own filters go: schema titles, any of which will do, and one parent."""
        titles = re.findall(r'schema_title="([^"]+)"', request.filter)
        parents = re.findall(r'parent_contexts:"([^"]+)"', request.filter)
        left = re.sub(r'schema_title="[^"]+"|parent_contexts:"[^"]+"|\bOR\b|\bAND\b|[() ]', "", request.filter)
        if left:
            raise RefusedError(INVALID, f"Invalid filter: {left}")
        found = [
            context
            for context in self.contexts.values()
            if (not titles or context.schema_title in titles)
            and all(numbered(parent) in context.parent_contexts for parent in parents)
        ]
        return api.ListContextsResponse(contexts=found)

    def _list_executions(self, request: api.ListExecutionsRequest) -> api.ListExecutionsResponse:
        return api.ListExecutionsResponse()

    def _add_context_children(self, request: api.AddContextChildrenRequest) -> api.AddContextChildrenResponse:
        parent = found(self.contexts, request.context)
        for name in request.child_contexts:
            child = found(self.contexts, name)
            if child.name == parent.name:
                raise RefusedError(INVALID, "A context cannot be its own child.")
            if parent.name not in child.parent_contexts:
                if len(child.parent_contexts) == 10:
                    raise RefusedError(INVALID, "A context may have at most 10 parents.")
                child.parent_contexts = [*child.parent_contexts, parent.name]
        return api.AddContextChildrenResponse()

    def _add_context_artifacts(
        self, request: api.AddContextArtifactsAndExecutionsRequest
    ) -> api.AddContextArtifactsAndExecutionsResponse:
        context = found(self.contexts, request.context)
        attached = self.in_context.setdefault(context.name, [])
        for name in request.artifacts:
            artifact = found(self.artifacts, name)
            if artifact.name not in attached:
                attached.append(artifact.name)
        return api.AddContextArtifactsAndExecutionsResponse()
