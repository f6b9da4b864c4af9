"""What a user can mend ends with exit code 2 and one line, through the real command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tiny_data import IdxFolder, labels

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Run:
    code: int
    error: str


Command = Callable[..., Run]


@pytest.fixture
def command() -> Callable[..., Run]:
    """Run a stage's real command line, in a process of its own and perhaps under another program."""

    def run(module: str, *arguments: str, under: tuple[str, ...] = ()) -> Run:
        line = [*under, sys.executable, "-m", f"mlapp.etl.{module}", *arguments]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
        return Run(done.returncode, done.stderr)

    return run


def assert_told(run: Run, module: str, gist: str) -> None:
    assert run.code == 2, run.error
    lines = run.error.splitlines()
    assert len(lines) == 1, run.error
    assert lines[0].startswith(f"python -m mlapp.etl.{module}: error: ")
    assert gist in lines[0]


def test_a_truncated_archive(tiny: IdxFolder, tmp_path: Path, command: Command) -> None:
    path = tiny.write("train-images", np.zeros((60, 8, 8), np.uint8), zipped=True)
    (tiny.path / "train-images-idx3-ubyte").unlink(missing_ok=True)
    path.write_bytes(path.read_bytes()[:-9])

    found = command("gcp_dataloader", "--workdir", f"{tmp_path}/raw", "data.name=tiny", f"data.source={tiny.path}")

    assert_told(found, "gcp_dataloader", "is truncated: its compressed data ends too early; fetch it again")
    assert not (tmp_path / "raw/result.json").exists()


def test_an_impossible_value(command: Command) -> None:
    found = command("gcp_dataloader", "data.image_size=1", "data.sha256.train-images=12ab", "data.nme=x")

    assert_told(found, "gcp_dataloader", "data.image_size: input should be greater than or equal to 8, not 1")
    assert "data.sha256.train-images: string should match pattern" in found.error
    assert "unknown setting data.nme (from the overrides): did you mean name?" in found.error


def test_labels_out_of_range(tiny: IdxFolder, tmp_path: Path, command: Command) -> None:
    tiny.write("t10k-labels", labels(30, classes=4))
    raw = tiny.extract(tmp_path / "raw", classes=("a", "b", "c"))

    found = command("quality", "--raw", raw, "--workdir", f"{tmp_path}/quality")

    assert_told(
        found, "quality", "test labels go from 0 to 2, but 7 of 30 lie above (number 3 is 3): correct the labels"
    )
    assert not (tmp_path / "quality/result.json").exists()


def test_a_missing_report(tiny: IdxFolder, tmp_path: Path, command: Command) -> None:
    raw = tiny.extract(tmp_path / "raw")

    found = command("image_etl", "--raw", raw, "--report", f"{tmp_path}/quality", "--workdir", f"{tmp_path}/data")

    assert_told(found, "image_etl", f"no result at {tmp_path}/quality/result.json: run the stage that makes it first")


def test_a_work_directory_that_cannot_be_written(tiny: IdxFolder, tmp_path: Path, command: Command) -> None:
    """Root overrides permissions by a capability, so as root the stage runs without it."""
    workdir = tmp_path / "raw"
    workdir.mkdir()
    workdir.chmod(0o555)
    under = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()

    found = command(
        "gcp_dataloader", "--workdir", str(workdir), "data.name=tiny", f"data.source={tiny.path}", under=under
    )

    assert_told(found, "gcp_dataloader", f"no permission for {workdir}/.lock")


def test_a_full_disk_at_extraction(tiny: IdxFolder, full_disk: tuple[Path, tuple[str, ...]], command: Command) -> None:
    place, under = full_disk
    tiny.write("train-images", np.zeros((900, 8, 8), np.uint8))
    arguments = ("--workdir", f"{place}/raw", "data.name=tiny", f"data.source={tiny.path}")

    found = command("gcp_dataloader", *arguments, under=under)

    assert_told(found, "gcp_dataloader", "no space left for")


def test_a_full_disk_at_the_transformation(
    tiny: IdxFolder,
    tmp_path: Path,
    full_disk: tuple[Path, tuple[str, ...]],
    validated: Callable[[str], str],
    command: Command,
) -> None:
    """No SIGBUS from a memory-mapped file, but the line that says what to do."""
    place, under = full_disk
    tiny.write("train-images", np.zeros((900, 8, 8), np.uint8))
    tiny.write("train-labels", labels(900))
    raw = tiny.extract(tmp_path / "raw")
    arguments = ("--raw", raw, "--report", validated(raw), "--workdir", f"{place}/data")

    found = command("image_etl", *arguments, under=under)

    assert_told(found, "image_etl", "no space left for")
