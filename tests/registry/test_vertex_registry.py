"""Registration: Model Registry shows what the registry holds, whatever happened on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import chain
import grpc
import pytest
from loopback import vertex_models
from loopback.vertex_model_rules import RefusedError
from registered import IMAGE, NAME, champion_of, register, uploads

from mlapp import storage
from mlapp.errors import TryAgainError
from mlapp.registry import moves, promoter
from mlapp.registry.bundle import verify
from mlapp.result import StageResult

pytest_plugins = "loopback.fixtures"
pytestmark = pytest.mark.usefixtures("cloud")


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
