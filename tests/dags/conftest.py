"""The DAGs as Airflow's DAG processor sees them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
os.environ["AIRFLOW_HOME"] = os.environ.get("MLAPP_AIRFLOW_HOME", f"{ROOT}/.airflow") + "/terminal"


@pytest.fixture(scope="session")
def dags() -> dict[str, Any]:
    """Every DAG of the dags folder, by its id."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(ROOT / "dags"))
    assert bag.import_errors == {}
    return bag.dags
