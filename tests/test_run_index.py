"""The index of runs: a cache that is never believed over the folders, whatever happens to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlapp import gcs, run_history, run_index, run_record, storage
from mlapp.errors import UserError
from mlapp.run_record import StageRecord

pytest_plugins = "loopback.fixtures"


def make(area: str, name: str, state: str = "failed", **more: Any) -> None:
    """A run of one stage."""
    record = {"stage": "train", "key": "a" * 64, "began": "2026-01-01T12:00:00+00:00", **more}
    run_record.write(storage.at(area) / name, StageRecord(state=state, **record))


def names(area: str) -> list[str]:
    return sorted(run.run for run in run_index.read(area))


@pytest.fixture(params=["local", "gs"])
def area(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An area of three runs."""
    if request.param == "gs":
        request.getfixturevalue("cloud")
        where = f"gs://models/{uuid.uuid4().hex}/experiments"
    else:
        where = str(tmp_path / "experiments")
    for name in "abc":
        make(where, name)
    return where


@pytest.fixture
def folders_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many run folders were read since the last time this was asked."""
    read, seen = run_history.read, []
    monkeypatch.setattr(run_history, "read", lambda folder: seen.append(folder) or read(folder))

    def since() -> int:
        count = len(seen)
        seen.clear()
        return count

    return since


def test_only_the_first_time_folders_are_read(area: str, folders_read: Callable[[], int]) -> None:
    first = run_index.read(area)
    assert folders_read() == 3
    assert run_index.read(area) == first
    assert folders_read() == 0


def test_runs_that_come_and_go_by_hand_are_noticed(area: str, folders_read: Callable[[], int]) -> None:
    names(area)
    folders_read()
    make(area, "d")
    gone = storage.at(area) / "b"
    gone.fs.rm(gone.path, recursive=True)
    assert names(area) == ["a", "c", "d"]
    assert folders_read() == 1


def test_a_run_that_goes_on_is_read_again(area: str, folders_read: Callable[[], int]) -> None:
    names(area)
    folders_read()
    make(area, "b", "done", timings={"wall_s": 7.0})
    found = {run.run: run for run in run_index.read(area)}
    assert (found["b"].outcome, found["b"].seconds) == ("unfinished", 7.0)
    assert folders_read() == 1
    names(area)
    assert folders_read() == 0


def test_a_run_at_work_is_read_each_time(area: str, folders_read: Callable[[], int]) -> None:
    make(area, "b", "running", process=run_record.this_process())
    for _ in range(2):
        names(area)
        folders_read()
    assert {run.run: run.outcome for run in run_index.read(area)}["b"] == "running"
    assert folders_read() == 1


@pytest.mark.parametrize(
    "spoilt",
    [
        "",
        "\n\n",
        "2\n",
        "not an index",
        "1\n{",
        "1\n[]\nnull\n{}\n",
        '1\n{"run": "a", "outcome": "promoted"}\n',
        pytest.param("1\n" + "[" * 5000, id="deep"),
        "1\n\x00\ufffe\n",
    ],
)
def test_a_spoilt_index_is_made_again(area: str, spoilt: str, folders_read: Callable[[], int]) -> None:
    before = run_index.read(area)
    index = storage.at(area) / run_index.INDEX
    text = storage.read_text(index)
    folders_read()
    index.fs.pipe_file(index.path, spoilt.encode())
    assert run_index.read(area) == before
    assert folders_read() == 3
    assert storage.read_text(index) == text


def test_a_line_that_was_lost_costs_one_run(area: str, folders_read: Callable[[], int]) -> None:
    before = run_index.read(area)
    index = storage.at(area) / run_index.INDEX
    lines = storage.read_text(index).splitlines()
    folders_read()
    index.fs.pipe_file(index.path, "\n".join((*lines[:2], lines[2][:-5], *lines[3:])).encode())
    assert run_index.read(area) == before
    assert folders_read() == 1


def test_runs_of_an_index_that_do_not_exist_are_not_listed(area: str) -> None:
    names(area)
    index = storage.at(area) / run_index.INDEX
    text = storage.read_text(index)
    index.fs.pipe_file(
        index.path, (text + text.splitlines()[1].replace('"run":"a"', '"run":"../../etc"') + "\n").encode()
    )
    assert names(area) == ["a", "b", "c"]


def test_many_at_once_leave_a_whole_index(area: str) -> None:
    script = f"from mlapp import run_index; print(len(run_index.read({area!r})))"
    together = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [process.communicate()[0].strip() for process in together] == ["3"] * 4
    assert set(run_index._parsed(storage.read_text(storage.at(area) / run_index.INDEX))) == {*"abc"}


def test_a_file_changed_in_place_is_noticed(tmp_path: Path) -> None:
    make(str(tmp_path), "a")
    assert names(str(tmp_path)) == ["a"]
    record = tmp_path / "a" / "stages" / "train-aaaaaaaa" / "stage.json"
    record.write_text(record.read_text().replace("failed", "done"))
    (run,) = run_index.read(str(tmp_path))
    assert run.outcome == "unfinished"


@pytest.mark.parametrize("thing", ["folder", "link", "loop", "pipe"])
def test_what_stands_in_the_index_s_place_costs_only_the_cache(tmp_path: Path, thing: str) -> None:
    make(str(tmp_path), "a")
    index, secret = tmp_path / run_index.INDEX, tmp_path.parent / f"{tmp_path.name}-secret"
    secret.write_text("secret")
    match thing:
        case "folder":
            index.mkdir()
        case "link":
            index.symlink_to(secret)
        case "loop":
            index.symlink_to(index.name)
        case "pipe":
            os.mkfifo(index)
    assert names(str(tmp_path)) == ["a"]
    assert names(str(tmp_path)) == ["a"]
    assert secret.read_text() == "secret"


def test_links_among_the_runs_are_no_trouble(tmp_path: Path) -> None:
    make(str(tmp_path), "a")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "a" / "stages" / "loop").symlink_to("loop")
    (run,) = run_index.read(str(tmp_path))
    assert run.damaged == ["stages/loop"]


def test_an_area_that_cannot_be_written_is_listed(area: str, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def refuse(*arguments: Any) -> None:
        raise PermissionError(13, "Permission denied", "here")

    monkeypatch.setattr(storage, "write_text", refuse)
    monkeypatch.setattr(gcs, "replace", refuse)
    assert names(area) == ["a", "b", "c"]
    assert "could not be written, so the next list reads what changed again" in caplog.text


def test_a_change_that_another_list_took_up_meanwhile_is_not_lost(
    cloud: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a list that writes its index after another one that saw a change and removed the mark of it."""
    area = f"gs://models/{uuid.uuid4().hex}/experiments"
    for name in "abc":
        make(area, name)
    names(area)
    parsed = run_index._parsed

    def slowly(text: str) -> dict[str, run_index.Overview]:
        monkeypatch.setattr(run_index, "_parsed", parsed)
        make(area, "b", "done")
        make(area, "z")
        names(area)  # the other list
        return parsed(text)

    monkeypatch.setattr(run_index, "_parsed", slowly)
    make(area, "c", "done")
    names(area)
    found = {run.run: run.outcome for run in run_index.read(area)}
    assert found == {"a": "failed", "b": "unfinished", "c": "unfinished", "z": "failed"}
    assert storage.at(area).fs.find(f"{storage.at(area).path}/{run_record.CHANGED}") == []


@pytest.mark.parametrize("where", ["{tmp_path}/nothing", "gs://raw/nothing"])
def test_no_area_is_one_line(tmp_path: Path, cloud: dict[str, str], where: str) -> None:
    with pytest.raises(UserError, match=r"no experiments at .*nothing: give --experiments URI, or run something first"):
        run_index.read(where.format(tmp_path=tmp_path))


def test_every_line_is_json(area: str) -> None:
    names(area)
    version, *lines = storage.read_text(storage.at(area) / run_index.INDEX).splitlines()
    assert version == run_index.VERSION
    assert {json.loads(line)["run"] for line in lines} == {*"abc"}
