"""One run of a Vertex Experiment, as contexts and artifacts of Vertex ML Metadata: the form in which the SDK writes it.

After google/cloud/aiplatform/metadata: an experiment is a context of schema system.Experiment, a run its child of
schema system.ExperimentRun with the id EXPERIMENT-RUN, whose metadata hold `_params`, `_metrics` and `_state`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlapp.errors import UserError
from mlapp.vertex_client import Service

SCHEMA_VERSION = "0.0.1"
EXPERIMENT, RUN, MODEL = "system.Experiment", "system.ExperimentRun", "system.Model"
LONGEST_ID = 121  # of 128, for the SDK appends to it


class ExperimentRun:
    """A run, made with its experiment where they are not there yet. Writing it again writes over it."""

    def __init__(self, service: Service, experiment: str, run: str) -> None:
        self._service = service
        self._store = f"{service.location}/metadataStores/default"
        self._ensure_store()
        told = {"display_name": experiment, "metadata": {"experiment_deleted": False}}
        parent = self._ensure("context", experiment, EXPERIMENT, told)
        told = {"display_name": run, "metadata": {"_params": {}, "_metrics": {}, "_state": "RUNNING"}}
        self._context = self._ensure("context", f"{experiment}-{run}", RUN, told)
        service.call("add_context_children", context=parent.name, child_contexts=[self._context.name])

    @property
    def name(self) -> str:
        """Resource name of the run's context."""
        return str(self._context.name)

    def write(self, parameters: Mapping[str, Any], metrics: Mapping[str, float], state: str, description: str) -> None:
        """Let the run say this, and nothing that it said before."""
        metadata = {"_params": dict(parameters), "_metrics": dict(metrics), "_state": state}
        self._context = self._service.call(
            "update_context",
            context={"name": self.name, "metadata": metadata, "description": description},
            update_mask={"paths": ["metadata", "description"]},
        )

    def attach(self, artifact_id: str, display_name: str, uri: str, metadata: Mapping[str, str]) -> None:
        """Show a model among the run's artifacts."""
        told = {"display_name": display_name, "uri": uri, "metadata": dict(metadata), "state": "LIVE"}
        artifact = self._ensure("artifact", artifact_id, MODEL, told)
        self._service.call("add_context_artifacts_and_executions", context=self.name, artifacts=[artifact.name])

    def _ensure_store(self) -> None:
        """Every project has the default metadata store from its first use of Vertex AI on, and none before."""
        from google.api_core.exceptions import AlreadyExists, NotFound

        try:
            self._service.call("get_metadata_store", name=self._store)
        except NotFound:
            try:
                begun = self._service.call(
                    "create_metadata_store",
                    parent=self._service.location,
                    metadata_store={},
                    metadata_store_id="default",
                )
                with self._service.explained():
                    begun.result(timeout=300)
            except AlreadyExists:
                return

    def _ensure(self, kind: str, its_id: str, schema: str, told: Mapping[str, Any]) -> Any:
        """The context or artifact of this id, made if it is not there; a `UserError` if it is something else."""
        from google.api_core.exceptions import AlreadyExists, NotFound

        name = f"{self._store}/{kind}s/{its_id}"
        try:
            found = self._service.call(f"get_{kind}", name=name)
        except NotFound:
            made = {**told, "schema_title": schema, "schema_version": SCHEMA_VERSION}
            try:
                request: dict[str, Any] = {"parent": self._store, kind: made, f"{kind}_id": its_id}
                found = self._service.call(f"create_{kind}", **request)
            except AlreadyExists:
                found = self._service.call(f"get_{kind}", name=name)
        if found.schema_title != schema:
            raise UserError(
                f"{name} is a {found.schema_title}, not a {schema}: give another name as registration.experiment"
            )
        return found
