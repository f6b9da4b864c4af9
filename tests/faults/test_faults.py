"""A short version of ``make fault-test``: some stages killed or without a disk, races, some hundred spoiled inputs."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from tests.faults import disks, inputs, kills, promotions
from tests.faults.__main__ import prepared
from tests.faults.steps import STEPS, reference

pytest_plugins = "loopback.fixtures"


@pytest.mark.timeout(900)
def test_stages_that_were_killed_or_had_no_disk_end_as_undisturbed_ones(tmp_path: Path) -> None:
    source = prepared(tmp_path)
    seconds = reference(tmp_path / "undisturbed", source)
    given = (tmp_path / "undisturbed", tmp_path / "killed", source)
    chosen = [step for step in STEPS if step.name in {"extract", "transform", "train", "promote"}]
    killed = list(kills.at_random(*given, seconds, 1, 1, chosen))
    assert [kill for kill in killed if kill.wrong] == []
    assert len(killed) == 4
    moved = list(kills.around_moves(*given, [step for step in STEPS if step.name == "choose"]))
    assert [kill for kill in moved if kill.wrong] == []
    assert len(moved) == 8
    if not disks.possible():
        pytest.skip("the kills are survived; no disk was taken away, for this machine lets nobody mount one")
    chosen = [step for step in STEPS if step.name in {"transform", "promote"}]
    lost = list(disks.taken_away(*given, chosen, shares=(0.3,)))
    assert [fault for fault in lost if fault.wrong] == []
    assert len(lost) == 4


@pytest.mark.parametrize("mode", ["once", "retry"])
def test_of_eight_processes_that_promote_at_once_no_move_is_lost(
    cloud: dict[str, str], tmp_path: Path, mode: str
) -> None:
    for registry in (str(tmp_path), f"gs://models/{uuid.uuid4().hex}"):
        assert promotions.race(registry, 8, mode).lost == 0


@pytest.mark.timeout(300)
def test_signed_moves_in_bad_weather_are_done_once_or_reported_as_failed(cloud: dict[str, str], tmp_path: Path) -> None:
    assert promotions.in_bad_weather(tmp_path, cloud["STORAGE_EMULATOR_HOST"], 4, seed=3, kills=0.2) == []


@pytest.mark.parametrize("kind", inputs.KINDS)
def test_spoiled_input_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(inputs, "KINDS", {kind: inputs.KINDS[kind]})
    found = list(inputs.spoiled(tmp_path, 60, 0))
    assert len(found) == 60
    assert [each for each in found if each.wrong] == []
