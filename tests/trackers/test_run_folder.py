"""A run's folder says what each stage was and what came of it, also when it did not get far."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from mlapp import run_record, storage
from mlapp.command_line import main
from mlapp.run_record import StageRecord
from tests import tiny_stage
from tests.trackers import telling_stage

pytest_plugins = "loopback.fixtures"
ROOT = Path(__file__).parents[2]
GROUP = "2026-01-01-run"


@pytest.fixture(autouse=True)
def experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that every stage here belongs to."""
    monkeypatch.setenv("MLAPP_STORAGE__EXPERIMENTS", str(tmp_path / "experiments"))
    monkeypatch.setenv("MLAPP_STORAGE__MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("MLAPP_TRACKING__GROUP", GROUP)
    monkeypatch.setenv("MLAPP_TRACKING__WANDB", "off")
    return tmp_path / "experiments" / GROUP


def records(folder: Path) -> list[StageRecord]:
    found, damaged = run_record.read(storage.at(folder))
    assert not damaged
    return found


def curves(folder: Path) -> list[dict[str, str]]:
    (path,) = folder.glob("stages/*/history.csv")
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_finished_stage_leaves_its_record_its_curves_and_copies_of_what_can_be_read(experiments: Path) -> None:
    main(telling_stage.run, [])
    (record,) = records(experiments)
    assert (record.state, record.stage, record.headline) == ("done", "train", "teacher: 75.00 %")
    assert record.config["epochs"] == 3
    assert record.metrics["float32.validation_accuracy"].n == 1000
    assert set(record.timings) == {"wall_s", "cpu_s", "peak_rss_mb"}
    assert [row["epoch"] for row in curves(experiments)] == ["1", "2", "3"]
    assert float(curves(experiments)[1]["loss"]) == 0.5
    place = experiments / "stages" / record.folder_name
    assert {path.name for path in place.iterdir()} == {
        *("stage.json", "history.csv", "history.json", "candidates.json", "curves.png")
    }
    assert (place / "curves.png").read_bytes() == (Path(record.result).parent / "curves.png").read_bytes()


def test_the_copies_outlive_the_stages_own_folder(experiments: Path, tmp_path: Path) -> None:
    import shutil

    main(telling_stage.run, [])
    before = records(experiments)
    shutil.rmtree(tmp_path / "models")
    assert records(experiments) == before
    assert not [path for path in experiments.rglob("*") if path.is_symlink()]


def test_a_reused_result_stands_in_the_folder_of_the_run_that_reused_it(
    experiments: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(telling_stage.run, [])
    monkeypatch.setenv("MLAPP_TRACKING__GROUP", "2026-01-02-later")
    main(telling_stage.run, [])
    first, later = records(experiments)[0], records(experiments.parent / "2026-01-02-later")[0]
    assert (first.state, later.state) == ("done", "reused")
    assert (first.key, first.metrics, first.timings) == (later.key, later.metrics, later.timings)
    assert len(curves(experiments.parent / "2026-01-02-later")) == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--end=refuse"], "the data is too small: give more"),
        (["--epochs=many"], "epochs: input should be a valid integer, unable to parse string as an integer"),
    ],
)
def test_a_run_that_stops_half_way_says_where_and_why(experiments: Path, arguments: list[str], told: str) -> None:
    main(tiny_stage.run, [])
    with pytest.raises(SystemExit):
        main(telling_stage.run, arguments)
    done, failed = records(experiments)
    assert (done.stage, done.state, failed.stage, failed.state) == ("tiny", "done", "train", "failed")
    assert failed.reason.startswith(told)
    assert failed.ended
    if failed.key:
        assert len(curves(experiments)) == 3


def test_a_bug_is_told_with_its_kind(experiments: Path) -> None:
    with pytest.raises(ValueError, match="a bug"):
        main(telling_stage.run, ["--end=crash"])
    assert records(experiments)[0].reason == "ValueError: a bug"


@pytest.mark.parametrize(("number", "state"), [(signal.SIGTERM, "stopped"), (signal.SIGKILL, "broken off")])
def test_a_stage_that_was_ended_from_outside_is_told_from_one_that_runs(
    experiments: Path, number: int, state: str
) -> None:
    command = [sys.executable, "-m", "tests.trackers.telling_stage", "--epochs=9", "--pause-s=0.5"]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ.copy(), stderr=subprocess.PIPE, text=True)
    assert process.stderr
    process.stderr.readline()
    assert records(experiments)[0].state_now == "running"
    process.send_signal(number)
    process.communicate(timeout=20)
    assert records(experiments)[0].state_now == state
    assert len(curves(experiments)) >= 1


def test_a_remote_folder_is_written_alike(cloud: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    area = f"gs://models/{uuid.uuid4().hex}"
    monkeypatch.setenv("MLAPP_STORAGE__EXPERIMENTS", area)
    main(telling_stage.run, [])
    folder = storage.at(area) / GROUP
    (record,), _ = run_record.read(folder)
    assert record.state == "done"
    assert (folder / "stages" / record.folder_name / "history.csv").read_text().count("\n") == 4
    assert len(json.loads((folder / "stages" / record.folder_name / "history.json").read_text())) == 3


def test_a_stage_by_hand_belongs_to_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLAPP_TRACKING__GROUP")
    main(telling_stage.run, [])
    assert not (tmp_path / "experiments").exists()


def test_the_tracking_section_is_in_no_stages_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(telling_stage.run, [])
    main(telling_stage.run, ["tracking.group=another", "tracking.project=p", "tracking.tensorboard=false"])
    assert capsys.readouterr().err.count("epoch 1") == 1


@pytest.mark.parametrize(
    ("stage", "config", "label"),
    [
        ("train", {"widths": [1]}, "train"),
        ("distill", {"widths": [0.5]}, "distill 0.5"),
        ("prune", {"sparsities": [0.3, 0.5]}, "prune 0.3+0.5"),
        ("tune", {"trainer": "baseline"}, "tune baseline"),
        ("distill", {}, "distill"),
    ],
)
def test_stages_that_a_run_has_several_of_are_told_apart(stage: str, config: dict[str, object], label: str) -> None:
    assert run_record.label(stage, config) == label
