"""Promotion: whole or not at all, the same bundle for the same content, and never against a person's rollback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import chain
import planted
import pytest

from mlapp import storage
from mlapp.errors import UserError
from mlapp.registry import promoter
from mlapp.registry.bundle import verify
from mlapp.registry.pointer import Pointer
from mlapp.result import Hop, StageResult
from mlapp.vetting.scorer import score

BUNDLE = {
    *("model.int8.tflite", "model.float32.tflite", "model.keras", "labels.json", "preprocessing.json", "metrics.json"),
    *("verdict.json", "manifest.json", "MODEL_CARD.md", "model_card.html"),
    *("frontier.json", "frontier.png", "confusion.png"),
}


@pytest.fixture
def vetted(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any
) -> chain.Chain:
    return chain.vet(tmp_path, planted_data, planted_teacher, planted_student(3))


def pointer(folder: Path) -> Pointer:
    return Pointer(str(folder / "registry"), "fashion_mnist")


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
    assert pointer(tmp_path).read() == manifest.id == folder.name
    assert manifest.predecessor is None
    assert manifest.data["sha256"]["test_images"] == planted_data.artifacts["test_images"].sha256
    split = planted.images(100)
    answers = score(storage.fetch(folder / manifest.model), split.images).argmax(1)
    assert (answers == split.labels).mean() == 0.95
    assert json.loads((folder / "labels.json").read_text()) == list(planted.CLASSES)
    for file in folder.glob("*.[jmh][sdt]*"):
        assert str(tmp_path) not in file.read_text(encoding="utf-8"), file.name
    assert "```bash\nmake run PRESET=" in (folder / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_the_card_tells_accuracy_n_interval_gates_and_classes(
    tmp_path: Path, planted_data: StageResult, vetted: chain.Chain
) -> None:
    result = promoter.run(chain.promote_config(tmp_path, planted_data, vetted), tmp_path / "promote")
    card = result.artifact("model_card").read_text(encoding="utf-8")
    page = (result.artifact("model_card").parent / "model_card.html").read_text(encoding="utf-8")
    for text in (card, page):
        for expected in ("95.00 %", "2,000", "93.96 – 95.87", "class b", "lowest recall of a class", "promote"):
            assert expected in text
    assert "<script" not in page
    assert page.count("data:image/png;base64,") == 2


def test_the_card_compares_with_the_baseline_and_tells_what_each_model_cost(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any, planted_baseline: Any
) -> None:
    """Given a student that names its teacher, then its cost is told with the teacher's, the baseline's alone."""

    def costing(result: StageResult, seconds: float, **inputs: str) -> StageResult:
        folder = shutil.copytree(result.folder, tmp_path / "models" / Path(result.folder).name)
        timings = {**result.timings, "cpu_s": seconds}
        changed = result.model_copy(update={"timings": timings, "inputs": inputs, "folder": str(folder)})
        storage.write_text(folder / "result.json", changed.model_dump_json())
        return changed

    teacher, baseline = costing(planted_teacher, 600), costing(planted_baseline, 45)
    student = costing(planted_student(3), 30, teacher=teacher.folder)
    run = chain.vet(tmp_path, planted_data, teacher, student, baseline)
    config = chain.promote_config(tmp_path, planted_data, run)
    config = config.model_copy(update={"results": (planted_data.uri, teacher.uri, student.uri, baseline.uri)})
    promoted = promoter.run(config, tmp_path / "promote")
    card = promoted.artifact("model_card").read_text(encoding="utf-8")
    page = (promoted.artifact("model_card").parent / "model_card.html").read_text(encoding="utf-8")
    rows = {line.split(" | ")[0].strip("| *"): line for line in card.splitlines() if line.count(" | ") == 5}
    assert rows["this model"].endswith("| 30 (630) |")
    assert rows["teacher, float32"].endswith("| 600 |")
    assert rows["baseline, boosted trees"].endswith("| 45 |")
    assert "| 80.00 % |" in rows["baseline, boosted trees"]
    assert "- Against the baseline, boosted trees: +15.00 points" in card
    assert "is the baseline, to compare with" in card
    for expected in ("baseline, boosted trees", "30 (630)", "80.00 %", "+15.00 ("):
        assert expected in page


def test_the_cost_of_a_model_whose_maker_is_not_known_is_left_open(
    tmp_path: Path, planted_data: StageResult, vetted: chain.Chain
) -> None:
    promoted = promoter.run(chain.promote_config(tmp_path, planted_data, vetted), tmp_path / "promote")
    card = promoted.artifact("model_card").read_text(encoding="utf-8")
    assert next(line for line in card.splitlines() if line.startswith("| **this model**")).endswith("| – |")
    assert "boosted trees" not in card


def test_the_card_tells_where_a_stage_ran_only_if_it_was_placed_somewhere(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, vetted: chain.Chain
) -> None:
    quiet = promoter.run(chain.promote_config(tmp_path, planted_data, vetted), tmp_path / "quiet")
    assert "Where it ran" not in quiet.artifact("model_card").read_text(encoding="utf-8")
    hops = [Hop(place="europe-west4 spot", outcome="no quota: <b>a|b</b>"), Hop(place="europe-west1", outcome="ran")]
    folder = tmp_path / "placed"
    shutil.copytree(planted_teacher.folder, folder)
    placed = planted_teacher.model_copy(update={"hops": hops, "folder": str(folder)})
    storage.write_text(folder / "result.json", placed.model_dump_json())
    config = chain.promote_config(tmp_path, planted_data, vetted)
    config = config.model_copy(update={"results": (placed.uri,), "registry": str(tmp_path / "another")})
    promoted = promoter.run(config, tmp_path / "promote")
    card = promoted.artifact("model_card").read_text(encoding="utf-8")
    page = (promoted.artifact("model_card").parent / "model_card.html").read_text(encoding="utf-8")
    assert "| europe-west4 spot | no quota: <b>a\\|b</b> |" in card
    assert "| europe-west1 | ran |" in card
    assert "<td>europe-west4 spot</td><td>no quota: &lt;b&gt;a|b&lt;/b&gt;</td>" in page


def test_names_from_the_data_are_escaped_on_the_page(
    tmp_path: Path, planted_teacher: StageResult, planted_student: Any
) -> None:
    data = planted.data(tmp_path / "data", classes=("<script>alert(1)</script>", *planted.CLASSES[1:]))
    promoted = chain.run(tmp_path, data, planted_teacher, planted_student(3)).promoted
    page = (promoted.artifact("model_card").parent / "model_card.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


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
    assert [(move["before"], move["champion"]) for move in pointer(tmp_path).history()] == [(None, ids[0]), tuple(ids)]


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
    moving = pointer(tmp_path)
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
    pointer(tmp_path).swap(new, old, {"why": "rolled back"})

    again = chain.run(tmp_path, planted_data, planted_teacher, planted_student(0, 2), **floors)

    assert "was promoted before and rolled back" in again.promoted.headline
    assert pointer(tmp_path).read() == old
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
    pointer(tmp_path).swap(None, "0123456789ab", {})
    with pytest.raises(UserError, match="restore it, or move the pointer"):
        chain.vet(tmp_path, planted_data, planted_teacher, planted_student(3))


@pytest.mark.parametrize("content", [b"", b"../../etc\n", b"\xff\xfe", b"0123456789ab cdef"])
def test_a_pointer_that_names_no_bundle_is_told_and_not_taken_for_none(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "registry" / "fashion_mnist"
    folder.mkdir(parents=True)
    (folder / "CHAMPION").write_bytes(content)
    with pytest.raises(UserError, match="write the champion's bundle id into it"):
        pointer(tmp_path).read()


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
    storage.write_text(pointer(tmp_path).folder / "CHAMPION", before)
    again = chain.run(tmp_path, planted_data, planted_teacher, planted_student(0, 2), **floors, seed=1)
    assert again.verdict.decision == "promote"
    assert again.promoted.headline.startswith("hold: ")
    assert pointer(tmp_path).read() == before


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
    assert pointer(tmp_path).read() is None


def test_a_file_in_the_registrys_way_ends_with_exit_code_2_and_one_line(
    tmp_path: Path, planted_data: StageResult, vetted: chain.Chain
) -> None:
    (tmp_path / "registry").write_text("in the way")
    done = subprocess.run(command(tmp_path, planted_data, vetted), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "is in the way" in done.stderr


KILLER = """
import os, runpy, sys
place, when = int(sys.argv.pop(1)), sys.argv.pop(1)
replace, calls = os.replace, 0
def dying(*paths):
    global calls
    calls += 1
    if calls == place and when == "before": os._exit(9)
    replace(*paths)
    if calls == place: os._exit(9)
os.replace = dying
runpy.run_module("mlapp.registry.promoter", run_name="__main__", alter_sys=True)
"""


def command(folder: Path, data: StageResult, vetted: chain.Chain, *killer: str) -> list[str]:
    start = [sys.executable, "-c", KILLER, *killer] if killer else [sys.executable, "-m", "mlapp.registry.promoter"]
    return [
        *(*start, "--verdict", vetted.vetted.uri, "--challenger", vetted.challenger.uri, "--data", data.uri),
        *("--registry", str(folder / "registry"), "--workdir", str(folder / "promote")),
    ]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("place", [1, 2, 3, 4, 5, 6])
def test_a_kill_at_any_file_move_leaves_the_registry_before_or_after(
    tmp_path: Path, planted_data: StageResult, vetted: chain.Chain, place: int, when: str
) -> None:
    """Given a kill around each move (two cards, bundle, history, pointer, result), when rerun, then all is well."""
    killed = subprocess.run(command(tmp_path, planted_data, vetted, str(place), when), check=False, env=os.environ)
    assert killed.returncode == 9
    named = pointer(tmp_path).read()
    assert (named is not None) == (place > 5 or (place, when) == (5, "after"))
    if named:
        verify(storage.at(tmp_path / "registry" / "fashion_mnist" / named))

    subprocess.run(command(tmp_path, planted_data, vetted), check=True, capture_output=True)

    named = pointer(tmp_path).read()
    assert named
    assert verify(storage.at(tmp_path / "registry" / "fashion_mnist" / named)).id == named
    bundles = [path for path in (tmp_path / "registry" / "fashion_mnist").iterdir() if len(path.name) == 12]
    assert [path.name for path in bundles] == [named]
    assert [move["champion"] for move in pointer(tmp_path).history()] == [named]


def test_the_same_content_makes_the_same_bundle(tmp_path: Path, planted_data: StageResult, vetted: chain.Chain) -> None:
    ids = []
    for registry in ("one", "two"):
        config = chain.promote_config(tmp_path, planted_data, vetted).model_copy(
            update={"registry": str(tmp_path / registry)}
        )
        ids.append(promoter.run(config, tmp_path / "promote").artifact("manifest").parent.name)
    assert ids[0] == ids[1]


def test_of_several_runs_that_promote_the_same_model_at_once_one_does(
    tmp_path: Path, planted_data: StageResult, vetted: chain.Chain
) -> None:
    """Given whole commands, each with a draft of its own, then one bundle and one line are left, and nothing else."""
    line = [sys.executable, "-m", "mlapp.registry.promoter", "--verdict", vetted.vetted.uri]
    line += [
        "--challenger",
        vetted.challenger.uri,
        "--data",
        planted_data.uri,
        "--registry",
        str(tmp_path / "registry"),
    ]
    started = [
        subprocess.Popen(
            [*line, "--workdir", str(tmp_path / f"promote-{number}"), "tracking.wandb=off"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    errors = [process.communicate(timeout=120)[1] for process in started]
    codes = [process.returncode for process in started]
    assert set(codes) <= {0, 2}
    assert 0 in codes
    assert all("the champion changed" in error for code, error in zip(codes, errors, strict=True) if code == 2)
    folder = tmp_path / "registry" / "fashion_mnist"
    [move] = pointer(tmp_path).history()
    assert {path.name for path in folder.iterdir()} == {move["champion"], "CHAMPION", "HISTORY.jsonl", ".lock"}
    assert verify(storage.at(folder / move["champion"])).id == move["champion"]
