"""Build the training image on Cloud Build: hand over the context, wait, and leave no build running when stopped."""

from __future__ import annotations

import logging
import os
import random
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from mlapp import authenticate, gcs, storage
from mlapp.cloud_errors import (
    brief,
    could_not_look,
    is_ambiguous,
    is_gone,
    is_not_found,
    is_passing,
    is_unknown_host,
)
from mlapp.errors import Terminated, TryAgainError, UserError, termination_deferred
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
PATIENCE_S = 60.0  # for a look that is repeated, with all its repetitions
BACKOFF_S = (1.0, 4.0, 10.0, 20.0, 40.0)  # between attempts at ordering a build
CANCEL_WITHIN_S = 3.0  # anyone who stops a stage waits 4 s


def build(context: Context, repository: Repository, config: ImageConfig) -> str:
    """Build and push the image with the context's tag; returns its digest as the build's provenance has it.

    A `UserError` says why there is none, and where the log is.
    """
    project = config.cloud.project or authenticate.project()
    source = _upload(context, config.storage.models)
    client = _client()
    order = {
        "parent": f"projects/{project}/locations/{config.cloud.region}",
        "project_id": project,
        "build": _build_of(context, repository, source, project, config),
    }
    begun: list[Build] = []
    try:
        _create(client, order, begun)
        log.info("image: Cloud Build works on %s, its log: %s", context.tag, begun[0].log_url)
        ended = _wait(client, begun[0], config)
    except (UserError, Terminated, KeyboardInterrupt):  # it takes too long, or this stage is stopped
        for build in begun:
            _cancel(client, build)
        raise
    except Exception as error:
        if told := None if begun else refused(error, project, config):
            raise told from error
        if is_passing(error):
            raise TryAgainError(f"Cloud Build does not answer ({brief(error, 200)}): run again") from error
        raise
    if failure := why(ended, repository, config):
        raise failure
    return _digest_of(ended, f"{repository.uri}:{context.tag}", source)


def _create(client: CloudBuildClient, order: dict[str, Any], begun: list[Build]) -> None:
    """Order a build, into ``begun``; where it is unknown whether an order arrived, look before ordering again."""
    for pause in (*BACKOFF_S, None):
        try:
            with termination_deferred():  # a build whose id nobody knows could not be cancelled
                begun.append(client.create_build(order, timeout=ANSWER_WITHIN_S, retry=None).metadata.build)
        except Exception as error:
            if pause is None or not is_passing(error) or is_unknown_host(error):
                raise
            log.warning("image: no clear answer to ordering a build (%s): trying again", brief(error, 200))
            begun += _ordered(client, order) if is_ambiguous(error) else []
            if not begun:
                time.sleep(pause * random.uniform(0.5, 1.0))
        if begun:
            return


def _ordered(client: CloudBuildClient, order: dict[str, Any]) -> list[Build]:
    """The build of an order whose answer was lost: the one with its tags."""
    from google.api_core.retry import Retry

    *_, number = order["build"]["tags"]
    request = {"parent": order["parent"], "project_id": order["project_id"], "filter": f'tags="{number}"'}
    again = Retry(could_not_look, initial=0.2, maximum=5.0, timeout=PATIENCE_S)
    return list(client.list_builds(request, timeout=ANSWER_WITHIN_S, retry=again))


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
        "tags": ["mlapp", context.tag, f"order-{uuid.uuid4().hex}"],  # the last one finds this very order again
        # A build under an account of one's own must say where its log goes. One that is to be verified fails where its
        # provenance cannot be recorded.
        "options": {"logging": "CLOUD_LOGGING_ONLY", "requested_verify_option": "VERIFIED"},
        **({"service_account": f"projects/{project}/serviceAccounts/{account}"} if account else {}),
    }


def _wait(client: CloudBuildClient, begun: Build, config: ImageConfig) -> Build:
    """The build once it is over. A look that fails changes nothing: there is another one, until the time is up."""
    status = type(begun).Status
    over = {*status} - {status.STATUS_UNKNOWN, status.PENDING, status.QUEUED, status.WORKING}
    deadline = time.monotonic() + config.timeout_minutes * 60
    unseen, absent, alerted = None, None, False
    while time.monotonic() <= deadline:
        try:
            build = client.get_build(_named(begun), timeout=ANSWER_WITHIN_S, retry=None)
            if build.status in over:  # one that is newer than this library has a number only, and is looked at again
                return build
            unseen, absent, alerted = None, None, False
        except Exception as error:
            if not could_not_look(error):
                raise
            now = datetime.now(UTC)
            unseen, absent = unseen or now, (absent or now) if is_not_found(error) else absent
            if absent and is_not_found(error) and is_gone(absent, now):
                raise TryAgainError(f"the build {begun.id} is not there any more: run again") from error
            log.warning("image: Cloud Build does not say how the build is (%s): looking again", brief(error, 200))
            minutes = config.placement.alert_after_minutes
            if not alerted and now - unseen >= timedelta(minutes=minutes):
                alerted, cure = True, refused(error, str(begun.project_id), config) or brief(error)
                line = f"image: no answer about {begun.id} for {minutes:g} minutes; it goes on: {cure}"
                log.log(logging.ERROR, line)
        time.sleep(config.poll_seconds)
    raise UserError(
        f"the image was not built within {config.timeout_minutes:g} minutes: raise images.timeout_minutes; "
        f"the build is cancelled, its log: {begun.log_url}"
    )


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
