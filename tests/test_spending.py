"""What a work cost: of all tries that it took, of the same work only, and nothing is left behind when it is told."""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from upath import UPath

from mlapp import spending, storage, workspaces
from mlapp.errors import Terminated
from mlapp.spending import NOTHING, SPENT, Spending
from tests.counting_stage import Counting, run


def note_of(workdir: UPath) -> UPath:
    return (workdir if storage.is_local(workdir) else workdir / workspaces.KEPT) / SPENT


@pytest.fixture(params=["disk", "memory"])
def workdir(request: pytest.FixtureRequest, tmp_path: Path) -> UPath:
    """A work directory here, and in what stands for a store."""
    return storage.at({"disk": f"{tmp_path}/work", "memory": f"memory://{tmp_path.name}"}[request.param])


def interrupted(workdir: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    """A try that is told to stop at its first checkpoint."""
    keep = workspaces.keep

    def last(folder: Path, pattern: str) -> None:
        keep(folder, pattern)
        raise Terminated

    with monkeypatch.context() as patch:
        patch.setattr(workspaces, "keep", last)
        with pytest.raises(Terminated):
            run(Counting(), str(workdir))


def test_timings_are_of_all_tries(workdir: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given clocks that go on by 10 s whenever they are read: each try reads them at its start, and later."""
    ticks = itertools.count(step=10.0)
    monkeypatch.setattr(spending, "_clocks", lambda: dict.fromkeys(NOTHING, next(ticks)))
    interrupted(workdir, monkeypatch)
    interrupted(workdir, monkeypatch)
    assert json.loads(storage.read_text(note_of(workdir))).items() >= {"wall_s": 20.0, "cpu_s": 20.0}.items()
    began = next(ticks)
    result = run(Counting(), str(workdir))
    last_try = next(ticks) - began - 20.0
    assert result.timings["wall_s"] == result.timings["cpu_s"] == 20.0 + last_try


def test_no_note_is_left_when_the_result_stands(workdir: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(workdir, monkeypatch)
    run(Counting(), str(workdir))
    assert not note_of(workdir).exists()


def test_what_other_settings_spent_does_not_count(workdir: UPath) -> None:
    storage.write_text(note_of(workdir), json.dumps({"key": "another", "wall_s": 1e6, "cpu_s": 1e6}))
    assert run(Counting(), str(workdir)).timings["wall_s"] < 1e6


@pytest.mark.parametrize("noted", ["", "[]", "{}", '{"key": "k", "wall_s": "?", "cpu_s": 1}', '{"key": "k"}'])
def test_a_note_that_tells_nothing_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture, noted: str) -> None:
    caplog.set_level(logging.WARNING)
    (tmp_path / SPENT).write_text(noted)
    spent = Spending(storage.at(tmp_path / SPENT), "k")
    spent.take_up()
    assert spent.total()["wall_s"] < 10
    assert "counting from now on" in caplog.text


def test_processors_of_children_count(tmp_path: Path) -> None:
    """Given a child that computes for half a second of a processor's time, then its seconds are in the total."""
    spent = Spending(storage.at(tmp_path / SPENT), "k")
    work = "import time\nwhile time.process_time() < .5: pass"
    subprocess.run([sys.executable, "-c", work], check=True)
    assert spent.total()["cpu_s"] >= 0.5
