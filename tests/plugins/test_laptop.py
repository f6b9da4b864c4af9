"""The Airflow of a laptop: homes of its own, runs that end with their command, and who may reach the web server."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import allowed_hosts
import dags_test
import laptop_airflow
import laptop_announce
import laptop_homes
import laptop_runs
import pytest
from airflow.sdk import Param
from airflow.sdk.definitions.param import ParamsDict
from stage_operator import BadInput
from stage_wiring import settings_of
from trigger_form import trigger_form

PLUGINS = Path(laptop_homes.__file__).parent


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a database of a run at work, one that waits for a scheduler, and a finished one."""
    (tmp_path / laptop_homes.MARKER).touch()
    with sqlite3.connect(tmp_path / laptop_homes.DATABASE) as database:
        database.execute("create table dag_run (dag_id, run_id, state, end_date)")
        database.execute("create table task_instance (dag_id, run_id, state, end_date)")
        runs = [("d", "mine", "running"), ("d", "other", "queued"), ("d", "done", "success")]
        database.executemany("insert into dag_run values (?, ?, ?, null)", runs)
        tasks = [
            ("mine", "success"),
            ("mine", "running"),
            ("mine", None),
            ("mine", "up_for_retry"),
            ("other", "running"),
        ]
        database.executemany("insert into task_instance values ('d', ?, ?, null)", tasks)
    return tmp_path


def states(home: Path, table: str) -> list[tuple[str, str]]:
    with sqlite3.connect(home / laptop_homes.DATABASE) as database:
        return database.execute(f"select run_id, state from {table}").fetchall()


def released(home: Path) -> IO[str]:
    """The home's lock, once nobody holds it."""
    for _ in range(200):
        try:
            return laptop_homes.hold(home, "the test")
        except SystemExit:
            time.sleep(0.1)
    pytest.fail("the home stays in use")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_run_ends_in_the_database_whatever_ends_its_command(home: Path, tmp_path: Path, number: int) -> None:
    code = f"""
        import signal, sqlite3, sys, tempfile, time
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it,
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and those of nohup this
        sys.path.insert(0, {str(PLUGINS)!r})
        import dags_test, pathlib
        with dags_test.the_only_run(home := pathlib.Path({str(home)!r}), "d"):
            with sqlite3.connect(home / "airflow.db") as database:
                database.execute("update dag_run set state = 'running' where run_id = 'mine'")
                database.execute("update task_instance set state = null where run_id = 'mine' and state = 'failed'")
            print("running", tempfile.gettempdir(), sep="\\n", flush=True)
            time.sleep(60)
    """
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-c", textwrap.dedent(code)]
    environ = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline().startswith("mine of d had not ended")
    assert process.stdout.readline() == "running\n"
    with pytest.raises(SystemExit):
        laptop_homes.hold(home, "this run")
    private = Path(process.stdout.readline().strip())
    assert private.parent == tmp_path / "temporary"
    process.send_signal(number)
    process.wait(20)
    released(home).close()
    for _ in range(200):
        if not private.exists():
            break
        time.sleep(0.1)
    assert not list(private.parent.iterdir())
    assert states(home, "dag_run") == [("mine", "failed"), ("other", "queued"), ("done", "success")]
    assert [state for run, state in states(home, "task_instance") if run == "mine"] == ["success", *["failed"] * 3]


def test_a_run_does_not_outlive_the_make_that_started_it(home: Path) -> None:
    wait = "laptop_homes.end_with_make(); print('on', flush=True); time.sleep(60)"
    code = f"import sys, time; sys.path.insert(0, {str(PLUGINS)!r}); import laptop_homes; {wait}"
    (home / "Makefile").write_text(f'run:\n\t@exec {sys.executable} -c "{code}"\n')
    of_its_own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--no-print-directory", "run"]
    with subprocess.Popen(command, cwd=home, env=of_its_own, stdout=subprocess.PIPE, text=True) as make:
        assert make.stdout
        assert make.stdout.readline() == "on\n"
        make.kill()
        began = time.monotonic()
        assert make.stdout.read() == "", "the pipe is closed once nobody is left to write to it"
    assert time.monotonic() - began < 30


def test_only_a_run_at_work_is_ended(home: Path) -> None:
    assert laptop_runs.end_runs(home / laptop_homes.DATABASE) == [("d", "mine")]
    assert states(home, "dag_run") == [("mine", "failed"), ("other", "queued"), ("done", "success")]
    assert laptop_runs.end_runs(home / laptop_homes.DATABASE) == []


def test_airflow_dags_test_is_one_run_at_a_time_and_ends_with_its_command(home: Path) -> None:
    """With a stand-in for Airflow, which says that it is there and waits to be killed."""
    (home / laptop_homes.MIGRATED).write_text(version("apache-airflow"))
    (home / "path" / "airflow").mkdir(parents=True)
    (home / "path" / "airflow" / "__init__.py").touch()
    (home / "path" / "airflow" / "__main__.py").write_text(
        "import sys, time; print(sys.argv[1:], flush=True); time.sleep(60)"
    )
    command = [sys.executable, str(PLUGINS / "laptop_runs.py"), "dags", "test", "d"]
    environ = {**os.environ, "AIRFLOW_HOME": str(home), "PYTHONPATH": str(home / "path")}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "['dags', 'test', 'd']\n"
        assert states(home, "dag_run")[0] == ("mine", "failed"), "what an earlier kill left"
        with sqlite3.connect(home / laptop_homes.DATABASE) as database:
            database.execute("update dag_run set state = 'running' where run_id = 'mine'")
        second = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        assert second.returncode == 2
        assert f"is in use by airflow dags test d (process {process.pid})" in second.stderr
        process.kill()
    released(home).close()
    assert states(home, "dag_run")[0] == ("mine", "failed")


def test_of_two_that_start_at_once_one_migrates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_work = []

    def migrate(*_: Any, **__: Any) -> SimpleNamespace:
        at_work.append(1)
        time.sleep(0.3)  # the other one is at the door meanwhile
        (tmp_path / laptop_homes.DATABASE).touch()
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(laptop_homes.subprocess, "run", migrate)
    both = [threading.Thread(target=laptop_homes.prepare, args=(tmp_path, {})) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert len(at_work) == 1


def test_a_home_that_is_still_empty_is_taken(tmp_path: Path) -> None:
    laptop_homes.check(tmp_path)


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%b"])
def test_a_home_whose_database_would_be_elsewhere_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        laptop_homes.prepare(tmp_path / name / "terminal", os.environ)
    assert stop.value.code == 2
    assert f"{tmp_path / name}/terminal holds {name[1]}: give MLAPP_AIRFLOW_HOME" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_address_that_a_kill_left_behind_is_asked_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By now it may be another Airflow's."""
    home, standalone = tmp_path / "terminal", tmp_path / "standalone"
    standalone.mkdir()
    (standalone / laptop_announce.ADDRESS).write_text("http://127.0.0.1:1")
    monkeypatch.setattr(laptop_announce, "call", lambda *_: {"access_token": "t"})
    with laptop_homes.hold(standalone, "this Airflow"):
        assert laptop_announce.server(home, laptop_announce.DATA_DAG, {}) == "http://127.0.0.1:1"
    with pytest.raises(SystemExit):
        laptop_announce.server(home, laptop_announce.DATA_DAG, {})
    assert "no Airflow is running to announce to" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("nohup", [False, True])
def test_a_terminal_that_closes_stops_what_runs_in_it_unless_it_was_told_otherwise(number: int, nohup: bool) -> None:
    code = f"""
        import signal, sys, time
        sys.path.insert(0, {str(PLUGINS)!r})
        import laptop_homes
        signal.signal(signal.SIGHUP, signal.SIG_IGN if {nohup} else signal.SIG_DFL)
        laptop_homes.on_stop(lambda *_: sys.exit(7))
        print("on", flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "on\n"
        process.send_signal(number)
        process.communicate()
    assert process.returncode == (0 if nohup and number == signal.SIGHUP else 7)


def test_a_second_run_is_refused_with_the_first_ones_name(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with laptop_homes.hold(home, "this run") as lock:
        laptop_homes.note(lock, "fashion_mnist_data (process 7)")
        with pytest.raises(SystemExit) as stop:
            laptop_homes.hold(home, "this run")
    assert stop.value.code == 2
    assert "is in use by fashion_mnist_data (process 7): wait for it" in capsys.readouterr().err


def test_a_home_that_the_project_did_not_make_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "airflow.db").write_bytes(b"theirs")
    with pytest.raises(SystemExit) as stop:
        laptop_homes.prepare(tmp_path, os.environ)
    assert stop.value.code == 2
    assert "is not a home that this project made" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["airflow.db"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--host=0.0.0.0"], "0.0.0.0 can be reached from other machines"),
        (["--host=::"], ":: can be reached from other machines"),
        (["--host=192.0.2.1"], "192.0.2.1 can be reached from other machines"),
        (["--host=somewhere.example"], "somewhere.example can be reached from other machines"),
        (["--host=192.0.2.1", "--passwords"], "cannot listen on 192.0.2.1"),
        (["--port=0"], "port '0' is not between 1 and 65535"),
        (["--port=x"], "port 'x' is not between 1 and 65535"),
        (["--port={taken}"], "cannot listen on 127.0.0.1, port {taken}"),
    ],
)
def test_an_address_that_will_not_do_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "terminal"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(SystemExit) as stop:
            laptop_airflow.main([argument.replace("{taken}", port) for argument in arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {told.replace('{taken}', port)}")
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_everything_follows_the_address_that_was_asked_for(tmp_path: Path) -> None:
    environ = laptop_airflow.environment(tmp_path, "127.0.0.1", 8391, passwords=False)
    assert environ["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:8391/execution/"
    assert environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == f"sqlite:///{tmp_path}/airflow.db"
    assert environ["MLAPP_ALLOWED_HOSTS"] == "localhost,127.0.0.1,::1,127.0.0.1"
    beyond = laptop_airflow.environment(tmp_path, "0.0.0.0", 8391, passwords=True)
    assert beyond["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS"] == "False"
    assert "0.0.0.0" not in beyond["MLAPP_ALLOWED_HOSTS"]


def test_a_component_that_does_not_end_goes_with_a_killed_airflow() -> None:
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    code = f"""
        import os, signal, subprocess, sys
        sys.path.insert(0, {str(PLUGINS)!r})
        import laptop_airflow
        watcher = laptop_airflow.watch(0.5)
        process = subprocess.Popen([sys.executable, "-c", {stubborn!r}], start_new_session=True)
        watcher.stdin.write(f"{{process.pid}}\\n")
        watcher.stdin.flush()
        signal.pause()
    """
    began = time.monotonic()
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "on\n"
        process.kill()
        assert process.stdout.read() == "", "the pipe is closed once nobody is left to write to it"
    assert time.monotonic() - began < 40


OURS = ["localhost", "LOCALHOST:8080", "localhost.", "127.0.0.1:8080", "[::1]:8080"]
THEIRS = ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8080", "", "[::2]", "evil@localhost:1"]


@pytest.mark.parametrize(
    ("hosts", "served"),
    [
        *([[h], True] for h in OURS),
        *([[h], False] for h in THEIRS),
        ([], False),
        (["localhost", "evil.example"], False),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_the_web_server_answers_to_its_own_names_only(hosts: list[str], served: bool, kind: str) -> None:
    reached, sent = [], []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": kind, "headers": [(b"host", host.encode()) for host in hosts]}
    check = allowed_hosts.AllowedHosts(app, frozenset({"localhost", "127.0.0.1", "::1"}))
    asyncio.run(check(scope, None, send))  # type: ignore[arg-type]
    assert bool(reached) is served
    assert served or sent[0].get("status", 421) == 421


def test_elsewhere_the_check_is_off() -> None:
    assert "MLAPP_ALLOWED_HOSTS" not in os.environ
    assert allowed_hosts.AllowedHostsPlugin.fastapi_root_middlewares == []


@pytest.mark.parametrize(
    ("conf", "params", "ignored"),
    [
        ({"preset": "smoke"}, {"preset": "smoke", "training.epochs": None}, ""),
        (None, {"preset": "quick"}, ""),
        ({"preset": "smoke"}, {"preset": "quick"}, "preset"),
        ({"training": {"epochs": 3}, "preset": "quick"}, {"preset": "quick"}, "training"),
    ],
)
def test_a_conf_that_airflow_does_not_hand_on_is_refused(conf: Any, params: dict[str, Any], ignored: str) -> None:
    run = SimpleNamespace(conf=conf)
    if not ignored:
        assert '"preset"' in settings_of(params, run)
        return
    with pytest.raises(BadInput, match=f"does not hand on the run's conf \\({ignored}\\)"):
        settings_of(params, run)


def test_a_dag_that_is_none_is_refused_with_the_names_of_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        dags_test.main(["typo"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no DAG 'typo': choose one of fashion_mnist_data, fashion_mnist_training, ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("preset", "conf", "told"),
    [
        ("quick", '{"action": "rollback"}', ""),
        (None, '{"action": "rollback", "storage.models": "/m"}', ""),
        ("{folder}/my preset.yaml", '{"action": "promote"}', ""),
        ("quick", "{}", "No value passed"),
        ("quick", '{"action": "x"}', "Invalid input for param action"),
        ("quick", '{"actoin": "rollback"}', "unknown setting actoin"),
        ("qick", '{"action": "rollback"}', "no preset 'qick': choose one of "),
        ("/nowhere.yaml", '{"action": "rollback"}', "no preset '/nowhere.yaml'"),
        ("quick", '{"action": "rollback", "training.epochs": "3x"}', "training.epochs: input should be"),
        ("quick", "[]", "conf must map settings to values"),
        ("quick", "{", "conf is not JSON"),
    ],
)
def test_a_runs_conf_is_checked_against_its_dags_own_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], preset: str | None, conf: str, told: str
) -> None:
    (tmp_path / "my preset.yaml").write_text("training: {epochs: 3}")
    own = {"action": Param(enum=["rollback", "promote"]), **trigger_form("storage")}
    dag = SimpleNamespace(params=ParamsDict(own))
    given = preset and preset.replace("{folder}", str(tmp_path))
    if not told:
        assert dags_test.checked(conf, given, dag)["action"]
        return
    with pytest.raises(SystemExit) as stop:
        dags_test.checked(conf, given, dag)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
