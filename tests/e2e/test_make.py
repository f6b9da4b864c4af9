"""The Makefile, with stand-ins for Python and Airflow: what is made when, and what of the user's is handed on."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = f"""#!{sys.executable}
import json, os, pathlib, shutil, sys
name, project = pathlib.Path(sys.argv[0]), pathlib.Path({"PROJECT"!r})
with (project / "calls").open("a") as calls:
    calls.write(json.dumps([name.name, *sys.argv[1:]]) + "\\n")
if sys.argv[1:3] == ["-m", "venv"]:
    folder = project / sys.argv[-1] / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    for tool in ("python", "airflow"):
        shutil.copy(name, folder / tool)
if "install" in sys.argv and (project / "break").exists():
    sys.exit(1)
"""


PREPARE = ["python", "plugins/laptop_homes.py"]


class Project:
    """A project of a Makefile, an env.sh and requirements, and a python3.11 that only notes how it is called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("Makefile", "env.sh"):
            shutil.copy(ROOT / name, folder)
        for name in ("requirements-pip.txt", "requirements-dev.txt"):
            (folder / name).write_text("a==1\n")
        self.python = folder / "tools" / "python3.11"
        self.python.parent.mkdir()
        self.python.write_text(PYTHON.replace("PROJECT", str(folder)))
        self.python.chmod(0o755)

    def make(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """``make`` with a bare environment and an empty home."""
        environ = {"PATH": f"{self.python.parent}:/usr/bin:/bin", "HOME": str(self.folder / "home"), **more}
        command = ["make", *arguments]
        return subprocess.run(command, cwd=self.folder, env=environ, capture_output=True, text=True, check=False)

    def calls(self) -> list[list[str]]:
        """How Python and Airflow were called since the last time this was asked."""
        notes = self.folder / "calls"
        told = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
        notes.unlink(missing_ok=True)
        return [call for call in told if "-c" not in call]


@pytest.fixture
def project(tmp_path) -> Project:
    """A fresh clone."""
    return Project(tmp_path)


def installs(calls: list[list[str]]) -> int:
    return len([call for call in calls if "install" in call])


def migrations(calls: list[list[str]]) -> int:
    return len([call for call in calls if call == PREPARE])


def test_the_environment_is_made_once(project):
    assert project.make("env").returncode == 0
    calls = project.calls()
    assert calls[0][:3] == ["python3.11", "-m", "venv"]
    assert (installs(calls), migrations(calls)) == (2, 1)  # pip, then the rest
    assert project.make("env").returncode == 0
    assert project.calls() == []


def test_other_requirements_are_installed(project):
    project.make("env")
    project.calls()
    (project.folder / "requirements-dev.txt").write_text("a==2\n")
    project.make("env")
    calls = project.calls()
    assert (installs(calls), migrations(calls)) == (2, 1)  # pip, then the rest
    assert not [call for call in calls if "venv" in call]


def test_a_broken_off_installation_is_taken_up_again(project):
    (project.folder / "break").touch()
    assert project.make("env").returncode != 0
    assert migrations(project.calls()) == 0
    (project.folder / "break").unlink()
    assert project.make("env").returncode == 0
    calls = project.calls()
    assert (installs(calls), migrations(calls)) == (2, 1)  # pip, then the rest


def test_a_lost_database_is_made_again(project):
    project.make("env")
    project.calls()
    shutil.rmtree(project.folder / ".airflow")
    project.make("env")
    assert project.calls() == [PREPARE]


@pytest.mark.parametrize(
    "conf",
    [
        '{"training.epochs": 3}',
        """{"data.source": "it's \\"here\\" $HOME $(touch PWNED) `touch PWNED` ; touch PWNED"}""",
        "{}",
    ],
)
def test_preset_and_conf_arrive_as_they_were_typed(project, conf):
    made = project.make("run", "PRESET=my preset.yaml", f"CONF={conf}")
    assert made.returncode == 0, made.stderr
    script = ["python", "plugins/dags_test.py", "fashion_mnist_training"]
    assert project.calls()[-1] == [*script, "--preset=my preset.yaml", f"--conf={conf}"]
    assert not (project.folder / "PWNED").exists()


def test_a_run_is_announced_only_where_that_is_asked_for(project):
    project.make("run", "ANNOUNCE=1")
    assert project.calls()[-1][-1] == "--announce"
    project.make("run")
    assert "--announce" not in project.calls()[-1]


def test_airflow_is_started_with_the_address_that_was_typed(project):
    project.make("airflow")
    assert project.calls()[-1] == ["python", "plugins/laptop_airflow.py", "--host=", "--port="]
    project.make("airflow", "PORT=8090", "HOST=$(touch PWNED)`touch PWNED`", "PASSWORDS=1")
    typed = ["--host=$(touch PWNED)`touch PWNED`", "--port=8090", "--passwords"]
    assert project.calls()[-1] == ["python", "plugins/laptop_airflow.py", *typed]
    assert not (project.folder / "PWNED").exists()


def test_common_names_in_the_environment_set_nothing(project):
    """conda sets HOST, hosting services PORT."""
    project.make("airflow", HOST="x86_64-conda-linux-gnu", PORT="3000", PASSWORDS="1", ANNOUNCE="1")
    assert project.calls()[-1] == ["python", "plugins/laptop_airflow.py", "--host=", "--port="]
    project.make("run", ANNOUNCE="1")
    assert "--announce" not in project.calls()[-1]


def test_another_airflows_home_is_left_alone(project):
    theirs = project.folder / "theirs"
    theirs.mkdir()
    (theirs / "airflow.db").write_text("theirs")
    project.make("run", AIRFLOW_HOME=str(theirs), AIRFLOW_CONFIG=str(theirs / "airflow.cfg"))
    assert [path.name for path in theirs.iterdir()] == ["airflow.db"]
    assert (project.folder / ".airflow" / "terminal" / ".mlapp").exists()


def test_the_homes_can_be_elsewhere(project):
    made = project.make("env", MLAPP_AIRFLOW_HOME=str(project.folder / "elsewhere"))
    assert made.returncode == 0, made.stderr
    assert not (project.folder / ".airflow").exists()
    assert (project.folder / "elsewhere" / "terminal" / ".mlapp").exists()
    refused = project.make("env", MLAPP_AIRFLOW_HOME="/else where")
    assert refused.returncode != 0
    assert "MLAPP_AIRFLOW_HOME holds a space: give a folder without one" in refused.stderr


def test_without_a_word_it_is_the_quick_preset(project):
    project.make("run")
    assert project.calls()[-1][-2:] == ["--preset=quick", "--conf={}"]


@pytest.mark.parametrize(
    ("python", "told"),
    [
        ("python9", "make: python9 is missing: install Python 3.11 with its venv module"),
        ("false", "make: false is not Python 3.11 with its venv module"),
    ],
)
def test_a_python_that_will_not_do_is_told_in_one_line(project, python, told):
    made = project.make("env", f"PYTHON={python}")
    assert made.returncode != 0
    assert made.stderr.splitlines()[0].startswith(told)
    assert not (project.folder / ".venv").exists()


def test_help_lists_the_targets(project):
    told = project.make("help").stdout
    assert [line.split()[0] for line in told.splitlines()[1:]] == [
        *("help", "env", "lock", "run", "airflow", "lint", "test", "fault-test", "test-container", "bench"),
        *("bench-quick", "deploy"),
    ]


def sourced(folder: Path, script: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A bash script after ``source env.sh``, twice, in a bare environment."""
    return subprocess.run(
        ["bash", "-euc", f"source {ROOT}/env.sh; source {ROOT}/env.sh; {script}"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_env_sh_works_from_any_folder_and_twice(tmp_path):
    done = sourced(tmp_path, "echo $AIRFLOW_HOME $PYTHONPATH $AIRFLOW__CORE__DAGS_FOLDER")
    assert done.stdout.split() == [f"{ROOT}/.airflow/terminal", str(ROOT), f"{ROOT}/dags"]


def test_what_is_meant_for_another_python_does_not_reach_this_one(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "yaml.py").write_text("raise RuntimeError")
    switches = {"OPTIMIZE": "2", "SAFEPATH": "1", "WARNINGS": "error", "HOME": "/theirs", "INSPECT": "1"}
    foreign = {f"PYTHON{name}": value for name, value in switches.items()}
    foreign |= {"PYTHONPATH": str(tmp_path / "theirs"), "PYTHONIOENCODING": "ascii"}
    script = "import sys, yaml; print(sys.flags.optimize, sys.flags.safe_path, sys.warnoptions, sys.stdout.encoding)"
    done = sourced(tmp_path, f'python -c "{script}"', **foreign)
    assert done.stdout == "0 False [] utf-8\n", done.stderr


FOREIGN = {
    "AIRFLOW_HOME": "/theirs",
    "AIRFLOW_CONFIG": "/theirs/airflow.cfg",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://theirs",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_CMD": "echo theirs",
    "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
    "AIRFLOW__CORE__DAG_RUN_CONF_OVERRIDES_PARAMS": "False",
    "AIRFLOW__CORE__LOAD_EXAMPLES": "True",
    "AIRFLOW__CORE__XCOM_BACKEND": "theirs.Backend",
    "AIRFLOW__SECRETS__BACKEND": "theirs.Secrets",
    "AIRFLOW__LOGGING__REMOTE_LOGGING": "True",
    "AIRFLOW__CORE__PARALLELISM": "64",
}


def test_another_airflows_settings_do_not_reach_this_one(tmp_path):
    script = "env | grep ^AIRFLOW"
    given = {"AIRFLOW_CONN_MINE": "http://mine", "AIRFLOW_VAR_X": "y", "AIRFLOW__API__PORT": "8090"}
    plain, foreign = (sourced(tmp_path, script, **environ).stdout.splitlines() for environ in (given, given | FOREIGN))
    assert sorted(foreign) == sorted(plain)
    assert {"AIRFLOW_CONN_MINE=http://mine", "AIRFLOW_VAR_X=y", "AIRFLOW__API__PORT=8090"} <= {*plain}
    assert "theirs" not in "".join(foreign)


@pytest.mark.parametrize("before", ["", "corp.example", "127.0.0.1,corp.example"])
def test_no_proxy_is_asked_for_this_machine(tmp_path, before):
    done = sourced(tmp_path, "echo $no_proxy; echo $NO_PROXY", no_proxy=before, http_proxy="http://proxy:1")
    lower, upper = (line.split(",") for line in done.stdout.split())
    assert {"127.0.0.1", *filter(None, before.split(","))} <= {*lower}
    assert lower.count("127.0.0.1") == 1
    assert "localhost" in upper


@pytest.mark.parametrize("component", ["scheduler", "triggerer", "dag-processor", "api-server"])
def test_nothing_starts_a_scheduler_on_the_terminals_database(tmp_path, component):
    done = sourced(tmp_path, f"airflow {component}", MLAPP_AIRFLOW_HOME=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: no {component} runs on the terminal's database ({tmp_path}/terminal)")


def test_airflow_standalone_is_make_airflow_and_reads_the_port_when_it_starts(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        script = f"export AIRFLOW__API__PORT={port}; airflow standalone"
        done = sourced(tmp_path, script, MLAPP_AIRFLOW_HOME=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cannot listen on 127.0.0.1, port {port}")
    assert not (tmp_path / "standalone").exists()
