"""Who may do what with a DAG: by MLAPP_ROLES, for auth managers that know roles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization
from stage_wiring import ROLES, access_to

from mlapp.errors import UserError

ROOT = Path(__file__).parents[2]
GIVEN = {"model_registry": {"releasers": {"DAGs": ["can_read", "can_edit"], "DAG Runs": ["can_create"]}}}


def test_a_dag_has_the_roles_that_the_environment_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROLES, json.dumps(GIVEN))
    made = DAG("model_registry", schedule=None, access_control=access_to("model_registry"))
    kept = DagSerialization.from_dict(DagSerialization.to_dict(made))
    for each in (made, kept):
        given = {role: {what: set(may) for what, may in rights.items()} for role, rights in each.access_control.items()}
        assert given == {"releasers": {"DAGs": {"can_read", "can_edit"}, "DAG Runs": {"can_create"}}}
    assert access_to("fashion_mnist_training") is None


@pytest.mark.parametrize("dag", [path.stem for path in (ROOT / "dags").glob("*.py")])
def test_every_dag_takes_its_roles_from_there(dag: str) -> None:
    assert f'access_control=access_to("{dag}"),' in (ROOT / "dags" / f"{dag}.py").read_text(encoding="utf-8")


def test_without_roles_a_dag_is_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ROLES, raising=False)
    assert access_to("model_registry") is None


@pytest.mark.parametrize("text", ["{", "[]", '{"model_registry": ["a"]}', '{"model_registry": {"a": ["can_read"]}}'])
def test_what_is_no_map_of_roles_is_one_line(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(ROLES, text)
    with pytest.raises(UserError, match=f"{ROLES} in the environment is not of the form") as error:
        access_to("model_registry")
    assert "\n" not in str(error.value)
