"""Promotion: whole or not at all, the same bundle for the same content, and never against a person's rollback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import chain
import planted
import pytest

from mlapp import storage
from mlapp.errors import UserError
from mlapp.registry import promoter
from mlapp.registry.bundle import verify
from mlapp.registry.moves import rollback
from mlapp.registry.pointer import Pointer
from mlapp.result import StageResult
from mlapp.vetting.scorer import score

BUNDLE = {
    *("model.int8.tflite", "model.float32.tflite", "model.keras", "labels.json", "preprocessing.json", "metrics.json"),
    *("verdict.json", "manifest.json", "MODEL_CARD.md", "model_card.html"),
    *("frontier.json", "frontier.png", "confusion.png"),
}


def tree(folder: Path) -> dict[str, bytes]:
    registry = folder / "registry"
    return {str(path.relative_to(registry)): path.read_bytes() for path in registry.rglob("*") if path.is_file()}


def test_a_bundle_holds_what_its_manifest_says_and_works_on_its_own(
    tmp_path: Path, planted_data: StageResult, vetted: chain.Chain
) -> None:
    result = promoter.run(chain.promote_config(tmp_path, planted_data, vetted), tmp_path / "promote")
    folder = result.artifact("manifest").parent
    manifest = verify(folder)
    assert {path.name for path in folder.iterdir()} == BUNDLE
    assert chain.pointer(tmp_path).read() == manifest.id == folder.name
    assert manifest.predecessor is None
    assert manifest.data["sha256"]["test_images"] == planted_data.artifacts["test_images"].sha256
    split = planted.images(100)
    answers = score(storage.fetch(folder / manifest.model), split.images).argmax(1)
    assert (answers == split.labels).mean() == 0.95
    assert json.loads((folder / "labels.json").read_text()) == list(planted.CLASSES)
    for file in folder.glob("*.[jmh][sdt]*"):
        assert str(tmp_path) not in file.read_text(encoding="utf-8"), file.name
    assert "```bash\nmake run PRESET=" in (folder / "MODEL_CARD.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "decision"), [({"accuracy": 0.99}, "reject"), ({"class_recall_drop": 1.0}, "hold")]
)
def test_without_promotion_the_registry_stays_as_it_is(
    tmp_path: Path,
    planted_data: StageResult,
    planted_teacher: StageResult,
    planted_student: Any,
    settings: dict[str, Any],
    decision: str,
) -> None:
    champion = chain.run(tmp_path, planted_data, planted_teacher, planted_student(3)).promoted.artifact("model_card")
    before = tree(tmp_path)
    other = chain.run(tmp_path, planted_data, planted_teacher, planted_student(5), **settings)
    told = f"{decision}: fashion_mnist/{champion.parent.name} stays the champion; {champion}"
    assert other.promoted.headline == told
    assert list(other.promoted.artifacts) == ["model_card"]
    assert tree(tmp_path) == before


def test_a_first_challenger_that_is_rejected_leaves_no_champion(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any
) -> None:
    alone = chain.run(tmp_path, planted_data, planted_teacher, planted_student(3), accuracy=0.99)
    assert alone.promoted.headline == "reject: there still is no champion"
    assert alone.promoted.artifacts == {}


def test_a_second_promotion_names_its_predecessor_and_the_history_tells_both(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any
) -> None:
    floors = {"accuracy": 0.5, "class_recall": 0.0}
    first = chain.run(tmp_path, planted_data, planted_teacher, planted_student(0, 2, 4, 6), **floors)
    second = chain.run(tmp_path, planted_data, planted_teacher, planted_student(0, 2), **floors)
    ids = [run.promoted.artifact("manifest").parent.name for run in (first, second)]
    assert verify(second.promoted.artifact("manifest").parent).predecessor == ids[0]
    assert [(move["before"], move["champion"]) for move in chain.pointer(tmp_path).history()] == [
        (None, ids[0]),
        tuple(ids),
    ]


def test_a_champion_that_changed_since_the_vetting_stops_the_promotion(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any, vetted: chain.Chain
) -> None:
    other = planted_student(7)
    chain.run(tmp_path, planted_data, planted_teacher, other)
    before = tree(tmp_path)
    with pytest.raises(UserError, match="the champion changed since the vetting"):
        promoter.run(chain.promote_config(tmp_path, planted_data, vetted), tmp_path / "promote")
    assert tree(tmp_path) == before


def test_the_pointer_moves_only_from_where_it_was_expected(tmp_path: Path) -> None:
    moving = chain.pointer(tmp_path)
    first, second = "a" * 12, "b" * 12
    moving.swap(None, first, {})
    with pytest.raises(UserError, match="the champion changed meanwhile"):
        moving.swap(None, second, {})
    moving.swap(first, second, {})
    assert moving.read() == second
    assert len(moving.history()) == 2


def test_a_rollback_by_hand_is_not_undone_by_a_rerun(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any
) -> None:
    floors = {"accuracy": 0.5, "class_recall": 0.0}
    first = chain.run(tmp_path, planted_data, planted_teacher, planted_student(0, 2, 4, 6), **floors)
    second = chain.run(tmp_path, planted_data, planted_teacher, planted_student(0, 2), **floors)
    old, new = (run.promoted.artifact("manifest").parent.name for run in (first, second))
    chain.pointer(tmp_path).swap(new, old, {"why": "rolled back"})

    again = chain.run(tmp_path, planted_data, planted_teacher, planted_student(0, 2), **floors)

    assert "was promoted before and rolled back" in again.promoted.headline
    assert chain.pointer(tmp_path).read() == old
    config = chain.promote_config(tmp_path, planted_data, again, again=True)
    assert f"promoted fashion_mnist/{new}" in promoter.run(config, tmp_path / "promote").headline


@pytest.mark.parametrize("damage", ["alter", "remove", "add", "manifest"])
def test_a_tampered_champion_is_named_before_anything_is_compared_with_it(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any, damage: str
) -> None:
    promoted = chain.run(tmp_path, planted_data, planted_teacher, planted_student(3)).promoted
    folder = Path(promoted.artifact("manifest").parent.path)
    if damage == "alter":
        content = bytearray((folder / "model.int8.tflite").read_bytes())
        content[-1] ^= 1
        (folder / "model.int8.tflite").write_bytes(content)
    elif damage == "remove":
        (folder / "labels.json").unlink()
    elif damage == "add":
        (folder / "extra.py").write_text("print()")
    else:
        text = (folder / "manifest.json").read_text().replace('"fashion_mnist"', '"other_model"')
        (folder / "manifest.json").write_text(text)
    gist = {
        "alter": r"model\.int8\.tflite was altered",
        "remove": r"labels\.json is missing",
        "add": r"extra\.py is extra",
        "manifest": r"manifest\.json was altered",
    }[damage]
    with pytest.raises(UserError, match=gist):
        chain.vet(tmp_path, planted_data, planted_teacher, planted_student(5))


def test_a_dangling_pointer_is_told(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any
) -> None:
    chain.pointer(tmp_path).swap(None, "0123456789ab", {})
    with pytest.raises(UserError, match="restore it, or move the pointer"):
        chain.vet(tmp_path, planted_data, planted_teacher, planted_student(3))


@pytest.mark.parametrize("content", [b"", b"../../etc\n", b"\xff\xfe", b"0123456789ab cdef"])
def test_a_pointer_that_names_no_bundle_is_told_and_not_taken_for_none(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "registry" / "fashion_mnist"
    folder.mkdir(parents=True)
    (folder / "CHAMPION").write_bytes(content)
    with pytest.raises(UserError, match="write the champion's bundle id into it"):
        chain.pointer(tmp_path).read()


def test_a_verdict_on_another_model_promotes_nothing(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any, vetted: chain.Chain
) -> None:
    """Given the verdict on one challenger, when another one is handed over with it, then nothing is promoted."""
    other = chain.vet(tmp_path, planted_data, planted_teacher, planted_student(0, 2, 4, 6))
    swapped = chain.Chain(other.challenger, vetted.vetted, vetted.vetted)
    with pytest.raises(UserError, match="is of another model or of other data"):
        promoter.run(chain.promote_config(tmp_path, planted_data, swapped), tmp_path / "promote")
    assert tree(tmp_path) == {}


def test_a_verdict_on_other_data_promotes_nothing(tmp_path: Path, vetted: chain.Chain) -> None:
    other = planted.data(tmp_path / "other", classes=tuple("klmnopqrst"))
    with pytest.raises(UserError, match="is of another model or of other data"):
        promoter.run(chain.promote_config(tmp_path, other, vetted), tmp_path / "promote")
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_a_model_that_is_no_longer_the_vetted_one_is_not_promoted(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, damage: str
) -> None:
    """Given a model that was trained again into the same folder, or removed, after the vetting, then it stays out."""
    student = planted.models(tmp_path / "student", "student", "student", errors=[3])
    vetted = chain.vet(tmp_path, planted_data, planted_teacher, student)
    if damage == "altered":
        student.local("int8").write_bytes(planted_teacher.local("int8").read_bytes())
    else:
        student.local("keras").unlink()
    with pytest.raises(UserError, match=rf"the choose result cannot be trusted, \w+ (was|is) {damage}"):
        promoter.run(chain.promote_config(tmp_path, planted_data, vetted), tmp_path / "promote")
    assert tree(tmp_path) == {}


def test_a_rolled_back_model_stays_out_when_it_is_vetted_anew(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any
) -> None:
    """Given a rollback by hand, when other settings give a new verdict on the same model, then it is not promoted."""
    floors = {"accuracy": 0.5, "class_recall": 0.0}
    first = chain.run(tmp_path, planted_data, planted_teacher, planted_student(0, 2, 4, 6), **floors)
    chain.run(tmp_path, planted_data, planted_teacher, planted_student(0, 2), **floors)
    before = first.promoted.artifact("manifest").parent.name
    rollback(str(tmp_path / "registry"), "fashion_mnist")
    again = chain.run(tmp_path, planted_data, planted_teacher, planted_student(0, 2), **floors, seed=1)
    assert again.verdict.decision == "promote"
    assert again.promoted.headline.startswith("hold: ")
    assert chain.pointer(tmp_path).read() == before


def test_a_remote_registry_gets_the_same_bundle_manifest_last(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any
) -> None:
    """Given a registry that is no local folder, when promoting, then it holds what a local one would, and works."""
    registry = f"memory://{tmp_path.name}/registry"
    floors = {"accuracy": 0.5, "class_recall": 0.0}
    for errors in ((0, 2, 4, 6), (0, 2)):
        run = chain.vet(tmp_path, planted_data, planted_teacher, planted_student(*errors), registry=registry, **floors)
        config = chain.promote_config(tmp_path, planted_data, run).model_copy(update={"registry": registry})
        place = promoter.run(config, tmp_path / "promote").artifact("manifest").parent
    remote = Pointer(registry, "fashion_mnist")
    assert run.verdict.champion_before == verify(place).predecessor
    assert {path.name for path in place.iterdir()} == BUNDLE
    assert remote.read() == place.name
    assert len(remote.history()) == 2
    assert promoter.run(config, tmp_path / "promote").headline.startswith("already the champion")
    assert tree(tmp_path) == {}


def test_an_altered_verdict_promotes_nothing(tmp_path: Path, planted_data: StageResult, vetted: chain.Chain) -> None:
    path = vetted.vetted.local("verdict")
    path.write_text(path.read_text().replace('"decision": "promote"', '"decision":  "promote"'))
    with pytest.raises(UserError, match="the vet result cannot be trusted, verdict was altered"):
        promoter.run(chain.promote_config(tmp_path, planted_data, vetted), tmp_path / "promote")
    assert chain.pointer(tmp_path).read() is None


def test_the_same_content_makes_the_same_bundle(tmp_path: Path, planted_data: StageResult, vetted: chain.Chain) -> None:
    ids = []
    for registry in ("one", "two"):
        config = chain.promote_config(tmp_path, planted_data, vetted).model_copy(
            update={"registry": str(tmp_path / registry)}
        )
        ids.append(promoter.run(config, tmp_path / "promote").artifact("manifest").parent.name)
    assert ids[0] == ids[1]
