"""Verifying a registry in use: no false alarm, however often the champion moves meanwhile, and no damage overlooked."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import shelf
from shelf import NAME, promote
from upath import UPath

from mlapp import storage
from mlapp.registry import integrity
from mlapp.registry.bundle import Manifest, whole
from mlapp.registry.pointer import Pointer
from mlapp.schema import Signing

pytest_plugins = "loopback.fixtures"
ROOT = Path(__file__).parents[2]
# Moves back and forth as fast as it can, and files and promotes new bundles now and then.
MOVER = """
import sys, itertools
sys.path[:0] = [{tests!r}]
import shelf
from mlapp.registry.moves import rollback
from mlapp.schema import Signing
registry, first, second, private, public = sys.argv[1:]
keys = Signing(private_key=private or None, public_key=public or None)
for number in itertools.count():
    for to in (first, second):
        rollback(registry, shelf.NAME, to, keys=keys)
    if number == 0:
        print("ready", flush=True)
    if number < 40:
        shelf.promote(registry, f"more {{number}}", keys)
"""


@contextmanager
def moving(registry: str, first: str, second: str, keys: Signing) -> Iterator[subprocess.Popen[str]]:
    """Another process that moves the champion all the time."""
    code = MOVER.format(tests=str(Path(__file__).parent))
    line = [sys.executable, "-Wignore", "-c", code, registry, first, second]
    with subprocess.Popen(
        [*line, keys.private_key or "", keys.public_key or ""], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as mover:
        try:
            assert mover.stdout
            assert mover.stdout.readline() == "ready\n"
            yield mover
            assert mover.poll() is None, "the mover was refused"
        finally:
            mover.kill()


def slowly(place: UPath) -> Manifest:
    time.sleep(0.01)
    return whole(place)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("place", "signed", "times"), [("disk", True, 100), ("bucket", False, 15)])
def test_it_raises_no_false_alarm_while_the_champion_moves(
    tmp_path: Path, cloud: dict[str, str], monkeypatch: pytest.MonkeyPatch, place: str, signed: bool, times: int
) -> None:
    monkeypatch.setattr(integrity, "whole", slowly)  # as long as bundles of some size take
    keys = shelf.pair(tmp_path, "ours") if signed else Signing()
    registry = str(tmp_path / "registry") if place == "disk" else f"gs://models/{uuid.uuid4().hex}"
    other, first, second = (promote(registry, content, keys) for content in ("other", "one", "two"))
    pointer = Pointer(registry, NAME)
    with moving(registry, first, second, keys):
        before, tried, alarms = len(pointer.history()), 0, []
        while tried < times or len(pointer.history()) - before < times // 4:  # a busy machine may move it slowly
            alarms += integrity.damage(registry, NAME, keys)
            tried += 1
        assert alarms == []
        # What is really wrong is found all the same.
        labels = pointer.folder / other / "labels.json"
        storage.write_text(labels, "[1]")
        assert any("labels.json was altered" in line for line in integrity.damage(registry, NAME, keys))
        storage.write_text(labels, "[]")
    assert integrity.damage(registry, NAME, keys) == []
