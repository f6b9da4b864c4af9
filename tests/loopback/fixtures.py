"""Fixtures of the loopback services; a test file that uses them says ``pytest_plugins = "loopback.fixtures"``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from loopback import chaos, gcs


@pytest.fixture(scope="session")
def gcs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the Cloud Storage of this test run keeps its log, for `gcs.requests`."""
    return tmp_path_factory.mktemp("gcs")


@pytest.fixture(scope="session")
def gcs_environ(gcs_folder: Path) -> Iterator[dict[str, str]]:
    """A Cloud Storage with buckets raw, processed and models: the environment of processes that use it."""
    with gcs.serving(gcs_folder) as environ:
        yield environ


@pytest.fixture
def cloud(gcs_environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The same, for this process and its children too."""
    for name, value in gcs_environ.items():
        monkeypatch.setenv(name, value)
    return gcs_environ


@pytest.fixture
def bad_weather() -> Iterator[Callable[..., chaos.Proxy]]:
    """A function that puts a seeded proxy of bad weather before an HTTP server: ``bad_weather(url, seed)``."""
    with ExitStack() as stack:
        yield lambda *given, **more: stack.enter_context(chaos.http_proxy(*given, **more))
