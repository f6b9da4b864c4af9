"""The project as Composer has it: laid out by `make deploy`, with Composer's packages, without TensorFlow and Ray."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from composer import ROOT, Worker
from loopback import gcs

from deploy import sync
from mlapp import storage
from tests import tiny_stage

BUCKET = "gs://models"  # that of the environment as well as that of the models
DAGS = sorted(file.stem for file in (ROOT / "dags").glob("*.py"))
LACKING = ("tensorflow", "tf_keras", "keras", "ray", "ai_edge_litert", "xgboost", "optuna", "matplotlib", "wandb")
PARSE = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag({dags!r})
print(json.dumps({{
    "errors": bag.import_errors,
    "dags": sorted(bag.dags),
    "files": {{stat.file: stat.duration.total_seconds() for stat in bag.dagbag_stats}},
    "modules": sorted(sys.modules),
}}))
"""

CONFIGURE = """
import json
from local_runner import LocalRunner, project_root
told = []
ended = LocalRunner(told.append).run("mlapp.configure", ["--run=r", "--to={uri}", '--conf={{"preset": "smoke"}}'])
print(json.dumps([str(project_root()), ended.exit_code, ended.uri, told]))
"""


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker whose folders are what `make deploy` brought into a bucket."""
    folder = tmp_path_factory.mktemp("composer")
    with gcs.serving(folder / "gcs") as environ, pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        sync.sync(BUCKET, sync.tree())
        fs: Any = storage.at(BUCKET).fs
        fs.invalidate_cache()
        for path in fs.find("models"):
            file = folder / path.removeprefix("models/")
            file.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(path, str(file))
        areas = ("raw", "processed", "models", "experiments", "registry")
        settings = {f"MLAPP_STORAGE__{area.upper()}": f"{BUCKET}/{area}" for area in areas}
        settings["MLAPP_IMAGES__REPOSITORY"] = "europe-west4-docker.pkg.dev/p-one-1/mlapp/mlapp-training"
        (folder / "home").mkdir()
        yield Worker(folder, {**environ, **settings, "MLAPP_DEPLOYMENT": "vertex_cpu"})


def reference_to(uri: str) -> str:
    """The URI with the digest of what lies there now; that of a file that is missing is nobody's answer."""
    path = storage.at(uri)
    return f"{uri}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}" if path.exists() else "missing"


@pytest.fixture(scope="module")
def parsed(worker: Worker) -> dict[str, Any]:
    """What Airflow makes of the DAGs folder, the second time: as it is when nothing has to be compiled any more."""
    code = PARSE.format(dags=str(worker.folder / "dags"))
    worker.run(code)
    found: dict[str, Any] = worker.run(code)
    return found


def test_what_composer_lacks_is_lacking_here(worker: Worker) -> None:
    code = f"import importlib.util, json; print(json.dumps([n for n in {LACKING} if importlib.util.find_spec(n)]))"
    assert worker.run(code) == []


def test_every_dag_is_imported_without_an_error(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}
    assert parsed["dags"] == DAGS


def test_nothing_but_the_dags_is_searched_for_dags(worker: Worker) -> None:
    """Of all Python files in the folder, not only of those that look like DAGs."""
    code = f"""
import json
from airflow.utils.file import list_py_file_paths
print(json.dumps(list_py_file_paths({str(worker.folder / "dags")!r}, safe_mode=False)))
"""
    assert sorted(Path(file).stem for file in worker.run(code)) == DAGS


def test_each_dag_is_parsed_in_under_two_seconds(parsed: dict[str, Any]) -> None:
    assert max(parsed["files"].values()) < 2, parsed["files"]


def test_parsing_imports_nothing_heavy_of_its_own(worker: Worker, parsed: dict[str, Any]) -> None:
    """Against what Airflow itself imports for a folder without DAGs."""
    empty = worker.run(PARSE.format(dags=str(worker.folder / "home")))
    added = {name.partition(".")[0] for name in {*parsed["modules"]} - {*empty["modules"]}}
    assert not added & {"google", "grpc", "numpy", "pandas", "gcsfs", "sklearn", "PIL"}


def test_the_web_server_loads_the_plugins_folder_without_an_error(worker: Worker) -> None:
    """Composer brings plugins/ to the web server, but not dags/, in which the package is."""
    code = """
import json
from airflow import plugins_manager
print(json.dumps(plugins_manager.get_import_errors()))
"""
    assert worker.run(code, on_path=False) == {}


MODULES = [
    *("mlapp.configure", "mlapp.summary", "mlapp.dataset", "mlapp.authenticate", "mlapp.storage"),
    *(
        file.stem
        for file in sorted((ROOT / "plugins").glob("*.py"))
        if file.stem != "dags_test" and not file.stem.startswith("laptop_")
    ),
    *(
        f"mlapp.{folder}.{name}"
        for folder, name in (("images", "builder"), ("trackers", "installed"), ("trackers", "run_folder"))
        if (ROOT / "mlapp" / folder / f"{name}.py").exists()
    ),
]


def test_what_runs_on_a_worker_can_be_imported_there(worker: Worker) -> None:
    code = f"import importlib, json; print(json.dumps([importlib.import_module(n).__file__ for n in {MODULES}]))"
    files = worker.run(code)
    assert all(Path(file).is_relative_to(worker.folder) for file in files)


def test_a_stage_runs_on_a_worker(worker: Worker) -> None:
    """Through the runner of the DAGs' tasks, with a bucket's URIs: the deployment and what it sets are found."""
    uri = f"{BUCKET}/experiments/r/config.json"
    root, exit_code, ended, told = worker.run(CONFIGURE.format(uri=uri))
    assert (exit_code, ended) == (0, reference_to(uri)), told
    assert root == str(worker.folder / "dags")
    content = json.loads(storage.at(uri).read_text(encoding="utf-8"))
    assert content["placement"]["runner"] == "vertex"
    assert content["storage"]["registry"] == f"{BUCKET}/registry"


def test_the_runs_last_stage_runs_on_a_worker(worker: Worker) -> None:
    """With the result of another stage in a bucket, as a job leaves it there."""
    done = tiny_stage.run(tiny_stage.run.config(text="a"), f"{BUCKET}/models/tiny")
    uri = f"{BUCKET}/experiments/s"
    worker.run(CONFIGURE.format(uri=f"{uri}/config.json"))
    arguments = [f"--results={done.uri}", "--run=s", f"--workdir={uri}", f"--config={uri}/config.json"]
    code = f"""
import json
from local_runner import LocalRunner
told = []
ended = LocalRunner(told.append).run("mlapp.summary", {arguments!r})
print(json.dumps([ended.exit_code, ended.uri, told]))
"""
    exit_code, ended, told = worker.run(code)
    assert (exit_code, ended) == (0, reference_to(f"{uri}/result.json")), told
    assert "tiny" in storage.at(f"{uri}/summary.txt").read_text(encoding="utf-8")
    assert "W&B is not installed on this machine: this stage is not among its runs" in str(told)
    assert "not tracked any more" not in str(told)


def test_the_image_step_finds_what_it_builds_from(worker: Worker) -> None:
    pytest.importorskip("mlapp.images.context")
    tag = "import json; from mlapp.images.context import Context; print(json.dumps(Context.read('cpu').tag))"
    assert worker.run(tag).startswith("cpu-")


def test_scheduler_and_triggerer_need_neither_plugins_nor_the_package(worker: Worker, tmp_path: Path) -> None:
    """Composer brings plugins/ to neither; they know a DAG in its serialised form alone."""
    file = tmp_path / "dags.json"
    serialise = f"""
import json
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
bag = DagBag({str(worker.folder / "dags")!r})
open({str(file)!r}, "w").write(json.dumps([DagSerialization.to_dict(dag) for dag in bag.dags.values()]))
print("0")
"""
    worker.run(serialise)
    read = f"""
import json, sys
from airflow.serialization.serialized_objects import DagSerialization
dags = [DagSerialization.from_dict(dag) for dag in json.load(open({str(file)!r}))]
ours = [name for name in sys.modules if name.partition(".")[0] in ("mlapp", "stage_operator", "stage_wiring")]
print(json.dumps([sorted(dag.dag_id for dag in dags), [len(dag.tasks) > 0 for dag in dags], ours]))
"""
    names, whole, ours = worker.run(read, on_path=False, AIRFLOW__CORE__PLUGINS_FOLDER=str(tmp_path / "none"))
    assert names == DAGS
    assert all(whole)
    assert not ours
