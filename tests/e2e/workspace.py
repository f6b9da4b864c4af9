"""A place of its own for a whole run: Airflow's home and database, the storage areas, the environment of the README."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRESET = "smoke"


@dataclass
class Workspace:
    """A fresh Airflow home and storage areas; only the raw files are shared, so that they are fetched once.

    With ``cloud``, that environment says where the storage areas are.
    """

    folder: Path
    cloud: dict[str, str] | None = None

    @property
    def environ(self) -> dict[str, str]:
        areas = {name: str(self.folder / name) for name in ("processed", "models", "experiments", "registry")}
        areas["raw"] = str(ROOT / ".cache" / "e2e" / "raw")
        own = {name: value for name, value in os.environ.items() if not name.startswith(("MLAPP_", "AIRFLOW"))}
        storage = {f"MLAPP_STORAGE__{name.upper()}": value for name, value in areas.items()}
        return {
            **own,
            **(storage if self.cloud is None else self.cloud),
            "MLAPP_AIRFLOW_HOME": str(self.folder / "airflow"),
        }

    def run(self, command: str, *arguments: str) -> Ran:
        """A command in the environment that the README names, from some other folder."""
        began = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", f'source "$0/env.sh" && exec {command} "$@"', str(ROOT), *arguments],
            cwd=self.folder,
            env={**self.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Ran(done.returncode, done.stdout, time.monotonic() - began)

    def run_dag(self, conf: dict[str, object], dag_id: str = "fashion_mnist_training") -> Ran:
        """As `make run` does it."""
        script = str(ROOT / "plugins" / "dags_test.py")
        return self.run("python", script, dag_id, "--preset", PRESET, "--conf", json.dumps(conf))

    def runs(self) -> list[Path]:
        """The runs' own folders, oldest first."""
        return sorted((self.folder / "experiments").iterdir(), key=lambda path: path.stat().st_ctime)

    def results(self) -> dict[Path, str]:
        """Every stage result in the workspace, with its bytes."""
        found = [path for area in ("processed", "models") for path in (self.folder / area).rglob("result.json")]
        return {path: path.read_text() for path in found}


@dataclass
class Ran:
    """How a command ended, what it said, how long it took."""

    code: int
    output: str
    seconds: float

    @property
    def last_line(self) -> str:
        return self.output.rstrip().splitlines()[-1]
