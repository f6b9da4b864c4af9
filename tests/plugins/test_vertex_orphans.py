"""The reaper: a deferred task that is killed leaves its job, which must not go on; no other job may be touched."""

from __future__ import annotations

import json

import pytest
import vertex_case as case
import vertex_orphans
from airflow.sdk.exceptions import TaskDeferred

from mlapp import storage

pytest_plugins = "loopback.fixtures"


class Airflow:
    """The states of task instances, as a task may ask for them (a mapped one under its name and index)."""

    def __init__(self, states, run="running"):
        self.states, self.run = states, run

    def get_task_states(self, *, dag_id, task_ids, run_ids, map_index):
        (task_id,), (run_id,) = task_ids, run_ids
        name = task_id if map_index == -1 else f"{task_id}_{map_index}"
        return {run_id: {name: self.states[name]}} if name in self.states else {}

    def get_dagrun_state(self, *, dag_id, run_id):
        return self.run


@pytest.fixture
def reap(monkeypatch):
    """A function that reaps in an Airflow where tasks have these states; gives the names of cancelled jobs."""

    def reap(states, **given):
        told = {"ti": Airflow(states, **given)}
        monkeypatch.setattr(vertex_orphans, "get_current_context", lambda: told)
        places = [case.FIRST, case.SECOND, "local"]
        return vertex_orphans.reap(json.dumps({"cloud.project": "p-one-1", "placement.places": places}))

    return reap


def defer(request, **task):
    stage, _ = case.operator(case.settings(f"gs://models/{request.node.name}"), deferrable=True)
    with pytest.raises(TaskDeferred):
        stage.execute(case.context(**task))


@pytest.mark.parametrize("state", ["running", "deferred", "queued", "scheduled", "up_for_retry", "restarting", None])
def test_a_job_that_a_task_waits_for_is_left_alone(vertex, cloud, request, reap, state):
    defer(request)
    assert reap({"train": state}) == []
    assert vertex.states() == ["QUEUED"]


@pytest.mark.parametrize("states", [{}, *({"train": state} for state in sorted(vertex_orphans.FINISHED))])
def test_a_job_whose_task_was_killed_while_it_was_deferred_is_cancelled(vertex, cloud, request, reap, states):
    defer(request)
    assert reap(states) == list(vertex.jobs)
    vertex.finish()
    assert (vertex.creates, vertex.states()) == (1, ["CANCELLED"])


def test_a_task_that_will_never_be_scheduled_waits_for_nothing(vertex, cloud, request, reap):
    defer(request)
    assert reap({"train": None}, run="failed") == list(vertex.jobs)


def test_of_mapped_tasks_each_is_asked_for_itself(vertex, cloud, request, reap):
    defer(request, map_index=0)
    defer(request, map_index=1)
    first, second = vertex.jobs
    assert reap({"train_0": "failed", "train_1": "deferred"}) == [first]
    assert vertex.jobs[second].state.name == "JOB_STATE_QUEUED"


def test_jobs_of_another_airflow_are_left_alone(vertex, cloud, request, reap, monkeypatch):
    defer(request)
    monkeypatch.setenv("COMPOSER_ENVIRONMENT", "another")
    monkeypatch.setenv("MLAPP_PINNED", "")  # which Composer would set, and is not what this is about
    assert reap({}) == []
    assert vertex.states() == ["QUEUED"]


def test_without_places_there_is_nothing_to_look_for(vertex):
    assert vertex_orphans.reap("{}") == []


@pytest.mark.parametrize("variable", ["GCP_PROJECT", "COMPOSER_LOCATION", "COMPOSER_ENVIRONMENT", "GCS_BUCKET"])
def test_two_environments_that_differ_in_anything_leave_each_others_jobs_alone(
    vertex, cloud, request, reap, monkeypatch, variable
):
    monkeypatch.setenv("MLAPP_PINNED", "")  # as above
    told = {"GCP_PROJECT": "a-one", "COMPOSER_LOCATION": "europe-west4", "COMPOSER_ENVIRONMENT": "mlapp"}
    for name, value in {**told, "GCS_BUCKET": "europe-west4-mlapp-1-bucket"}.items():
        monkeypatch.setenv(name, value)
    defer(request)
    monkeypatch.setenv(variable, "another-1")
    assert reap({}) == []
    assert vertex.states() == ["QUEUED"]


def test_a_region_that_only_a_run_named_is_looked_in(vertex, cloud, monkeypatch):
    """Given a run whose form named another region and another project than the reaper's own settings do."""
    folder = "gs://models/reaper-regions"
    place = {"region": "asia-east1", "machine_type": "n2-standard-8"}
    stage, _ = case.operator(case.settings(folder, place), deferrable=True)
    with pytest.raises(TaskDeferred):
        stage.execute(case.context())
    monkeypatch.setattr(vertex_orphans, "get_current_context", lambda: {"ti": Airflow({"train": "failed"})})
    conf = {"cloud.project": "p-two-2", "storage.experiments": f"{folder}/experiments"}
    assert vertex_orphans.reap(json.dumps({**conf, "placement.places": [case.SECOND]})) == list(vertex.jobs)


@pytest.mark.parametrize(
    "name",
    ["a", "--", "p-one-1--", "p-one-1--moon-west1", "p-one-1--evil.example#-west1", "folder.json/a", "é"],
)
def test_a_note_that_is_none_keeps_no_orphan(vertex, cloud, request, reap, monkeypatch, name):
    """Given what a training job could leave among the notes, since it may write there."""
    defer(request)
    area = f"gs://models/{request.node.name}/experiments"
    monkeypatch.setenv("MLAPP_STORAGE__EXPERIMENTS", area)
    storage.write_text(storage.at(f"{area}/.mlapp/jobs/regions/{name}.json"), "[")
    assert reap({}) == list(vertex.jobs)


def test_notes_of_other_projects_crowd_none_of_its_own_out(vertex, cloud, request, reap, monkeypatch):
    place = {"region": "asia-east1", "machine_type": "n2-standard-8"}
    area = f"gs://models/{request.node.name}"
    with pytest.raises(TaskDeferred):
        case.operator(case.settings(area, place), deferrable=True)[0].execute(case.context())
    monkeypatch.setenv("MLAPP_STORAGE__EXPERIMENTS", f"{area}/experiments")
    monkeypatch.setattr(vertex_orphans, "MOST", 2)
    for number in range(5):
        note = storage.at(f"{area}/experiments/.mlapp/jobs/regions/a-project-{number}--us-east1.json")
        storage.write_text(note, "{}")
    looked, once = [], vertex_orphans._reaped
    monkeypatch.setattr(vertex_orphans, "_reaped", lambda *given: looked.append(given[0]) or once(*given))
    assert reap({}) == list(vertex.jobs)
    assert looked == ["p-one-1", "a-project-0", "a-project-1"]


@pytest.mark.parametrize("told", ["[1]", "[" * 9_000, '{"dag_id": "d"}', "{}", "x"], ids=range(5))
def test_a_job_that_names_no_task_keeps_no_other_orphan(vertex, cloud, request, reap, told):
    defer(request, map_index=0)
    defer(request, map_index=1)
    first, second = vertex.jobs.values()
    next(
        each for each in first.job_spec.worker_pool_specs[0].container_spec.env if each.name == "MLAPP_TASK"
    ).value = told
    assert reap({}) == [second.name]


def test_an_airflow_that_does_not_answer_cancels_nothing(vertex, cloud, request, reap, monkeypatch):
    from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
    from airflow.sdk.execution_time.comms import ErrorResponse

    defer(request, map_index=0)
    defer(request, map_index=1)
    answers = [AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR))]
    ask = Airflow.get_task_states

    def get_task_states(self, **given):
        if answers:
            raise answers.pop()
        return ask(self, **given)

    monkeypatch.setattr(Airflow, "get_task_states", get_task_states)
    assert reap({}) == [list(vertex.jobs)[1]]


def test_a_job_that_is_being_cancelled_is_not_cancelled_again(vertex, cloud, request, reap):
    defer(request)
    assert len(reap({})) == 1
    assert reap({}) == []


def test_a_reaper_that_can_look_nowhere_fails(vertex, cloud, request, reap, monkeypatch):
    import grpc
    import vertex_stub as stub
    from airflow.sdk.exceptions import AirflowException

    defer(request)
    vertex.find_errors = [stub.Refusal(grpc.StatusCode.PERMISSION_DENIED, "no access")] * 100
    with pytest.raises(AirflowException, match="no region could be looked in"):
        reap({})
    assert vertex.states() == ["QUEUED"]


def test_without_a_project_of_its_own_it_looks_in_those_that_are_noted(vertex, cloud, request, monkeypatch):
    defer(request)
    monkeypatch.setattr(vertex_orphans, "get_current_context", lambda: {"ti": Airflow({})})
    monkeypatch.setenv("MLAPP_STORAGE__EXPERIMENTS", f"gs://models/{request.node.name}/experiments")
    assert vertex_orphans.reap(json.dumps({"placement.places": [case.SECOND]})) == list(vertex.jobs)


def test_a_deployments_regions_are_looked_in(vertex, cloud, monkeypatch):
    looked = []
    monkeypatch.setattr(
        vertex_orphans, "_reaped", lambda project, regions: looked.append((project, regions)) or (regions, [])
    )
    conf = {"cloud.project": "p-one-1", "placement.places": [{**case.SECOND, "region": "asia-east1"}]}
    assert vertex_orphans.reap(json.dumps(conf)) == []
    assert looked == [("p-one-1", ["asia-east1", "europe-west1", "europe-west4", "us-central1"])]


def test_one_region_that_does_not_answer_keeps_no_other_orphan(vertex, cloud, request, reap):
    import grpc
    import vertex_stub as stub

    defer(request)
    vertex.find_errors = [stub.Refusal(grpc.StatusCode.PERMISSION_DENIED, "no access")]
    assert reap({}) == list(vertex.jobs)


def test_in_composer_the_reaper_is_on_from_the_start():
    import os
    import subprocess
    import sys
    from pathlib import Path

    root = Path(__file__).parents[2]
    code = "import vertex_reaper as module; print(module.reaper().is_paused_upon_creation)"
    for extra, told in (({}, "True"), ({"COMPOSER_ENVIRONMENT": "mlapp"}, "False")):
        environ = {**os.environ, "PYTHONPATH": f"{root}:{root}/plugins:{root}/dags", **extra}
        done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
        assert done.stdout.split()[-1] == told
