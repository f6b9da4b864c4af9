"""The Makefile, with stand-ins for Python and Airflow: what is made when, and what of the user's is handed on."""

from __future__ import annotations

import json
import os
import shutil
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

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``make`` with a bare environment and an empty home."""
        environ = {"PATH": f"{self.python.parent}:/usr/bin:/bin", "HOME": str(self.folder / "home")}
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
    return len([call for call in calls if call == ["airflow", "db", "migrate"]])


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
    assert project.calls() == [["airflow", "db", "migrate"]]


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
        *("help", "env", "lock", "run", "test", "fault-test", "test-container", "bench", "bench-quick", "deploy")
    ]


def test_env_sh_works_from_any_folder_and_twice(tmp_path):
    script = (
        f"source {ROOT}/env.sh; source {ROOT}/env.sh; echo $AIRFLOW_HOME $PYTHONPATH; echo $AIRFLOW__CORE__DAGS_FOLDER"
    )
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [f"{ROOT}/.airflow", str(ROOT), f"{ROOT}/dags"]
