"""What holds for every DAG of the project, whatever it does."""

from __future__ import annotations

import ast
from datetime import timedelta
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TAGS = {"training", "data", "monitoring", "maintenance", "fashion-mnist"}
FILES = sorted((ROOT / "dags").glob("*.py"))


@pytest.fixture(params=[path.stem for path in FILES])
def dag(request, dags):
    """One DAG; its file is named for it."""
    return dags[request.param]


def test_there_are_dags():
    assert FILES


def test_it_says_who_owns_it_and_what_it_is_about(dag):
    assert all(task.owner not in ("", "airflow") for task in dag.tasks)
    assert dag.tags
    assert set(dag.tags) <= TAGS


def test_its_page_shows_the_docstring_of_its_file(dag):
    docstring = ast.get_docstring(ast.parse((ROOT / "dags" / f"{dag.dag_id}.py").read_text()), clean=False)
    assert dag.doc_md == docstring
    assert len(docstring.split()) > 40


def test_it_starts_at_a_fixed_date_and_never_overlaps_itself(dag):
    assert dag.start_date is not None
    assert not dag.catchup
    assert dag.max_active_runs == 1


def test_every_task_has_a_second_try_and_a_deadline_within_the_runs(dag):
    assert dag.dagrun_timeout is not None
    for task in dag.tasks:
        assert task.retries >= 1, task.task_id
        assert timedelta() < task.execution_timeout <= dag.dagrun_timeout, task.task_id


def test_its_file_only_wires(dag):
    """A page or two that imports Airflow, the operator and what is light; no loops, no I/O."""
    tree = ast.parse((ROOT / "dags" / f"{dag.dag_id}.py").read_text())
    assert len((ROOT / "dags" / f"{dag.dag_id}.py").read_text().splitlines()) <= 150
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.For | ast.While | ast.With | ast.Try)]
    other_dags = {path.stem for path in FILES}
    imported = {name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for name in [node.module]}
    assert not imported & other_dags
