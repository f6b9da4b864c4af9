"""Rollback: one move of the pointer, to a bundle that is whole, and kept in the history."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import chain
import pytest

from mlapp.errors import UserError
from mlapp.registry import promoter
from mlapp.registry.__main__ import main
from mlapp.registry.moves import rollback
from mlapp.registry.pointer import Pointer
from mlapp.result import StageResult

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
    main(["rollback", "--registry", str(tmp_path / "registry"), "--name", NAME])
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
    main(["promote", second, "--registry", str(tmp_path / "registry"), "--name", NAME])
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
    command = [sys.executable, "-m", "mlapp.registry", "rollback", "--name", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"python -m mlapp.registry: error: {tmp_path}/nothing has no champion: "
        "give --name and --registry of a promoted model"
    ]
    assert not (tmp_path / "nothing").exists()
