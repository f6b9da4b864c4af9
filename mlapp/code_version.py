"""The version of the code behind a stage, finer than a commit: editing the vetting does not retrain the teacher."""

from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

ROOT = Path(__file__).parent
# What these yield is in a stage's key already: the resolved settings, or nothing that reaches a result's content.
IRRELEVANT = {
    "mlapp",
    *("mlapp.config", "mlapp.schema", "mlapp.search_space", "mlapp.tuned", "mlapp.tracking"),
    *("mlapp.command_line", "mlapp.pins", "mlapp.address", "mlapp.code_version", "mlapp.errors", "mlapp.cluster"),
    *("mlapp.storage", "mlapp.gcs", "mlapp.workspaces", "mlapp.plain", "mlapp.small_file"),
}


@functools.cache
def code_version(module: str) -> str:
    """Twelve hex digits over the source of ``module`` and every mlapp module that it imports, directly or not."""
    digest = hashlib.sha256()
    for name in sorted(_closure(module)):
        digest.update(name.encode())
        digest.update(_source(name).read_bytes())
    return digest.hexdigest()[:12]


def _closure(module: str) -> set[str]:
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
