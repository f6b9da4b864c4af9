"""The registry's commands tell what it holds, and find whatever is not as it was."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import chain
import pytest

from mlapp.registry.__main__ import main
from mlapp.registry.pointer import Pointer
from mlapp.result import StageResult

LENIENT = {"accuracy": 0.5, "class_recall": 0.0, "class_recall_drop": 1.0}


@pytest.fixture
def registry(tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any) -> Path:
    """Two promotions, one after the other."""
    for errors in ((0, 2, 4, 6), (0,)):
        chain.run(tmp_path, planted_data, planted_teacher, planted_student(*errors), **LENIENT)
    return tmp_path / "registry"


def ids(registry: Path) -> list[str]:
    return [move["champion"] for move in Pointer(str(registry), "fashion_mnist").history()]


@pytest.fixture
def told(registry: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def tell(*arguments: str) -> list[str]:
        main([*arguments, "--registry", str(registry)])
        return capsys.readouterr().out.splitlines()

    return tell


def test_list_has_a_line_a_bundle_the_last_promoted_first(told: Any, registry: Path) -> None:
    first, second = ids(registry)
    head, *lines = told("list")
    assert head.split() == ["bundle", "state", "test", "accuracy", "KB", "µs", "promoted", "by"]
    assert [line.split()[0] for line in lines] == [second, first]
    assert ["champion" in line and "former" not in line for line in lines] == [True, False]
    assert ["95.00 %" in lines[0], "80.00 %" in lines[1]] == [True, True]


def test_show_tells_of_the_champion_its_gates_and_how_it_came(told: Any, registry: Path) -> None:
    lines = told("show")
    assert lines[0] == f"fashion_mnist/{ids(registry)[1]}  champion"
    assert any(line.startswith("significantly better than the champion") and "passed" in line for line in lines)
    assert "promote: 95.00 % on 2,000 test images" in lines[-1]
    assert told("show", ids(registry)[0][:5])[0].endswith("former champion")


def test_diff_tells_figures_classes_data_and_code(told: Any, registry: Path) -> None:
    lines = told("diff", ids(registry)[0])
    assert lines[0].split() == ids(registry)
    assert "test accuracy" in lines[1]
    assert lines[1].split()[-4:] == ["80.00", "%", "95.00", "%"]
    assert [line.split()[-4:] for line in lines if line.startswith("recall of class b")] == [
        ["50.0", "%", "100.0", "%"]
    ]
    assert lines[-2:] == ["data: the same", "code: the same"]


def test_moves_by_hand_are_told_with_who_and_why(told: Any, registry: Path) -> None:
    first, second = ids(registry)
    assert told("rollback", "--why", "angry customers", "--by", "Ada") == [
        f"fashion_mnist: {first} is the champion again, no longer {second}"
    ]
    assert told("show")[-1].endswith("Ada: angry customers")
    assert told("promote", second, "--why", "sunny") == [
        f"fashion_mnist: {second} is the champion again, no longer {first}"
    ]
    assert told("show")[-1].endswith(": sunny")
    assert told("verify") == ["fashion_mnist: all whole, 2 bundles, unsigned"]


@pytest.mark.parametrize("damage", ["alter", "remove", "add", "gone", "pointer", "history"])
def test_verify_names_what_is_not_as_it_was(registry: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    first, second = ids(registry)
    folder = registry / "fashion_mnist"
    if damage == "alter":
        (folder / first / "labels.json").write_text("[]")
    elif damage == "remove":
        (folder / first / "labels.json").unlink()
    elif damage == "add":
        (folder / first / "extra.py").write_text("print()")
    elif damage == "gone":
        shutil.rmtree(folder / first)
    elif damage == "pointer":
        (folder / "CHAMPION").write_text(f"{first}\n")
    else:
        path = folder / "HISTORY.jsonl"
        path.write_text(path.read_text().replace("80.00", "88.00"))
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--registry", str(registry)])
    assert ended.value.code == 1
    gist = {
        "alter": f"{first}: labels.json was altered",
        "remove": f"{first}: labels.json is missing",
        "add": f"{first}: extra.py is extra",
        "gone": f"{first} is gone",
        "pointer": f"the pointer names {first}, the history ends with {second}",
        "history": "was altered at or before line 2",
    }[damage]
    [line] = capsys.readouterr().out.splitlines()
    assert gist in line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["list", "--name", "nothing"], "holds no model 'nothing': give --name, of fashion_mnist"),
        (["show", "ffff"], "'ffff' names 0 bundles of"),
        (["promote", "../../etc", "--why", "x"], "is no bundle's id: give one of"),
        (["promote", "0123456789ab", "--why", "x"], "there is no bundle"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    registry: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--registry", str(registry)])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
