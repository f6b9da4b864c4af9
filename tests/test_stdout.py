"""Where a command's answer goes: full, closed or of few characters, it is never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "schema": ["mlapp.etl.image_etl", "--schema"],
    "registry": ["mlapp.registry", "show", "--name", "fashion_mnist"],
    "verify": ["mlapp.registry", "verify"],
    "experiments": ["mlapp.experiments", "list"],
    "retention": ["mlapp.retention"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("where", [">/dev/full", ">&-"])
def test_a_full_or_closed_output(tmp_path: Path, command: str, where: str) -> None:
    """Given an output that takes nothing, the command ends with one line, or with none if it was closed on purpose."""
    done = run(tmp_path, COMMANDS[command], where)
    if where == ">&-":
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert done.returncode == 2
        assert done.stderr.endswith("cannot be written to standard output (No space left on device): run again\n")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["registry", "experiments"])
def test_an_output_of_few_characters(tmp_path: Path, command: str) -> None:
    done = run(tmp_path, COMMANDS[command], "", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("where", "code"), [(">&-", 0), (">/dev/full", 2)])
def test_the_output_of_a_stage(tmp_path: Path, where: str, code: int) -> None:
    """Given a stage whose output takes nothing, its result stands, and it ends without a traceback."""
    done = run(tmp_path, ["tests.tiny_stage", "--workdir", str(tmp_path / "work")], where)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert (tmp_path / "work" / "result.json").exists()


def run(folder: Path, command: list[str], where: str, **more: str) -> subprocess.CompletedProcess[str]:
    areas = {f"MLAPP_STORAGE__{name}": str(folder / name) for name in ("RAW", "PROCESSED", "MODELS", "EXPERIMENTS")}
    (folder / "EXPERIMENTS" / "2026-01-01-a").mkdir(parents=True)
    line = f'"{sys.executable}" -m {" ".join(command)} {where}'
    return subprocess.run(
        ["bash", "-c", line], cwd=ROOT, env={**os.environ, **areas, **more}, capture_output=True, text=True, check=False
    )
