"""A task on Vertex AI, from its submission to its end: success, failure, cancellation, deadline, price."""

from __future__ import annotations

import importlib.util
import json
import sys
from datetime import UTC, datetime

import grpc
import planted
import pytest
import vertex_case as case
import vertex_ladder
import vertex_stub as stub
from airflow.sdk.definitions.retry_policy import RetryAction
from airflow.sdk.exceptions import AirflowException, TaskDeferred
from stage_operator import NO_SECOND_TRY, BadInput
from vertex_errand import Attempt

from mlapp import storage

pytest_plugins = "loopback.fixtures"


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
    vertex.scenes["europe-west1"] = [(stub.pending, stub.running, step)]
    stage, _ = case.operator(config(case.SECOND))
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
    beside = storage.at(
        Attempt.of(job).folder(f"{uri.removesuffix('/experiments/run/config.json')}/experiments/.mlapp/jobs")
    )
    assert json.loads((beside / "placed.json").read_text()) == told
