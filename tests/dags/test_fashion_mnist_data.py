"""The data DAG: its wiring, and how the training DAG hangs on it."""

from __future__ import annotations

import itertools
import runpy

import pytest
from training_assets import DATA, MODEL

CHAIN = ["configure", "extract", "validate", "transform", "profile", "announce"]


@pytest.fixture(scope="module")
def dag(dags):
    return dags["fashion_mnist_data"]


def test_the_stages_stand_in_the_order_of_the_paragraph(dag):
    for before, after in itertools.pairwise(CHAIN):
        assert after in dag.get_task(before).get_flat_relative_ids(upstream=False), (before, after)


def test_it_runs_by_the_clock_only_where_the_environment_says_so(dag, monkeypatch):
    """Airflow's trigger dialog switches a paused DAG on in passing, so a switch must start nothing."""
    assert dag.schedule is None
    assert not dag.is_paused_upon_creation
    monkeypatch.setenv("MLAPP_DATA_SCHEDULE", "0 4 * * *")
    assert runpy.run_path(dag.fileloc)["fashion_mnist_data"]().schedule == "0 4 * * *"


def test_its_form_says_that_a_training_follows(dag):
    assert "A training on these data follows" in dag.params.get_param("preset").description


def test_a_skipped_announcement_skips_nothing_else(dag, dags):
    for one in (dag, dags["fashion_mnist_training"]):
        assert not one.get_task("announce").downstream_task_ids


def test_it_announces_the_data_that_the_training_waits_for(dag, dags):
    training = dags["fashion_mnist_training"]
    assert dag.get_task("announce").outlets == [DATA]
    assert training.schedule == [DATA]
    assert training.get_task("announce").outlets == [MODEL]
    assert training.get_task("wanted").inlets == [MODEL]


SECTIONS = ("storage", "data", "quality", "transform", "cloud", "placement", "images")


def test_its_form_asks_for_what_concerns_data_only(dag):
    assert {name.partition(".")[0] for name in dag.params} == {"preset", "deployment", *SECTIONS}
