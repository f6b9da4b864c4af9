"""The training DAG: its wiring, its form, and the run's settings."""

from __future__ import annotations

import itertools
import json

import pytest
from airflow.sdk import Param
from airflow.sdk.exceptions import ParamValidationError
from trigger_form import trigger_form

from mlapp import config
from mlapp.config import preset_names
from mlapp.schema import Config

CHAIN = [
    *("wanted", "configure", "extract", "check_champion", "validate", "transform", "as_announced", "train", "distill"),
    *("prune", "choose", "vet", "approve", "promote", "announce"),
]
NOT_TOLD = {"wanted", "check_champion", "approve", "announce", "transform"}  # as_announced hands on what transform made


@pytest.fixture(scope="module")
def dag(dags):
    return dags["fashion_mnist_training"]


def test_the_stages_stand_in_the_order_of_the_paragraph(dag):
    for before, after in [*itertools.pairwise(CHAIN), ("promote", "summarise")]:
        assert after in dag.get_task(before).get_flat_relative_ids(upstream=False), (before, after)


def test_students_and_sparsities_are_mapped_over_the_runs_settings(dag):
    for name, source in (("distill", "widths"), ("prune", "sparsities")):
        assert dag.get_task(name).is_mapped
        assert source in dag.get_task(name).upstream_task_ids


def test_the_summary_tells_of_every_stage(dag):
    assert dag.get_task("summarise").upstream_task_ids >= set(CHAIN) - NOT_TOLD


def test_every_stages_module_exists_and_takes_the_arguments_that_it_is_given(dag):
    """Against the stages' own configs: a flag that a stage does not know would fail in the middle of a run."""
    import importlib

    for task in dag.tasks:
        if task.task_type != "StageOperator" or task.task_id == "configure":
            continue
        given = task.partial_kwargs if task.is_mapped else vars(task)
        stage = importlib.import_module(given["module"]).run
        flags = {*(given["arguments"] or ()), *([given["over"]] if given.get("over") else [])}
        assert flags <= {*stage.config.model_fields, "workdir"}, task.task_id
        required = {name for name, field in stage.config.model_fields.items() if field.is_required()}
        assert required <= flags, task.task_id


def test_the_form_has_every_setting_and_the_presets(dag):
    settings = {
        f"{section}.{name}" for section, field in Config.model_fields.items() for name in field.annotation.model_fields
    }
    assert set(dag.params) == {"preset", "deployment", *settings}
    assert dag.params.get_param("preset").schema["examples"] == preset_names()


def test_the_form_stands_once_in_what_airflow_keeps_of_the_dag(dag):
    """A DAG's params that stand before its tasks are copied into each: 1.3 MB here, at every parsing."""
    from airflow.serialization.serialized_objects import DagSerialization

    kept = DagSerialization.to_dict(dag)["dag"]
    assert {name for name, _ in kept["params"]} == set(trigger_form())
    assert not any(task["__var"].get("params") for task in kept["tasks"])


def test_left_alone_the_form_sets_nothing_but_the_preset(dag):
    assert {name: value for name, value in dag.params.validate().items() if value is not None} == {"preset": "quick"}


def test_every_field_of_the_form_has_a_type_a_section_and_a_description():
    for name, param in trigger_form().items():
        assert param.description, name
        assert param.schema.get("section") or name in {"preset", "deployment"}, name
        assert "type" in param.schema or "enum" in param.schema, name


def test_the_form_serialises_as_airflow_keeps_it():
    assert json.loads(json.dumps({name: param.serialize() for name, param in trigger_form().items()}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("training.epochs", 0),
        ("training.epochs", 1001),
        ("training.epochs", "three"),
        ("training.epochs", 2.5),
        ("training.learning_rate", 0),
        ("training.architecture", "resnet"),
        ("transform.limit", 99),
        ("transform.validation_fraction", 0.5),
        ("distillation.widths", []),
        ("distillation.widths", [0.5] * 9),
        ("distillation.widths", ["wide"]),
        ("data.name", "Not A Name"),
        ("data.sha256", {"train-images": "short"}),
        ("preset", "qick"),
        ("preset", ""),
        ("deployment", "vertex_cup"),
        ("training.both_sides", "off"),
    ],
)
def test_a_wrong_value_is_refused_by_the_form(name, value):
    param: Param = trigger_form()[name]
    with pytest.raises(ParamValidationError):
        param.resolve(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("training.epochs", 3),
        ("training.epochs", None),
        ("training.learning_rate", 1),
        ("training.architecture", "cnn3"),
        ("transform.limit", 100),
        ("distillation.widths", [0.5, 0.25]),
        ("data.source", "gs://bucket/folder"),
        ("data.sha256", {"train-images": "0" * 64}),
        ("preset", "smoke"),
        ("preset", "/path/to/my.yaml"),
        ("deployment", "ours.yml"),
        ("training.both_sides", "false"),
        ("training.both_sides", False),
    ],
)
def test_a_right_value_is_taken_by_the_form(name, value):
    assert trigger_form()[name].resolve(value) == value


@pytest.mark.parametrize("value", ["false", False])
def test_the_form_can_take_back_what_a_preset_switches_on(value):
    given = {"training.both_sides": trigger_form()["training.both_sides"].resolve(value)}
    assert (config.load("best").training.both_sides, config.load("best", given).training.both_sides) == (True, False)
