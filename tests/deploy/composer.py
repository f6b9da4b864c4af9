"""A worker of Cloud Composer on this machine: its packages, its folders, its variables."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "deploy" / "composer-constraints.txt"


def python() -> Path:
    """Python with exactly the packages that Composer has; made once for each list of them, in .cache/."""
    kept = ROOT / ".cache" / f"composer-{hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()[:12]}"
    done = kept / "made"
    if not done.exists():
        uv = Path(sys.executable).with_name("uv")
        if not uv.exists():
            pytest.skip("uv is not installed, so Composer's packages cannot be: install requirements-dev.txt")
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, kept], check=True)
        into = ["--python", kept / "bin" / "python", "--no-deps", "--requirements", CONSTRAINTS]
        subprocess.run([uv, "pip", "install", "--quiet", "--system-certs", *into], check=True)
        done.touch()
    return kept / "bin" / "python"


@dataclass(frozen=True)
class Worker:
    """Runs Python as a worker has it: dags/ and plugins/ as the bucket has them, nothing of the project's besides."""

    folder: Path
    variables: dict[str, str]

    def environ(self) -> dict[str, str]:
        return {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.folder / "home"),
            "AIRFLOW_HOME": str(self.folder / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.folder / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(self.folder / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "PYTHONWARNINGS": "ignore",
            **({"LD_LIBRARY_PATH": os.environ["LD_LIBRARY_PATH"]} if "LD_LIBRARY_PATH" in os.environ else {}),
            **self.variables,
        }

    def run(self, code: str, *, on_path: bool = True, **variables: str) -> Any:
        """What the code's last line of output says, as JSON; a worker has dags/ and plugins/ on its path."""
        path = {"PYTHONPATH": f"{self.folder / 'dags'}:{self.folder / 'plugins'}"} if on_path else {}
        done = subprocess.run(
            [python(), "-c", code],
            env={**self.environ(), **path, **variables},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=250,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout.splitlines()[-1])
