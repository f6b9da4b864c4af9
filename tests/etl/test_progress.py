"""Progress: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from mlapp.etl import progress as module
from mlapp.etl.progress import progress


def test_elsewhere_a_long_step_tells_plain_lines_now_and_then(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))

    with caplog.at_level(logging.INFO, "mlapp"), progress("file", 35_000, "B") as advance:
        for _ in range(7):
            advance(5_000)

    assert caplog.messages == ["file: 15.0k of 35.0k B", "file: 30.0k of 35.0k B", "file: 35.0k of 35.0k B"]


def test_elsewhere_a_short_step_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mlapp"), progress("file", 30_000, "B") as advance:
        advance(30_000)

    assert caplog.messages == []


def test_on_a_terminal_there_is_a_bar(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)

    with caplog.at_level(logging.INFO, "mlapp"), progress("file", 30_000, "B", done=10_000) as advance:
        advance(20_000)

    assert "file: 100%" in terminal.getvalue()
    assert caplog.messages == []
