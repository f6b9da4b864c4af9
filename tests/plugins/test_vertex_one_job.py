"""Whatever happens to worker and task: never two jobs of one task, and none left running."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime, timedelta

import grpc
import pytest
import vertex_case as case
import vertex_jobs
import vertex_stub as stub
from airflow.sdk.exceptions import AirflowException, AirflowTaskTimeout, TaskDeferred
from stage_operator import BadInput

pytest_plugins = "loopback.fixtures"


@pytest.fixture
def on_signal():
    """A function that lets SIGUSR1 do something in the main thread, in the middle of whatever runs there."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda do: signal.signal(signal.SIGUSR1, lambda number, frame: do())
    signal.signal(signal.SIGUSR1, before)


def strike(job=None):
    os.kill(os.getpid(), signal.SIGUSR1)


def test_a_worker_that_is_lost_before_it_knew_the_jobs_name_costs_no_second_job(vertex, config, monkeypatch):
    create = vertex_jobs.Jobs.create

    def lost(*given):
        create(*given)
        raise KeyboardInterrupt

    uri = config()
    monkeypatch.setattr(vertex_jobs.Jobs, "create", lost)
    with pytest.raises(KeyboardInterrupt):
        case.operator(uri)[0].execute(case.context())
    monkeypatch.setattr(vertex_jobs.Jobs, "create", create)
    assert len(vertex.active) == 1
    stage, lines = case.operator(uri)
    assert stage.execute(case.context()) == stub.URI
    assert (vertex.creates, vertex.states()) == (1, ["SUCCEEDED"])
    assert any(line.startswith("taking up projects/") for line in lines)


def test_a_success_that_nobody_heard_of_is_taken_up_once(vertex, config):
    uri = config()
    stage, _ = case.operator(uri, deferrable=True)
    with pytest.raises(TaskDeferred):
        stage.execute(case.context())
    (job,) = vertex.jobs.values()
    stub.running(job)
    stub.succeeded(job)
    assert case.operator(uri)[0].execute(case.context()) == stub.URI
    assert vertex.creates == 1
    assert case.operator(uri)[0].execute(case.context()) == stub.URI, "a task that was cleared starts anew"
    assert vertex.creates == 2


def test_a_failure_that_nobody_heard_of_is_tried_again(vertex, config):
    uri = config()
    with pytest.raises(TaskDeferred):
        case.operator(uri, deferrable=True)[0].execute(case.context())
    (job,) = vertex.jobs.values()
    stub.failed(3, "…", exit_code=1, reason="a bug")(job)
    assert case.operator(uri)[0].execute(case.context()) == stub.URI
    assert vertex.states() == ["FAILED", "SUCCEEDED"]


def test_a_job_with_other_settings_of_the_same_task_is_cancelled(vertex, config):
    with pytest.raises(TaskDeferred):
        case.operator(config(), deferrable=True)[0].execute(case.context())
    assert case.operator(config(labels={"team": "vision"}))[0].execute(case.context()) == stub.URI
    vertex.finish()
    assert vertex.states() == ["CANCELLED", "SUCCEEDED"]


def test_a_job_that_is_still_being_cancelled_is_waited_for(vertex, config):
    uri = config()
    with pytest.raises(TaskDeferred):
        case.operator(uri, deferrable=True)[0].execute(case.context())
    (job,) = vertex.jobs.values()
    vertex.cancel(job, None)
    assert case.operator(uri)[0].execute(case.context()) == stub.URI
    assert vertex.states() == ["CANCELLED", "SUCCEEDED"]


@pytest.mark.parametrize("older", [True, False])
def test_two_workers_at_once_end_up_with_the_older_job(vertex, config, older):
    """Both looked before either had submitted."""
    vertex.before_answer = lambda: vertex.double(older=older)
    assert case.operator(config())[0].execute(case.context()) == stub.URI
    vertex.finish()
    assert vertex.states() == (["CANCELLED", "SUCCEEDED"] if older else ["SUCCEEDED", "CANCELLED"])


@pytest.mark.parametrize("made", [True, False])
@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.INTERNAL]
)
def test_an_unclear_answer_to_a_create_makes_no_second_job(vertex, config, code, made):
    vertex.scenes["europe-west4"] = [stub.Refusal(code, "no answer", made=made), stub.WELL]
    stage, _ = case.operator(config())
    assert stage.execute(case.context()) == stub.URI
    assert vertex.creates == (1 if made else 2)
    assert vertex.states() == ["SUCCEEDED"]


def test_a_kill_cancels_the_job(vertex, config, on_signal):
    vertex.scenes["europe-west4"] = [(stub.pending, stub.running, strike)]
    stage, _ = case.operator(config())
    on_signal(stage.on_kill)
    with pytest.raises(AirflowException, match="train was killed, and its job cancelled"):
        stage.execute(case.context())
    vertex.finish()
    assert (vertex.creates, vertex.states()) == (1, ["CANCELLED"])


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_kill_while_the_job_is_being_created_cancels_it(vertex, config, on_signal, deferrable):
    vertex.before_answer = strike
    stage, _ = case.operator(config(), deferrable=deferrable)
    on_signal(stage.on_kill)
    with pytest.raises(AirflowException, match="train was killed"):
        stage.execute(case.context())
    vertex.finish()
    assert (vertex.creates, vertex.states()) == (1, ["CANCELLED"])


@pytest.mark.parametrize(("raised", "state"), [(AirflowTaskTimeout, "CANCELLED"), (ZeroDivisionError, "RUNNING")])
def test_only_a_kill_ends_the_job_a_fault_in_the_worker_leaves_it_for_the_next_try(
    vertex, config, on_signal, raised, state
):
    def expire():
        raise raised

    vertex.scenes["europe-west4"] = [(stub.pending, stub.running, strike)]
    on_signal(expire)
    uri = config()
    with pytest.raises(raised):
        case.operator(uri)[0].execute(case.context())
    vertex.finish()
    assert vertex.states() == [state]
    if state == "RUNNING":
        stub.succeeded(next(iter(vertex.jobs.values())))
        assert case.operator(uri)[0].execute(case.context()) == stub.URI
        assert vertex.creates == 1


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_job_past_its_deadline_is_ended_and_the_task_with_it(vertex, config, deferrable):
    vertex.scenes["europe-west4"] = [stub.FOR_EVER]
    stage, _ = case.operator(config(deadline_hours=1), deferrable=deferrable)
    began = datetime.now(UTC) + timedelta(seconds=4) - timedelta(hours=1)
    with pytest.raises(BadInput, match=r"train ran past its deadline .* placement\.deadline_hours=1 "):
        case.through(stage, case.context(start_date=began))
    assert (vertex.creates, vertex.states()) == (1, ["CANCELLED"])


def test_a_job_ends_by_itself_when_the_task_must(vertex, config):
    """That is after the task's own limit, to which the waits for room at its two places add 40 minutes."""
    began = datetime.now(UTC) - timedelta(minutes=10)
    stage, _ = case.operator(config(deadline_hours=5), execution_timeout=timedelta(minutes=30))
    stage.execute(case.context(start_date=began))
    (job,) = vertex.jobs.values()
    assert 3590 <= job.job_spec.scheduling.timeout.total_seconds() <= 3600


def test_a_task_whose_deadline_is_past_submits_nothing(vertex, config):
    stage, _ = case.operator(config(deadline_hours=1))
    with pytest.raises(BadInput, match="ran past its deadline"):
        stage.execute(case.context(start_date=datetime.now(UTC) - timedelta(hours=2)))
    assert vertex.creates == 0
