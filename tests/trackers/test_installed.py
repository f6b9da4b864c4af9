"""Which trackers a stage gets, by its settings and its place among others."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mlapp.config import load
from mlapp.trackers import installed
from mlapp.trackers.event_files import TensorBoard
from mlapp.trackers.run_folder import RunFolder
from mlapp.trackers.wandb_spool import WeightsAndBiases


def trackers(workdir: str = "/place", environ: dict[str, str] | None = None, **tracking: Any) -> list[object]:
    """The trackers of a stage with these settings."""
    settings = load("smoke", {"tracking": tracking, "storage.experiments": "/experiments"}, environ or {})
    return [*installed.of_run(settings, "train"), *installed.of_stage(settings, workdir)]


def kinds(**given: Any) -> list[type]:
    return [type(tracker) for tracker in trackers(**given)]


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "TF_CONFIG", "AIP_TENSORBOARD_LOG_DIR"):
        monkeypatch.delenv(name, raising=False)


def test_a_stage_by_hand_keeps_its_tracks_in_its_own_folder() -> None:
    board, wandb = trackers()
    assert isinstance(board, TensorBoard)
    assert isinstance(wandb, WeightsAndBiases)
    assert (board.folder, wandb.folder) == (Path("/place/tensorboard"), Path("/place"))


def test_a_stage_of_a_run_keeps_them_in_the_runs_folder() -> None:
    folder, board, wandb = trackers(group="2026-01-01-x")
    assert isinstance(folder, RunFolder)
    assert isinstance(board, TensorBoard)
    assert isinstance(wandb, WeightsAndBiases)
    assert str(folder.folder) == str(wandb.folder) == "/experiments/2026-01-01-x"
    assert board.folder == Path("/place/tensorboard")


def test_each_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kinds(wandb="off") == [TensorBoard]
    assert kinds(tensorboard=False) == [WeightsAndBiases]
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert kinds() == [TensorBoard]
    assert kinds(wandb="offline") == [TensorBoard, WeightsAndBiases]


def test_where_wandb_is_not_installed_that_is_said_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with caplog.at_level("INFO", "mlapp"):
        assert kinds() == [TensorBoard]
        assert [record.message for record in caplog.records] == [
            "W&B is not installed on this machine: this stage is not among its runs"
        ]
        caplog.clear()
        assert kinds(wandb="off") == [TensorBoard]
        assert not caplog.records


def test_vertex_says_where_tensorboard_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIP_TENSORBOARD_LOG_DIR", "gs://bucket/board")
    (board, _) = trackers(workdir="memory://work")
    assert isinstance(board, TensorBoard)
    assert board.folder == Path("/gcs/bucket/board")


def test_a_remote_folder_gets_no_event_files_of_its_own() -> None:
    assert kinds(workdir="memory://work") == [WeightsAndBiases]


@pytest.mark.parametrize(
    ("cluster", "kind", "index", "speaks"),
    [
        ({"worker": ["a:1", "b:1"]}, "worker", 0, True),
        ({"worker": ["a:1", "b:1"]}, "worker", 1, False),
        ({"chief": ["a:1"], "worker": ["b:1"]}, "chief", 0, True),
        ({"chief": ["a:1"], "worker": ["b:1"]}, "worker", 0, False),
    ],
)
def test_of_several_workers_one_speaks(
    monkeypatch: pytest.MonkeyPatch, cluster: dict[str, list[str]], kind: str, index: int, speaks: bool
) -> None:
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}}))
    assert bool(kinds(group="g")) is speaks


def test_a_tf_config_that_makes_no_sense_is_left_to_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", "nonsense")
    assert kinds() == [TensorBoard, WeightsAndBiases]
