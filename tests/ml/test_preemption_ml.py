"""A boosting on a machine that is taken away: another one goes on from the last checkpoint in the work directory."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import uuid

from mlapp import storage
from mlapp.result import StageResult
from mlapp.workspaces import KEPT

pytest_plugins = "loopback.fixtures"


def test_a_killed_boosting_goes_on_elsewhere(data_uri: str, cloud: dict[str, str]) -> None:
    workdir = storage.at(f"gs://models/{uuid.uuid4().hex}")
    command = [
        *(sys.executable, "-m", "mlapp.ml.xgboost_trainer", "--preset=smoke", "--data", data_uri),
        *("--workdir", str(workdir), "baseline.rounds=60", "baseline.patience=60", "tracking.wandb=off"),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as killed:
        while killed.poll() is None and not any(
            name.endswith(".tar") for name in workdir.fs.find((workdir / KEPT).path)
        ):
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL

    again = subprocess.run(command, capture_output=True, text=True, check=True)

    assert "resuming after round" in again.stderr
    assert StageResult.load(str(workdir)).metrics["rounds"].value == 60
