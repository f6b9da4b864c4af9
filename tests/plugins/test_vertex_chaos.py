"""Vertex AI and Cloud Storage in bad weather: one job a stage, none healthy cancelled, every result handed on."""

from __future__ import annotations

import pytest
import vertex_case as case
import vertex_jobs
import vertex_stub as stub
from airflow.sdk.exceptions import TaskDeferred
from loopback import chaos

from mlapp import gcs, gcs_files

pytest_plugins = "loopback.fixtures"
LONG = (stub.pending, *(stub.running,) * 4, stub.succeeded)


@pytest.fixture
def stormy(cloud, monkeypatch, bad_weather):
    """A function that begins bad weather; gives the Vertex AI and what it was put through."""
    monkeypatch.setattr(gcs_files, "PAUSES_S", (0.01, 0.02, 0.04, *(0.05,) * 6))
    began = []

    def begin(seed):
        weather = chaos.Weather(seed, dict.fromkeys(chaos.GRPC_RATES, 0.08), in_a_row=3)
        began.append(case.vertex(monkeypatch, weather))
        service = began[-1].__enter__()
        monkeypatch.setattr(vertex_jobs, "BACKOFF_S", (0.01,) * 6)
        monkeypatch.setattr(vertex_jobs, "FIRST_PAUSE_S", 0.01)
        proxy = bad_weather(cloud[gcs.EMULATOR], seed, dict.fromkeys(chaos.HTTP_RATES, 0.02))
        monkeypatch.setenv(gcs.EMULATOR, proxy.url)
        return service, weather

    yield begin
    for each in began:
        each.__exit__(None, None, None)


@pytest.mark.parametrize(("seed", "deferrable"), [(0, False), (1, True), (2, False), (3, True)])
def test_a_stage_is_one_job_that_runs_to_its_end(stormy, seed, deferrable):
    service, weather = stormy(seed)
    service.scenes["europe-west4"] = service.scenes["europe-west1"] = [LONG]
    uri = case.settings(f"gs://models/chaos-{seed}-{deferrable}")
    stage, _ = case.operator(uri, deferrable=deferrable)
    assert case.through(stage, case.context()) == stub.URI
    assert service.states() == ["SUCCEEDED"]
    assert sum(weather.done.values()) >= 3


@pytest.mark.parametrize("seed", range(2))
def test_each_preemption_makes_one_job_more(stormy, seed):
    service, _ = stormy(seed)
    service.scenes["europe-west4"] = [stub.PREEMPTED, stub.PREEMPTED, stub.WELL]
    uri = case.settings(f"gs://models/chaos-preempted-{seed}", {**case.FIRST, "preemptions": 5})
    assert case.through(case.operator(uri, deferrable=True)[0], case.context()) == stub.URI
    assert service.states() == ["FAILED", "FAILED", "SUCCEEDED"]
    assert [told["outcome"].split(":")[0] for told in case.placed(uri)] == [*["its machine was taken away"] * 2, "ran"]


@pytest.mark.parametrize("seed", range(2))
def test_a_worker_that_is_lost_at_any_look_costs_no_second_job(stormy, seed):
    """Given tries that end after each look, the next one finds the job."""
    service, _ = stormy(seed)
    service.scenes["europe-west4"] = service.scenes["europe-west1"] = [LONG]
    uri = case.settings(f"gs://models/chaos-lost-{seed}")
    for _ in range(60):
        try:
            assert case.operator(uri, deferrable=True)[0].execute(case.context()) == stub.URI
            break
        except TaskDeferred:
            continue
    assert service.states() == ["SUCCEEDED"]
