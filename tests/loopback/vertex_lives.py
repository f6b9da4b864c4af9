"""What may become of a job, each as one line of a scenario: ``vertex.plan(stocked_out(), succeeds("gs://…"))``."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from google.cloud.aiplatform_v1 import types
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status

from mlapp import storage
from tests.loopback.replicas import Replicas, flag_of
from tests.loopback.vertex_rules import RefusedError

State = types.JobState
OVER = (State.JOB_STATE_SUCCEEDED, State.JOB_STATE_FAILED, State.JOB_STATE_CANCELLED, State.JOB_STATE_EXPIRED)


class CancelledError(Exception):
    """The job was asked to end."""


class Run:
    """One job on its way, as the behaviour that plays it sees it."""

    def __init__(self, job: types.CustomJob) -> None:
        self.job = job
        self.cancelled = threading.Event()
        self.asked = False  # it was a client who cancelled it, not its timeout
        self.over = threading.Event()
        self._lock = threading.RLock()
        self.logs: dict[str, str] = {}

    @property
    def region(self) -> str:
        return str(self.job.name.split("/")[3])

    def become(self, state: State, code: int = 0, message: str = "") -> None:
        """Enter a state, with the time stamps and the error that belong to it.

        Raises `CancelledError` where a job that was cancelled would go on.
        """
        with self._lock:
            if self.cancelled.is_set() and state not in OVER:
                raise CancelledError
            now = datetime.now(UTC)
            if state == State.JOB_STATE_RUNNING and not self.job.start_time:
                self.job.start_time = now
            if state in OVER:
                self.job.end_time = now
                if code:
                    self.job.error = Status(code=code, message=message)
            self.job.update_time = now
            self.job.state = state
            if state in OVER:
                self.over.set()

    def cancel(self) -> None:
        """Ask the job to end, as a client does; refused where it is over."""
        with self._lock:
            if self.job.state in OVER:
                raise RefusedError(Code.FAILED_PRECONDITION, f"{self.job.name} is in state {self.job.state.name}.")
            if not self.cancelled.is_set():
                self.become(State.JOB_STATE_CANCELLING)
                self.asked = True
                self.cancelled.set()

    def wait(self, seconds: float) -> None:
        """Let time pass; raises `CancelledError`."""
        if self.cancelled.wait(seconds):
            raise CancelledError

    def wait_for_cancel(self) -> None:
        self.cancelled.wait()
        raise CancelledError


# A behaviour is called with the run, in a thread of its own. One marked `at_create` is called within CreateCustomJob.
Behaviour = Callable[[Run], None]


def ends(
    state: State,
    code: int = 0,
    message: str = "",
    *,
    pending: float = 0.0,
    running: float | None = 0.0,
    ended: Mapping[str, Any] | None = None,
) -> Behaviour:
    """Wait, run, write the ended record that a stage would write, end; ``running=None``: never gets that far."""

    def live(run: Run) -> None:
        run.become(State.JOB_STATE_PENDING)
        run.wait(pending)
        if running is not None:
            run.become(State.JOB_STATE_RUNNING)
            run.wait(running)
            if ended is not None:
                tell(run.job, ended)
        run.become(state, code, message.format(region=run.region))

    return live


def tell(job: types.CustomJob, ended: Mapping[str, Any]) -> None:
    """Write what a stage writes to its --ended-to."""
    uri = flag_of(job.job_spec.worker_pool_specs[0].container_spec.args, "--ended-to")
    assert uri, "the job was given no --ended-to"
    storage.write_text(storage.at(uri), json.dumps({"exit_code": 0, "uri": "", "reason": "", **ended}))


def succeeds(uri: str, running: float = 0.0) -> Behaviour:
    return ends(State.JOB_STATE_SUCCEEDED, running=running, ended={"uri": uri})


def exits(status: int, reason: str = "", *, running: float = 0.0) -> Behaviour:
    """The container ends with this exit status; with a reason, it left its record."""
    return ends(
        State.JOB_STATE_FAILED,
        Code.INTERNAL,
        f"The replica workerpool0-0 exited with a non-zero status of {status}. To find out more about why your job "
        "exited please check the logs: https://console.cloud.google.com/logs/viewer",
        running=running,
        ended={"exit_code": status, "reason": reason} if reason else None,
    )


def stocked_out(pending: float = 0.0) -> Behaviour:
    told = "Resources are insufficient in region: {region}. Please try a different region or another accelerator."
    return ends(State.JOB_STATE_FAILED, Code.RESOURCE_EXHAUSTED, told, pending=pending, running=None)


def waits() -> Behaviour:
    """Capacity never comes."""

    def live(run: Run) -> None:
        run.become(State.JOB_STATE_PENDING)
        run.wait_for_cancel()

    return live


def runs() -> Behaviour:
    """It runs until it is cancelled."""

    def live(run: Run) -> None:
        run.become(State.JOB_STATE_RUNNING)
        run.wait_for_cancel()

    return live


def refuses(code: int, message: str, reason: str = "") -> Behaviour:
    """Creating the job is refused."""

    def live(run: Run) -> None:
        raise RefusedError(code, message, reason)

    live.at_create = True  # type: ignore[attr-defined]
    return live


def over_quota(metric: str = "custom_model_training_cpus") -> Behaviour:
    return refuses(
        Code.RESOURCE_EXHAUSTED,
        f"The following quota metrics exceed quota limits: aiplatform.googleapis.com/{metric}",
    )


def executes(environ: Mapping[str, str], before: Callable[[Run, Replicas], None] | None = None) -> Behaviour:
    """Run the containers' own arguments as local processes; ``before`` may meddle with them while they run."""

    def live(run: Run) -> None:
        run.become(State.JOB_STATE_PENDING)
        run.wait(0.0)
        run.become(State.JOB_STATE_RUNNING)
        replicas = Replicas(run.job, environ)
        try:
            if before:
                before(run, replicas)
            name, code = replicas.wait(run.wait)
        finally:
            replicas.stop()
            run.logs = {name: replicas.log(name) for name in replicas.processes}
            replicas.folder.cleanup()
        if code:
            told = f"The replica {name} exited with a non-zero status of {code}."
            run.become(State.JOB_STATE_FAILED, Code.INTERNAL, told)
        else:
            run.become(State.JOB_STATE_SUCCEEDED)

    return live
