"""What native code says is held back, unless something goes wrong."""

from __future__ import annotations

import os

import pytest

from mlapp.quiet import quiet


def test_held_back_messages_are_shown_when_the_block_fails(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet():
        os.write(2, b"chatter\n")
    assert capfd.readouterr().err == ""

    def fail() -> None:
        with quiet():
            os.write(2, b"the reason\n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert capfd.readouterr().err == "the reason\n"
