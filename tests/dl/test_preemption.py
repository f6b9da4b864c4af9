"""A training on a machine that is taken away: another one goes on from the last checkpoint in the work directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

from upath import UPath

from mlapp import storage
from mlapp.result import StageResult
from mlapp.workspaces import KEPT

pytest_plugins = "loopback.fixtures"
EPOCHS = 3


def train(data: str, workdir: str, scratch: Path) -> subprocess.Popen[str]:
    """Start a training on a machine of its own: one with an empty temporary folder."""
    scratch.mkdir()
    command = [
        *(sys.executable, "-m", "mlapp.dl.dnn_trainer", "--preset=smoke", "--data", data, "--workdir", workdir),
        *(f"training.epochs={EPOCHS}", "training.batch_size=25", "training.width=0.125", "tracking.wandb=off"),
        *("training.augmentation=reference", "export.representative_images=10", "export.latency_runs=20"),
    ]
    environment = os.environ | {"TMPDIR": str(scratch)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def test_a_killed_training_goes_on_elsewhere_and_ends_as_an_undisturbed_one(
    data_uri: str, cloud: dict[str, str], tmp_path: Path
) -> None:
    workdir = storage.at(f"gs://models/{uuid.uuid4().hex}")
    undisturbed = train(data_uri, str(tmp_path / "undisturbed"), tmp_path / "first")
    killed = train(data_uri, str(workdir), tmp_path / "second")
    while killed.poll() is None and not any(name.endswith(".tar") for name in kept(workdir)):
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    output, _ = killed.communicate(timeout=60)
    assert f"epoch {EPOCHS}/{EPOCHS}" not in output
    assert not (workdir / "result.json").exists()

    again = train(data_uri, str(workdir), tmp_path / "third")
    output, _ = again.communicate(timeout=120)
    told, _ = undisturbed.communicate(timeout=120)

    assert (again.returncode, undisturbed.returncode) == (0, 0), output + told
    assert "resuming after step" in output
    assert "epoch 1/3" not in output
    results = [StageResult.load(str(place)) for place in (workdir, tmp_path / "undisturbed")]
    losses = [[epoch["loss"] for epoch in history(result)] for result in results]
    assert losses[0] == losses[1]
    assert results[0].artifacts["float32"].sha256 == results[1].artifacts["float32"].sha256
    assert kept(workdir) == []
    left = {path.name for path in (tmp_path / "third").iterdir()} - {"__pycache__"}  # of what TensorFlow compiled
    assert not left


def kept(workdir: UPath) -> list[str]:
    return list(workdir.fs.find((workdir / KEPT).path))


def history(result: StageResult) -> list[dict[str, float]]:
    found: list[dict[str, float]] = json.loads(result.local("history").read_text(encoding="utf-8"))
    return found
