"""A Cloud Build on loopback: it speaks the real types over gRPC, and checks an order as strictly as the real one."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.cloud.devtools.cloudbuild_v1 import types
from google.longrunning import operations_pb2
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from tests.loopback.chaos import Interceptor, Weather

SERVICE = "google.devtools.cloudbuild.v1.CloudBuild"
Status, Failure = types.Build.Status, types.Build.FailureInfo.FailureType
OVER = {Status.SUCCESS, Status.FAILURE, Status.INTERNAL_ERROR, Status.TIMEOUT, Status.CANCELLED, Status.EXPIRED}
PARENT = re.compile(r"projects/([a-z][a-z0-9-]{4,28}[a-z0-9])/locations/(global|[a-z]+-[a-z]+[0-9])")
IMAGE = re.compile(r"[a-z0-9.:-]+(/[a-z0-9._-]+)+:[\w][\w.-]{0,127}")
TAG = re.compile(r"[\w][\w.-]{0,127}")
UNBUCKETED = {"CLOUD_LOGGING_ONLY", "NONE"}
ACCOUNT = re.compile(r"projects/[a-z0-9-]+/serviceAccounts/[a-z0-9-]+@[a-z0-9.-]+\.gserviceaccount\.com")


@dataclass
class CloudBuild:
    """What the builds come to. ``looks`` is how often a build is still at work when it is looked at."""

    ends: types.Build = field(default_factory=lambda: types.Build(status=Status.SUCCESS))
    looks: int = 2
    refuses: status_pb2.Status | None = None
    # Called with a build that succeeds, before anybody hears of it: what the real one does to the registry. Returns the
    # digest of each of the build's images.
    pushes: Callable[[types.Build], Sequence[str] | None] = lambda build: None
    # What happens to a build's record on the way to who asks.
    tampers: Callable[[types.Build], object] = lambda build: None
    builds: dict[str, types.Build] = field(default_factory=dict)
    address: str = ""
    _looked: dict[str, int] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def running(self) -> list[types.Build]:
        return [build for build in self.builds.values() if build.status not in OVER]

    def create(self, request: types.CreateBuildRequest, context: grpc.ServicerContext) -> operations_pb2.Operation:
        if self.refuses:
            context.abort_with_status(rpc_status.to_status(self.refuses))
        if wrong := wrong_in(request, routing(context)):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, wrong)
        with self._lock:
            number = f"00000000-0000-4000-8000-{next(self._numbers):012}"
            build = types.Build(request.build)
            build.id, build.project_id, build.status = number, request.project_id, Status.QUEUED
            build.name = f"{request.parent}/builds/{number}"
            build.log_url = f"https://console.cloud.google.com/cloud-build/builds/{number}?project={request.project_id}"
            self.builds[number] = build
            self._looked[number] = 0
        metadata = any_pb2.Any()
        metadata.Pack(types.BuildOperationMetadata.pb(types.BuildOperationMetadata(build=build)))
        return operations_pb2.Operation(name=f"operations/build/{request.project_id}/{number}", metadata=metadata)

    def get(self, request: types.GetBuildRequest, context: grpc.ServicerContext) -> types.Build:
        build = self._find(request, context)
        with self._lock:
            if build.status in OVER:
                return build
            self._looked[build.id] += 1
            if self._looked[build.id] <= self.looks:
                build.status = Status.WORKING
            else:
                self._end(build)
            return build

    def list(self, request: types.ListBuildsRequest, context: grpc.ServicerContext) -> types.ListBuildsResponse:
        wanted = re.findall(r'tags="([^"]+)"', request.filter)
        if not wanted or not request.parent or not request.project_id:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"invalid filter {request.filter!r}")
        builds = [build for build in self.builds.values() if {*wanted} <= {*build.tags}]
        return types.ListBuildsResponse(builds=builds)

    def cancel(self, request: types.CancelBuildRequest, context: grpc.ServicerContext) -> types.Build:
        build = self._find(request, context)
        with self._lock:
            if build.status in OVER:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, "Build is not in progress.")
            build.status = Status.CANCELLED
            return build

    def _find(self, request: Any, context: grpc.ServicerContext) -> types.Build:
        if not (request.project_id and request.id):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "project_id and id are required")
        build = self.builds.get(request.id)
        if build is None or build.name != request.name or build.project_id != request.project_id:
            context.abort(grpc.StatusCode.NOT_FOUND, "Requested entity was not found.")
        return build

    def _end(self, build: types.Build) -> None:
        build.status = self.ends.status
        build.failure_info = self.ends.failure_info
        build.status_detail = self.ends.status_detail
        for step in build.steps:
            step.status = Status.SUCCESS if build.failure_info.type_ != Failure.USER_BUILD_STEP else Status.FAILURE
        if build.status == Status.SUCCESS:
            build.source_provenance = types.SourceProvenance(resolved_storage_source=build.source.storage_source)
            digests = self.pushes(build) or [""] * len(build.images)
            images = [
                types.BuiltImage(name=name, digest=digest) for name, digest in zip(build.images, digests, strict=True)
            ]
            build.results = types.Results(images=images)
            self.tampers(build)


@contextmanager
def serving(cloud_build: CloudBuild | None = None, weather: Weather | None = None) -> Iterator[CloudBuild]:
    """Serve within the block; `address` is for MLAPP_CLOUD_BUILD_ENDPOINT."""
    cloud_build = cloud_build or CloudBuild()
    server = grpc.server(futures.ThreadPoolExecutor(4), interceptors=[Interceptor(weather)] if weather else [])
    methods = {
        "CreateBuild": (cloud_build.create, types.CreateBuildRequest, operations_pb2.Operation.SerializeToString),
        "ListBuilds": (cloud_build.list, types.ListBuildsRequest, types.ListBuildsResponse.serialize),
        "GetBuild": (cloud_build.get, types.GetBuildRequest, types.Build.serialize),
        "CancelBuild": (cloud_build.cancel, types.CancelBuildRequest, types.Build.serialize),
    }
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(method, request.deserialize, answer)
        for name, (method, request, answer) in methods.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    cloud_build.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield cloud_build
    finally:
        server.stop(None).wait()


def error_status(message: str, reason: str = "", code: int = code_pb2.PERMISSION_DENIED) -> status_pb2.Status:
    """An error as Google's servers send it; ``reason`` is the one of its ErrorInfo."""
    status = status_pb2.Status(code=code, message=message)
    if reason:
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="googleapis.com"))
        status.details.append(detail)
    return status


def routing(context: grpc.ServicerContext) -> str:
    return dict(context.invocation_metadata()).get("x-goog-request-params", "")


def wrong_in(request: types.CreateBuildRequest, routed: str) -> str | None:
    """What the real service would not take, in its order of checks."""
    parent, build = PARENT.fullmatch(request.parent), request.build
    storage, options = build.source.storage_source, build.options
    regional = parent is not None and f"location={parent[2]}" in routed
    checks: Sequence[tuple[bool, str]] = (
        (bool(request.project_id), "project_id is required"),
        (parent is not None and parent[1] == request.project_id, f"invalid parent {request.parent!r}"),
        (regional, f"the request is not routed to the location of its parent: {routed!r}"),
        (bool(build.steps), "invalid build: no build steps specified"),
        (all(step.name for step in build.steps), "invalid build: step has no name"),
        (bool(storage.bucket and storage.object_), "invalid build: no source specified"),
        (len(build.steps) <= 300, "invalid build: too many steps"),
        (all(IMAGE.fullmatch(image) for image in build.images), f"invalid image name in {list(build.images)}"),
        (len(set(build.images)) == len(build.images), "invalid build: duplicate image"),
        (0 < build.timeout.total_seconds() <= 86400, "invalid build: timeout must be positive and at most 24h"),
        (0 <= build.queue_ttl.total_seconds() <= 86400, "invalid build: queue_ttl must be at most 24h"),
        (len(build.tags) <= 64 and all(map(TAG.fullmatch, build.tags)), f"invalid tag in {list(build.tags)}"),
        (not any("$" in text for step in build.steps for text in step.args), "invalid value for 'build.substitutions'"),
        (
            not build.service_account or ACCOUNT.fullmatch(build.service_account) is not None,
            f"invalid service account {build.service_account!r}",
        ),
        (
            not build.service_account or bool(build.logs_bucket) or options.logging.name in UNBUCKETED,
            "if 'build.service_account' is specified, the build must either (a) specify 'build.logs_bucket', (b) use "
            "the REGIONAL_USER_OWNED_BUCKET build.options.default_logs_bucket_behavior option, or (c) use either "
            "CLOUD_LOGGING_ONLY / NONE logging options",
        ),
        (
            not (build.logs_bucket and options.logging.name == "CLOUD_LOGGING_ONLY"),
            "build.logs_bucket cannot be used with option CLOUD_LOGGING_ONLY",
        ),
    )
    return next((told for holds, told in checks if not holds), None)
