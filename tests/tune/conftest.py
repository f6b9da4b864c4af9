"""The tuner with a tiny trainer in the teacher's place, and what Ray must not leave behind."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlapp.result import StageResult
from mlapp.schema import Training
from mlapp.tune import tuner

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tiny_trainer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Have `train` mean the tiny trainer; the path of its notes."""
    monkeypatch.setitem(tuner.TRAINERS, "train", "tests.tune.tiny_trainer")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TINY_NOTES", str(tmp_path / "notes"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path / "notes"


@pytest.fixture
def config(planted_data: StageResult) -> Callable[..., tuner.TunerConfig]:
    """A function that gives the config of a small search, with these settings."""

    def make(**settings: Any) -> tuner.TunerConfig:
        training = Training(epochs=4, augmentation="none", **settings.pop("training", {}))
        given = {"trials": 6, "concurrency": 2, "memory_per_trial_mb": 200, **settings}
        return tuner.TunerConfig(**{"trainer": "train", "data": planted_data.uri, "training": training, **given})

    return make


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """Fails where a process of Ray or a folder of its sessions is left that was not there before."""
    processes, folders = set(ray_processes()), set(session_folders())
    yield
    deadline = time.monotonic() + 5
    while (left := set(ray_processes()) - processes) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, [process.cmdline() for process in left]
    assert set(session_folders()) <= folders


def ray_processes(root: psutil.Process | None = None) -> list[psutil.Process]:
    """Ray's processes among the descendants of ``root`` (this process), which may be workers and agents of others."""
    children = (root or psutil.Process()).children(recursive=True)
    return [process for process in children if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def session_folders() -> list[str]:
    """The folders of Ray's sessions that a search makes."""
    return [entry.name for entry in os.scandir("/tmp") if entry.name.startswith("mlapp-ray-")]
