"""What the processes of a run can read of the worker's environment: stages, searches, trackers; seen in /proc."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from local_runner import LocalRunner

from mlapp.result import StageResult
from tests.trackers import wandb_server

KEY = "0123456789abcdef" * 3
SECRETS = {
    "WANDB_API_KEY": KEY,
    "AIRFLOW_CONN_SHOP": "postgres://u:planted-connection@h/d",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://u:planted-database@h/d",
    "MLAPP_SIGNING__PRIVATE_KEY": "/planted/key.pem",
    "AWS_SECRET_ACCESS_KEY": "planted-aws",
    "GITHUB_TOKEN": "planted-github",
}
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="environments of others are read in /proc")


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Secrets in the worker's environment, and a home without any."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)


@pytest.fixture
def seen() -> Iterator[Callable[[], dict[str, dict[str, str]]]]:
    """A function that gives, by command, the environments of all processes that this one has had since."""
    found: dict[str, dict[str, str]] = {}
    over = threading.Event()
    of_other_tests = {process.pid for process in psutil.Process().children(recursive=True)}

    def look() -> None:
        while not over.wait(0.1):
            for process in psutil.Process().children(recursive=True):
                if process.pid in of_other_tests:
                    continue
                try:
                    found[f"{process.pid} {' '.join(process.cmdline())}"] = process.environ()
                except (psutil.NoSuchProcess, psutil.ZombieProcess):
                    continue

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    yield lambda: found
    over.set()
    thread.join()


def secrets_in(environ: dict[str, str]) -> set[str]:
    return {name for name, value in environ.items() if name in SECRETS or "planted" in value or KEY in value}


def test_wandbs_key_reaches_wandb_and_no_stage(
    seen: Callable[[], dict[str, dict[str, str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    with wandb_server.Server("works") as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        ended = LocalRunner(lines.append).run(
            "tests.trackers.telling_stage",
            [
                f"--workdir={tmp_path / 'work'}",
                "--epochs=4",
                "--pause-s=1.5",
                "--leave=nothing",
                "tracking.patience_s=60",
            ],
        )
        assert ended.exit_code == 0, lines
        assert server.keys == {KEY}
    stages = {command: environ for command, environ in seen().items() if "telling_stage" in command}
    trackers = {command: environ for command, environ in seen().items() if "wandb" in command}
    assert stages
    assert trackers
    assert {command: secrets_in(environ) for command, environ in stages.items() if secrets_in(environ)} == {}
    others = set().union(*map(secrets_in, trackers.values()))
    assert others <= {"WANDB_API_KEY"}
    assert all(KEY not in command for command in seen())
    assert KEY not in "".join(lines)


def test_no_process_of_a_search_has_a_secret(
    seen: Callable[[], dict[str, dict[str, str]]],
    planted_data: StageResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLAPP_CHILD_ENV", "TINY_*")
    monkeypatch.setenv("TINY_SECONDS", "0.5")
    lines: list[str] = []
    began = time.monotonic()
    ended = LocalRunner(lines.append).run(
        "tests.tune.tiny_tuner",
        [
            *("--trainer=train", f"--data={planted_data.uri}", f"--workdir={tmp_path / 'work'}", "tuning.trials=2"),
            *("tuning.memory_per_trial_mb=200", "training.epochs=4", "tracking.wandb=off"),
        ],
    )
    assert ended.exit_code == 0, lines
    assert time.monotonic() - began > 2
    commands = " ".join(seen())
    assert "raylet" in commands
    assert "gcs_server" in commands
    assert "ray::" in commands
    assert {command: secrets_in(environ) for command, environ in seen().items() if secrets_in(environ)} == {}
