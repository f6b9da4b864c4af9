"""A W&B key that is kept in Secret Manager: it reaches W&B, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb_server
from loopback.secret_manager import SecretManager, serving
from test_wandb import KEY, PATIENT, Place

OTHER = "fedcba9876543210" * 3
SECRET = "projects/shop-1/secrets/wandb"
NAMED = f"tracking.wandb_secret={SECRET}"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def manager(place: Place) -> Iterator[SecretManager]:
    """A Secret Manager that holds the key, known to the place's stages."""
    keeps = SecretManager({SECRET: [f"{KEY}\n".encode()]})
    with serving(keeps) as environ:
        place.environ.update(environ)
        yield keeps


@pytest.fixture
def server(place: Place) -> Iterator[wandb_server.Server]:
    """A W&B server that works, known to the place's stages."""
    with wandb_server.Server("works") as serving:
        place.environ["WANDB_BASE_URL"] = serving.url
        yield serving


def shown(place: Place, output: str) -> list[str]:
    """Where the key can be read: in what was printed, or in any file that was left."""
    files = [path for path in place.folder.rglob("*") if path.is_file()]
    assert len(files) > 10
    found = [str(path) for path in files if KEY.encode() in path.read_bytes()]
    return [*found, *(["the output"] if KEY in output else [])]


def test_the_key_reaches_the_server_and_no_log_spool_or_file(
    place: Place, manager: SecretManager, server: wandb_server.Server
) -> None:
    """Of a whole run: its folder with config.json and origins.json, result.json, the spool, W&B's own files, output."""
    experiments = place.folder / "experiments"
    settings = {"tracking": {"wandb_secret": SECRET, "patience_s": 60}, "storage.experiments": str(experiments)}
    configure = place.start("--conf", json.dumps(settings), "--run=r", "--day=2026-01-01", module="mlapp.configure")
    told, _ = configure.communicate(timeout=60)
    assert configure.returncode == 0, told
    (config,) = experiments.glob("*/config.json")
    ran = place.run("--leave=nothing", f"--config={config}")
    assert ran.code == 0, ran.output
    assert "W&B" not in ran.output
    assert server.keys == {KEY}
    assert server.exit_codes == [0]
    assert manager.asked == [f"{SECRET}/versions/latest"]
    assert not shown(place, told + ran.output)
    naming = {path.name for path in place.folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()}
    assert {"config.json", "origins.json"} < naming  # the secret's name is no secret
    assert any(name.endswith(".jsonl") for name in naming)
    assert (place.work / "result.json").exists()


def test_the_stages_own_process_never_has_the_key(
    place: Place, manager: SecretManager, server: wandb_server.Server
) -> None:
    """A stage that lasts, so that its side process is started and has the key while the stage still runs."""
    process = place.start(f"--workdir={place.work}", NAMED, "--epochs=60", "--pause-s=0.5", "--leave=nothing")
    assert process.stdout
    for _ in process.stdout:
        if KEY in server.keys:
            break
    assert KEY.encode() not in Path(f"/proc/{process.pid}/environ").read_bytes()
    assert KEY.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
    process.terminate()
    process.communicate(timeout=10)


def test_a_key_in_the_environment_goes_first(place: Place, manager: SecretManager, server: wandb_server.Server) -> None:
    assert place.run(PATIENT, NAMED, "--leave=nothing", WANDB_API_KEY=OTHER).code == 0
    assert server.keys == {OTHER}
    assert not manager.asked


def test_offline_asks_for_no_key(place: Place, manager: SecretManager) -> None:
    assert place.run(PATIENT, NAMED, "tracking.wandb=offline").code == 0
    assert place.runs[0].exit_code == 0
    assert not manager.asked


def test_a_key_that_cannot_be_had_is_told_in_one_line_and_the_run_is_kept_in_files(
    place: Place, manager: SecretManager, server: wandb_server.Server
) -> None:
    manager.denied.add(SECRET)
    ran = place.run(PATIENT, NAMED)
    assert ran.code == 0
    (told,) = [line for line in ran.output.splitlines() if "W&B" in line]
    assert f"W&B has no key: no permission to read {SECRET}, if it exists: run `gcloud secrets add-iam-policy" in told
    assert f"`; the run is kept in {place.work / 'wandb'}, `wandb sync` can send it later" in told
    assert place.runs[0].summary["epochs"] == 3
    assert not server.keys
