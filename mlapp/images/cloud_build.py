"""Build the training image on Cloud Build: hand over the context, wait, and leave no build running when stopped."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any

from mlapp import authenticate, gcs, storage
from mlapp.errors import UserError, termination_deferred
from mlapp.images.build_failure import refused, why
from mlapp.images.context import DOCKERFILE, Context
from mlapp.images.registry import Repository

if TYPE_CHECKING:
    from google.cloud.devtools.cloudbuild_v1 import Build, CloudBuildClient

    from mlapp.images.builder import ImageConfig

log = logging.getLogger("mlapp")
ENDPOINT = "MLAPP_CLOUD_BUILD_ENDPOINT"  # host:port of a stand-in for Cloud Build, spoken to without TLS
DOCKER = "gcr.io/cloud-builders/docker"
ANSWER_WITHIN_S = 30.0
CANCEL_WITHIN_S = 3.0  # whoever stops a stage waits 4 s


def build(context: Context, repository: Repository, config: ImageConfig) -> str:
    """Build and push the image with the context's tag; returns its digest as the build's provenance has it.

    A `UserError` says why there is none, and where the log is.
    """
    from google.api_core.exceptions import GoogleAPICallError

    project = config.cloud.project or authenticate.project()
    source = _upload(context, config.storage.models)
    client = _client()
    order = {
        "parent": f"projects/{project}/locations/{config.cloud.region}",
        "project_id": project,
        "build": _build_of(context, repository, source, project, config),
    }
    begun = None
    try:
        with termination_deferred():  # a build whose id nobody knows could not be cancelled
            begun = client.create_build(order, timeout=ANSWER_WITHIN_S).metadata.build
        log.info("image: Cloud Build works on %s, its log: %s", context.tag, begun.log_url)
        ended = _wait(client, begun, config)
    except BaseException as error:
        if begun:
            _cancel(client, begun)
        if isinstance(error, GoogleAPICallError) and (told := refused(error, project, config)):
            raise told from error
        raise
    if failure := why(ended, repository, config):
        raise failure
    return _digest_of(ended, f"{repository.uri}:{context.tag}", source)


def _upload(context: Context, area: str) -> dict[str, Any]:
    """Put the context where Cloud Build reads it: `builds/TAG.tgz` in the models area, and of it this generation alone.

    Others may write to that area: what they put there between upload and build is another generation.
    """
    place = storage.at(area) / "builds" / f"{context.tag}.tgz"
    if place.protocol not in ("gs", "gcs"):
        raise UserError(
            f"Cloud Build reads its files from a bucket, and the models area is {area}: "
            "set storage.models=gs://BUCKET, or build with an engine on this machine: images.builder=docker"
        )
    bucket, _, name = place.path.partition("/")
    generation = gcs.upload(place, context.archive())
    return {"storage_source": {"bucket": bucket, "object_": name, "generation": generation}}


def _build_of(
    context: Context, repository: Repository, source: dict[str, Any], project: str, config: ImageConfig
) -> dict[str, Any]:
    image, cache = f"{repository.uri}:{context.tag}", f"{repository.uri}:cache-{config.variant}"
    command = [
        *("build", f"--file={DOCKERFILE}", *context.build_arguments),
        # The layers of an earlier image are taken where nothing changed: mostly all but the last, mlapp itself.
        *(f"--cache-from={cache}", "--build-arg=BUILDKIT_INLINE_CACHE=1"),
        *(f"--tag={image}", f"--tag={cache}", "."),
    ]
    account = config.build_service_account
    limit = {"seconds": int(config.timeout_minutes * 60)}
    return {
        "source": source,
        "steps": [{"id": "build", "name": DOCKER, "args": command, "env": ["DOCKER_BUILDKIT=1"]}],
        "images": [image, cache],
        "timeout": limit,
        "queue_ttl": limit,
        "tags": ["mlapp", context.tag],
        # A build under an account of one's own must say where its log goes. One that is to be verified fails where its
        # provenance cannot be recorded.
        "options": {"logging": "CLOUD_LOGGING_ONLY", "requested_verify_option": "VERIFIED"},
        **({"service_account": f"projects/{project}/serviceAccounts/{account}"} if account else {}),
    }


def _wait(client: CloudBuildClient, begun: Build, config: ImageConfig) -> Build:
    """The build once it is over."""
    status = type(begun).Status
    running = {status.STATUS_UNKNOWN, status.PENDING, status.QUEUED, status.WORKING}
    deadline = time.monotonic() + config.timeout_minutes * 60
    while (build := client.get_build(_named(begun), timeout=ANSWER_WITHIN_S)).status in running:
        if time.monotonic() > deadline:
            raise UserError(
                f"the image was not built within {config.timeout_minutes:g} minutes: raise images.timeout_minutes; "
                f"the build is cancelled, its log: {begun.log_url}"
            )
        time.sleep(config.poll_seconds)
    return build


def _digest_of(build: Build, image: str, source: dict[str, Any]) -> str:
    """The digest of what a build pushed, once its provenance names the very source that it was handed."""
    ordered = source["storage_source"]
    resolved = build.source_provenance.resolved_storage_source
    if (resolved.bucket, resolved.object_, resolved.generation) != tuple(ordered.values()):
        raise UserError(
            f"build {build.id} was made from gs://{resolved.bucket}/{resolved.object_}#{resolved.generation}, not from "
            f"generation {ordered['generation']} of what was uploaded: see {build.log_url}, then run again"
        )
    digests = {built.digest for built in build.results.images if built.name == image}
    if len(digests) != 1:
        raise UserError(f"build {build.id} does not name the digest of {image}: see {build.log_url}, then run again")
    return str(digests.pop())


def _cancel(client: CloudBuildClient, begun: Build) -> None:
    from google.api_core.exceptions import GoogleAPIError

    try:
        client.cancel_build(_named(begun), timeout=CANCEL_WITHIN_S, retry=None)
        log.info("image: cancelled build %s", begun.id)
    except GoogleAPIError as error:
        log.warning("image: could not cancel build %s (%s); it ends by its own time limit", begun.id, error)


def _named(build: Build) -> dict[str, str]:
    return {"name": build.name, "project_id": build.project_id, "id": build.id}


def _client() -> CloudBuildClient:
    from google.cloud.devtools.cloudbuild_v1 import CloudBuildClient
    from google.cloud.devtools.cloudbuild_v1.services.cloud_build.transports import CloudBuildGrpcTransport

    if not (endpoint := os.environ.get(ENDPOINT)):
        authenticate.access_token()  # in gRPC, credentials that are refused look like a server that is away
        return CloudBuildClient(credentials=authenticate.credentials())
    import grpc

    return CloudBuildClient(transport=CloudBuildGrpcTransport(channel=grpc.insecure_channel(endpoint)))
