"""The version of the code behind a stage, finer than a commit: editing the vetting does not retrain the teacher.

It depends on what the code does, not on its prose: comments, docstrings, descriptions of settings, and the texts of log
lines and errors can be reworded without computing anything again. Names of modules and functions count.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
# What these yield is in a stage's key already: the resolved settings, or nothing that reaches a result's content.
IRRELEVANT = {
    "mlapp",
    *("mlapp.config", "mlapp.schema", "mlapp.search_space", "mlapp.tuned", "mlapp.tracking"),
    *("mlapp.command_line", "mlapp.pins", "mlapp.address", "mlapp.code_version", "mlapp.errors", "mlapp.cluster"),
    *("mlapp.storage", "mlapp.gcs", "mlapp.gcs_files", "mlapp.cloud_errors", "mlapp.workspaces", "mlapp.plain"),
    *("mlapp.small_file", "mlapp.reference", "mlapp.ledger", "mlapp.child_environment"),
}
LOGGERS = {"log", "logger", "logging"}
ERRORS = ("Error", "Exception", "Warning")
BODIES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@functools.cache
def code_version(module: str) -> str:
    """Twelve hex digits over the code of ``module`` and every mlapp module that it imports, directly or not."""
    digest = hashlib.sha256()
    for name in sorted(closure_of(module)):
        digest.update(name.encode())
        digest.update(without_prose(_source(name).read_text(encoding="utf-8")).encode())
    return digest.hexdigest()[:12]


def without_prose(source: str) -> str:
    """A dump of the syntax tree of ``source`` that stays the same when only its prose is edited."""
    return ast.dump(_Prose().visit(ast.parse(source)))


class _Prose(ast.NodeTransformer):
    """Removes docstrings and descriptions of settings, and empties the texts of log lines and errors."""

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, BODIES):
            node.body = [part for part in node.body if not _is_text(part)] or [ast.Pass()]
        return super().visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return _EmptyTexts().generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = _name(node.func)
        if name.endswith(ERRORS) or (isinstance(node.func, ast.Attribute) and _name(node.func.value) in LOGGERS):
            return _EmptyTexts().generic_visit(node)
        if name == "Field":
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "description"]
        return self.generic_visit(node)


class _EmptyTexts(ast.NodeTransformer):
    """Makes every text empty, with what an f-string quotes."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant("") if isinstance(node.value, str) else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.Constant:
        return ast.Constant("")


def _is_text(node: ast.AST) -> bool:
    """Whether a statement is a text alone: a docstring, or a note below a name."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _name(node: ast.AST) -> str:
    """The last name of an expression such as ``pydantic.Field``; empty for any other."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def closure_of(module: str) -> set[str]:
    """The names of ``module`` and of the mlapp modules that a result of it depends on."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name in IRRELEVANT:
            continue
        found.add(name)
        waiting.extend(_imports(name))
    return found


def _imports(module: str) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(_source(module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.split(".")[0] == ROOT.name and _source(name).is_file()]


def _source(module: str) -> Path:
    path = ROOT.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
