"""Why Cloud Build made no image, in one line with the command that mends it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlapp import authenticate
from mlapp.cloud_errors import brief
from mlapp.errors import UserError

if TYPE_CHECKING:
    from google.cloud.devtools.cloudbuild_v1 import Build

    from mlapp.images.builder import ImageConfig
    from mlapp.images.registry import Repository


def refused(error: Exception, project: str, config: ImageConfig) -> UserError | None:
    """The line for an order that Cloud Build does not take; None for an error that a user cannot mend."""
    from google.api_core import exceptions

    told = brief(error, 300)
    match error:
        case exceptions.PermissionDenied() if error.reason == "SERVICE_DISABLED" or "has not been used" in told:
            mend = f"gcloud services enable cloudbuild.googleapis.com --project={project}"
            return UserError(f"Cloud Build is not switched on in {project}: run `{mend}`")
        case exceptions.PermissionDenied():
            act_as = (
                f"; it must also be allowed to act as {config.build_service_account}: `gcloud iam service-accounts "
                f"add-iam-policy-binding {config.build_service_account} --project={project} "
                f"--member={authenticate.member()} --role=roles/iam.serviceAccountUser`"
                if config.build_service_account
                else ""
            )
            mend = _grant_in(project, authenticate.member(), "roles/cloudbuild.builds.editor")
            return UserError(f"no permission to build in {project} ({told}): run `{mend}`{act_as}")
        case exceptions.Unauthenticated():
            return UserError(f"Cloud Build does not take the credentials ({told}): run `{authenticate.LOGIN}`")
        case exceptions.NotFound():
            return UserError(
                f"Cloud Build finds no project {project} or no such account ({told}): mend cloud.project or "
                "images.build_service_account; `gcloud projects list` shows the projects"
            )
        case exceptions.InvalidArgument() | exceptions.FailedPrecondition():
            return UserError(
                f"Cloud Build does not take the order ({told}): mend cloud.region ({config.cloud.region}), "
                "images.build_service_account or images.repository"
            )
    return None


def why(build: Build, repository: Repository, config: ImageConfig) -> Exception | None:
    """Why a build that is over has made no image; None if it has."""
    status = type(build).Status
    if build.status == status.SUCCESS:
        return None
    detail = " ".join((build.failure_info.detail or build.status_detail).split())[:300] or "it does not say why"
    told = {
        status.TIMEOUT: f"it took longer than {config.timeout_minutes:g} minutes: raise images.timeout_minutes",
        status.CANCELLED: "it was cancelled: run again",
        status.FAILURE: _of_failure(build, detail, repository, config),
    }
    if build.status in told:
        return UserError(f"Cloud Build made no image: {told[build.status]}; its log: {build.log_url}")
    return RuntimeError(f"Cloud Build ended as {status(build.status).name} ({detail}); its log: {build.log_url}")


def _of_failure(build: Build, detail: str, repository: Repository, config: ImageConfig) -> str:
    kind = type(build).FailureInfo.FailureType
    member = f"serviceAccount:{config.build_service_account or 'BUILD_SERVICE_ACCOUNT'}"
    match build.failure_info.type_:
        case kind.PUSH_NOT_AUTHORIZED | kind.PUSH_FAILED:
            return (
                f"it could not be pushed ({detail}): run `{repository.grant('writer', member)}`, "
                f"or `{repository.create()}` if there is no such repository"
            )
        case kind.FETCH_SOURCE_FAILED:
            mend = (
                f"gcloud storage buckets add-iam-policy-binding gs://{build.source.storage_source.bucket} "
                f"--member={member} --role=roles/storage.objectViewer"
            )
            return f"it could not read the image's files ({detail}): run `{mend}`"
    failed = [step for step in build.steps if step.status == type(build).Status.FAILURE]
    at = f" at step {failed[-1].id} (docker {failed[-1].args[0]})" if failed else ""
    return f"the build failed{at} ({detail})"


def _grant_in(project: str, member: str, role: str) -> str:
    return f"gcloud projects add-iam-policy-binding {project} --member={member} --role={role}"
