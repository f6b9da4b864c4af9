"""The tuner with a tiny trainer in the teacher's place, and what Ray must not leave behind."""

from __future__ import annotations

import tempfile
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
    monkeypatch.setenv("MLAPP_CHILD_ENV", "TINY_*")
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
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for temporary files that no other test uses, with a name that is short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.fixture
def nothing_left(temporary: Path) -> Iterator[None]:
    """Fails where a process of Ray or a folder of its sessions is left."""
    processes = set(ray_processes())
    yield
    deadline = time.monotonic() + 5
    while (left := set(ray_processes()) - processes) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, [process.cmdline() for process in left]
    assert session_folders(temporary) == []


def ray_processes(root: psutil.Process | None = None) -> list[psutil.Process]:
    """Ray's processes among the descendants of ``root`` (this process), which may be workers and agents of others."""
    children = (root or psutil.Process()).children(recursive=True)
    return [process for process in children if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def session_folders(temporary: Path) -> list[str]:
    """The folders of Ray's sessions that a search makes."""
    return [path.name for path in temporary.glob("mlapp-ray-*")]
