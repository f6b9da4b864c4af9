"""Registration: Model Registry shows what the registry holds, whatever happened on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chain
import grpc
import pytest
from loopback import vertex_models
from loopback.vertex_model_rules import NUMBER, PROJECT, REGION, RefusedError

from mlapp import storage
from mlapp.errors import TryAgainError, UserError
from mlapp.registry import moves, promoter, vertex_registry
from mlapp.registry.bundle import verify
from mlapp.registry.pointer import Pointer
from mlapp.result import StageResult
from mlapp.schema_cloud import Cloud

pytest_plugins = "loopback.fixtures"
NAME = "fashion_mnist"
IMAGE = f"{REGION}-docker.pkg.dev/{PROJECT}/mlapp/serving@sha256:{'0' * 64}"
LENIENT = {"accuracy": 0.5, "class_recall": 0.0, "class_recall_drop": 1.0}
SETTINGS = {"model_registry": True, "serving_image": IMAGE, "artifacts": "gs://models/shown"}


@pytest.fixture
def vertex(monkeypatch: pytest.MonkeyPatch, cloud: dict[str, str]) -> Iterator[vertex_models.Vertex]:
    made = vertex_models.Vertex()
    with vertex_models.serving(made) as environ:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def run_of(tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any) -> Any:
    """A function that chooses, vets and promotes a student that errs on these groups."""

    def run(*errors: int, **settings: object) -> chain.Chain:
        return chain.run(tmp_path, planted_data, planted_teacher, planted_student(*errors), **{**LENIENT, **settings})

    return run


def register(folder: Path, run: chain.Chain | None = None, **settings: object) -> StageResult:
    what = {"promoted": run.promoted.uri} if run else {}
    place = {"cloud": Cloud(project=PROJECT, region=REGION)}
    return vertex_registry.run(
        vertex_registry.RegisterConfig(**{**SETTINGS, **place, **what, **settings}), folder / "register"
    )


def champion_of(folder: Path) -> str:
    named = Pointer(str(folder / "registry"), NAME).read()
    assert named
    return named


def uploads(vertex: vertex_models.Vertex) -> int:
    return vertex.front.calls["UploadModel"]


def test_a_promoted_model_is_the_first_version_and_says_what_it_is(
    tmp_path: Path, vertex: vertex_models.Vertex, run_of: Any
) -> None:
    run = run_of(3)
    result = register(tmp_path, run)
    bundle = champion_of(tmp_path)
    (version,) = vertex.models.known[NAME]
    assert set(version.version_aliases) == {"default", "champion"}
    assert version.display_name == NAME
    assert version.artifact_uri == f"gs://models/shown/{NAME}/{bundle}"
    assert vertex.models.images == {"1": IMAGE}
    model = run.verdict.challenger.sha256
    assert version.labels["mlapp-bundle"] == bundle
    assert model.startswith(version.labels["mlapp-model"])
    assert run.verdict.data.startswith(version.labels["mlapp-data"])
    assert version.labels["mlapp-verdict"] == "promote"
    assert "95.00 % on 2,000 test images (95 % interval 93.9" in version.version_description
    assert model in version.version_description
    assert verify(storage.at(version.artifact_uri)).id == bundle
    told = json.loads(result.local("registered").read_text())
    assert told["versions"] == {bundle: "1"}
    assert told["aliases"] == {"default": "1", "champion": "1"}


def test_the_same_bundle_is_not_uploaded_again_and_its_aliases_are_mended(
    tmp_path: Path, vertex: vertex_models.Vertex, run_of: Any
) -> None:
    run = run_of(3)
    register(tmp_path, run)
    vertex.models.known[NAME][0].version_aliases = ["default"]
    register(tmp_path, run)
    assert uploads(vertex) == 1
    assert vertex.models.aliases(NAME) == {"default": "1", "champion": "1"}


def test_a_held_challenger_is_shown_beside_the_champion_until_a_promotion_settles_it(
    tmp_path: Path, vertex: vertex_models.Vertex, run_of: Any
) -> None:
    register(tmp_path, run_of(0, 2, 4, 6))
    held = run_of(0, 2, 4, 8)
    assert held.verdict.decision == "hold"
    register(tmp_path, held)
    register(tmp_path, held)
    assert vertex.models.aliases(NAME) == {"default": "1", "champion": "1", "challenger": "2"}
    challenger = vertex.models.known[NAME][1]
    assert challenger.labels["mlapp-verdict"] == "hold"
    assert verify(storage.at(challenger.artifact_uri)).model_sha256 == held.verdict.challenger.sha256
    assert not (tmp_path / "registry" / NAME / challenger.labels["mlapp-bundle"]).exists()

    kept = tmp_path / "held" / "result.json"
    storage.write_text(kept, held.promoted.model_dump_json())

    register(tmp_path, run_of(0))
    register(tmp_path, promoted=str(kept))

    assert vertex.models.aliases(NAME) == {"default": "3", "champion": "3"}
    assert uploads(vertex) == 3


@pytest.mark.parametrize("done", [0, 1, 2])
def test_aliases_that_were_moved_only_in_part_are_mended_by_the_next_start(
    tmp_path: Path, vertex: vertex_models.Vertex, run_of: Any, done: int
) -> None:
    """Given a champion and a challenger, then a promotion whose registration breaks off between two aliases."""
    register(tmp_path, run_of(0, 2, 4, 6))
    register(tmp_path, run_of(0, 2, 4, 8))
    better = run_of(0)
    lost = RefusedError(grpc.StatusCode.INTERNAL, "lost")
    vertex.front.faults = {"MergeVersionAliases": [*[None] * done, lost]}
    with pytest.raises(TryAgainError, match="lost"):
        register(tmp_path, better)
    register(tmp_path, better)
    assert vertex.models.aliases(NAME) == {"default": "3", "champion": "3"}


def test_a_rejected_challenger_is_not_uploaded(tmp_path: Path, vertex: vertex_models.Vertex, run_of: Any) -> None:
    """Given a champion from before the registration was switched on, then it is registered, and it alone."""
    run_of(3)
    rejected = run_of(3, 5, 7)
    assert rejected.verdict.decision == "reject"
    register(tmp_path, rejected)
    (version,) = vertex.models.known[NAME]
    assert version.labels["mlapp-bundle"] == champion_of(tmp_path)


def test_before_the_first_promotion_there_is_nothing_to_register(
    tmp_path: Path, vertex: vertex_models.Vertex, run_of: Any
) -> None:
    rejected = run_of(3, accuracy=0.99)
    assert "has no champion yet, and nothing was held" in register(tmp_path, rejected).headline
    assert not vertex.front.calls


def test_after_a_rollback_the_aliases_follow(tmp_path: Path, vertex: vertex_models.Vertex, run_of: Any) -> None:
    register(tmp_path, run_of(0, 2, 4, 6))
    register(tmp_path, run_of(0))
    assert vertex.models.aliases(NAME) == {"default": "2", "champion": "2"}
    moves.rollback(str(tmp_path / "registry"), NAME)
    result = register(tmp_path, bundle=str(tmp_path / "registry" / NAME))
    assert vertex.models.aliases(NAME) == {"default": "1", "champion": "1"}
    assert uploads(vertex) == 2
    assert "champion is version 1" in result.headline


def test_a_run_that_does_not_ask_for_it_says_so_and_calls_nobody(
    tmp_path: Path, vertex: vertex_models.Vertex, run_of: Any
) -> None:
    result = register(tmp_path, run_of(3), model_registry=False)
    assert result.headline == "not asked for (registration.model_registry=false)"
    assert not vertex.front.calls


def test_a_bundle_that_is_no_longer_champion_is_registered_without_an_alias(
    tmp_path: Path, vertex: vertex_models.Vertex, run_of: Any
) -> None:
    former = run_of(0, 2, 4, 6).promoted.artifact("manifest").parent
    register(tmp_path, run_of(0))
    register(tmp_path, bundle=str(former), model_registry=False)
    assert vertex.models.aliases(NAME) == {"default": "1", "champion": "1"}
    assert vertex.models.known[NAME][1].labels["mlapp-bundle"] == former.name


def test_another_serving_image_makes_another_version(tmp_path: Path, vertex: vertex_models.Vertex, run_of: Any) -> None:
    """Given a version without a container, which none can be added to, then the container's version takes its place."""
    run = run_of(3)
    register(tmp_path, run, serving_image=None)
    assert vertex.models.known[NAME][0].artifact_uri == ""
    assert f"gs://models/shown/{NAME}/" in vertex.models.known[NAME][0].version_description
    register(tmp_path, run)
    assert vertex.models.images == {"1": "", "2": IMAGE}
    assert vertex.models.aliases(NAME) == {"default": "2", "champion": "2"}


def test_a_registry_in_a_bucket_is_shown_as_it_lies(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any, vertex: Any
) -> None:
    registry = f"gs://models/{tmp_path.name}"
    vetted = chain.vet(tmp_path, planted_data, planted_teacher, planted_student(3), registry=registry)
    config = chain.promote_config(tmp_path, planted_data, vetted).model_copy(update={"registry": registry})
    promoted = promoter.run(config, tmp_path / "promote")
    register(tmp_path, promoted=promoted.uri, artifacts=None)
    assert vertex.models.known[NAME][0].artifact_uri == str(promoted.artifact("manifest").parent)


def test_the_models_area_is_where_bundles_go_when_it_is_in_a_bucket(
    tmp_path: Path, vertex: vertex_models.Vertex, run_of: Any
) -> None:
    register(tmp_path, run_of(3), artifacts=None, storage={"models": "gs://models/area"})
    assert vertex.models.known[NAME][0].artifact_uri.startswith(f"gs://models/area/registered/{NAME}/")


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
        told, failed = second.communicate(timeout=60)

    assert second.returncode == 0, failed
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
    with pytest.raises(UserError, match=r"could not take the model \(cannot read gs://models/shown\): mend what that"):
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
        ({}, {"serving_image": "example/serving:1"}, r"refuses that \(example/serving:1 is not in Artifact"),
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
    monkeypatch.setenv("MLAPP_VERTEX_ENDPOINT", "mars-north1-aiplatform.invalid:443")
    with pytest.raises(UserError, match=r"there is no mars-north1-aiplatform\.googleapis\.com: give a region"):
        register(tmp_path, run_of(3), cloud=Cloud(project=PROJECT, region="mars-north1"))


def test_without_credentials_the_command_says_how_to_log_in(tmp_path: Path, cloud: dict[str, str], run_of: Any) -> None:
    environ = {**os.environ, "HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path), "NO_GCE_CHECK": "true"}
    ended = tmp_path / "ended.json"
    line = [*command(tmp_path, run_of(3)), "--ended-to", str(ended)]
    done = subprocess.run(line, capture_output=True, text=True, env=environ, check=False, timeout=60)
    assert done.returncode == 2, done.stderr
    assert "run `gcloud auth application-default login`" in json.loads(ended.read_text())["reason"]
