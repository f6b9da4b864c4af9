"""A stage's code version: moved by what it imports, and by nothing else."""

from __future__ import annotations

import pytest

from mlapp import code_version as module
from mlapp.code_version import code_version

FILES = {
    "mlapp/__init__.py": "",
    "mlapp/a.py": "from mlapp.b import thing\nimport json\n",
    "mlapp/b.py": "def thing():\n    from mlapp.room import c\n",
    "mlapp/room/__init__.py": "",
    "mlapp/room/c.py": "from mlapp import a\n",
    "mlapp/room/other.py": "1\n",
    "mlapp/schema.py": "1\n",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of a few modules: a imports b, which imports room.c inside a function, which imports a."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(module, "ROOT", tmp_path / "mlapp")
    return tmp_path


def version() -> str:
    return code_version.__wrapped__("mlapp.a")


@pytest.mark.parametrize("name", ["mlapp/a.py", "mlapp/b.py", "mlapp/room/c.py", "mlapp/room/__init__.py"])
def test_an_edit_of_what_it_imports_moves_it(project, name):
    before = version()
    (project / name).write_text(FILES[name] + "# edited\n")
    assert version() != before


@pytest.mark.parametrize("name", ["mlapp/room/other.py", "mlapp/schema.py", "mlapp/__init__.py"])
def test_an_edit_of_anything_else_does_not(project, name):
    before = version()
    (project / name).write_text(FILES[name] + "# edited\n")
    assert version() == before


def test_it_is_the_same_in_every_place(project, tmp_path_factory, monkeypatch):
    here = version()
    there = tmp_path_factory.mktemp("there")
    project.rename(there / "project")
    monkeypatch.setattr(module, "ROOT", there / "project" / "mlapp")
    assert version() == here
