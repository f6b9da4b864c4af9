"""One workspace a module."""

from __future__ import annotations

import pytest

from tests.e2e.workspace import ROOT, Workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """An empty workspace with Airflow's database, as `make env` leaves it."""
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    migrated = workspace.run("python", str(ROOT / "plugins" / "laptop_homes.py"))
    assert migrated.code == 0, migrated.output
    return workspace
