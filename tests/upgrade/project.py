"""A project folder that a release's own code works in: its settings, data, models, runs and registry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlapp.etl import idx

RELEASES = Path(__file__).parent / "releases"
CLASSES = 3
CONF = {
    "data.name": "bars",
    "transform.limit": None,
    "training.epochs": 1,
    "distillation.epochs": 1,
    "baseline.rounds": 3,
    "vetting.gates": {
        "accuracy": {"at_least": 0},
        "class_recall": {"at_least": 0},
        "corrupted_accuracy": {"at_least": 0},
        "calibration_error": {"at_most": 1},
    },
    "vetting.corrupted_images": 100,
    "export.representative_images": 10,
    "export.latency_runs": 20,
}


@dataclass(frozen=True)
class Project:
    """A folder with the storage areas of its runs; ``code`` is the folder that a command's `mlapp` comes from."""

    folder: Path

    def run(self, code: Path, module: str, *arguments: str) -> str:
        """What a stage or command wrote to stdout; it must succeed."""
        done = self.ran(code, module, *arguments)
        assert done.returncode == 0, f"{module}: {done.stderr[-2000:]}"
        return done.stdout.strip()

    def ran(self, code: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command, however it ends."""
        areas = ("raw", "processed", "models", "experiments", "registry")
        storage = {f"MLAPP_STORAGE__{area.upper()}": str(self.folder / area) for area in areas}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MLAPP_", "AIRFLOW"))}
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder,
            env={**inherited, **storage, "PYTHONPATH": str(code)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def configured(self, code: Path, run: str, **conf: object) -> str:
        """The configuration of a new run."""
        given = {**CONF, "data.source": str(self._source()), **conf}
        return self.run(code, "mlapp.configure", "--preset", "smoke", "--run", run, "--conf", json.dumps(given))

    def _source(self) -> Path:
        """Pictures of bars, one class for each place of the bar; 20 to train on and 10 to test on of each class."""
        folder, draw = self.folder / "source", np.random.default_rng(0)
        folder.mkdir(exist_ok=True)
        for part, each in (("train", 40), ("t10k", 100)):
            labels = (np.arange(CLASSES * each) % CLASSES).astype(np.uint8)
            images = draw.integers(0, 60, (len(labels), 28, 28), dtype=np.uint8)
            for image, label in zip(images, labels, strict=True):
                image[:, 9 * label : 9 * label + 9] += 150
            for kind, content in (("images", images), ("labels", labels)):
                file = folder / f"{part}-{kind}-idx{content.ndim}-ubyte"
                file.write_bytes(idx.Header(content.shape).encode() + content.tobytes())
        return folder
