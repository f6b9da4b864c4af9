"""A registry that grows stays quick to look at: a list reads what it shows, of a bucket only what no history has."""

from __future__ import annotations

import hashlib
import json
import sys
import time
import uuid
from pathlib import Path

import pytest
import shelf
from loopback import gcs
from shelf import NAME

from mlapp import storage
from mlapp.registry import catalogue, files, history, integrity, moves
from mlapp.registry.__main__ import main
from mlapp.registry.bundle import MANIFEST, describe
from mlapp.registry.pointer import HISTORY, POINTER, Pointer

pytest_plugins = "loopback.fixtures"


def grown(folder: Path, bundles: int) -> str:
    """A local registry of so many bundles, each promoted; returns its place."""
    place, text, before = folder / "registry" / NAME, "", None
    verdict = (shelf.SHIPPED / "verdict.json").read_bytes()
    for number in range(bundles):
        draft = place / "draft"
        draft.mkdir(parents=True)
        (draft / "verdict.json").write_bytes(verdict)
        (draft / "model.int8.tflite").write_text(str(number))
        about = {"name": NAME, "model": "model.int8.tflite", "predecessor": before, "created": "2026-08-26"}
        made = describe(draft, **about, data={}, stages={}, history=history.head(text))
        (draft / MANIFEST).write_text(made.model_dump_json(exclude_unset=True))
        draft.rename(place / made.id)
        text = history.appended(
            text,
            {"champion": made.id, "before": before, **moves.entry("Ada", "grows", storage.at(place / made.id), made)},
        )
        before = made.id
    (place / HISTORY).write_text(text)
    (place / POINTER).write_text(f"{before}\n")
    return str(place.parent)


def test_a_list_of_a_disk_takes_a_fraction_of_a_millisecond_a_bundle(tmp_path: Path) -> None:
    registry = grown(tmp_path, 200)
    for model in Path(registry).rglob("*.tflite"):
        model.unlink()  # nothing else is looked at
    began = time.process_time()
    told = catalogue.listed(catalogue.rows(registry, NAME))
    assert len(told.splitlines()) == 201
    assert time.process_time() - began < 0.6, "1,000 bundles would take 3 s; 0.25 s is what they took"


def test_list_of_bucket(tmp_path: Path, cloud: dict[str, str], gcs_folder: Path) -> None:
    """A list of a bucket reads only the bundles of which the history has no figures that count."""
    local = grown(tmp_path, 30)
    registry = f"gs://models/{uuid.uuid4().hex}"
    target = storage.at(registry)
    local_files = [path for path in Path(local).rglob("*") if path.is_file()]
    remote = [f"{target.path}/{each.relative_to(local)}" for each in local_files]
    target.fs.put([str(each) for each in local_files], remote)

    def requests() -> tuple[str, int]:
        before = len(gcs.requests(gcs_folder))
        told = catalogue.listed(catalogue.rows(registry, NAME))
        return told, len(gcs.requests(gcs_folder)) - before

    told, asked = requests()
    assert (told, asked <= 10) == (catalogue.listed(catalogue.rows(local, NAME)), True)
    new = shelf.promote(registry, "one more")
    told, asked = requests()
    assert (told.splitlines()[1].split()[0], asked <= 10) == (new, True)
    unfiled = shelf.file_bundle(registry, "never promoted").name
    told, asked = requests()
    assert (told.splitlines()[-1].split()[0], asked <= 12) == (unfiled, True)
    # An earlier version noted no figures; nor do figures count that cannot be read, or that no key covers.
    place = storage.at(registry) / NAME / HISTORY
    lines = [json.loads(line) for line in storage.read_text(place).splitlines()]
    text = ""
    for number, line in enumerate(lines):
        del line["previous"]
        line["figures"] = [None, {}, "odd", {"accuracy": 1}][number % 4]
        text = history.appended(text, line)
    storage.write_text(place, text)
    again, asked = requests()
    assert (again, asked >= 60) == (told, True)
    # And nothing that decides anything looks there.
    altered = Pointer(registry, NAME).folder / new / "verdict.json"
    storage.write_text(altered, "{}")
    assert any("verdict.json was altered" in line for line in integrity.damage(registry, NAME))


def test_forged_figures(tmp_path: Path, cloud: dict[str, str]) -> None:
    """Figures in a line that no key covers are not shown; the bundle is read."""
    registry, keys = f"gs://models/{uuid.uuid4().hex}", shelf.pair(tmp_path, "ours")
    bundle = shelf.promote(registry, "signed", keys)
    [row] = catalogue.rows(registry, NAME, keys)
    place = storage.at(registry) / NAME / HISTORY
    text = storage.read_text(place)
    forged = {**json.loads(text), "before": bundle, "why": "forged"}
    forged["figures"]["accuracy"]["value"] = 0.9999
    storage.write_text(place, history.appended(text, {**forged, "signature": None}))
    [found] = catalogue.rows(registry, NAME, keys)
    assert isinstance(row, catalogue.Row)
    assert isinstance(found, catalogue.Row)
    assert (found.figures, found.signed, row.signed) == (row.figures, catalogue.UNTRUSTED, "signed")


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 200, 1234])
def test_remote_hash(size: int, cloud: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A remote file is hashed whole whatever its size is next to that of a piece."""
    monkeypatch.setattr(files, "PIECE", 100)
    content = bytes(number % 251 for number in range(size))
    path = storage.at(f"gs://models/{uuid.uuid4().hex}")
    path.fs.pipe_file(path.path, content)
    assert files.sha256(path, size) == hashlib.sha256(content).hexdigest()
    assert {files.sha256(path, other) for other in (size - 1, size + 1, size + 200)} == {""}


def test_verify_looks_at_many_at_once_and_tells_a_person_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    registry, heard = grown(tmp_path, 25), list[tuple[int, int]]()
    integrity.inspect(registry, NAME, progress=lambda done, of: heard.append((done, of)))
    assert heard == [(number, 25) for number in range(1, 26)]
    main(["verify", "--registry", registry])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    main(["verify", "--registry", registry])
    told = capsys.readouterr()
    assert f"\r{NAME}: 24 of 25 bundles" in told.err
    assert told.err.endswith("\r\033[K")
    assert told.out == f"{NAME}: all whole, 25 bundles, unsigned\n"


def test_verify_looks_at_every_model_at_one_or_at_one_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = str(tmp_path)
    first, second = (shelf.promote(registry, content) for content in ("one", "two"))
    shelf.promote(registry, "three", name="shoes")
    (tmp_path / "shoes" / "CHAMPION").write_text(f"{first}\n")
    (tmp_path / NAME / second / "labels.json").write_text("altered")

    def told(*given: str) -> list[str]:
        with pytest.raises(SystemExit) as ended:
            main(["verify", *given, "--registry", registry])
        assert ended.value.code == 1
        return capsys.readouterr().out.splitlines()

    assert [("labels.json" in line, "the pointer names" in line) for line in told()] == [(True, False), (False, True)]
    assert ["the pointer names" in line for line in told("--name", "shoes")] == [True]
    assert ["labels.json" in line for line in told(second)] == [True]
    main(["verify", first, "--registry", registry])
    assert capsys.readouterr().out == f"{NAME}: all whole, 1 bundle, unsigned\n"
