"""TensorBoard's own reader finds what was told, also in a process that never saw TensorFlow."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from mlapp import storage
from mlapp.trackers import event_files
from mlapp.trackers.event_files import TensorBoard

TOLD = [{"validation_accuracy": 0.5, "loss": 1.0}, {"validation_accuracy": 0.75, "loss": 0.25}]


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    """The points of one curve in the event files of a folder."""
    return [
        (event.step, value.tensor.float_val[0])
        for path in sorted(folder.glob("events.out.tfevents.*"))
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.tag == name
    ]


def test_each_figure_is_a_curve_over_the_epochs_and_on_disk_at_once(tmp_path: Path) -> None:
    board = TensorBoard(storage.at(tmp_path / "board"))
    for number, figures in enumerate(TOLD, start=1):
        board.epoch(number, figures)
        assert len(curve(tmp_path / "board", "loss")) == number
    assert curve(tmp_path / "board", "loss") == [(1, 1.0), (2, 0.25)]
    assert curve(tmp_path / "board", "validation_accuracy") == [(1, 0.5), (2, 0.75)]


def test_a_second_model_of_the_same_stage_is_a_curve_of_its_own(tmp_path: Path) -> None:
    board = TensorBoard(storage.at(tmp_path))
    for _ in range(2):
        for number, figures in enumerate(TOLD, start=1):
            board.epoch(number, figures)
    assert curve(tmp_path, "loss") == curve(tmp_path / "2", "loss") == [(1, 1.0), (2, 0.25)]


def test_a_stage_that_tells_of_no_epoch_leaves_no_files(tmp_path: Path) -> None:
    board = TensorBoard(storage.at(tmp_path / "board"))
    board.failed("UserError: no data")
    assert not (tmp_path / "board").exists()


def test_a_remote_folder_gets_the_files_each_minute_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    target, now = storage.at(f"memory://{uuid.uuid4().hex}"), 0.0
    monkeypatch.setattr(event_files.time, "monotonic", lambda: now)
    board = TensorBoard(target)
    copied = []
    for number in (1, 2, 1):
        now += 40.0
        board.epoch(number, TOLD[0])
        copied.append(len(list(target.rglob("events.*"))))
    board.failed("Terminated: ")
    assert copied == [0, 1, 1]
    places = [path.parent for path in target.rglob("events.*")]
    assert sorted(map(str, places)) == [str(target), str(target / "2")]


@pytest.mark.parametrize("library", ["tensorflow", "wandb"])
def test_neither_tensorflow_nor_wandb_is_imported_to_track(tmp_path: Path, library: str) -> None:
    script = (
        "import sys; from mlapp.trackers import installed; from mlapp.trackers.event_files import TensorBoard\n"
        f"TensorBoard(__import__('upath').UPath({str(tmp_path)!r})).epoch(1, {{'loss': 1.0}})\n"
        f"sys.exit({library!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, cwd=Path(__file__).parents[2]).returncode == 0
