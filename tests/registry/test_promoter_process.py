"""Promotion as a process: killed at any moment, several at once, no room to write; nothing is lost or left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import chain
import pytest

from mlapp import storage
from mlapp.registry.bundle import verify
from mlapp.result import StageResult
from tests.faults.kills import KILLER


def command(folder: Path, data: StageResult, vetted: chain.Chain, *killer: str, work: str = "promote") -> list[str]:
    start = ["-c", KILLER, *killer] if killer else ["-m"]
    return [
        *(sys.executable, *start, "mlapp.registry.promoter", "--verdict", vetted.vetted.uri),
        *("--challenger", vetted.challenger.uri, "--data", data.uri, "--registry", str(folder / "registry")),
        *("--workdir", str(folder / work), "tracking.wandb=off"),
    ]


def test_a_file_in_the_registrys_way_ends_with_exit_code_2_and_one_line(
    tmp_path: Path, planted_data: StageResult, vetted: chain.Chain
) -> None:
    (tmp_path / "registry").write_text("in the way")
    done = subprocess.run(command(tmp_path, planted_data, vetted), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "is in the way" in done.stderr


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("place", [1, 2, 3, 4, 5, 6])
def test_a_kill_at_any_file_move_leaves_the_registry_before_or_after(
    tmp_path: Path, planted_data: StageResult, vetted: chain.Chain, place: int, when: str
) -> None:
    """Given a kill around each move (two cards, bundle, history, pointer, result), when rerun, then all is well."""
    killed = subprocess.run(command(tmp_path, planted_data, vetted, str(place), when), check=False, env=os.environ)
    assert killed.returncode == -signal.SIGKILL
    named = chain.pointer(tmp_path).read()
    assert (named is not None) == (place > 5 or (place, when) == (5, "after"))
    if named:
        verify(storage.at(tmp_path / "registry" / "fashion_mnist" / named))

    subprocess.run(command(tmp_path, planted_data, vetted), check=True, capture_output=True)

    named = chain.pointer(tmp_path).read()
    assert named
    assert verify(storage.at(tmp_path / "registry" / "fashion_mnist" / named)).id == named
    bundles = [path for path in (tmp_path / "registry" / "fashion_mnist").iterdir() if len(path.name) == 12]
    assert [path.name for path in bundles] == [named]
    assert [move["champion"] for move in chain.pointer(tmp_path).history()] == [named]


def test_of_several_runs_that_promote_the_same_model_at_once_one_does(
    tmp_path: Path, planted_data: StageResult, vetted: chain.Chain
) -> None:
    """Given whole commands, each with a draft of its own, then one bundle and one line are left, and nothing else."""
    started = [
        subprocess.Popen(
            command(tmp_path, planted_data, vetted, work=f"promote-{number}"),
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
    [move] = chain.pointer(tmp_path).history()
    assert {path.name for path in folder.iterdir()} == {move["champion"], "CHAMPION", "HISTORY.jsonl", ".lock"}
    assert verify(storage.at(folder / move["champion"])).id == move["champion"]
