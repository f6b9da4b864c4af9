"""The versions of one model in Vertex Model Registry: found by their labels, uploaded once, named by aliases."""

from __future__ import annotations

import concurrent.futures
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mlapp.cloud_errors import brief, is_gone, is_not_found
from mlapp.errors import TryAgainError, UserError
from mlapp.vertex_client import Service

OWNED = {"managed-by": "mlapp"}
LOOK_AGAIN_S = 5.0
log = logging.getLogger("mlapp")


class Versions:
    """A model and its versions. What is here is read anew at every question: others may upload too."""

    def __init__(self, service: Service, model_id: str, minutes: float) -> None:
        self._service = service
        self._id = model_id
        self._minutes = minutes
        self.name = f"{service.location}/models/{model_id}"

    def all(self) -> list[Any]:
        """Every version; none where there is no such model. A `UserError` if the model is someone else's."""
        from google.api_core.exceptions import NotFound

        try:
            found = self._service.listed("list_model_versions", name=self.name)
        except NotFound:
            return []
        if found and not any(_has(version, OWNED) for version in found):
            raise UserError(
                f"the model {self._id} in {self._service.project}, {self._service.region} is not of this project's "
                "making: give another id as registration.model_id"
            )
        return found

    def find(self, labels: Mapping[str, str]) -> str | None:
        """Id of the version with these labels."""
        ids = [str(version.version_id) for version in self.all() if _has(version, labels)]
        return min(ids, key=int, default=None)

    def ensure(self, labels: Mapping[str, str], model: Mapping[str, Any]) -> str:
        """Id of the version with these labels, uploaded from ``model`` if there is none.

        An upload that an earlier process began, and did not live to see the end of, is waited for first.
        """
        self._wait_for_others()
        if (present := self.find(labels)) is not None:
            return present
        return self._upload({**model, "labels": {**OWNED, **labels}})

    def give(self, alias: str, version: str | None) -> None:
        """Let an alias name this version, or none. An alias names one version at a time: given to one, it is moved."""
        for present in self.all():
            has = alias in present.version_aliases
            if version is None and has:
                self._merge(present.version_id, f"-{alias}")
            elif present.version_id == version and not has:
                self._merge(present.version_id, alias)

    def aliases(self) -> dict[str, str]:
        """The version that each alias names."""
        return {str(alias): str(version.version_id) for version in self.all() for alias in version.version_aliases}

    def _merge(self, version: str, alias: str) -> None:
        self._service.call("merge_version_aliases", name=f"{self.name}@{version}", version_aliases=[alias])

    def _upload(self, model: Mapping[str, Any]) -> str:
        from google.api_core.exceptions import AlreadyExists

        where = {"parent_model": self.name} if self.all() else {"model_id": self._id}
        try:
            begun = self._service.call("upload_model", once=True, parent=self._service.location, model=model, **where)
        except AlreadyExists as error:
            raise TryAgainError(
                f"the model {self._id} came up in {self._service.location} meanwhile: run the same command again"
            ) from error
        log.info("register: uploading, %s", begun.operation.name)
        return str(self._wait(begun).model_version_id)

    def _wait_for_others(self) -> None:
        from google.api_core import operation
        from google.api_core.exceptions import NotFound
        from google.cloud.aiplatform_v1 import UploadModelResponse

        try:
            with self._service.explained():
                listed = self._service.client.list_operations({"name": self.name}).operations
        except NotFound:
            return
        for each in listed:
            if each.done or not each.metadata.type_url.endswith(".UploadModelOperationMetadata"):
                continue
            log.info("register: an upload is under way already, waiting for %s", each.name)
            operations = self._service.client.transport.operations_client
            begun: Any = operation.from_gapic(each, operations, UploadModelResponse)  # type: ignore[no-untyped-call]
            try:
                self._wait(begun)
            except UserError as error:
                log.warning("register: that upload came to nothing: %s", error)

    def _wait(self, begun: Any) -> Any:
        """What came of an upload. A look that fails changes nothing: there is another one, until the time is up."""
        from google.api_core.exceptions import GoogleAPIError
        from google.api_core.future.polling import DEFAULT_POLLING

        until, absent = time.monotonic() + self._minutes * 60, None
        while True:
            left = max(0.1, until - time.monotonic())
            try:
                return begun.result(polling=DEFAULT_POLLING.with_delay(initial=0.2, maximum=10.0).with_timeout(left))
            except concurrent.futures.TimeoutError as error:
                raise TryAgainError(
                    f"the upload {begun.operation.name} takes longer than {self._minutes:g} minutes: run the same "
                    "command again, it goes on waiting; registration.timeout_minutes is how long"
                ) from error
            except GoogleAPIError as error:
                if begun.operation.HasField("error"):
                    raise UserError(
                        f"Vertex AI could not take the model ({begun.operation.error.message}): fix what that names, "
                        "then run the same command again"
                    ) from error
                now = datetime.now(UTC)
                absent = (absent or now) if is_not_found(error) else absent
                if absent and is_not_found(error) and is_gone(absent, now):
                    raise TryAgainError(
                        f"the upload {begun.operation.name} is not there any more: run again"
                    ) from error
                log.warning("register: Vertex AI does not say how the upload is (%s): looking again", brief(error, 200))
                time.sleep(min(LOOK_AGAIN_S, left))


def _has(version: Any, labels: Mapping[str, str]) -> bool:
    return all(version.labels.get(name) == value for name, value in labels.items())
