"""A Vertex AI on loopback: the JobService of custom jobs over gRPC, with the real types and the real one's rules.

with serving() as vertex:
    vertex.plan(over_quota(), region="europe-west4")      # what becomes of the first job there
    vertex.plan(succeeds("gs://models/…/result.json"))    # and of the first one anywhere else
    …
    assert len(vertex.jobs) == 1 and not vertex.active
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import grpc
import psutil
from google.cloud.aiplatform_v1 import types
from google.protobuf import any_pb2, empty_pb2
from google.rpc import error_details_pb2
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from tests.loopback.chaos import Interceptor, Weather
from tests.loopback.vertex_filter import matches
from tests.loopback.vertex_lives import OVER, Behaviour, CancelledError, Run, State, runs
from tests.loopback.vertex_rules import RefusedError, Strategy, check_job, invalid

SERVICE = "google.cloud.aiplatform.v1.JobService"
PROJECT, NUMBER = "project-1", "123456789012"
REGIONS = ("europe-west1", "europe-west4", "us-central1")
PAGE = 100


@dataclass
class Plan:
    """Behaviours for the jobs at one place, each for one job, in order."""

    where: dict[str, Any]
    behaviours: list[Behaviour]

    def fits(self, place: dict[str, Any]) -> bool:
        return bool(self.behaviours) and self.where.items() <= place.items()


@dataclass
class Vertex:
    """The service's state, and what a test asks of it."""

    address: str = ""
    default: Behaviour = field(default_factory=runs)
    cancel_s: float = 0.0  # how long a job takes to end once it is cancelled
    runs: dict[str, Run] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    _plans: list[Plan] = field(default_factory=list)
    _lock: Any = field(default_factory=threading.RLock)
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(int(time.time() * 1e9)))
    _interruptions: dict[str, list[RefusedError]] = field(default_factory=dict)

    def plan(self, *behaviours: Behaviour, **where: Any) -> None:
        """What becomes of the next jobs at this place (region, machine_type, spot); else `default`."""
        self._plans.append(Plan(where, list(behaviours)))

    def interrupt(self, method: str, code: int, *, after: bool = False) -> None:
        """Have the next call of ``method`` fail with this code; ``after`` it has done what it was asked to."""
        self._interruptions.setdefault(method, []).append(RefusedError(code, "interrupted", "after" if after else ""))

    def strike(self, method: str) -> None:
        """Have whoever calls ``method`` next be killed (SIGKILL) when it has done what it was asked to, unanswered."""
        self._interruptions.setdefault(method, []).append(RefusedError(Code.ABORTED, "killed", "kill"))

    @property
    def jobs(self) -> list[types.CustomJob]:
        """Every job that was created, the oldest first."""
        return [run.job for run in self.runs.values()]

    @property
    def active(self) -> list[types.CustomJob]:
        """Those that are not over: queued, pending, running or being cancelled."""
        return [job for job in self.jobs if job.state not in OVER]

    def create_custom_job(self, request: types.CreateCustomJobRequest) -> types.CustomJob:
        region = check_parent(request.parent)
        job = types.CustomJob(types.CustomJob.pb(request.custom_job))
        check_job(job)
        with self._lock:
            now = datetime.now(UTC)
            job.name = f"projects/{NUMBER}/locations/{region}/customJobs/{next(self._ids)}"
            job.state, job.create_time, job.update_time = State.JOB_STATE_PENDING, now, now
            run = Run(job)
            behaviour = self._behaviour(region, job)
            if getattr(behaviour, "at_create", False):
                behaviour(run)
            self.runs[job.name] = run
            answer = types.CustomJob(types.CustomJob.pb(job))
        threading.Thread(target=self._live, args=(run, behaviour), daemon=True).start()
        return answer

    def get_custom_job(self, request: types.GetCustomJobRequest) -> types.CustomJob:
        return self._run(request.name).job

    def list_custom_jobs(self, request: types.ListCustomJobsRequest) -> types.ListCustomJobsResponse:
        region = check_parent(request.parent)
        if request.page_size < 0:
            invalid("page_size must not be negative.")
        found = [run.job for run in self.runs.values() if run.region == region and matches(run.job, request.filter)]
        found.sort(key=lambda job: (job.create_time, job.name), reverse=True)
        start = int(request.page_token or 0)
        end = start + (min(request.page_size, PAGE) or PAGE)
        token = str(end) if end < len(found) else ""
        return types.ListCustomJobsResponse(custom_jobs=found[start:end], next_page_token=token)

    def cancel_custom_job(self, request: types.CancelCustomJobRequest) -> empty_pb2.Empty:
        self._run(request.name).cancel()
        return empty_pb2.Empty()

    def end(self) -> None:
        """Cancel what is left, and wait for it."""
        for run in self.runs.values():
            run.cancelled.set()
        for run in self.runs.values():
            run.over.wait(60)

    def _live(self, run: Run, behaviour: Behaviour) -> None:
        timer = threading.Timer(timeout_s(run.job), run.cancelled.set)
        timer.daemon = True
        timer.start()
        try:
            behaviour(run)
        except CancelledError:
            if run.asked:
                time.sleep(self.cancel_s)
                run.become(State.JOB_STATE_CANCELLED, Code.CANCELLED, "CANCELED")
            else:
                told = f"The job ran longer than its timeout of {timeout_s(run.job):.0f} s."
                run.become(State.JOB_STATE_FAILED, Code.DEADLINE_EXCEEDED, told)
        finally:
            timer.cancel()
            if not run.over.is_set():
                run.become(State.JOB_STATE_FAILED, Code.INTERNAL, "Internal error occurred.")

    def _behaviour(self, region: str, job: types.CustomJob) -> Behaviour:
        machine = job.job_spec.worker_pool_specs[0].machine_spec.machine_type
        place = {
            "region": region,
            "machine_type": machine,
            "spot": job.job_spec.scheduling.strategy == Strategy.SPOT,
            "module": job.job_spec.worker_pool_specs[0].container_spec.args[0],
        }
        plan = next((plan for plan in self._plans if plan.fits(place)), None)
        return plan.behaviours.pop(0) if plan else self.default

    def _run(self, name: str) -> Run:
        parts = name.split("/")
        if len(parts) != 6 or parts[4] != "customJobs":
            invalid(f"Invalid resource name: {name}")
        check_parent("/".join(parts[:4]))
        run = self.runs.get("/".join(["projects", NUMBER, *parts[2:]]))
        if run is None:
            raise RefusedError(Code.NOT_FOUND, f"The CustomJob does not exist: {name}")
        return run

    def handler(self, method: Callable[[Any], Any], name: str) -> Callable[[Any, grpc.ServicerContext], Any]:
        """A method as gRPC calls it: refusals become statuses with details, as google.api_core reads them."""

        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            self.calls.append(name)
            waiting = self._interruptions.get(name)
            fault = waiting.pop(0) if waiting else None
            try:
                if fault and not fault.reason:
                    raise fault
                answer = method(request)
            except RefusedError as refused:
                context.abort_with_status(status_of(refused))
            if fault and fault.reason == "kill":
                kill_caller(context.peer())
            if fault:
                context.abort_with_status(status_of(RefusedError(fault.code, fault.message)))
            return answer

        return handle


def kill_caller(peer: str) -> None:
    """Kill the process at the other end of a connection from this machine: ``ipv4:127.0.0.1:PORT``."""
    port = int(peer.rpartition(":")[2])
    for connection in psutil.net_connections("tcp"):
        if connection.laddr.port == port and connection.pid not in (None, os.getpid()):
            os.kill(connection.pid, signal.SIGKILL)


def timeout_s(job: types.CustomJob) -> float:
    """The most seconds that a job may run; 7 days where it says nothing."""
    given = job.job_spec.scheduling.timeout
    return given.total_seconds() if given else 7 * 24 * 3600.0


def check_parent(parent: str) -> str:
    """The region of ``projects/P/locations/R``; refused as the real service does where either is unknown."""
    parts = parent.split("/")
    if len(parts) != 4 or parts[0] != "projects" or parts[2] != "locations":
        invalid(f"Invalid resource name: {parent}")
    if parts[1] not in (PROJECT, NUMBER):
        raise RefusedError(
            Code.PERMISSION_DENIED,
            f"Permission 'aiplatform.customJobs.create' denied on resource '//aiplatform.googleapis.com/{parent}' "
            "(or it may not exist).",
            "IAM_PERMISSION_DENIED",
        )
    if parts[3] not in REGIONS:
        invalid(f"List of found errors: 1.Field: parent; Message: Unsupported region {parts[3]}.")
    return parts[3]


def status_of(refused: RefusedError) -> grpc.Status:
    status = Status(code=refused.code, message=refused.message)
    if refused.reason:
        detail = any_pb2.Any()
        service = {"service": "aiplatform.googleapis.com", "consumer": f"projects/{NUMBER}"}
        detail.Pack(error_details_pb2.ErrorInfo(reason=refused.reason, domain="googleapis.com", metadata=service))
        status.details.append(detail)
    return rpc_status.to_status(status)


@contextmanager
def serving(weather: Weather | None = None, **settings: Any) -> Iterator[Vertex]:
    """A server on a free port of 127.0.0.1; what still runs at the end is cancelled."""
    vertex = Vertex(**settings)
    methods = {
        "CreateCustomJob": (vertex.create_custom_job, types.CreateCustomJobRequest, types.CustomJob.serialize),
        "GetCustomJob": (vertex.get_custom_job, types.GetCustomJobRequest, types.CustomJob.serialize),
        "ListCustomJobs": (
            vertex.list_custom_jobs,
            types.ListCustomJobsRequest,
            types.ListCustomJobsResponse.serialize,
        ),
        "CancelCustomJob": (
            vertex.cancel_custom_job,
            types.CancelCustomJobRequest,
            empty_pb2.Empty.SerializeToString,
        ),
    }
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            vertex.handler(method, name), request_deserializer=request.deserialize, response_serializer=serialize
        )
        for name, (method, request, serialize) in methods.items()
    }
    server = grpc.server(futures.ThreadPoolExecutor(16), interceptors=[Interceptor(weather)] if weather else [])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    vertex.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield vertex
    finally:
        vertex.end()
        server.stop(grace=1).wait()
