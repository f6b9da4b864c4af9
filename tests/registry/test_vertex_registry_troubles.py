"""Kills, slow and failing uploads, a service that is away, bad input: told in a line, mended by the next start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chain
import grpc
import pytest
from loopback import chaos, vertex_models
from loopback.vertex_model_rules import NUMBER, PROJECT, REGION, RefusedError
from registered import NAME, SETTINGS, champion_of, register, uploads

from mlapp.errors import TryAgainError, UserError
from mlapp.registry import vertex_versions
from mlapp.schema_cloud import Cloud

pytest_plugins = "loopback.fixtures"
pytestmark = pytest.mark.usefixtures("cloud")


def command(folder: Path, run: chain.Chain) -> list[str]:
    settings = [f"registration.{name}={json.dumps(value)}" for name, value in SETTINGS.items()]
    place = [f"cloud.project={PROJECT}", f"cloud.region={REGION}", "tracking.wandb=off"]
    module = ["-m", "mlapp.registry.vertex_registry", "--promoted", run.promoted.uri]
    return [sys.executable, *module, "--workdir", str(folder / "register"), *settings, *place]


@pytest.mark.parametrize("with_what", [signal.SIGTERM, signal.SIGKILL])
def test_a_kill_during_the_upload_leaves_it_to_the_next_start_which_uploads_nothing(
    tmp_path: Path, vertex: vertex_models.Vertex, run_of: Any, with_what: signal.Signals
) -> None:
    run = run_of(3)
    vertex.models.slow = True
    with subprocess.Popen(command(tmp_path, run), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        wait_for(lambda: vertex.front.calls["GetOperation"], first)
        first.send_signal(with_what)
        _, told = first.communicate(timeout=30)
    assert first.returncode == (143 if with_what == signal.SIGTERM else -9), told
    if with_what == signal.SIGTERM:
        assert "the same command takes the work up again" in told
    asked = vertex.front.calls["GetOperation"]

    with subprocess.Popen(command(tmp_path, run), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as second:
        wait_for(lambda: vertex.front.calls["GetOperation"] > asked, second)
        vertex.models.finish_uploads()
        _, told = second.communicate(timeout=60)

    assert second.returncode == 0, told
    assert "an upload is under way already" in told
    assert uploads(vertex) == 1
    assert vertex.models.aliases(NAME) == {"default": "1", "champion": "1"}


def wait_for(seen: Callable[[], object], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while not seen() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)


def test_an_upload_that_takes_too_long_is_told_and_taken_up_by_the_next_start(
    tmp_path: Path, vertex: vertex_models.Vertex, run_of: Any
) -> None:
    run = run_of(3)
    vertex.models.slow = True
    for _ in range(2):
        with pytest.raises(TryAgainError, match=r"takes longer than 0\.01 minutes: run the same command again"):
            register(tmp_path, run, timeout_minutes=0.01)
    vertex.models.finish_uploads()
    register(tmp_path, run)
    assert uploads(vertex) == 1


def test_an_upload_that_fails_is_told_leaves_the_champion_and_can_be_tried_again(
    tmp_path: Path, vertex: vertex_models.Vertex, run_of: Any
) -> None:
    run = run_of(3)
    vertex.models.upload_error = RefusedError(grpc.StatusCode.FAILED_PRECONDITION, "cannot read gs://models/shown")
    with pytest.raises(UserError, match=r"could not take the model \(cannot read gs://models/shown\): fix what that"):
        register(tmp_path, run)
    assert champion_of(tmp_path) == run.promoted.artifact("manifest").parent.name
    vertex.models.upload_error = None
    register(tmp_path, run)
    assert vertex.models.aliases(NAME) == {"default": "1", "champion": "1"}


def test_a_service_that_is_away_for_a_moment_is_asked_again(
    tmp_path: Path, vertex: vertex_models.Vertex, run_of: Any
) -> None:
    away = RefusedError(grpc.StatusCode.UNAVAILABLE, "try later")
    vertex.front.faults = {"ListModelVersions": [away, away], "MergeVersionAliases": [away]}
    register(tmp_path, run_of(3))
    assert vertex.models.aliases(NAME) == {"default": "1", "champion": "1"}


@pytest.mark.parametrize("code", ["PERMISSION_DENIED", "UNAUTHENTICATED", "NOT_FOUND", "ABORTED", "UNKNOWN"])
def test_a_failed_look_at_an_upload_ends_nothing(
    tmp_path: Path, vertex: vertex_models.Vertex, run_of: Any, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr(vertex_versions, "LOOK_AGAIN_S", 0.05)
    vertex.models.slow = True
    vertex.front.faults = {"GetOperation": [RefusedError(grpc.StatusCode[code], "interrupted")] * 2}
    monkeypatch.setattr(vertex_versions.log, "warning", lambda *_: vertex.models.finish_uploads())
    register(tmp_path, run_of(3))
    assert uploads(vertex) == 1
    assert not vertex.front.faults["GetOperation"]
    assert vertex.models.aliases(NAME) == {"default": "1", "champion": "1"}


DENIED = grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("faults", "settings", "told"),
    [
        (
            {"ListModelVersions": [RefusedError(DENIED, "Vertex AI API has not been used", "SERVICE_DISABLED")]},
            {},
            rf"run `gcloud services enable aiplatform\.googleapis\.com --project={PROJECT}`",
        ),
        (
            {"UploadModel": [RefusedError(DENIED, "Permission 'aiplatform.models.upload' denied")]},
            {},
            rf"add-iam-policy-binding {PROJECT} --member=user:YOUR_ACCOUNT --role=roles/aiplatform\.user",
        ),
        (
            {},
            {"cloud": Cloud(project="another-project", region=REGION)},
            r"no permission in another-project .*cloud\.pro",
        ),
        ({}, {"serving_image": f"example/serving@sha256:{'0' * 64}"}, r"refuses that \(example/serving@\S+ is not in"),
        ({}, {"artifacts": None}, r"give registration\.artifacts=gs://BUCKET/FOLDER"),
        ({}, {"artifacts": "gs://no-such-bucket/shown"}, "no-such-bucket"),
        ({}, {"promoted": None}, "give either --promoted"),
        ({}, {"promoted": None, "bundle": "/no/such/folder/"}, "/no/such/folder has no champion: give a folder like"),
    ],
    ids=["API", "role", "project", "image", "no bucket", "bucket missing", "nothing given", "no such bundle"],
)
def test_bad_input_is_one_line_that_says_how_to_mend_it(
    tmp_path: Path, vertex: vertex_models.Vertex, run_of: Any, faults: Any, settings: dict[str, Any], told: str
) -> None:
    vertex.front.faults = faults
    with pytest.raises(UserError, match=told) as raised:
        register(tmp_path, run_of(3), **settings)
    assert "\n" not in str(raised.value)
    assert not vertex.models.known


def test_the_result_of_another_stage_is_told(tmp_path: Path, vertex: vertex_models.Vertex, run_of: Any) -> None:
    with pytest.raises(UserError, match="is no promotion of this version: give --bundle"):
        register(tmp_path, promoted=run_of(3).vetted.uri)


def test_a_model_of_someone_elses_making_is_left_alone(
    tmp_path: Path, vertex: vertex_models.Vertex, run_of: Any
) -> None:
    from google.cloud.aiplatform_v1 import Model

    theirs = Model(
        name=f"projects/{NUMBER}/locations/{REGION}/models/{NAME}", version_id="1", version_aliases=["default"]
    )
    vertex.models.known[NAME] = [theirs]
    run = run_of(3)
    with pytest.raises(UserError, match=r"is not of this project's making: give another id as registration\.model_id"):
        register(tmp_path, run)
    assert uploads(vertex) == 0
    register(tmp_path, run, model_id="my_fashion_mnist")
    assert vertex.models.aliases("my_fashion_mnist") == {"default": "1", "champion": "1"}


def test_a_region_that_vertex_does_not_know_is_told(
    tmp_path: Path, vertex: vertex_models.Vertex, run_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLAPP_VERTEX_ENDPOINT", "europe-north4-aiplatform.invalid:443")
    with pytest.raises(UserError, match=r"there is no europe-north4-aiplatform\.googleapis\.com: give a region"):
        register(tmp_path, run_of(3), cloud=Cloud(project=PROJECT, region="europe-north4"))


def test_without_credentials_the_command_says_how_to_log_in(tmp_path: Path, cloud: dict[str, str], run_of: Any) -> None:
    environ = {**os.environ, "HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path), "NO_GCE_CHECK": "true"}
    ended = tmp_path / "ended.json"
    line = [*command(tmp_path, run_of(3)), "--ended-to", str(ended)]
    done = subprocess.run(line, capture_output=True, text=True, env=environ, check=False, timeout=60)
    assert done.returncode == 2, done.stderr
    assert "run `gcloud auth application-default login`" in json.loads(ended.read_text())["reason"]


@pytest.mark.parametrize("seed", range(3))
def test_in_bad_weather_a_bundle_is_uploaded_once(
    tmp_path: Path, run_of: Any, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Given a stage that is started again while it ends with 75, as Airflow does."""
    faults = [fault for fault in chaos.GRPC_RATES if not fault.startswith("UNAUTHENTICATED")]
    monkeypatch.setattr(vertex_versions, "LOOK_AGAIN_S", 0.05)
    service, weather = vertex_models.Vertex(), chaos.Weather(seed, dict.fromkeys(faults, 0.05))
    run = run_of(3)
    with vertex_models.serving(service, weather) as environ:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        for _ in range(20):
            try:
                register(tmp_path, run)
                break
            except TryAgainError:
                continue
    assert uploads(service) == 1
    assert service.models.aliases(NAME) == {"default": "1", "champion": "1"}
    assert weather.done
