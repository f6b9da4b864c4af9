"""A look that fails changes nothing; only a job that is gone for a while, a kill or the deadline ends the wait."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import grpc
import pytest
import vertex_case as case
import vertex_errand
import vertex_ladder
import vertex_records
import vertex_stub as stub
import vertex_task
from airflow.sdk.exceptions import TaskDeferred
from stage_operator import BadInput

from mlapp import cloud_errors, pins, storage

pytest_plugins = "loopback.fixtures"
Code = grpc.StatusCode
FAILS = [code for code in Code if code is not Code.OK]


def error(code):
    return stub.Refusal(code, "interrupted")


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_failed_look_of_whatever_kind_leaves_a_healthy_job_alone(vertex, config, deferrable):
    vertex.get_errors = [error(code) for code in FAILS]
    stage, lines = case.operator(config(), deferrable=deferrable)
    assert case.through(stage, case.context()) == stub.URI
    assert (vertex.creates, vertex.states()) == (1, ["SUCCEEDED"])
    assert sum("looking again later" in line for line in lines) == len(FAILS)


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.UNAUTHENTICATED, Code.NOT_FOUND])
def test_a_retry_that_cannot_look_waits_instead_of_submitting_again(vertex, config, monkeypatch, code):
    uri = config()
    with pytest.raises(TaskDeferred):
        case.operator(uri, deferrable=True)[0].execute(case.context())
    vertex.find_errors = [error(code)] * 8
    stage, _ = case.operator(uri)
    assert stage.execute(case.context()) == stub.URI
    assert (vertex.creates, vertex.states()) == (1, ["SUCCEEDED"])


@pytest.mark.parametrize("name", ["of", "tell"])
def test_a_place_that_was_left_is_not_one_that_somebody_cancelled(vertex, config, monkeypatch, name):
    """Given a job that waited too long, was cancelled by its task, and whose records cannot be reached just then."""
    vertex.scenes["europe-west4"] = [(stub.pending,)]
    stage, _ = case.operator(config({**case.FIRST, "max_wait_minutes": 0.002}, case.SECOND), deferrable=True)
    do, faults = getattr(vertex_records.Records, name), [OSError("Forbidden: gs://models\nno access")] * 2

    def fails(self, *given):
        if faults:
            raise faults.pop()
        return do(self, *given)

    monkeypatch.setattr(vertex_records.Records, name, fails)
    assert case.through(stage, case.context()) == stub.URI
    assert vertex.states() == ["CANCELLED", "SUCCEEDED"]


def test_of_two_jobs_the_one_that_succeeded_counts(vertex, config):
    """Given another worker that did the same a moment later, and cancelled its own job."""
    stage, _ = case.operator(config(), deferrable=True)
    with pytest.raises(TaskDeferred):
        stage.execute(case.context())
    vertex.double(older=False)
    first, twin = vertex.jobs.values()
    stub.cancelled(twin)
    stub.succeeded(first)
    assert stage.resume(case.context(), event=datetime.now(UTC)) == stub.URI
    assert vertex.creates == 1


def test_credentials_that_expire_while_a_job_runs_leave_it_alone(vertex, config, monkeypatch):
    from google.auth.exceptions import RefreshError

    stage, _ = case.operator(config(), deferrable=True)
    get, failures = vertex_ladder.Jobs.get, [RefreshError("token expired"), RefreshError("token expired")]

    def expired(self, name):
        if failures:
            raise failures.pop()
        return get(self, name)

    monkeypatch.setattr(vertex_ladder.Jobs, "get", expired)
    assert case.through(stage, case.context()) == stub.URI
    assert (vertex.creates, vertex.states()) == (1, ["SUCCEEDED"])


@pytest.mark.parametrize("fault", [OSError("Forbidden: gs://models\nno access"), FileNotFoundError("gs://models")])
def test_settings_that_cannot_be_read_for_a_moment_end_no_wait(vertex, config, monkeypatch, fault):
    stage, _ = case.operator(config(), deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        stage.execute(case.context())
    read, faults = vertex_task.settings_of, [fault]
    monkeypatch.setattr(vertex_task, "settings_of", lambda uri: read(uri) if not faults else raise_(faults.pop()))
    with pytest.raises(TaskDeferred) as again:
        stage.resume(case.context(), **deferred.value.kwargs)
    assert again.value.kwargs["waiting"]["job"] == deferred.value.kwargs["waiting"]["job"]
    assert through(stage, again.value.kwargs) == stub.URI
    assert (vertex.creates, vertex.states()) == (1, ["SUCCEEDED"])


@pytest.mark.parametrize("fault", [OSError("Forbidden: gs://models\nno access"), FileNotFoundError("gs://models")])
def test_a_later_try_that_cannot_read_the_settings_waits_too(vertex, config, monkeypatch, fault):
    """Given a worker that was lost: a try that failed for good now would have the reaper cancel a healthy job."""
    uri = config()
    with pytest.raises(TaskDeferred):
        case.operator(uri, deferrable=True)[0].execute(case.context())
    faults = [fault] * 3
    read = pins.read
    monkeypatch.setattr(pins, "read", lambda uri: read(uri) if not faults else raise_(faults.pop()))
    stage, _ = case.operator(uri, deferrable=True)
    assert case.through(stage, case.context(try_number=2)) == stub.URI
    assert (vertex.creates, vertex.states()) == (1, ["SUCCEEDED"])


def test_a_store_that_refuses_a_first_try_is_named(vertex, config, monkeypatch):
    uri = config()
    refusal = OSError("Forbidden: https://…/b/models/o\nx does not have storage.objects.list access")
    monkeypatch.setattr(vertex_errand.storage, "read_referenced", lambda uri: raise_(refusal))
    with pytest.raises(BadInput, match=r"train: error: no storage\.objects\.list on gs://models: run `gcloud storage"):
        case.operator(uri)[0].execute(case.context())


def test_a_state_that_is_newer_than_the_library_is_waited_out(vertex, config):
    def newer(job):
        type(job).pb(job).state = 77

    vertex.scenes["europe-west4"] = [(stub.pending, newer, stub.running, stub.succeeded)]
    stage, lines = case.operator(config(), deferrable=True)
    assert case.through(stage, case.context()) == stub.URI
    assert any(line.endswith(": 77") for line in lines)


@pytest.mark.parametrize("state", ["PAUSED", "UPDATING"])
def test_a_job_that_rests_is_left_alone(vertex, config, state):
    def rests(job):
        job.state = stub.S[f"JOB_STATE_{state}"]

    vertex.scenes["europe-west4"] = [(stub.pending, rests, rests, stub.running, stub.succeeded)]
    assert case.operator(config())[0].execute(case.context()) == stub.URI
    assert vertex.creates == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"project": "p"}',
        '{"region": "evil.example/#-west1", "project": "p", "identity": "i"}',
        "[" * 10**5,
    ],
    ids=range(6),
)
def test_a_note_that_is_none_of_ours_ends_no_task(vertex, config, text):
    """Given what a job could leave among the notes of what was submitted, whose regions become addresses."""
    uri = config()
    with pytest.raises(TaskDeferred):
        case.operator(uri, deferrable=True)[0].execute(case.context())
    jobs = storage.at(uri).parent.parent / ".mlapp" / "jobs"
    note, *_ = jobs.fs.find((jobs / "submitted").path)
    storage.write_text(storage.at(f"gs://{note.rpartition('/')[0]}/z.json"), text)
    stage, lines = case.operator(uri)
    assert stage.execute(case.context()) == stub.URI
    assert (vertex.creates, vertex.states()) == (1, ["SUCCEEDED"])
    assert any("1 notes do not say where a job is" in line for line in lines)


def through(stage, given):
    while True:
        try:
            return stage.resume(case.context(), **given)
        except TaskDeferred as later:
            given = later.kwargs


def raise_(fault):
    raise fault


def test_a_long_outage_is_reported_once_with_what_to_do(vertex, config):
    vertex.get_errors = [error(Code.UNAUTHENTICATED)] * 4
    stage, _ = case.operator(config(alert_after_minutes=0))
    alerts: list[str] = []
    stage.alert = alerts.append
    assert stage.execute(case.context()) == stub.URI
    (told,) = alerts
    assert "no answer about projects/p-one-1/locations/europe-west4/customJobs/1 for 0 minutes; it goes on" in told
    assert "gcloud auth application-default login" in told


def test_a_job_that_is_gone_for_a_minute_is_believed_to_be(vertex, config, monkeypatch):
    monkeypatch.setattr(cloud_errors, "GONE_AFTER", timedelta(seconds=0.3))
    stage, _ = case.operator(config(), deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        stage.execute(case.context())
    vertex.jobs.clear()
    vertex._steps.clear()
    began = datetime.now(UTC)
    with pytest.raises(BadInput, match="is not there any more, somebody deleted it: clear the task"):
        through(stage, deferred.value.kwargs)
    assert datetime.now(UTC) - began >= timedelta(seconds=0.3)
    assert vertex.creates == 1


def test_a_job_that_is_gone_but_left_its_result_has_succeeded(vertex, config, monkeypatch):
    monkeypatch.setattr(cloud_errors, "GONE_AFTER", timedelta(seconds=0.1))
    stage, _ = case.operator(config())

    def vanish(job):
        stub.left(job, uri=stub.URI)
        vertex.jobs.clear()

    vertex.scenes["europe-west4"] = [(stub.pending, stub.running, vanish)]
    assert stage.execute(case.context()) == stub.URI
    assert vertex.creates == 1


def test_the_deadline_ends_a_wait_in_which_nobody_answers(vertex, config):
    vertex.get_errors = [error(Code.UNAVAILABLE)] * 10_000
    stage, _ = case.operator(config(deadline_hours=1))
    began = datetime.now(UTC) + timedelta(seconds=3) - timedelta(hours=1)
    with pytest.raises(BadInput, match="ran past its deadline"):
        stage.execute(case.context(start_date=began))
    assert vertex.states() == ["CANCELLING"]


@pytest.mark.parametrize("made", [True, False])
def test_while_a_region_does_not_say_whether_it_has_the_job_none_is_submitted(vertex, config, made):
    unclear = stub.Refusal(Code.UNAVAILABLE, "connection reset", made=made)
    vertex.scenes["europe-west4"] = [unclear, stub.WELL]
    stage, _ = case.operator(config())

    find, calls = vertex.find, []

    def failing(request, context):
        calls.append(request.parent)
        if vertex.creates and len(calls) < 12 and request.parent.endswith("europe-west4"):
            stub.refuse(context, error(Code.PERMISSION_DENIED))
        return find(request, context)

    vertex.find_through = failing
    assert stage.execute(case.context()) == stub.URI
    assert vertex.creates == (1 if made else 2)
    assert vertex.states() == ["SUCCEEDED"]


def test_a_rate_limit_is_waited_for_at_the_same_place(vertex, config):
    told = (
        "Quota exceeded for quota metric 'Resource management requests' and limit 'Resource management requests per "
        "minute per region' of service 'aiplatform.googleapis.com' for consumer 'project_number:12'."
    )
    vertex.scenes["europe-west4"] = [
        stub.Refusal(Code.RESOURCE_EXHAUSTED, told, "RATE_LIMIT_EXCEEDED"),
        stub.Refusal(Code.RESOURCE_EXHAUSTED, told),
        stub.WELL,
    ]
    stage, _ = case.operator(config())
    assert stage.execute(case.context()) == stub.URI
    (job,) = vertex.jobs.values()
    assert "europe-west4" in job.name
    assert vertex.creates == 3


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (stub.Refusal(Code.UNAVAILABLE, "The service is currently unavailable."), "does not answer: The service is"),
        (stub.Refusal(Code.RESOURCE_EXHAUSTED, "Requests per minute exceeded"), "too many requests: Requests per"),
        (stub.QUOTA, "no quota: The following"),
    ],
)
def test_a_region_that_takes_no_job_is_left_with_its_reason(vertex, config, refusal, reason):
    vertex.scenes["europe-west4"] = [refusal]
    uri = config()
    stage, lines = case.operator(uri)
    assert stage.execute(case.context()) == stub.URI
    (job,) = vertex.jobs.values()
    assert "europe-west1" in job.name
    assert any(f"europe-west4 n2-standard-8 spot: {reason}" in line for line in lines)
    records = storage.at(uri).parent.parent / ".mlapp" / "jobs"
    assert records.fs.find((records / "submitted").path) == [], "all is settled"
    assert len(records.fs.find((records / "regions").path)) == 2, "and where to look is noted in that place"


STOPPED = [
    (143, "stopped; the same command takes the work up again"),
    (75, "worker 0 was lost"),
    (143, ""),
    (137, ""),
]


@pytest.mark.parametrize(("code", "reason"), STOPPED)
def test_a_stage_that_was_stopped_counts_as_a_preemption_on_spot_capacity(vertex, config, code, reason):
    message = f"The replica workerpool0-0 exited with a non-zero status of {code}. To find out more …"
    record = {"exit_code": code, "reason": reason} if reason else {}
    vertex.scenes["europe-west4"] = [(stub.pending, stub.running, stub.failed(13, message, **record)), stub.WELL]
    uri = config()
    assert case.operator(uri)[0].execute(case.context()) == stub.URI
    assert vertex.states() == ["FAILED", "SUCCEEDED"]
    assert [told["outcome"].split(":")[0] for told in case.placed(uri)][-2:] == ["its machine was taken away", "ran"]
    assert len({job.name.split("/")[3] for job in vertex.jobs.values()}) == 1, "the same place again"


@pytest.mark.parametrize(("code", "reason"), STOPPED)
def test_on_demand_a_stage_that_was_stopped_is_for_airflow_to_try_again(vertex, config, code, reason):
    from airflow.sdk.exceptions import AirflowException

    message = f"The replica workerpool0-0 exited with a non-zero status of {code}."
    record = {"exit_code": code, "reason": reason} if reason else {}
    vertex.scenes["europe-west1"] = [(stub.pending, stub.running, stub.failed(13, message, **record)), stub.WELL]
    uri = config(case.SECOND)
    with pytest.raises(AirflowException):
        case.operator(uri)[0].execute(case.context())
    assert case.operator(uri)[0].execute(case.context()) == stub.URI


@pytest.mark.parametrize(
    ("step", "outcome"),
    [
        (stub.failed(8, "STOCKOUT: the spot VM was preempted.", uri=stub.URI), stub.URI),
        (stub.failed(8, "STOCKOUT: the spot VM was preempted.", exit_code=2, reason="--data is missing"), None),
        (stub.failed(3, "The replica workerpool0-0 ran out-of-memory, non-zero status of 137"), None),
    ],
)
def test_what_the_stage_itself_said_counts_first(vertex, config, step, outcome):
    vertex.scenes["europe-west4"] = [(stub.pending, stub.running, step)]
    stage, _ = case.operator(config())
    if outcome:
        assert stage.execute(case.context()) == outcome
    else:
        with pytest.raises(BaseException, match=r"data is missing|out-of-memory"):
            stage.execute(case.context())
    assert vertex.creates == 1
