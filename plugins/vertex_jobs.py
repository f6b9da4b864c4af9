"""Vertex AI's custom jobs as placement needs them: create, look at, find and cancel, through Airflow's own hook."""

from __future__ import annotations

import os
import random
import time
import warnings
from collections.abc import Callable, Collection, Iterable
from typing import Any

from mlapp.cloud_errors import brief, could_not_look, is_passing, is_rate_limit, is_unknown_host, is_unsent, status
from mlapp.errors import UserError

# host:port of a plain gRPC server to speak to instead of Google's, without credentials.
ENDPOINT = "MLAPP_VERTEX_ENDPOINT"
CONNECTION = "google_cloud_default"
OVER = frozenset(f"JOB_STATE_{name}" for name in ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PARTIALLY_SUCCEEDED"))
PENDING = frozenset({"JOB_STATE_UNSPECIFIED", "JOB_STATE_QUEUED", "JOB_STATE_PENDING"})
RUNNING, CANCELLING = "JOB_STATE_RUNNING", "JOB_STATE_CANCELLING"
CALL_S = 30.0  # for one call
FIRST_PAUSE_S, PATIENCE_S = 0.5, 60.0  # for a call that may be repeated, with all its repetitions
CONFIRM_S, CONFIRM_EVERY_S = 300.0, 2.0  # for a job to be over once it is told to
# Between attempts at creating a job, half of it by chance: together more than the minute that a rate limit counts by.
BACKOFF_S = (1.0, 4.0, 10.0, 20.0, 40.0)


class NotOverError(TimeoutError):
    """A job was cancelled some time ago and still is not over."""


class UnclearError(RuntimeError):
    """A job may have been created, and its region does not say whether it was."""


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

        ``mine`` recognises this very job among those found by its label ``mlapp_task``. Raises `UnclearError` where
        nothing can be found out, and the service's own error where there certainly is no job.
        """
        for pause in (*BACKOFF_S, None):
            try:
                return self._hook.create_custom_job(
                    project_id=self.project, region=region, custom_job=job, timeout=CALL_S
                )
            except Exception as error:
                if not (is_rate_limit(error) or (is_passing(error) and status(error) != 429)) or is_unknown_host(error):
                    raise
                certain = is_rate_limit(error) or is_unsent(error)  # that there is no job
                doubt = "trying again" if certain else "looking whether it is there"
                self.say(f"{region}: no clear answer to creating the job ({brief(error)}): {doubt}")
                time.sleep((pause or 0.0) * random.uniform(0.5, 1.0))
                if not certain and (found := self._created(region, job, mine)):
                    return found
                if pause is None:
                    raise
        raise AssertionError("unreachable")

    def get(self, name: str) -> Any:
        """One job as it is now, by its resource name; a single call."""
        return self._hook.get_custom_job(**self._parts(name), timeout=CALL_S)

    def find(self, labels: dict[str, str], must: Collection[str] | None = None) -> list[Any]:
        """The jobs with these labels, the oldest first, in all the regions and in those that ``must`` answer.

        Another region that does not answer is passed over; without ``must`` every region has to.
        """
        found = []
        for region in dict.fromkeys((*self.regions, *(must or ()))):
            try:
                found += self._listed(region, labels)
            except Exception as error:
                if must is None or region in must or not could_not_look(error):
                    raise
                self.say(f"{region} does not answer ({brief(error)}): no job of this task is known to be there")
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
                raise NotOverError(f"{name} was cancelled {CONFIRM_S:.0f} s ago and still is {state_of(job)}")
            time.sleep(CONFIRM_EVERY_S)
        return job

    def _created(self, region: str, job: dict[str, Any], mine: Callable[[Any], bool]) -> Any:
        try:
            found = self._listed(region, {"mlapp_task": job["labels"]["mlapp_task"]})
        except Exception as error:
            if not could_not_look(error):
                raise
            raise UnclearError(f"{region} does not say whether it has the job: {brief(error)}") from error
        return next(filter(mine, found), None)

    def _listed(self, region: str, labels: dict[str, str]) -> list[Any]:
        pages = self._hook.list_custom_jobs(
            project_id=self.project,
            region=region,
            page_size=100,
            page_token=None,
            filter=" AND ".join(f'labels.{key}="{value}"' for key, value in labels.items()),
            read_mask=None,
            retry=_patiently(),
            timeout=CALL_S,
        )
        return list(pages)

    def _parts(self, name: str) -> dict[str, str]:
        _, project, _, region, _, job = name.split("/")
        return {"project_id": project, "region": region, "custom_job": job}


def is_over(job: Any) -> bool:
    """Whether a job has ended, well or not."""
    return state_of(job) in OVER


def state_of(job: Any) -> str:
    """The name of a job's state; a state that is newer than this library has a number only, and is not over."""
    return str(getattr(job.state, "name", f"JOB_STATE_{job.state}"))


def console(name: str) -> str:
    """Where a person sees a job and its log."""
    _, project, _, region, _, job = name.split("/")
    return f"https://console.cloud.google.com/vertex-ai/locations/{region}/training/{job}?project={project}"


def _patiently() -> Any:
    """How a call without effects is repeated while Vertex AI does not answer."""
    from google.api_core.retry import Retry

    return Retry(is_passing, initial=FIRST_PAUSE_S, maximum=10.0, timeout=PATIENCE_S)


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
