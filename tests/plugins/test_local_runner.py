"""The local runner: real subprocesses, real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from local_runner import LocalRunner, project_root

import mlapp

ROOT = Path(mlapp.__file__).parents[1]


class TimeIsUpError(Exception):
    """As Airflow's execution_timeout raises it: from a signal handler, in the middle of whatever runs."""


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(pid: int, within_s: float = 5.0) -> bool:
    until = time.monotonic() + within_s
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not alive(pid)


def on_line(start: str, then: Callable[[], object], lines: list[str]) -> Callable[[str], None]:
    """A listener that acts once, when a line of this start is heard."""

    def say(line: str) -> None:
        lines.append(line)
        if line.startswith(start):
            then()

    return say


def pid_of(lines: list[str]) -> int:
    return int(next(line for line in lines if line.startswith("pid ")).split()[1])


def test_a_stage_runs_in_the_projects_root_and_hands_on_its_uri(stub_stage, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []
    ended = LocalRunner(lines.append).run(stub_stage, [])
    assert (ended.exit_code, ended.uri) == (0, "memory://somewhere/result.json")
    assert json.loads(lines[0])["cwd"] == str(ROOT)


def test_the_root_is_found_without_importing_the_package():
    code = "import sys, local_runner; print(local_runner.project_root()); assert 'mlapp' not in sys.modules"
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(ROOT) == str(project_root())


def test_arguments_arrive_as_they_are_with_no_shell_between(stub_stage, tmp_path):
    mark = tmp_path / "mark"
    nasty = [f"$(touch {mark})", f"; touch {mark}", "a b", "'\"", "*"]
    lines: list[str] = []
    LocalRunner(lines.append).run(stub_stage, nasty)
    assert json.loads(lines[0])["arguments"] == nasty
    assert not mark.exists()


def test_each_line_is_heard_as_soon_as_it_is_said(stub_stage, tmp_path):
    """The stage waits for an answer to its first line: it would time out if lines came in one block at its end."""
    answer = tmp_path / "heard"
    lines: list[str] = []
    ended = LocalRunner(on_line("first", answer.touch, lines)).run(stub_stage, ["--do=converse", f"--file={answer}"])
    assert ended.exit_code == 0
    assert lines[:2] == ["first", "second"]


def test_bad_input_is_told_by_the_error_line_whatever_comes_after_it(stub_stage):
    ended = LocalRunner(lambda line: None).run(stub_stage, ["--do=refuse"])
    assert ended.exit_code == 2
    assert ended.told == "stub_stage: error: labels out of range: give labels of 0 to 9"


def test_a_crash_is_told_by_its_exit_code_and_last_line(stub_stage):
    ended = LocalRunner(lambda line: None).run(stub_stage, ["--do=crash"])
    assert ended.told == "the stage ended with exit code 1: ValueError: a bug"


def test_a_stage_that_the_system_killed_is_told_by_the_signals_name_and_leaves_no_temporary_file(
    stub_stage, tmp_path, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    ended = LocalRunner(lambda line: None).run(stub_stage, ["--do=vanish"])
    assert ended.told == "the stage was ended by SIGKILL: it said nothing"
    assert not list(tmp_path.iterdir())


def test_a_kill_lets_the_stage_save_and_asks_just_once(stub_stage, tmp_path):
    saved = tmp_path / "saved"
    lines: list[str] = []
    runner = LocalRunner(on_line("pid ", lambda: (runner.kill(), runner.kill()), lines))
    ended = runner.run(stub_stage, ["--do=checkpoint", f"--file={saved}"])
    assert ended.exit_code == 143
    assert saved.read_text() == "saved\n"
    assert not alive(pid_of(lines))


def test_a_kill_ends_the_whole_group_even_what_ignores_sigterm(stub_stage):
    lines: list[str] = []
    runner = LocalRunner(lines.append, grace_s=0.5)
    runner.say = on_line("pid ", runner.kill, lines)
    began = time.monotonic()
    ended = runner.run(stub_stage, ["--do=family"])
    assert ended.exit_code == -signal.SIGKILL
    assert 0.5 <= time.monotonic() - began < 10
    assert gone(pid_of(lines))


def test_a_kill_with_nothing_running_does_nothing():
    LocalRunner(lambda line: None).kill()


def test_what_is_raised_in_the_worker_leaves_no_process(stub_stage, monkeypatch):
    def expire(signum: int, frame: object) -> None:
        raise TimeIsUpError

    before = signal.signal(signal.SIGUSR1, expire)
    lines: list[str] = []
    say = on_line("pid ", lambda: os.kill(os.getpid(), signal.SIGUSR1), lines)
    try:
        with pytest.raises(TimeIsUpError):
            LocalRunner(say, grace_s=0.3).run(stub_stage, ["--do=family"])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert gone(pid_of(lines))


def test_a_child_that_outlives_its_stage_is_ended_and_holds_nothing_up(stub_stage):
    lines: list[str] = []
    began = time.monotonic()
    ended = LocalRunner(lines.append).run(stub_stage, ["--do=orphan"])
    assert ended.exit_code == 0
    assert time.monotonic() - began < 10
    assert gone(pid_of(lines))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells a child of its parent's death on Linux only")
def test_a_worker_that_is_killed_outright_takes_its_stage_along(stub_stage, tmp_path):
    saved = tmp_path / "saved"
    arguments = ["--do=checkpoint", f"--file={saved}"]
    code = f"from local_runner import LocalRunner; LocalRunner(print).run('stub_stage', {arguments})"
    path = f"{ROOT}:{ROOT / 'plugins'}:{Path(__file__).parent}"
    worker = subprocess.Popen(
        [sys.executable, "-uc", code], env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout
    pid = int(worker.stdout.readline().split()[1])
    worker.kill()
    worker.wait()
    worker.stdout.close()
    assert gone(pid)
    assert saved.read_text() == "saved\n"


def test_lines_go_on_being_heard_while_a_stage_winds_down(stub_stage, tmp_path):
    """A kill returns at once: it is called in a signal handler, with the worker's main thread inside `run`."""
    took: list[float] = []

    def kill() -> None:
        began = time.monotonic()
        runner.kill()
        took.append(time.monotonic() - began)

    runner = LocalRunner(on_line("pid ", lambda: threading.Thread(target=kill).start(), []), grace_s=0.5)
    runner.run(stub_stage, ["--do=family"])
    assert took[0] < 0.2
