"""Whatever extract, validate or transform refuses, their work directories hold nothing but the reports that say why."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_data import IdxFolder, images, labels

from mlapp import storage
from mlapp.errors import UserError
from mlapp.etl import gcp_dataloader, image_etl, quality
from mlapp.etl.image_etl import Transformation
from mlapp.etl.leftovers import removed_on_refusal
from mlapp.etl.quality import Validate
from mlapp.result import StageResult

LOCK = {".lock"}


def left(workdir: Path) -> set[str]:
    return {str(path.relative_to(workdir)) for path in workdir.rglob("*")}


def _int32_labels(folder: IdxFolder) -> None:
    content = struct.pack(">HBBI", 0, 0x0C, 1, 30) + bytes(120)
    (folder.path / "t10k-labels-idx1-ubyte").write_bytes(content)


def _longer(folder: IdxFolder) -> None:
    with (folder.path / "t10k-labels-idx1-ubyte").open("ab") as stream:
        stream.write(b"x")


def _replaced(name: str, by: Callable[[Path], object]) -> Callable[[IdxFolder], None]:
    def replace(folder: IdxFolder) -> None:
        (folder.path / name).unlink()
        by(folder.path / name)

    return replace


@pytest.mark.parametrize(
    ("spoil", "gist"),
    [
        (_int32_labels, "wrong magic number"),
        (_longer, "holds more than"),
        (lambda folder: folder.write("t10k-labels", np.zeros(0, np.uint8)), "is empty"),
        (_replaced("t10k-labels-idx1-ubyte", lambda path: path.write_bytes(b"\x1f\x8b\x08")), "is truncated"),
        (_replaced("t10k-labels-idx1-ubyte", lambda path: None), "has no t10k-labels"),
        (_replaced("t10k-labels-idx1-ubyte", os.mkfifo), "is not a regular file"),
        (_replaced("train-images-idx3-ubyte", os.mkfifo), "is not a regular file"),
        (_replaced("t10k-labels-idx1-ubyte", lambda path: path.symlink_to(path)), "is not a regular file"),
    ],
)
def test_a_refused_idx_source_leaves_nothing(
    tiny: IdxFolder, tmp_path: Path, spoil: Callable[[IdxFolder], object], gist: str
) -> None:
    spoil(tiny)
    with pytest.raises(UserError, match=gist):
        tiny.extract(tmp_path / "raw")
    assert left(tmp_path / "raw") == LOCK


@pytest.mark.parametrize(
    "settings",
    [{"sha256": {"t10k-labels": "0" * 64}}, {"max_decoded_bytes": 2000}, {"classes": ("a", "a", "b")}],
    ids=["hash", "size", "classes"],
)
def test_refused_settings_leave_nothing(tiny: IdxFolder, tmp_path: Path, settings: dict) -> None:
    with pytest.raises(UserError):
        tiny.extract(tmp_path / "raw", **settings)
    assert left(tmp_path / "raw") == LOCK


def test_refused_pictures_leave_their_list(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("a", "b"):
            place = tmp_path / "pets" / part / name
            place.mkdir(parents=True)
            Image.new("L", (8, 8)).save(place / "1.png")
    bad = tmp_path / "pets/test/b/2.png"
    bad.touch()
    config = gcp_dataloader.Extract(name="pets", source=f"{tmp_path}/pets")
    with pytest.raises(UserError, match=r"2\.png is empty"):
        gcp_dataloader.run(config, tmp_path / "raw")
    assert left(tmp_path / "raw") == LOCK | {"bad_files.csv"}

    bad.unlink()
    found = gcp_dataloader.run(config, tmp_path / "raw")
    assert "bad_files.csv" not in left(tmp_path / "raw")
    assert {"names", "source", "test_labels"} < set(found.artifacts)


def _altered(raw: str) -> None:
    path = StageResult.load(raw).local("test_images")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_refused_validation_and_transformation_leave_nothing(
    tiny: IdxFolder, tmp_path: Path, validated: Callable[[str], str]
) -> None:
    raw = tiny.extract(tmp_path / "raw")
    report = validated(raw)
    for number, settings in enumerate(({"validation_fraction": 0.01}, {"report": raw})):
        workdir = tmp_path / f"data-{number}"
        with pytest.raises(UserError):
            image_etl.run(Transformation(**{"raw": raw, "report": report, **settings}), workdir)
        assert left(workdir) == LOCK
    _altered(raw)
    with pytest.raises(UserError, match="not as it was extracted"):
        image_etl.run(Transformation(raw=raw, report=report), tmp_path / "data")
    assert left(tmp_path / "data") == LOCK
    with pytest.raises(UserError, match="not as it was extracted"):
        quality.run(Validate(raw=raw), tmp_path / "again")
    assert left(tmp_path / "again") == LOCK | {"findings.csv"}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: folder.write("train-labels", labels(60) + 1),
        lambda folder: folder.write("train-labels", labels(59)),
        lambda folder: folder.write("t10k-images", images(30, shape=(9, 9))),
        lambda folder: folder.write("train-labels", labels(60, classes=2)),
    ],
)
def test_a_refusal_before_the_checks_leaves_nothing(
    tiny: IdxFolder, tmp_path: Path, spoil: Callable[[IdxFolder], object]
) -> None:
    spoil(tiny)
    raw = tiny.extract(tmp_path / "raw", classes=("a", "b", "c"))
    with pytest.raises(UserError):
        quality.run(Validate(raw=raw), tmp_path / "quality")
    assert left(tmp_path / "quality") == LOCK


def test_a_users_own_files_in_a_work_directory_stay(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")

    def write() -> None:
        (tmp_path / "new.txt").write_text("x")
        (tmp_path / "report.csv").write_text("x")
        raise UserError("this line says what is wrong: and what to do")

    with pytest.raises(UserError), removed_on_refusal(tmp_path, keep=("report.csv",)):
        write()
    assert left(tmp_path) == {"mine.txt", "report.csv"}


def hostile(raw: str, name: str, content: bytes) -> None:
    """Replace an artifact, and its hash in the result: as one does it who may write to the raw area."""
    result = StageResult.load(raw)
    path = result.local(name)
    path.write_bytes(content)
    changed = json.loads(Path(raw).read_text())
    changed["artifacts"][name] |= {"sha256": storage.sha256(path), "bytes": len(content)}
    Path(raw).write_text(json.dumps(changed))


SOURCE = {"name": "tiny", "classes": ["a", "b", "c"], "origin": "x"}


@pytest.mark.parametrize(
    ("name", "content", "gist"),
    [
        ("source", b"[]", "is not a source of this version"),
        ("source", b"[" * 100_000, "is not a source of this version"),
        ("source", b"\xff", "is not a source of this version"),
        ("source", json.dumps(SOURCE | {"name": "../x"}).encode(), "is not a source of this version"),
        ("source", json.dumps(SOURCE | {"classes": ["a", "b\nc"]}).encode(), "is not a source of this version"),
        ("source", json.dumps(SOURCE | {"classes": "abc"}).encode(), "is not a source of this version"),
        ("train_images", b"", "is truncated"),
        ("train_images", struct.pack(">HBB4I", 0, 8, 4, 2**32 - 1, 2**32 - 1, 1, 1), "but its header"),
        ("train_images", struct.pack(">HBB3I", 0, 8, 3, 0, 8, 8), "is empty"),
        ("test_labels", struct.pack(">HBBI", 0, 8, 1, 3) + bytes(3), "test has 30 images but 3 labels"),
    ],
)
def test_a_hostile_raw_folder_is_refused_in_one_line(
    tiny: IdxFolder, tmp_path: Path, validated: Callable[[str], str], name: str, content: bytes, gist: str
) -> None:
    raw = tiny.extract(tmp_path / "raw")
    report = validated(raw)
    hostile(raw, name, content)
    with pytest.raises(UserError, match=gist):
        quality.run(Validate(raw=raw), tmp_path / "again")
    with pytest.raises(UserError) as caught:
        image_etl.run(Transformation(raw=raw, report=report), tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert left(tmp_path / "data") == left(tmp_path / "again") == LOCK


@pytest.mark.timeout(20)
@pytest.mark.parametrize("by", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_a_raw_file_that_is_no_file_is_named_at_once(
    tiny: IdxFolder, tmp_path: Path, by: Callable[[Path], object]
) -> None:
    raw = tiny.extract(tmp_path / "raw")
    path = StageResult.load(raw).local("train_labels")
    path.unlink()
    by(path)
    with pytest.raises(UserError, match="train_labels is not a regular file"):
        quality.run(Validate(raw=raw), tmp_path / "quality")


@pytest.mark.parametrize("content", [b"[]", b"{}", b"x"])
def test_a_hostile_report_is_refused(
    tiny: IdxFolder, tmp_path: Path, validated: Callable[[str], str], content: bytes
) -> None:
    raw = tiny.extract(tmp_path / "raw")
    report = validated(raw)
    hostile(report, "report", content)
    with pytest.raises(UserError, match=r"is not a report of this version|reports on other data"):
        image_etl.run(Transformation(raw=raw, report=report), tmp_path / "data")
