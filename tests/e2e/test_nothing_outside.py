"""README's commands in a foreign environment: what they leave outside the project, and what they touch there."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.small_source import small_source
from tests.e2e.workspace import ROOT

pytestmark = pytest.mark.timeout(900)
# A private root for what is shared by all programs of a machine, so that nothing but the command can have left it. What
# lies below /tmp already (the project, the test's own folder) is brought along.
PRIVATE = """
set -e
mount --make-rprivate /
for kept in "$PROJECT" "$OWN"; do
  case "$kept" in /tmp/*) mkdir -p "$SHARED$kept" && mount --rbind "$kept" "$SHARED$kept" ;; esac
done
for place in dev/shm var/tmp tmp; do
  mkdir -p "$SHARED/$place"; mount --rbind "$SHARED/$place" "/$place"
done
cd "$PROJECT" && exec "$@"
"""
FOREIGN = {
    "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
    "AIRFLOW__CORE__DAG_RUN_CONF_OVERRIDES_PARAMS": "False",
    "AIRFLOW__CORE__LOAD_EXAMPLES": "True",
    "AIRFLOW__LOGGING__REMOTE_LOGGING": "True",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
}


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below, with its size and time of change, and every folder."""
    return {
        str(path): (0, 0) if path.is_dir() else (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
    }


def test_a_run_leaves_nothing_outside_and_touches_nothing_foreign(tmp_path: Path, raw_uri: str) -> None:
    rootless = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    under = ("unshare", *rootless, "--mount", "bash", "-c", PRIVATE, "bash")
    shared, own = tmp_path / "shared", tmp_path / "own"
    for folder in (shared, own / "home", own / "airflow", own / "temporary"):
        folder.mkdir(parents=True)
    (own / "airflow" / "airflow.db").write_bytes(b"theirs")
    (own / "airflow" / "airflow.cfg").write_text("[core]\nexecutor = CeleryExecutor\n")
    (own / "home" / ".profile").write_text("")
    areas = {name: str(own / "work" / name) for name in ("raw", "processed", "models", "experiments", "registry")}
    environ = {
        **{f"MLAPP_STORAGE__{name.upper()}": uri for name, uri in areas.items()},
        **FOREIGN,
        "MLAPP_DATA__SOURCE": str(small_source(raw_uri, own)),
        "MLAPP_DATA__NAME": "small",
        "MLAPP_AIRFLOW_HOME": str(own / "work" / "airflow"),
        "PATH": os.environ["PATH"],
        "HOME": str(own / "home"),
        "TMPDIR": str(own / "temporary"),
        "AIRFLOW_HOME": str(own / "airflow"),
        "AIRFLOW_CONFIG": str(own / "airflow" / "airflow.cfg"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{own}/airflow/airflow.db",
        "PROJECT": str(ROOT),
        "OWN": str(own),
        "SHARED": str(shared),
    }
    if not shutil.which("unshare") or subprocess.run([*under, "true"], check=False, env=environ).returncode:
        pytest.skip("this kernel gives no mount namespace, in which /tmp would be the command's alone")
    watched = [own / "home", own / "airflow", own / "temporary"]
    before = [contents(folder) for folder in watched]
    project = {path.name for path in ROOT.iterdir()}
    conf = '{"tuning.trials": 2, "tuning.trainers": ["baseline"], "promotion.name": "mine"}'
    command = ["make", "run", "PRESET=smoke", f"CONF={conf}"]
    done = subprocess.run([*under, *command], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert [contents(folder) for folder in watched] == before
    assert {path.name for path in ROOT.iterdir()} - project <= {".airflow", ".cache"}
    left = {path.relative_to(shared) for path in shared.rglob("*") if not path.is_dir()}
    assert not left
    kept = [f"tmp/{Path(place).relative_to('/tmp')}" for place in (ROOT, own) if place.is_relative_to("/tmp")]
    folders = {str(path.relative_to(shared)) for path in shared.rglob("*") if path.is_dir()}
    assert not [
        name
        for name in folders - {"dev", "dev/shm", "var", "var/tmp", "tmp"}
        if not any(place == name or place.startswith(f"{name}/") for place in kept)
    ]
