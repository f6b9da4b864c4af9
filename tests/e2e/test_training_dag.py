"""The whole training DAG on a slice of the real images, by ``airflow dags test`` and by what `make run` calls."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from pathlib import Path

import pytest

from mlapp import run_record, storage
from mlapp.config import read_preset
from mlapp.result import StageResult
from tests.e2e.workspace import PRESET, Ran
from tests.trackers import wandb_files

STAGES = [
    *("extract", "validate", "transform", "baseline", "train", "distill", "prune"),
    *("choose", "vet", "promote"),
]
CHECK = "check_champion"
SEARCHES = {f"tune_{trainer}" for trainer in ("train", "distill", "baseline")}

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def first(workspace) -> Ran:
    """The first run: everything is computed."""
    conf = json.dumps({"preset": PRESET})
    return workspace.run("airflow", "dags", "test", "fashion_mnist_training", "--conf", conf)


@pytest.fixture(scope="module")
def second(workspace, first) -> tuple[Ran, dict[Path, str]]:
    """The same again, and the results that stood before it."""
    before = workspace.results()
    return workspace.run_dag({}), before


def test_the_dag_takes_real_images_to_a_promoted_model(workspace, first):
    assert first.code == 0, first.output[-5000:]
    registry = workspace.folder / "registry" / "my_fashion_mnist"
    champion = registry / (registry / "CHAMPION").read_text().strip()
    manifest = json.loads((champion / "manifest.json").read_text())
    assert {"model.int8.tflite", "model.keras", "MODEL_CARD.md", "verdict.json"} <= set(manifest["files"])
    for name, told in manifest["files"].items():
        assert storage.sha256(champion / name) == told["sha256"], name
    assert "1,000 test images" in (champion / "MODEL_CARD.md").read_text()


def test_the_run_is_kept_in_a_dated_folder(workspace, first):
    run = workspace.runs()[0]
    config = json.loads((run / "config.json").read_text())
    assert config["transform"]["limit"] == read_preset(PRESET)["transform"]["limit"]
    table = (run / "summary.txt").read_text()
    assert [line.split()[0] for line in table.splitlines() if line.split() and line.split()[0] in STAGES] == STAGES
    assert str(workspace.folder / "registry" / "my_fashion_mnist") in table


def test_every_stage_is_recorded_in_the_runs_folder_and_is_a_run_of_its_group(workspace, first):
    run = workspace.runs()[0]
    records, damaged = run_record.read(storage.at(run))
    assert not damaged
    assert Counter(record.stage for record in records) == Counter(
        [*STAGES, CHECK, *["tune"] * len(SEARCHES), "summarise"]
    )
    # The raw files are fetched once for all test runs of this tree.
    assert {record.state for record in records if record.stage != "extract"} == {"done"}
    assert workspace.run("python", "-m", "mlapp.trackers.wandb_writer", str(run)).code == 0  # had the machine no time
    kept = wandb_files.runs(run)
    assert {entry.job_type for entry in kept} == {record.stage for record in records if record.state == "done"}
    assert {entry.group for entry in kept} == {run.name}
    (trained,) = [entry for entry in kept if entry.job_type == "train"]
    assert len(trained.curve("validation_accuracy")) == read_preset(PRESET)["training"]["epochs"]
    listed = workspace.run("python", "-m", "mlapp.experiments", "list", f"--experiments={run.parent}")
    assert run.name in listed.output
    assert "done" in listed.output


def test_tasks_hand_on_uris_of_results_and_never_data(workspace, first):
    with sqlite3.connect(workspace.folder / "airflow" / "terminal" / "airflow.db") as database:
        rows = database.execute("select task_id, value from xcom where key = 'return_value'").fetchall()
        assert database.execute("select count(*) from asset_event").fetchone() == (0,), "a terminal announces nothing"
    values = {task: json.loads(value) for task, value in rows if task not in ("wanted", "widths", "sparsities")}
    assert {task for task, value in values.items() if value == ""} == {"image", "approve", "register", "log_experiment"}
    assert {task for task, value in values.items() if value} == {
        *(*STAGES, *SEARCHES, CHECK, "configure", "as_announced", "summarise")
    }
    assert all("#sha256=" in value for value in values.values() if value)
    for task in STAGES:
        assert StageResult.load(values[task]).stage == task


def test_the_second_run_reuses_everything(workspace, first, second):
    again, before = second
    assert again.code == 0, again.output[-5000:]
    after = workspace.results()
    changed = {path.parent.parent.name for path in after if after[path] != before.get(path)}
    assert changed <= {CHECK, "promote"}
    assert again.seconds < first.seconds
    table = (workspace.runs()[-1] / "summary.txt").read_text()
    assert len([line for line in table.splitlines() if " reused " in line]) >= len(STAGES) - 1


def test_the_second_run_promotes_nothing_new(workspace, second):
    bundles = [path for path in (workspace.folder / "registry" / "my_fashion_mnist").iterdir() if path.is_dir()]
    assert len([path for path in bundles if (path / "manifest.json").exists()]) == 1


def test_a_run_shows_its_stages_and_ends_with_the_table(workspace, second):
    again, _ = second
    table = (workspace.runs()[-1] / "summary.txt").read_text()
    assert again.output.endswith(f"\n\n{table}\n")
    assert again.output.count(table.splitlines()[0]) == 1
    assert "nothing to do, valid result of" in again.output
    assert not [line for line in again.output.splitlines() if "airflow" in line.lower()]


def test_a_person_who_cannot_be_asked_holds_the_promotion(workspace, second):
    """Given a name without a champion and nobody to ask, when approval is asked for, then nothing is promoted."""
    ran = workspace.run_dag({"promotion.name": "unattended", "promotion.approval": True})
    assert ran.code == 0, ran.output[-5000:]
    assert "hold (nobody can be asked under `airflow dags test`" in ran.output
    assert not (workspace.folder / "registry" / "unattended" / "CHAMPION").exists()


def test_bad_data_fails_the_run_with_one_line_and_no_traceback(workspace, first):
    ran = workspace.run_dag({"data.source": "/nowhere", "data.name": "mine"})
    assert ran.code == 1
    assert ran.last_line.startswith("extract failed: python -m mlapp.etl.gcp_dataloader: error: ")
    assert "/nowhere" in ran.last_line
    assert "Traceback" not in ran.output
    assert "tried again" not in ran.output
    assert not [path for path in workspace.results() if path.stat().st_mtime > time.time() - ran.seconds]


@pytest.mark.parametrize(
    ("conf", "told"),
    [
        ({"training.epohcs": 3}, "error: unknown setting training.epohcs (from the overrides): did you mean epochs?"),
        ({"training.epochs": 0}, "error: training.epochs: input should be greater than or equal to 1, not 0"),
        ({"training": {"epochs": "x"}}, "error: training.epochs: input should be a valid integer"),
        ({"preset": "qick"}, "error: no preset 'qick': choose one of "),
    ],
)
def test_a_wrong_conf_is_refused_before_anything_starts(workspace, conf, told):
    ran = workspace.run_dag(conf)
    assert ran.code == 2
    assert ran.output.startswith(told)
    assert ran.output.count("\n") == 1
    assert ran.seconds < 10


def test_a_conf_that_only_airflows_own_form_refuses_is_told_alike(workspace):
    """A number as text is good enough for the stages, but not for the trigger form."""
    ran = workspace.run_dag({"training.epochs": "3"})
    assert ran.code == 2
    assert ran.last_line.startswith("error: Invalid input for param training.epochs: '3' is not of type 'integer'")


def test_plain_airflow_refuses_a_wrong_conf_by_name(workspace):
    conf = json.dumps({"training.epochs": 0})
    ran = workspace.run("airflow", "dags", "test", "fashion_mnist_training", "--conf", conf)
    assert ran.code == 1
    assert "Invalid input for param training.epochs: 0 is less than the minimum of 1" in ran.output
