"""The model card: what a bundle tells a person, as text and as a page."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import chain
import planted
import pytest
import shelf

from mlapp import storage
from mlapp.registry import promoter
from mlapp.result import Hop, StageResult


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
    assert r"| europe-west4 spot | no quota: \<b\>a\|b\</b\> |" in card
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


@pytest.mark.parametrize("artifacts", ["best", "best trials"])
def test_the_card_tells_of_a_search_only_if_one_was_made(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, vetted: chain.Chain, artifacts: str
) -> None:
    folder = shutil.copytree(planted_teacher.folder, tmp_path / "tune")
    files = dict.fromkeys(artifacts.split(), next(iter(planted_teacher.artifacts.values())))
    tune = planted_teacher.model_copy(update={"stage": "tune", "folder": str(folder), "artifacts": files})
    storage.write_text(folder / "result.json", tune.model_dump_json())
    config = chain.promote_config(tmp_path, planted_data, vetted).model_copy(update={"results": (tune.uri,)})
    promoted = promoter.run(config, tmp_path / "promote")
    card = promoted.artifact("model_card").read_text(encoding="utf-8")
    assert ("| tune |" in card, f"tune {tune.key[:12]}" in card) == (("trials" in artifacts),) * 2
    assert f"tune/{tune.key[:8]}" in promoted.artifact("manifest").read_text(encoding="utf-8")


def test_names_from_the_data_are_markup_of_neither_card(
    tmp_path: Path, planted_teacher: StageResult, planted_student: Any
) -> None:
    """Given class names with Markdown, HTML, math, terminal escapes and shell, then both cards show them as text."""
    hostile = ("a|b", "<img src=x>", "![x](http://e)", "`touch X`", "$\\frac$", "x\x1b[31m", "'; touch X;'")
    data = planted.data(tmp_path / "data", classes=(*hostile, *planted.CLASSES[len(hostile) :]))
    promoted = chain.run(tmp_path, data, planted_teacher, planted_student(3)).promoted
    card = promoted.artifact("model_card").read_text(encoding="utf-8")
    page = (promoted.artifact("model_card").parent / "model_card.html").read_text(encoding="utf-8")
    table = card.partition("## Classes")[2].partition("![confusion")[0]
    cells = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| ")][1:]
    assert cells[:2] == [r"| a\|b", r"| \<img src=x\>"]
    assert cells[2:5] == [r"| !\[x\](http://e)", r"| \`touch X\`", r"| \$\\frac\$"]
    assert "\x1b" not in card + page
    assert "<img src=x>" not in page


def test_the_card_names_no_key(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any
) -> None:
    keys = shelf.pair(tmp_path, "secretly_placed")
    vetted = chain.vet(tmp_path, planted_data, planted_teacher, planted_student(3), signing=keys)
    promoted = promoter.run(chain.promote_config(tmp_path, planted_data, vetted, signing=keys), tmp_path / "promote")
    files = [path for path in promoted.artifact("model_card").parent.iterdir() if path.suffix != ".png"]
    assert "manifest.sig" in {path.name for path in files}
    assert [path.name for path in files if b"secretly_placed" in path.read_bytes()] == []


def test_the_lines_that_open_the_keras_file_do(
    tmp_path: Path, planted_data: StageResult, vetted: chain.Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given the bundle as a folder, then what its card says, typed there, opens the network that was converted."""
    from mlapp.vetting.scorer import score

    result = promoter.run(chain.promote_config(tmp_path, planted_data, vetted), tmp_path / "promote")
    card = result.artifact("model_card").read_text(encoding="utf-8")
    assert "Keras 3 cannot" in card
    [lines] = [block for block in card.split("```python\n")[1:] if "import tf_keras" in block]
    folder = Path(result.artifact("model_card").parent.path)
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(lines.partition("```")[0], names)
    images = planted.images(50).images
    answers = names["network"](images.astype("float32")).numpy()
    assert (answers.argmax(1) == score(folder / "model.float32.tflite", images).argmax(1)).all()
