"""A Ray that does not come up, the folder it lives in, and paths that it could not take by itself."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlapp.errors import UserError
from mlapp.result import StageResult
from mlapp.schema import Tuning
from mlapp.tune import cluster, processes, session, tuner, watch
from tests.tune.conftest import ROOT, session_folders

Make = Callable[..., tuner.TunerConfig]


def program(folder: Path, script: str) -> str:
    path = folder / "program"
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.usefixtures("nothing_left", "tiny_trainer")
@pytest.mark.parametrize(
    ("which", "script"),
    [
        ("RAYLET_EXECUTABLE", "exec sleep 600"),
        ("RAYLET_EXECUTABLE", "echo no space left >&2; exit 1"),
        ("GCS_SERVER_EXECUTABLE", "exec sleep 600"),
    ],
    ids=["raylet hangs", "raylet ends", "gcs hangs"],
)
def test_a_ray_that_does_not_come_up_is_one_line_in_time(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str, script: str
) -> None:
    import ray._private.services

    monkeypatch.setattr(ray._private.services, which, program(tmp_path, script))
    monkeypatch.setattr(cluster, "START_S", 4.0)
    monkeypatch.setenv("RAY_gcs_server_port_wait_time_s", "5")
    began = time.monotonic()
    with pytest.raises(UserError, match=r"^Ray (did not start within 4 s|could not be started) \(") as raised:
        tuner.run(config(), tmp_path / "work")
    assert time.monotonic() - began < 90
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "work" / "result.json").exists()


def test_what_was_started_is_ended_when_its_time_is_up(caplog: pytest.LogCaptureFixture) -> None:
    before = processes.children()
    with subprocess.Popen(["sleep", "60"]) as child:
        with processes.overdue(before, 0.2, lambda: "raylet.err: no space left") as too_late:
            child.wait(timeout=30)
        assert too_late.is_set()
    assert "giving up" in caplog.text
    assert "no space left" in caplog.text


def test_what_comes_up_in_time_is_left_alone() -> None:
    before = processes.children()
    with subprocess.Popen(["sleep", "60"]) as child:
        with processes.overdue(before, 0.2, str) as too_late:
            pass
        time.sleep(0.5)
        assert child.poll() is None
        assert not too_late.is_set()
        child.kill()


@pytest.mark.usefixtures("temporary")
def test_what_ray_says_when_it_cannot_start_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a Ray: what it raises, what its logs hold, and that nothing of its environment or folder stays."""

    def fail(**settings: Any) -> None:
        assert settings["_node_ip_address"] == "127.0.0.1"
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert "PLANTED_SECRET" not in os.environ
        logs = Path(settings["_temp_dir"]) / "session_2026-01-01" / "logs"
        logs.mkdir(parents=True)
        (logs / "raylet.err").write_text("No space left on device\n")
        raise RuntimeError("the raylet ended\nwith much more to say")

    monkeypatch.setattr(cluster, "_init", fail)
    monkeypatch.setenv("PLANTED_SECRET", "x")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = dict(os.environ)
    told = r"^Ray could not be started \(the raylet ended; raylet\.err: No space left on device\): see that memory"
    with pytest.raises(UserError, match=told), cluster.connected(Tuning(trials=1), tmp_path):
        pass
    assert {**os.environ, "RAY_CLIENT_MODE": ""} == {**before, "RAY_CLIENT_MODE": ""}
    assert not session_folders(Path(tempfile.gettempdir()))


@pytest.mark.usefixtures("nothing_left", "tiny_trainer")
def test_workers_that_never_come_up_end_the_search(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray starts workers through a shell, which takes a path with a space apart: a search waited for them for ever."""
    odd = tmp_path / "a b & c"
    odd.mkdir()
    (odd / "venv").symlink_to(sys.prefix)
    unsafe = str(odd / "venv" / "bin" / "python")
    monkeypatch.setattr("mlapp.tune.closed.safe_python", lambda folder: unsafe)
    monkeypatch.setattr(watch, "WORKERS_S", 5.0)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"^no worker of Ray came up within 5 s \("):
        tuner.run(config(), tmp_path / "work")
    assert time.monotonic() - began < 60


def test_a_project_in_a_folder_with_a_space_and_an_ampersand_is_searched(
    planted_data: StageResult, tmp_path: Path
) -> None:
    """Also with a long TMPDIR, which would leave no room for the names of Ray's sockets."""
    project = tmp_path / "my project & more"
    project.mkdir()
    for name in ("mlapp", "tests", "plugins"):
        (project / name).symlink_to(ROOT / name)
    (project / "venv").symlink_to(sys.prefix)
    temporary = tmp_path / ("long " + "x" * 120)
    temporary.mkdir()
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [
            *(str(project / "venv" / "bin" / "python"), "-m", "tests.tune.tiny_tuner", "--trainer", "train"),
            *("--data", planted_data.uri, "--workdir", str(project / "work"), "tuning.trials=2", "training.epochs=2"),
            *("tuning.memory_per_trial_mb=200", "tracking.wandb=off", "tuning.concurrency=1"),
        ],
        cwd=project,
        env={**own, "PYTHONPATH": str(project), "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project / "work" / "result.json").exists()
    assert not list(temporary.iterdir())


def test_the_session_is_private_and_takes_nobody_elses_folder_for_an_old_one_of_its_own(temporary: Path) -> None:
    workdir = temporary / "work"
    with session.session(workdir) as folder:
        assert folder.parent == temporary
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        prefix = folder.name.rpartition("-")[0]
    assert not folder.exists()

    victim = temporary / "victim"
    victim.mkdir()
    (victim / "file").touch()
    link, open_to_all, old = (temporary / f"{prefix}-{kind}" for kind in ("link", "open", "old"))
    link.symlink_to(victim)
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    (open_to_all / "file").touch()
    old.mkdir(mode=0o700)
    with session.session(workdir) as folder:
        assert folder not in (link, open_to_all, old)
        assert not old.exists()
    assert (victim / "file").exists()
    assert (open_to_all / "file").exists()
    assert link.is_symlink()


@pytest.mark.parametrize("name", ["/tmp/a b", "/tmp/a&b", "/tmp/" + "x" * 60, "/does/not/exist", "/tmp/é"])
def test_sockets_go_to_tmp_where_the_temporary_folder_does_not_suit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", name)
    with session.session(tmp_path) as folder:
        assert folder.parent == Path("/tmp")
        # Ray adds /r/session_2026-11-28_13-48-57_295659_4194304/sockets/plasma_store
        assert len(str(folder)) + len("/r/session_2026-11-28_13-48-57_295659_4194304/sockets/plasma_store") <= 107


def test_the_longest_folder_leaves_room_for_the_sockets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    base = "/" + "t" * (session.LONGEST_BASE - 1)
    with session.session(tmp_path) as folder:
        name = folder.name
    assert len(f"{base}/{name}/r/session_2026-11-28_13-48-57_295659_4194304/sockets/plasma_store") <= 107


def test_a_python_with_a_safe_path_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    assert session.safe_python(tmp_path) == "/usr/bin/python3"
    odd = tmp_path / "it's; $(here)"
    odd.mkdir()
    (odd / "venv").symlink_to(sys.prefix)
    monkeypatch.setattr(sys, "executable", str(odd / "venv" / "bin" / "python"))
    path = session.safe_python(tmp_path)
    done = subprocess.run(
        [path, "-c", "import psutil, sys; print(sys.prefix)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(tmp_path / "python")


@pytest.mark.parametrize("name", ["it's", 'a"b', "a\\b", "a\nb"])
def test_a_path_that_ray_takes_apart_is_refused_in_one_line(name: str) -> None:
    session.require_readable(Path("/home/me/my project & more; $(x)/é/ray"))
    with pytest.raises(UserError, match=r"^Ray cannot be started from /home/me/") as raised:
        session.require_readable(Path("/home/me", name, "ray"))
    assert "\n" not in str(raised.value)


def test_the_last_words_are_those_of_the_latest_error(tmp_path: Path) -> None:
    logs = tmp_path / "r" / "session_2026-01-01" / "logs"
    logs.mkdir(parents=True)
    assert session.last_words(tmp_path) == "its logs are empty"
    (logs / "raylet.out").write_text("all is well\n")
    assert session.last_words(tmp_path) == "raylet.out: all is well"
    (logs / "raylet.err").write_text("first\n\nsecond  line\nthird\nfourth\n")
    assert session.last_words(tmp_path) == "raylet.err: second line | third | fourth"
