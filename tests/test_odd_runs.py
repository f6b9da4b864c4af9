"""Odd files and odd content in the experiments area: named, never waited for, and the other runs are shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_experiments import chain, make

from mlapp import retention, storage
from mlapp.errors import UserError
from mlapp.experiments import main

ODD: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path),
    "folder": Path.mkdir,
    "huge": lambda path: path.touch() or os.truncate(path, 1 << 40),
    "deep": lambda path: path.write_text("[" * 100_000),
    "half": lambda path: path.write_bytes(b"\xff"),
}
FILES = ("origins.json", "config.json", "stages/train-train000/stage.json", "stages/transform-transfor/dataset.json")
COMMANDS = (["list"], ["show", "2026-01-01-a"], ["compare", "2026-01-01-a", "2026-01-02-b"])
ROOT = Path(__file__).parents[1]


@pytest.fixture
def area(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("experiments", "raw", "processed", "models", "registry"):
        monkeypatch.setenv(f"MLAPP_STORAGE__{name.upper()}", str(tmp_path / name))
    for name in ("2026-01-01-a", "2026-01-02-b"):
        make(tmp_path / "experiments", name, {}, *chain(9000))
    return tmp_path / "experiments"


@pytest.mark.timeout(30)
@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("where", [*FILES, ".index.jsonl"])
def test_odd_files(area: Path, where: str, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Given something else in a file's place, every command says so in a line, and shows all other runs."""
    folder = area if where.startswith(".") else area / "2026-01-01-a"
    if where == "config.json":
        (folder / "origins.json").unlink()  # else it is not read
    (folder / where).unlink(missing_ok=True)
    ODD[what](folder / where)
    for command in COMMANDS:
        main(command)
        told = capsys.readouterr().out
        assert "2026-01-02-b" in told or command[0] == "show"
        if command[0] == "list" and folder != area and not where.endswith("dataset.json"):
            assert told.splitlines()[-1] == f"damaged: 2026-01-01-a: cannot read {where.removesuffix('/stage.json')}"
    retention.main(["--older-than", "1"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("timings", {"wall_s": 1e999}),
        ("timings", {"wall_s": float("nan")}),
        ("timings", {"cpu_s": 1.0}),
        ("config", {"widths": [None, {"a": 1}, 10**400, 0.5], "name": "\x1b[31m\nforged"}),
        ("headline", "promoted\x1b[31m\nforged  line \x9b"),
        ("stage", "\x1b[31m\nforged"),
        ("result", "/x\x1b[31m\nforged/result.json"),
    ],
    ids=["infinite", "not a number", "one of three", "widths and name", "headline", "stage", "result"],
)
def test_odd_values(area: Path, field: str, value: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Given any value in a record, there is no traceback, and nothing in it changes how a terminal shows the rest."""
    for record in (area / "2026-01-01-a").glob("stages/*/stage.json"):
        record.write_text(json.dumps({**json.loads(record.read_text()), field: value}))
    for command in COMMANDS:
        for flags in ([], ["--json"]):
            main([*command, *flags])
            lines = capsys.readouterr().out.split("\n")
            assert all(line.isprintable() for line in lines)
            assert not any(line.startswith("forged") for line in lines)


def test_odd_names(area: Path) -> None:
    """Given folders whose names are not UTF-8, hold line breaks or escapes, the list is one of lines all the same."""
    for name in (b"\xff", b"a\nb", b"\x1b[31m"):
        os.mkdir(os.fsencode(area) + b"/" + name)
        os.mkdir(os.fsencode(area / "2026-01-01-a" / "stages") + b"/" + name)
    done = subprocess.run(
        [sys.executable, "-m", "mlapp.experiments", "list"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert all(line.isprintable() for line in done.stdout.splitlines())
    assert "2026-01-02-b" in done.stdout


@pytest.mark.timeout(30)
@pytest.mark.parametrize("what", ["link", "pipe"])
def test_odd_lock(tmp_path: Path, what: str) -> None:
    """Given a link as a work directory's lock, what it leads to is not emptied; a pipe is not waited for."""
    from mlapp.stage import _lock

    (tmp_path / "precious").write_text("precious")
    lock = tmp_path / ".lock"
    if what == "pipe":
        os.mkfifo(lock)
        with _lock(tmp_path):
            return
    lock.symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match="lock is a link"), storage.explained(), _lock(tmp_path):
        pass
    assert (tmp_path / "precious").read_text() == "precious"
