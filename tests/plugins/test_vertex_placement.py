"""Placement on Vertex AI: whatever happens there, one job at a time, and none left running."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from datetime import UTC, datetime, timedelta

import grpc
import planted
import pytest
import vertex_case as case
import vertex_jobs
import vertex_ladder
import vertex_stub as stub
from airflow.sdk.definitions.retry_policy import RetryAction
from airflow.sdk.exceptions import AirflowException, TaskDeferred
from stage_operator import NO_SECOND_TRY, BadInput
from vertex_errand import Attempt

from mlapp import storage

pytest_plugins = "loopback.fixtures"


@pytest.fixture
def vertex(monkeypatch):
    with case.vertex(monkeypatch) as service:
        yield service


@pytest.fixture
def config(cloud, request):
    """A function that writes the run's settings to a bucket; gives their URI."""
    return lambda *places, **placement: case.settings(f"gs://models/{request.node.name}", *places, **placement)


@pytest.fixture
def on_signal():
    """A function that lets SIGUSR1 do something in the main thread, in the middle of whatever runs there."""
    before = signal.getsignal(signal.SIGUSR1)
    yield lambda do: signal.signal(signal.SIGUSR1, lambda number, frame: do())
    signal.signal(signal.SIGUSR1, before)


def strike(job=None):
    os.kill(os.getpid(), signal.SIGUSR1)


def hops(job):
    return [(hop["place"], hop["outcome"]) for hop in Attempt.of(job).hops]


# The end of a job


@pytest.mark.parametrize(("deferrable", "lost"), [(False, False), (True, False), (True, True)])
def test_success_hands_on_the_uri_that_the_stage_left(vertex, config, deferrable, lost):
    stage, _ = case.operator(config(), deferrable=deferrable)
    assert case.through(stage, case.context(), lost) == stub.URI
    assert (vertex.creates, vertex.states()) == (1, ["SUCCEEDED"])


def test_it_does_not_matter_that_airflow_executes_the_plugins_modules_again(vertex, config, monkeypatch):
    case.operator(config(local_tasks=["train"]), module="stub_stage")[0].execute(case.context())
    again = importlib.util.spec_from_file_location("vertex_ladder", vertex_ladder.__file__)
    module = importlib.util.module_from_spec(again)
    monkeypatch.setitem(sys.modules, "vertex_ladder", module)
    again.loader.exec_module(module)
    assert case.through(case.operator(config(), deferrable=True)[0], case.context()) == stub.URI


def test_where_nothing_may_be_deferred_the_task_waits_itself(vertex, config, monkeypatch):
    stage, _ = case.operator(config(), deferrable=True)
    monkeypatch.setattr(type(stage), "may_defer", False)
    assert stage.execute(case.context()) == stub.URI


@pytest.mark.parametrize(("seconds", "waited"), [(30, 30), (0.05, 10)])
def test_only_a_providers_trigger_is_waited_with(vertex, config, seconds, waited):
    stage, _ = case.operator(config(poll_seconds=seconds), deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        stage.execute(case.context())
    trigger, given = deferred.value.trigger.serialize()
    assert trigger == "airflow.providers.standard.triggers.temporal.DateTimeTrigger"
    assert waited - 5 < (given["moment"] - datetime.now(UTC)).total_seconds() <= waited
    assert len(json.dumps(deferred.value.kwargs)) < 300


def test_bad_input_is_told_in_the_stages_own_line_and_not_tried_again(vertex, config):
    line = "python -m mlapp.dl.dnn_trainer: error: --data is missing"
    vertex.scenes["europe-west4"] = [(stub.pending, stub.running, stub.failed(3, "…", exit_code=2, reason=line))]
    stage, _ = case.operator(config())
    with pytest.raises(BadInput, match=f"^{line}$") as raised:
        stage.execute(case.context())
    assert NO_SECOND_TRY.evaluate(raised.value, 1, 3).action == RetryAction.FAIL
    assert (vertex.creates, vertex.active) == (1, [])


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (
            stub.failed(3, "…", exit_code=75, reason="worker 0 was lost"),
            "exit code 75: worker 0 was lost (http",
        ),
        (stub.failed(3, "The replica workerpool0-0 exited with a non-zero status of 1."), "status of 1. (https://cons"),
        (
            stub.failed(8, "The replica workerpool0-0 ran out-of-memory and exited"),
            "out-of-memory and exited (http",
        ),
        (
            stub.failed(13, ""),
            "exit code 1: code: 13 (https://console",
        ),
    ],
)
def test_a_failure_is_told_with_its_reason_and_its_log_and_airflow_may_try_again(vertex, config, step, told):
    vertex.scenes["europe-west4"] = [(stub.pending, stub.running, step)]
    stage, _ = case.operator(config())
    with pytest.raises(AirflowException) as raised:
        stage.execute(case.context())
    assert told in str(raised.value)
    assert (vertex.creates, vertex.active) == (1, [])


def test_a_job_that_somebody_cancels_is_told_so_and_not_started_again(vertex, config):
    vertex.scenes["europe-west4"] = [(stub.pending, stub.running, stub.cancelled)]
    stage, _ = case.operator(config())
    with pytest.raises(BadInput, match="was cancelled from outside: clear the task"):
        stage.execute(case.context())
    assert vertex.creates == 1


def test_a_look_that_fails_is_no_end(vertex, config):
    unavailable = stub.Refusal(grpc.StatusCode.UNAVAILABLE, "try later")
    too_many = stub.Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "Quota exceeded for requests per minute")
    vertex.get_errors = [unavailable, too_many]
    stage, lines = case.operator(config())
    assert stage.execute(case.context()) == stub.URI
    assert sum("looking again later" in line for line in lines) == 2
    assert vertex.creates == 1


def test_the_image_may_be_what_the_image_step_made(vertex, config, tmp_path):
    (tmp_path / "image.json").write_text(json.dumps({"image": case.IMAGE, "tag": "t", "built": True}))
    made = planted.result(tmp_path, "image", {"image": tmp_path / "image.json"})
    stage, _ = case.operator(config(image=None), image=made.uri)
    assert stage.execute(case.context()) == stub.URI
    (job,) = vertex.jobs.values()
    assert job.job_spec.worker_pool_specs[0].container_spec.image_uri == case.IMAGE


# The ladder


def test_without_quota_the_next_place_is_taken_and_every_hop_told(vertex, config):
    vertex.scenes["europe-west4"] = [stub.QUOTA]
    stage, lines = case.operator(config())
    assert stage.execute(case.context()) == stub.URI
    (job,) = vertex.jobs.values()
    assert hops(job) == [
        ("europe-west4 n2-standard-8 spot", f"no quota: {stub.QUOTA.message}"),
        ("europe-west1 n2-standard-8", "ran"),
    ]
    assert any(line.startswith("europe-west4 n2-standard-8 spot: no quota: The following") for line in lines)
    assert (vertex.creates, vertex.active) == (2, [])


@pytest.mark.parametrize("lost", [False, True])
def test_a_stock_out_while_pending_leads_to_the_next_place(vertex, config, lost):
    vertex.scenes["europe-west4"] = [stub.STOCK_OUT]
    stage, _ = case.operator(config(), deferrable=True)
    assert case.through(stage, case.context(), lost) == stub.URI
    assert vertex.states() == ["FAILED", "SUCCEEDED"]
    assert [outcome.split(":")[0] for _, outcome in hops(list(vertex.jobs.values())[1])] == [
        "no machine to be had",
        "ran",
    ]


def test_a_spot_machine_is_replaced_as_often_as_the_place_allows_then_the_next_place_is_taken(vertex, config):
    vertex.scenes["europe-west4"] = [stub.PREEMPTED]
    uri = config()
    stage, _ = case.operator(uri, deferrable=True)
    assert case.through(stage, case.context()) == stub.URI
    jobs = list(vertex.jobs.values())
    assert [job.job_spec.scheduling.strategy.name for job in jobs] == ["SPOT", "SPOT", "STANDARD"]
    assert len({job.job_spec.base_output_directory.output_uri_prefix for job in jobs}) == 1, "one place of checkpoints"
    assert [told["outcome"].split(":")[0] for told in case.placed(uri)] == [
        "its machine was taken away",
        "its machine was taken away",
        "ran",
    ]
    assert (vertex.creates, vertex.active) == (3, [])


def test_a_spot_job_that_goes_back_to_the_queue_too_often_is_cancelled(vertex, config):
    """Vertex AI may look for a new machine by itself."""
    vertex.scenes["europe-west4"] = [(stub.running, stub.pending, stub.running, stub.pending)]
    stage, _ = case.operator(config(), deferrable=True)
    assert case.through(stage, case.context()) == stub.URI
    assert vertex.states() == ["CANCELLED", "SUCCEEDED"]
    assert hops(list(vertex.jobs.values())[1])[0][1] == "its machine was taken away 2 times"


def test_a_job_that_waits_too_long_is_seen_cancelled_before_the_next_is_submitted(vertex, config):
    vertex.scenes["europe-west4"] = [(stub.pending,)]
    stage, _ = case.operator(config({**case.FIRST, "max_wait_minutes": 0.002}, case.SECOND))
    vertex.before_answer = lambda: states.append(vertex.states())
    states: list[list[str]] = []
    assert stage.execute(case.context()) == stub.URI
    assert states == [["QUEUED"], ["CANCELLED", "QUEUED"]]
    assert vertex.states() == ["CANCELLED", "SUCCEEDED"]


def test_a_ladder_without_room_is_told_in_one_line(vertex, config):
    vertex.scenes["europe-west4"] = [stub.QUOTA]
    vertex.scenes["europe-west1"] = [stub.STOCK_OUT]
    stage, _ = case.operator(config())
    with pytest.raises(AirflowException) as raised:
        stage.execute(case.context())
    told = str(raised.value)
    assert told.startswith("no place has room for train: europe-west4 n2-standard-8 spot: no quota: The following")
    assert "; europe-west1 n2-standard-8: no machine to be had: Resources are insufficient" in told
    assert (vertex.creates, vertex.active) == (2, [])


def test_the_last_place_may_be_the_worker_itself(vertex, config, stub_stage):
    vertex.scenes["europe-west4"] = [stub.QUOTA]
    stage, lines = case.operator(config(case.FIRST, "local"), module="stub_stage")
    assert stage.execute(case.context()) == "memory://somewhere/result.json"
    told = json.loads(next(line for line in lines if line.startswith("{")))
    assert [hop["place"] for hop in told["hops"]] == ["europe-west4 n2-standard-8 spot", "local"]
    assert vertex.jobs == {}


def test_a_task_that_the_settings_keep_here_runs_here(vertex, config, stub_stage):
    stage, _ = case.operator(config(local_tasks=["train"]), module="stub_stage")
    assert stage.execute(case.context()) == "memory://somewhere/result.json"
    assert vertex.creates == 0


# Never two, and none left


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


def test_whatever_is_raised_in_the_worker_leaves_no_job(vertex, config, on_signal):
    def expire():
        raise TimeoutError

    vertex.scenes["europe-west4"] = [(stub.pending, stub.running, strike)]
    on_signal(expire)
    with pytest.raises(TimeoutError):
        case.operator(config())[0].execute(case.context())
    vertex.finish()
    assert vertex.states() == ["CANCELLED"]


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


# What it costs


def test_the_price_is_told_before_and_after(vertex, config):
    prices = {"n2-standard-8/spot": 0.3, "n2-standard-8/spot@europe-west4": 3600.0}
    uri = config(deadline_hours=2, prices=prices)
    stage, lines = case.operator(uri)
    stage.execute(case.context())
    assert any("3600.00 USD an hour, at most 7199" in line or "at most 7200" in line for line in lines)
    (told,) = case.placed(uri)
    assert 0 < told["cost"] < 30
    assert any("by the listed prices" in line for line in lines)
    (job,) = vertex.jobs.values()
    beside = storage.at(Attempt.of(job).folder(f"{uri.removesuffix('/experiments/run/config.json')}/models/jobs"))
    assert json.loads((beside / "placed.json").read_text()) == told
