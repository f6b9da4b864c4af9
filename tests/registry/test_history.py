"""A history's lines hang together: one that is changed, left out or put in is noticed, and where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import chain
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlapp import storage
from mlapp.errors import UserError
from mlapp.registry import history, integrity
from mlapp.registry.bundle import Manifest
from mlapp.registry.pointer import Pointer
from mlapp.result import StageResult

LENIENT = {"accuracy": 0.5, "class_recall": 0.0, "class_recall_drop": 1.0}


def written(moves: int = 4) -> str:
    text = ""
    for number in range(moves):
        text = history.appended(text, {"champion": f"{number:012x}", "why": "größer & better"})
    return text


def test_what_was_appended_is_told_in_order() -> None:
    found = history.moves(written(), "HISTORY")
    assert [move["champion"] for move in found] == [f"{number:012x}" for number in range(4)]
    assert found[0]["previous"] is None
    assert len({move["previous"] for move in found}) == 4


@given(why=st.text())
def test_a_reason_may_hold_any_character(why: str) -> None:
    text = history.appended(history.appended("", {"champion": "a" * 12, "why": why}), {"champion": "b" * 12})
    assert [move.get("why") for move in history.moves(text, "HISTORY")] == [why, None]
    assert history.holds(text, history.head(text))


@given(line=st.integers(0, 2), what=st.sampled_from(["change", "drop", "double", "swap", "unchain", "garble"]))
def test_a_line_that_was_tampered_with_is_told(line: int, what: str) -> None:
    lines = written().splitlines(keepends=True)
    if what == "change":
        lines[line] = lines[line].replace("better", "bitter")
    elif what == "drop":
        del lines[line]
    elif what == "double":
        lines.insert(line, lines[line])
    elif what == "swap":
        lines[line], lines[line + 1] = lines[line + 1], lines[line]
    elif what == "unchain":
        move = json.loads(lines[line + 1])
        del move["previous"]
        lines[line + 1] = json.dumps(move) + "\n"
    else:
        lines[line] = lines[line][:-5] + "\n"
    with pytest.raises(UserError, match=r"^HISTORY (was altered at or before |is not a .* \()line \d"):
        history.moves("".join(lines), "HISTORY")


def test_a_line_is_added_to_a_history_that_lost_its_last_line_break() -> None:
    """Given a file that an editor wrote back without it, then the next move must not end up in the line before."""
    text = history.appended("", {"champion": "00000000000a"})
    after = history.appended(text.removesuffix("\n"), {"champion": "00000000000b"})
    assert after == history.appended(text, {"champion": "00000000000b"})
    assert len(history.moves(after, "HISTORY")) == 2


def test_lines_of_an_earlier_version_may_come_first() -> None:
    old = '{"champion": "00000000000a", "before": null}\n'
    text = history.appended(old + old, {"champion": "00000000000b"})
    assert len(history.moves(text, "HISTORY")) == 3
    with pytest.raises(UserError, match="altered at or before line 4"):
        history.moves(text + old, "HISTORY")
    with pytest.raises(UserError, match="altered at or before line 3"):
        history.moves(text.replace("0a", "0c", 1).replace("0a", "0d"), "HISTORY")


@pytest.fixture
def registry(tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any) -> Pointer:
    """Two promotions, one after the other."""
    for errors in ((0, 2, 4, 6), (0,)):
        chain.run(tmp_path, planted_data, planted_teacher, planted_student(*errors), **LENIENT)
    return Pointer(str(tmp_path / "registry"), "fashion_mnist")


def test_a_promotion_tells_who_when_and_why(registry: Pointer) -> None:
    first, second = registry.history()
    assert " on " in first["by"]
    assert first["why"].startswith("promote: 80.00 % on 2,000 test images")
    assert second["why"].startswith("promote: 95.00 % on 2,000 test images")
    assert second["at"] >= first["at"]
    assert second["verdict"] != first["verdict"]


def test_a_bundle_holds_the_history_that_it_followed(registry: Pointer) -> None:
    first, second = (Manifest.load(registry.folder / move["champion"] / "manifest.json") for move in registry.history())
    assert first.history is None
    assert history.holds(registry.history_text(), second.history)
    assert not integrity.damage(str(registry.folder.parent), "fashion_mnist")


def test_a_history_that_was_written_anew_or_cut_is_found_out(registry: Pointer) -> None:
    """Given somebody who can chain lines as well as we can, then the bundles still know what was."""
    first, second = registry.history()
    forged = ""
    for move in (first | {"why": "forged"}, second):
        forged = history.appended(forged, {name: value for name, value in move.items() if name != "previous"})
    storage.write_text(registry.folder / "HISTORY.jsonl", forged)
    assert registry.history()[0]["why"] == "forged"
    [found] = integrity.damage(str(registry.folder.parent), "fashion_mnist")
    assert f"lacks the history that bundle {second['champion']} followed" in found

    storage.write_text(registry.folder / "HISTORY.jsonl", forged.splitlines(keepends=True)[0])
    assert "the history ends with" in integrity.damage(str(registry.folder.parent), "fashion_mnist")[0]

    storage.write_text(registry.folder / "CHAMPION", first["champion"])
    [found] = integrity.damage(str(registry.folder.parent), "fashion_mnist")
    assert f"lacks the history that bundle {second['champion']} followed" in found


def test_a_bundle_in_the_place_of_one_that_was_promoted_is_found_out(registry: Pointer) -> None:
    """Given that twelve digits of a hash can be met by trying, then the history knows all of them."""
    forged = registry.history_text().replace('"manifest": "', '"manifest": "0')
    storage.write_text(registry.folder / "HISTORY.jsonl", history.appended("", json.loads(forged.splitlines()[0])))
    assert any(
        "is not the one that was promoted" in line
        for line in integrity.damage(str(registry.folder.parent), "fashion_mnist")
    )


def test_nothing_is_promoted_on_top_of_a_history_that_was_tampered_with(
    registry: Pointer, tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any
) -> None:
    text, champion = registry.history_text(), registry.read()
    storage.write_text(registry.folder / "HISTORY.jsonl", text.replace("80.00", "99.00"))
    with pytest.raises(UserError, match="was altered at or before line 2"):
        chain.run(tmp_path, planted_data, planted_teacher, planted_student(), **LENIENT)
    assert registry.read() == champion
