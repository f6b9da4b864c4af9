"""Vertex AI's custom jobs as placement needs them: create, look at, find and cancel, through Airflow's own hook."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from mlapp.errors import UserError

# host:port of a plain gRPC server to speak to instead of Google's, without credentials.
ENDPOINT = "MLAPP_VERTEX_ENDPOINT"
CONNECTION = "google_cloud_default"
OVER = frozenset(f"JOB_STATE_{name}" for name in ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED"))
PENDING = frozenset({"JOB_STATE_UNSPECIFIED", "JOB_STATE_QUEUED", "JOB_STATE_PENDING"})
RUNNING, CANCELLING = "JOB_STATE_RUNNING", "JOB_STATE_CANCELLING"
CALL_S = 30.0  # for one call
PATIENCE_S = 60.0  # for a call that may be repeated, with all its repetitions
CONFIRM_S, CONFIRM_EVERY_S = 300.0, 2.0  # for a job to be over once it is told to
BACKOFF_S = (1.0, 4.0, 10.0)  # between attempts at creating a job


class Jobs:
    """The custom jobs of a project in some regions."""

    def __init__(self, project: str | None, regions: Iterable[str], say: Callable[[str], object]) -> None:
        self.say = say
        self.regions = tuple(dict.fromkeys(regions))
        self._hook = _hook()
        self.project: str = project or self._hook.project_id
        if not self.project:
            raise UserError(
                "no Google Cloud project: set cloud.project, or name one in Airflow's connection "
                f"{CONNECTION}, or run `gcloud auth application-default set-quota-project PROJECT`"
            )

    def create(self, region: str, job: dict[str, Any], mine: Callable[[Any], bool]) -> Any:
        """Create a job; where it is unknown whether a call had effect, look for the job before trying again.

        ``mine`` tells this very job among those found by its label ``mlapp_task``.
        """
        label = {"mlapp_task": job["labels"]["mlapp_task"]}
        for pause in (*BACKOFF_S, None):
            try:
                return self._hook.create_custom_job(
                    project_id=self.project, region=region, custom_job=job, timeout=CALL_S
                )
            except ambiguous() as error:
                self.say(f"{region}: no clear answer to creating the job ({brief(error)}): looking whether it is there")
                if pause is None:
                    if found := self._created(label, mine):
                        return found
                    raise
                time.sleep(pause)
                if found := self._created(label, mine):
                    return found
        raise AssertionError("unreachable")

    def get(self, name: str) -> Any:
        """One job as it is now, by its resource name; a single call."""
        return self._hook.get_custom_job(**self._parts(name), timeout=CALL_S)

    def find(self, labels: dict[str, str]) -> list[Any]:
        """The jobs with these labels in all the regions, the oldest first."""
        text = " AND ".join(f'labels.{key}="{value}"' for key, value in labels.items())
        found = [
            job
            for region in self.regions
            for job in self._hook.list_custom_jobs(
                project_id=self.project,
                region=region,
                page_size=100,
                page_token=None,
                filter=text,
                read_mask=None,
                retry=_patiently(),
                timeout=CALL_S,
            )
        ]
        return sorted(found, key=lambda job: (job.create_time, job.name))

    def cancel(self, name: str) -> None:
        """Have a job ended; one that is over or gone already is none of our business any more."""
        from google.api_core.exceptions import FailedPrecondition, NotFound

        try:
            self._hook.cancel_custom_job(**self._parts(name), retry=_patiently(), timeout=CALL_S)
        except (FailedPrecondition, NotFound) as error:
            self.say(f"{name} needs no cancelling: {brief(error)}")

    def ended(self, name: str) -> Any:
        """Cancel a job and see it over; returns it, which may even have succeeded meanwhile."""
        self.cancel(name)
        until = time.monotonic() + CONFIRM_S
        while not is_over(job := self._hook.get_custom_job(**self._parts(name), retry=_patiently(), timeout=CALL_S)):
            if time.monotonic() > until:
                raise RuntimeError(f"{name} was cancelled {CONFIRM_S:.0f} s ago and still is {job.state.name}")
            time.sleep(CONFIRM_EVERY_S)
        return job

    def _created(self, labels: dict[str, str], mine: Callable[[Any], bool]) -> Any:
        return next(filter(mine, self.find(labels)), None)

    def _parts(self, name: str) -> dict[str, str]:
        _, project, _, region, _, job = name.split("/")
        return {"project_id": project, "region": region, "custom_job": job}


def is_over(job: Any) -> bool:
    """Whether a job has ended, well or not."""
    return job.state.name in OVER


def console(name: str) -> str:
    """Where a person sees a job and its log."""
    _, project, _, region, _, job = name.split("/")
    return f"https://console.cloud.google.com/vertex-ai/locations/{region}/training/{job}?project={project}"


def ambiguous() -> tuple[type[Exception], ...]:
    """Errors that leave open whether the call had effect, and that may be gone at the next one."""
    from google.api_core import exceptions

    return (
        exceptions.ServiceUnavailable,
        exceptions.GatewayTimeout,
        exceptions.InternalServerError,
        exceptions.Unknown,
        exceptions.Cancelled,
        exceptions.RetryError,
    )


def transient() -> tuple[type[Exception], ...]:
    """Errors of a call without effects that may be gone at the next one."""
    from google.api_core import exceptions

    return (*ambiguous(), exceptions.TooManyRequests)


def brief(error: BaseException) -> str:
    """An API's error in one line."""
    return " ".join(str(getattr(error, "message", "") or error).split())[:500]


def _patiently() -> Any:
    """How a call without effects is repeated while Vertex AI does not answer."""
    from google.api_core.retry import Retry, if_exception_type

    return Retry(if_exception_type(*transient()), initial=0.5, maximum=10.0, timeout=PATIENCE_S)


# A channel may wait without end, when it is collected, for a call that a signal's exception broke off: none is.
_KEPT: list[Any] = []


def _hook() -> Any:
    warnings.filterwarnings("ignore", category=FutureWarning, module="google")  # on the age of this Python
    from airflow.providers.google.cloud.hooks.vertex_ai.custom_job import CustomJobHook

    class Hook(CustomJobHook):  # type: ignore[misc]
        """Keeps one channel a region, where its parent opens one a call; speaks to `ENDPOINT` where that is set."""

        def __init__(self) -> None:
            super().__init__(gcp_conn_id=CONNECTION)
            self.clients: dict[str | None, Any] = {}

        def get_job_service_client(self, region: str | None = None) -> Any:
            if region not in self.clients:
                address = os.environ.get(ENDPOINT)
                self.clients[region] = _plain(address) if address else super().get_job_service_client(region)
                _KEPT.append(self.clients[region])
            return self.clients[region]

    return Hook()


def _plain(address: str) -> Any:
    import grpc
    from google.cloud.aiplatform_v1 import JobServiceClient
    from google.cloud.aiplatform_v1.services.job_service.transports.grpc import JobServiceGrpcTransport

    return JobServiceClient(transport=JobServiceGrpcTransport(channel=grpc.insecure_channel(address)))
