"""A rehearsal: a registry in a bucket that keeps versions is vandalised, restored by command, and whole again."""

from __future__ import annotations

import json
import time
import urllib.request
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import shelf
from shelf import NAME, promote

from mlapp import storage
from mlapp.registry import history
from mlapp.registry.__main__ import main
from mlapp.registry.pointer import Pointer
from mlapp.schema import Signing

pytest_plugins = "loopback.fixtures"


@pytest.fixture
def bucket(cloud: dict[str, str]) -> str:
    """A bucket that keeps versions, as deploy/setup.sh makes it for models."""
    name = f"kept-{uuid.uuid4().hex[:12]}"
    body = json.dumps({"name": name, "versioning": {"enabled": True}}).encode()
    url = f"{cloud['STORAGE_EMULATOR_HOST']}/storage/v1/b?project=loopback"
    made = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(made, timeout=10):
        return name


def move_the_pointer(pointer: Pointer, first: str, _: str) -> None:
    storage.write_text(pointer.folder / "CHAMPION", f"{first}\n")


def rewrite_the_history(pointer: Pointer, first: str, second: str) -> None:
    text = ""
    for line in pointer.history_text().splitlines():
        move = {name: value for name, value in json.loads(line).items() if name not in ("previous", "signature")}
        text = history.appended(text, {**move, "why": "as if nothing had been"})
    storage.write_text(pointer.folder / "HISTORY.jsonl", text)


def replace_a_file(pointer: Pointer, first: str, second: str) -> None:
    storage.write_text(pointer.folder / second / "model.int8.tflite", "a back door")


def delete_a_bundle(pointer: Pointer, first: str, second: str) -> None:
    pointer.folder.fs.rm((pointer.folder / first).path, recursive=True)


def add_a_file(pointer: Pointer, first: str, second: str) -> None:
    storage.write_text(pointer.folder / second / "extra.py", "print()")


def delete_everything(pointer: Pointer, first: str, second: str) -> None:
    pointer.folder.fs.rm(pointer.folder.path, recursive=True)


ALL = (move_the_pointer, rewrite_the_history, replace_a_file, delete_a_bundle, add_a_file, delete_everything)
Vandal = Callable[[Pointer, str, str], None]


def run(line: list[str]) -> int:
    try:
        main(line)
    except SystemExit as ended:
        return int(str(ended.code))
    return 0


@pytest.mark.parametrize(
    "what", [*([each] for each in ALL), ALL], ids=lambda what: what[0].__name__ if what[1:] == [] else "all"
)
def test_what_was_vandalised_is_restored_from_the_buckets_versions(
    bucket: str, tmp_path: Path, what: list[Vandal], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = shelf.pair(tmp_path, "ours")
    monkeypatch.setenv("MLAPP_SIGNING__PRIVATE_KEY", str(keys.private_key))
    monkeypatch.setenv("MLAPP_SIGNING__PUBLIC_KEY", str(keys.public_key))
    registry = f"gs://{bucket}/production_models"
    first, second = (promote(registry, content, keys) for content in ("one", "two"))
    pointer = Pointer(registry, NAME)
    kept = pointer.history_text()
    time.sleep(0.02)
    well = datetime.now(UTC).isoformat()
    time.sleep(0.02)
    for vandal in what:
        vandal(pointer, first, second)
    given = ["--registry", registry, "--name", NAME]
    assert run(["verify", *given]) == 1 or what[-1] is delete_everything
    capsys.readouterr()

    main(["restore", "--at", well, *given])  # shows
    assert "would be done" in capsys.readouterr().out
    assert run(["verify", *given]) == 1 or what[-1] is delete_everything
    main(["restore", "--at", well, "--yes", *given])
    capsys.readouterr()
    main(["verify", *given])
    assert capsys.readouterr().out == f"{NAME}: all whole, 2 bundles, signed\n"
    assert (pointer.read(), pointer.history_text()) == (second, kept)
    main(["restore", "--at", well, *given])
    assert capsys.readouterr().out == f"{NAME}: all is as it was then\n"
    # And it goes on from there.
    assert run(["rollback", "--why", "works again", *given]) == 0
    assert promote(registry, "three", keys)
    assert run(["verify", *given]) == 0


def test_what_cannot_be_restored_is_told(tmp_path: Path, bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    registry = f"gs://{bucket}/production_models"
    promote(registry, "one", Signing())
    promote(str(tmp_path), "one", Signing())
    for place, at, gist in (
        (registry, "2020-01-01", "do not reach back to 2020-01-01T00:00:00+00:00: give a later time"),
        (registry, "yesterday", "'yesterday' is no time: write it as"),
        (str(tmp_path), "2026-01-01", "is not in Cloud Storage"),
    ):
        assert run(["restore", "--at", at, "--registry", place, "--name", NAME]) == 2
        assert gist in capsys.readouterr().err
