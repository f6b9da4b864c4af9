"""Rollback: one move of the pointer, to a bundle that is whole, and kept in the history."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import chain
import pytest

from mlapp.errors import UserError
from mlapp.registry import integrity, promoter, rekeying
from mlapp.registry.__main__ import main
from mlapp.registry.bundle import Draft, describe, install
from mlapp.registry.moves import rollback
from mlapp.registry.pointer import Pointer
from mlapp.result import StageResult
from mlapp.schema import Signing

pytest_plugins = "loopback.fixtures"
NAME = "fashion_mnist"
LENIENT = {"accuracy": 0.5, "class_recall": 0.0, "class_recall_drop": 1.0}


@pytest.fixture
def two(
    tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any
) -> tuple[str, str, chain.Chain]:
    """The ids of two bundles that were champion one after the other, and the second one's run."""
    runs = [
        chain.run(tmp_path, planted_data, planted_teacher, planted_student(*errors), **LENIENT)
        for errors in ((0, 2, 4, 6), (0,))
    ]
    first, second = (run.promoted.artifact("manifest").parent.name for run in runs)
    return first, second, runs[1]


def pointer(folder: Path) -> Pointer:
    return Pointer(str(folder / "registry"), NAME)


def test_the_champions_predecessor_is_champion_again(
    tmp_path: Path, two: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, _ = two
    main(["rollback", "--why", "noise", "--registry", str(tmp_path / "registry"), "--name", NAME])
    assert capsys.readouterr().out == f"{NAME}: {first} is the champion again, no longer {second}\n"
    assert pointer(tmp_path).read() == first
    assert [(move["champion"], move["before"]) for move in pointer(tmp_path).history()] == [
        (first, None),
        (second, first),
        (first, second),
    ]
    with pytest.raises(UserError, match="has no predecessor: give a bundle"):
        rollback(str(tmp_path / "registry"), NAME)


def test_in_a_bucket_it_goes_the_same_way(
    tmp_path: Path, cloud: dict[str, str], planted_data: Any, planted_teacher: Any, planted_student: Any
) -> None:
    registry = f"gs://models/{tmp_path.name}"
    for errors in ((0, 2, 4, 6), (0,)):
        settings = {**LENIENT, "registry": registry}
        vetted = chain.vet(tmp_path, planted_data, planted_teacher, planted_student(*errors), **settings)
        config = chain.promote_config(tmp_path, planted_data, vetted).model_copy(update={"registry": registry})
        promoter.run(config, tmp_path / "promote")
    first, second = (move["champion"] for move in Pointer(registry, NAME).history())
    assert rollback(registry, NAME) == (second, first)
    assert Pointer(registry, NAME).read() == first
    with pytest.raises(UserError, match=f"give one of {first}, {second}"):
        rollback(registry, NAME, to="0123456789ab")


def test_what_was_rolled_back_stays_out_until_it_is_asked_for(
    tmp_path: Path, planted_data: StageResult, two: Any
) -> None:
    first, second, run = two
    rollback(str(tmp_path / "registry"), NAME)
    vetted = chain.Chain(run.challenger, run.vetted, run.vetted)
    result = promoter.run(chain.promote_config(tmp_path, planted_data, vetted), tmp_path / "promote")
    assert "promoted before and rolled back" in result.headline
    assert pointer(tmp_path).read() == first
    assert rollback(str(tmp_path / "registry"), NAME, to=second) == (first, second)


def test_asking_for_the_present_champion_changes_nothing(
    tmp_path: Path, two: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    _, second, _ = two
    main(["promote", second, "--why", "better", "--registry", str(tmp_path / "registry"), "--name", NAME])
    assert "is the champion already" in capsys.readouterr().out
    assert len(pointer(tmp_path).history()) == 2


def test_an_altered_bundle_does_not_become_champion(tmp_path: Path, two: Any) -> None:
    first, second, _ = two
    (tmp_path / "registry" / NAME / first / "model.int8.tflite").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"model\.int8\.tflite was altered; restore the bundle"):
        rollback(str(tmp_path / "registry"), NAME)
    assert pointer(tmp_path).read() == second


@pytest.mark.parametrize("to", ["0123456789ab", "../../elsewhere", "CHAMPION"])
def test_a_bundle_that_does_not_exist_is_told_with_those_that_do(tmp_path: Path, two: Any, to: str) -> None:
    first, second, _ = two
    with pytest.raises(UserError, match=f"give one of {second}, {first}"):
        rollback(str(tmp_path / "registry"), NAME, to=to)
    assert pointer(tmp_path).read() == second


def test_the_champion_moving_meanwhile_stops_the_rollback(
    tmp_path: Path, two: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a promotion between the reading and the moving of the pointer, then that one stands."""
    first, second, _ = two
    from mlapp.registry import moves as module

    def verify_slowly(*arguments: Any) -> Any:
        pointer(tmp_path).swap(second, "0123456789ab", {"model": "another"})
        return verify(*arguments)

    verify = module.verify
    monkeypatch.setattr(module, "verify", verify_slowly)
    with pytest.raises(UserError, match="the champion changed meanwhile"):
        rollback(str(tmp_path / "registry"), NAME, to=first)
    assert pointer(tmp_path).read() == "0123456789ab"


def test_without_a_champion_the_command_ends_with_exit_code_2_and_one_line(tmp_path: Path) -> None:
    environ = {**os.environ, "MLAPP_STORAGE__REGISTRY": str(tmp_path)}
    command = [sys.executable, "-m", "mlapp.registry", "rollback", "--why", "x", "--name", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"python -m mlapp.registry: error: {tmp_path}/nothing has no champion: "
        "give --name and --registry of a promoted model"
    ]
    assert not (tmp_path / "nothing").exists()


def other(folder: Path, name: str = NAME) -> str:
    """A bundle that was never promoted, of a model of this name."""
    with Draft(pointer(folder).folder) as draft:
        (draft / "model.int8.tflite").write_text("nobody vetted this")
        about = {"name": name, "model": "model.int8.tflite", "predecessor": None, "created": "2026-08-26"}
        made = describe(draft, **about, data={}, stages={}, history=None)
        return install(draft, made, pointer(folder).folder).name


def test_only_what_was_champion_once_is_promoted_by_hand(tmp_path: Path, two: Any) -> None:
    first, second, _ = two
    with pytest.raises(UserError, match=f"was never champion of {NAME}: give one of {second}, {first}"):
        rollback(str(tmp_path / "registry"), NAME, to=other(tmp_path))
    assert pointer(tmp_path).read() == second
    stray = other(tmp_path, "another")
    [found] = integrity.damage(str(tmp_path / "registry"), NAME)
    assert found.endswith(f"{stray} is one of another: remove it")


def test_the_predecessor_is_the_one_that_the_history_tells(tmp_path: Path, two: Any) -> None:
    """Given a champion that is broken, which is when one rolls back, then its own bundle is not needed for that."""
    first, second, _ = two
    (tmp_path / "registry" / NAME / second / "manifest.json").write_text("{}")
    assert rollback(str(tmp_path / "registry"), NAME) == (second, first)


def test_a_bundle_that_is_still_being_written_is_in_nobodys_way(
    tmp_path: Path, two: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given files without a manifest, as a kill during an upload leaves them, then they are no bundle yet."""
    half = tmp_path / "registry" / NAME / "0123456789ab"
    half.mkdir()
    (half / "model.keras").write_text("half")
    for command in ("list", "verify"):
        main([command, "--registry", str(tmp_path / "registry"), "--name", NAME])
    assert half.name not in capsys.readouterr().out


def test_a_champion_that_was_brought_back_by_hand_stops_every_move_until_adopted(tmp_path: Path, two: Any) -> None:
    """Given an old CHAMPION with its old times, as a backup's copy has them, then that is no move that was cut off."""
    first, second, _ = two
    champion = tmp_path / "registry" / NAME / "CHAMPION"
    rollback(str(tmp_path / "registry"), NAME)
    kept = tmp_path / "kept"
    shutil.copy2(champion, kept)
    rollback(str(tmp_path / "registry"), NAME, to=second)
    shutil.copy2(kept, champion)
    history = pointer(tmp_path).history_text()
    for move in (pointer(tmp_path).settle, lambda: rollback(str(tmp_path / "registry"), NAME, to=second)):
        with pytest.raises(UserError, match=f"the pointer names {first}, the history ends with {second}.*adopt --name"):
            move()
    assert (pointer(tmp_path).read(), pointer(tmp_path).history_text()) == (first, history)
    rekeying.adopt(str(tmp_path / "registry"), NAME, Signing(), by="Ada", why="the backup is right")
    assert (pointer(tmp_path).settle(), pointer(tmp_path).history()[-1]["why"]) == (first, "the backup is right")
    assert integrity.damage(str(tmp_path / "registry"), NAME) == []


def test_no_name_leads_out_of_the_registry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["show", "--registry", str(tmp_path), "--name", "../elsewhere"])
    assert ended.value.code == 2
    assert "'../elsewhere' is no model's name" in capsys.readouterr().err


def test_what_a_kill_left_of_a_bundle_is_removed_but_not_what_is_being_written(tmp_path: Path) -> None:
    bundles = pointer(tmp_path).folder
    left = Path(bundles.path) / ".draft-left"
    left.mkdir(parents=True)
    with Draft(bundles) as first, Draft(bundles) as second:
        assert not left.exists()
        assert first.is_dir()
        assert second.is_dir()
    assert list(Path(bundles.path).glob(".draft-*")) == []
