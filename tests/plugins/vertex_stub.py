"""A small Vertex AI in this process: real gRPC and real types; jobs live as their scenes say, a step a look."""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from google.cloud import aiplatform_v1 as v1
from google.protobuf import any_pb2, empty_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from loopback.chaos import Interceptor, Weather

from mlapp import storage

S = v1.JobState
OVER = {S.JOB_STATE_SUCCEEDED, S.JOB_STATE_FAILED, S.JOB_STATE_CANCELLED, S.JOB_STATE_EXPIRED}
URI = "gs://models/train/0/result.json"
Step = Callable[[Any], None]


def pending(job: Any) -> None:
    job.state = S.JOB_STATE_PENDING


def running(job: Any) -> None:
    job.state = S.JOB_STATE_RUNNING
    job.start_time = job.start_time or datetime.now(UTC)


def left(job: Any, **record: Any) -> None:
    """What the stage's own process leaves behind, where its arguments say."""
    args = job.job_spec.worker_pool_specs[0].container_spec.args
    uri = next(arg for arg in args if arg.startswith("--ended-to=")).removeprefix("--ended-to=")
    storage.write_text(storage.at(uri), json.dumps({"exit_code": 0, "uri": "", "reason": "", **record}))


def succeeded(job: Any) -> None:
    left(job, uri=URI)
    job.state, job.end_time = S.JOB_STATE_SUCCEEDED, datetime.now(UTC)


def failed(code: int, message: str, **record: Any) -> Step:
    def step(job: Any) -> None:
        if record:
            left(job, **record)
        job.state, job.end_time = S.JOB_STATE_FAILED, datetime.now(UTC)
        job.error = status_pb2.Status(code=code, message=message)

    return step


def cancelled(job: Any) -> None:
    job.state, job.end_time = S.JOB_STATE_CANCELLED, datetime.now(UTC)
    job.error = status_pb2.Status(code=1, message="CANCELED")


WELL = (pending, running, succeeded)
STOCK_OUT = (pending, failed(8, "Resources are insufficient in region: r. Please try a different region."))
PREEMPTED = (pending, running, failed(8, "STOCKOUT: the spot VM was preempted."))
FOR_EVER = (pending, running)


class Refusal(Exception):  # noqa: N818
    """How a create call fails; ``made`` whether the job exists all the same."""

    def __init__(self, code: Any, message: str, reason: str = "", made: bool = False) -> None:
        self.code, self.message, self.reason, self.made = code, message, reason, made


QUOTA = Refusal(
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    "The following quota metrics exceed quota limits: aiplatform.googleapis.com/custom_model_training_cpus",
)


class Vertex:
    """Jobs by name; ``scenes`` by region are used up by creates in order, the last of them for ever."""

    def __init__(self) -> None:
        self.jobs: dict[str, Any] = {}
        self.scenes: dict[str, list[Any]] = defaultdict(lambda: [WELL])
        self.creates = 0
        self.get_errors: list[Any] = []
        self.find_errors: list[Any] = []
        self.find_through: Callable[[Any, Any], Any] = self.find
        self.before_answer: Callable[[], object] = lambda: None
        self._steps: dict[str, Iterator[Step]] = {}
        self._names = itertools.count(1)

    @property
    def active(self) -> list[Any]:
        return [job for job in self.jobs.values() if job.state not in OVER]

    def states(self) -> list[str]:
        return [job.state.name.removeprefix("JOB_STATE_") for job in self.jobs.values()]

    def create(self, request: Any, context: Any) -> Any:
        self.creates += 1
        region = request.parent.split("/")[-1]
        scenes = self.scenes[region]
        scene = scenes.pop(0) if len(scenes) > 1 else scenes[0]
        check(request.custom_job)
        if not isinstance(scene, Refusal) or scene.made:
            job = request.custom_job
            job.name = f"{request.parent}/customJobs/{next(self._names)}"
            job.create_time = job.update_time = datetime.now(UTC)
            job.state = S.JOB_STATE_QUEUED
            self.jobs[job.name] = job
            self._steps[job.name] = iter(WELL if isinstance(scene, Refusal) else scene)
        if isinstance(scene, Refusal):
            refuse(context, scene)
        self.before_answer()
        return job

    def get(self, request: Any, context: Any) -> Any:
        if self.get_errors:
            refuse(context, self.get_errors.pop(0))
        if request.name not in self.jobs:
            refuse(context, Refusal(grpc.StatusCode.NOT_FOUND, f"The CustomJob does not exist: {request.name}"))
        job = self.jobs[request.name]
        if job.state not in OVER and (step := next(self._steps[job.name], None)):
            before = job.state
            step(job)
            job.update_time = datetime.now(UTC) if job.state != before else job.update_time
        return job

    def find(self, request: Any, context: Any) -> Any:
        if self.find_errors:
            refuse(context, self.find_errors.pop(0))
        wanted = dict(re.findall(r'labels\.(\w+)="([^"]*)"', request.filter))
        assert wanted, request.filter
        found = [
            job
            for name, job in self.jobs.items()
            if name.startswith(f"{request.parent}/") and wanted.items() <= dict(job.labels).items()
        ]
        return v1.ListCustomJobsResponse(custom_jobs=found)

    def cancel(self, request: Any, context: Any) -> Any:
        job = self.jobs[request.name]
        if job.state in OVER:
            refuse(context, Refusal(grpc.StatusCode.FAILED_PRECONDITION, "The job is over."))
        self._steps[job.name] = iter([cancelled])
        job.state = S.JOB_STATE_CANCELLING
        return empty_pb2.Empty()

    def double(self, older: bool) -> None:
        """Another worker's job, for the same errand as the last one, submitted a second before or after it."""
        last = list(self.jobs.values())[-1]
        number = last.labels["mlapp_attempt"]
        twin = v1.CustomJob.from_json(v1.CustomJob.to_json(last).replace(number, "twin"))
        twin.name = f"{last.name}{next(self._names)}"
        twin.create_time = last.create_time + timedelta(seconds=-1 if older else 1)
        self.jobs[twin.name], self._steps[twin.name] = twin, iter(WELL)

    def finish(self) -> None:
        """Let what is being cancelled be over."""
        for name, job in self.jobs.items():
            if job.state == S.JOB_STATE_CANCELLING:
                next(self._steps[name])(job)


def check(job: Any) -> None:
    assert 0 < len(job.display_name) <= 128
    for key, value in job.labels.items():
        assert re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", key), key
        assert re.fullmatch(r"[a-z0-9_-]{0,63}", value), value
    assert len(job.labels) <= 64


def refuse(context: Any, refusal: Refusal) -> None:
    status = status_pb2.Status(code=refusal.code.value[0], message=refusal.message)
    if refusal.reason:
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.ErrorInfo(reason=refusal.reason, domain="googleapis.com"))
        status.details.append(detail)
    assert code_pb2.Code.Name(status.code)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(refusal.code, refusal.message)


@contextmanager
def serving(weather: Weather | None = None) -> Iterator[tuple[Vertex, str]]:
    """The service and its address."""
    vertex = Vertex()
    methods = {
        "CreateCustomJob": (vertex.create, v1.CreateCustomJobRequest, v1.CustomJob.serialize),
        "GetCustomJob": (vertex.get, v1.GetCustomJobRequest, v1.CustomJob.serialize),
        "ListCustomJobs": (
            lambda request, context: vertex.find_through(request, context),  # noqa: PLW0108
            v1.ListCustomJobsRequest,
            v1.ListCustomJobsResponse.serialize,
        ),
        "CancelCustomJob": (vertex.cancel, v1.CancelCustomJobRequest, empty_pb2.Empty.SerializeToString),
    }
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            method, request_deserializer=request.deserialize, response_serializer=serialize
        )
        for name, (method, request, serialize) in methods.items()
    }
    server = grpc.server(futures.ThreadPoolExecutor(4), interceptors=[Interceptor(weather)] if weather else [])
    service = "google.cloud.aiplatform.v1.JobService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield vertex, f"127.0.0.1:{port}"
    finally:
        server.stop(None)
