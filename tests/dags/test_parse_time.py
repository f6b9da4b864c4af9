"""A DAG file is read again and again by the scheduler's side: it must cost next to nothing on top of Airflow itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EMPTY = "from airflow.sdk import dag\n\n@dag(dag_id='empty')\ndef empty():\n    pass\n\nempty()\n"
HEAVY = {
    "tensorflow",
    "tf_keras",
    "keras",
    "ray",
    "google",
    "numpy",
    "pandas",
    "matplotlib",
    "sklearn",
    "wandb",
    "xgboost",
}
LIMIT = 1.5

# Each prints how many calls it makes, imports included, and what stands imported at the end.
HEAD = "import sys, cProfile; profile = cProfile.Profile(); profile.enable(); "
TAIL = (
    "; profile.disable(); import json, pstats; "
    "print(json.dumps([pstats.Stats(profile).total_calls, sorted(sys.modules)]))"
)
AS_A_SCRIPT = HEAD + "import runpy; runpy.run_path(sys.argv[1])" + TAIL
# As Airflow's processor does it, which also writes what it has read into the database.
AS_A_BAG = (
    HEAD + "from airflow.dag_processing.dagbag import DagBag; "
    "from airflow.serialization.serialized_objects import DagSerialization; bag = DagBag(sys.argv[1]); "
    "assert bag.dags and not bag.import_errors, bag.import_errors; "
    "[DagSerialization.to_dict(dag) for dag in bag.dags.values()]" + TAIL
)


@cache
def parse(how: str, file: Path) -> tuple[int, set[str]]:
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", how, str(file)], env=environ, capture_output=True, text=True, check=True
    )
    calls, modules = json.loads(done.stdout.splitlines()[-1])
    return calls, set(modules)


@pytest.fixture(scope="module")
def empty(tmp_path_factory) -> Path:
    """The least DAG there is."""
    file = tmp_path_factory.mktemp("empty") / "empty_dag.py"
    file.write_text(EMPTY)
    return file


@pytest.mark.parametrize("how", [AS_A_SCRIPT, AS_A_BAG], ids=["script", "dagbag"])
@pytest.mark.parametrize("file", sorted((ROOT / "dags").glob("*.py")), ids=lambda file: file.stem)
def test_a_dag_parses_in_under_one_and_a_half_times_the_work_of_an_empty_one(how, file, empty):
    """Work is counted in calls, which are the same on a machine that does other things; seconds are not."""
    least, own = parse(how, empty)[0], parse(how, file)[0]
    assert own < LIMIT * least, f"{own:,} calls against {least:,} of an empty DAG"


@pytest.mark.parametrize("file", sorted((ROOT / "dags").glob("*.py")), ids=lambda file: file.stem)
def test_parsing_a_dag_imports_nothing_heavy(file, empty):
    """Python itself makes the empty namespace `google` at its start: what counts is what a DAG adds."""
    added = parse(AS_A_BAG, file)[1] - parse(AS_A_BAG, empty)[1]
    assert not {name for name in added if name.split(".")[0] in HEAVY}
