"""What Vertex AI's errors mean: another place may have room, or the user has something to mend, and how."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

from vertex_jobs import CONNECTION

from mlapp import storage
from mlapp.cloud_errors import (
    CAPACITY,
    brief,
    innermost,
    is_credentials,
    is_passing,
    is_rate_limit,
    is_unknown_host,
    is_unsent,
    status,
)
from mlapp.errors import UserError
from mlapp.schema_cloud import Place

RESOURCE_EXHAUSTED = 8
# Its own doing: "The replica workerpool0-0 ran out-of-memory …", "… exited with a non-zero status of 1".
OUT_OF_MEMORY = re.compile(r"out.of.memory|low on memory|\boom(-?killed)?\b", re.IGNORECASE)
EXIT_STATUS = re.compile(r"(?:non-zero|exit) (?:exit )?(?:status|code)(?: of)?:? *(\d+)", re.IGNORECASE)
# What gcsfs raises: of the settings, or of what jobs leave.
OF_STORAGE = frozenset({"OSError", "FileExistsError", "FileNotFoundError", "HttpError"})
# How a process ends that is told to by its machine: SIGKILL, SIGTERM, and a stage that lost what it needs.
STOPPED = frozenset({75, 137, 143})


def short_of(job: Any) -> bool:
    """Whether a failed job failed for want of machines: none was free, or its own was taken away."""
    message = job.error.message
    if OUT_OF_MEMORY.search(message) or EXIT_STATUS.search(message):
        return False
    return job.error.code == RESOURCE_EXHAUSTED or bool(CAPACITY.search(message))


def exit_status(job: Any) -> int | None:
    """The exit status that Vertex AI reports of a failed job; None where it names none."""
    found = EXIT_STATUS.search(job.error.message)
    return int(found[1]) if found else None


def was_stopped(job: Any, code: int | None) -> bool:
    """Whether a job that ended with this status was ended from outside, as a machine does that is taken away."""
    return code in STOPPED and not OUT_OF_MEMORY.search(job.error.message)


def no_room(error: BaseException) -> str | None:
    """Why a place does not take a job now, though another may; None where the request itself is at fault."""
    told = brief(error)
    if is_rate_limit(error):
        return f"too many requests: {told}"
    if status(error) == 429:
        return f"no quota: {told}"
    if is_unknown_host(error) or is_credentials(error):
        return None
    return f"does not answer: {told}" if is_passing(error) or is_unsent(error) else None


def explain(
    error: Exception, project: str, place: Place | None = None, image: str = "", account: str | None = None
) -> UserError | None:
    """The one line for what a user can mend, with the command that mends it; None for anything else."""
    from airflow.sdk.exceptions import AirflowNotFoundException

    error = cast(Exception, innermost(error))
    if type(error).__name__ in OF_STORAGE:
        line = storage.explain(error)
        return line if isinstance(line, UserError) else None
    if isinstance(error, AirflowNotFoundException):
        return UserError(
            f"Airflow has no connection {CONNECTION}: "
            f"airflow connections add {CONNECTION} --conn-type google_cloud_platform"
        )
    told = brief(error)
    if is_credentials(error):
        return UserError(
            f"no valid Google Cloud credentials ({told}): gcloud auth application-default login, "
            f"or give Airflow's connection {CONNECTION} a key"
        )
    if is_unknown_host(error):
        region = f" of the region {place.region}" if place else ""
        return UserError(
            f"the address{region} cannot be found ({told}): gcloud compute regions list "
            "(correct the region in placement.places, or see whether this machine is online)"
        )
    if status(error) not in (400, 403, 404):
        return None
    reason = str(getattr(error, "reason", "") or "")
    command = _by_reason(reason, told, project) or _by_message(told, project, place, image, account)
    return UserError(f"Vertex AI refuses the job: {told}{f': {command}' if command else ''}")


def image_trouble(message: str, image: str) -> str | None:
    """The command for an image that cannot be pulled; None where a message is about something else."""
    if re.search(r"image", message, re.IGNORECASE) and re.search(
        r"not found|not exist|failed to (find|pull|fetch)|unable to pull|cannot pull|permission|denied|unauthori",
        message,
        re.IGNORECASE,
    ):
        return f"gcloud artifacts docker images describe {image}"
    return None


def _by_reason(reason: str, told: str, project: str) -> str | None:
    if reason == "SERVICE_DISABLED" or "has not been used in project" in told:
        return f"gcloud services enable aiplatform.googleapis.com --project={project}"
    if reason == "BILLING_DISABLED" or "billing" in told.lower():
        return f"gcloud billing projects link {project} --billing-account=ACCOUNT"
    if reason in ("CONSUMER_INVALID", "USER_PROJECT_DENIED") or "on resource project" in told:
        return f"gcloud projects describe {project} (set cloud.project to a project that exists and is yours)"
    return None


def _by_message(told: str, project: str, place: Place | None, image: str, account: str | None) -> str | None:
    region = place.region if place else "REGION"
    rules: Sequence[tuple[str, str]] = (
        (
            r"act as|actAs|iam\.serviceAccounts",
            f"gcloud iam service-accounts add-iam-policy-binding {account or 'ACCOUNT'} --project={project} "
            "--member=serviceAccount:AIRFLOWS_ACCOUNT --role=roles/iam.serviceAccountUser",
        ),
        (
            r"permission 'aiplatform|aiplatform\.\w+\.\w+' denied|aiplatform\.customJobs",
            f"gcloud projects add-iam-policy-binding {project} "
            "--member=serviceAccount:AIRFLOWS_ACCOUNT --role=roles/aiplatform.user",
        ),
        (
            r"accelerator",
            "gcloud compute accelerator-types list "
            f"--filter='zone~{region}' (and what goes with {place.machine_type if place else 'the machine type'})",
        ),
        (
            r"machine.?type",
            f"gcloud compute machine-types list --filter='zone~{region}' (mend placement.places)",
        ),
        (r"location|region", "gcloud compute regions list (mend the region in placement.places)"),
        (r"bucket|output_uri|storage\.", "gcloud storage buckets list (correct storage.experiments)"),
    )
    found = image_trouble(told, image)
    return found or next((command for pattern, command in rules if re.search(pattern, told, re.IGNORECASE)), None)
