"""The places of a ladder are taken in turns, each hop is told, and what is left behind is over."""

from __future__ import annotations

import json

import pytest
import vertex_case as case
import vertex_stub as stub
from airflow.sdk.exceptions import AirflowException
from vertex_errand import Attempt

pytest_plugins = "loopback.fixtures"


def hops(job):
    return [(hop["place"], hop["outcome"]) for hop in Attempt.of(job).hops]


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
