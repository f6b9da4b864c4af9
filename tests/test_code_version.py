"""A stage's code version: moved by what the code it imports does, and by nothing else."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mlapp import code_version as module
from mlapp.code_version import code_version, without_prose

FILES = {
    "mlapp/__init__.py": "",
    "mlapp/a.py": "from mlapp.b import thing\nimport json\n",
    "mlapp/b.py": "def thing():\n    from mlapp.room import c\n",
    "mlapp/room/__init__.py": "",
    "mlapp/room/c.py": "from mlapp import a\n",
    "mlapp/room/other.py": "1\n",
    "mlapp/schema.py": "1\n",
}
SOURCES = sorted((Path(__file__).parents[1] / "mlapp").rglob("*.py"))
CODE = '''
"""What the module is for."""
class Settings(Section):
    """Settings of something."""

    rate: float = Field(0.5, ge=0, description="how fast")
    """A note below a field."""

def work(values):
    """Add them up."""
    log.info("adding %d values", len(values))
    if not values:
        raise UserError(f"{values} is empty: give some")
    try:
        total = sum(values)
    except TypeError as error:
        raise ValueError("not numbers") from error
    failures.append(ValueError("kept for later"))
    return f"total {total}"
'''
PROSE = {
    "a module's docstring": ('"""What the module is for."""', '"""Why the module is there."""'),
    "no docstring": ('    """Add them up."""\n', ""),
    "a class's docstring": ("Settings of something.", "What can be set."),
    "a note below a field": ("A note below a field.", "Another note."),
    "a comment": ("total = sum(values)", "total = sum(values)  # all of them"),
    "lines and spaces": ("def work(values):", "\n\ndef work( values ) :"),
    "a setting's description": ("how fast", "values a second"),
    "the text of a log line": ("adding %d values", "%d values are added"),
    "the text of an error": ("is empty: give some", "holds nothing: give a value"),
    "what an error quotes": ('f"{values} is empty: give some"', '"give some values"'),
    "the text of an error with a cause": ("not numbers", "some are not numbers"),
    "the text of an error that is not raised here": ("kept for later", "kept"),
}
WORK = {
    "a default": ("Field(0.5", "Field(0.6"),
    "a bound": ("ge=0", "gt=0"),
    "an operation": ("sum(values)", "max(values)"),
    "a condition": ("if not values", "if values"),
    "a function's name": ("def work", "def add"),
    "a text that is returned": ("total {total}", "sum {total}"),
    "the kind of an error": ("raise UserError", "raise TryAgainError"),
    "what is caught": ("except TypeError", "except ValueError"),
    "what is logged": ("len(values)", "values"),
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
    (project / name).write_text(FILES[name] + "edited = True\n")
    assert version() != before


@pytest.mark.parametrize("name", ["mlapp/a.py", "mlapp/b.py", "mlapp/room/c.py", "mlapp/room/__init__.py"])
def test_prose_in_what_it_imports_does_not(project, name):
    before = version()
    (project / name).write_text('"""Why it is there."""\n' + FILES[name] + "# edited\n")
    assert version() == before


@pytest.mark.parametrize("name", ["mlapp/room/other.py", "mlapp/schema.py", "mlapp/__init__.py"])
def test_an_edit_of_anything_else_does_not(project, name):
    before = version()
    (project / name).write_text(FILES[name] + "edited = True\n")
    assert version() == before


def test_it_is_the_same_in_every_place(project, tmp_path_factory, monkeypatch):
    here = version()
    there = tmp_path_factory.mktemp("there")
    project.rename(there / "project")
    monkeypatch.setattr(module, "ROOT", there / "project" / "mlapp")
    assert version() == here


@pytest.mark.parametrize(("old", "new"), PROSE.values(), ids=PROSE)
def test_rewording_leaves_it(old, new):
    assert old in CODE
    assert without_prose(CODE.replace(old, new)) == without_prose(CODE)


@pytest.mark.parametrize(("old", "new"), WORK.values(), ids=WORK)
def test_other_work_moves_it(old, new):
    assert old in CODE
    assert without_prose(CODE.replace(old, new)) != without_prose(CODE)


class OtherNumber(ast.NodeTransformer):
    """Changes the first number outside errors and texts."""

    done = False

    def visit_Raise(self, node):
        return node

    def visit_JoinedStr(self, node):
        return node

    def visit_Constant(self, node):
        if self.done or type(node.value) not in (int, float):
            return node
        self.done = True
        return ast.Constant(node.value + 1)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: "/".join(path.parts[-2:]))
def test_in_every_module_of_the_project(path):
    """A module without its docstrings and comments has the same version, one with another number another version."""
    source = path.read_text(encoding="utf-8")
    bare, other, change = ast.parse(source), ast.parse(source), OtherNumber()
    for node in ast.walk(bare):
        if isinstance(node, module.BODIES) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    assert without_prose(ast.unparse(bare)) == without_prose(source)
    assert (without_prose(ast.unparse(change.visit(other))) != without_prose(source)) == change.done
