"""What passes between stages: a URI with the hash of what must be there, and who may reuse what lies in a bucket."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlapp import ledger, reference, storage
from mlapp.dataset import Dataset
from mlapp.errors import UserError
from mlapp.result import StageResult, input_digest
from tests import planted, tiny_stage
from tests.tiny_stage import Tiny, run


def test_a_reference_is_a_uri_and_a_hash() -> None:
    digest = "0f" * 32
    assert reference.parse(f"gs://b/a#1/result.json#sha256={digest}") == ("gs://b/a#1/result.json", digest)
    assert reference.parse("gs://b/a#1") == ("gs://b/a#1", None)
    assert reference.folder(f"gs://b/run/config.json#sha256={digest}") == "gs://b/run"
    for wrong in ("", "0f", "0f" * 31 + "0G", digest + "00", f"{digest}#sha256={digest}", "../" + digest[3:]):
        with pytest.raises(UserError, match="is not a valid reference: give URI#sha256= and 64 hex digits"):
            reference.parse(f"gs://b/a#sha256={wrong}")


def test_another_result_at_the_same_place_is_refused(tmp_path: Path) -> None:
    """Given a whole, valid result of the right key with another content: only its hash says that it is another."""
    handed_on = run(Tiny(text="ours"), tmp_path / "work").reference
    (tmp_path / "work" / "text.txt").write_text("theirs")
    content = json.loads((tmp_path / "work" / "result.json").read_text())
    theirs = tmp_path / "work" / "text.txt"
    content["artifacts"]["text"] |= {"sha256": storage.sha256(theirs), "bytes": theirs.stat().st_size}
    (tmp_path / "work" / "result.json").write_text(json.dumps(content))
    assert StageResult.load(str(tmp_path / "work")).local("text").read_text() == "theirs", "a plain URI takes any"
    for use in (StageResult.load, StageResult.load_verified, input_digest):
        with pytest.raises(UserError, match="is not the file that was handed over, its SHA-256 differs"):
            use(handed_on)
    with pytest.raises(UserError, match="is not the file that was handed over"):
        run(Tiny(text="!", earlier=handed_on), tmp_path / "later")


def test_a_local_file_is_verified_before_it_is_opened(tmp_path: Path) -> None:
    result = run(Tiny(text="ours"), tmp_path / "work")
    path = result.local("text")
    before = path.stat()
    path.write_text("evil")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # the same size and time
    with pytest.raises(UserError, match=r"text\.txt was altered: run the stage that makes it again"):
        result.local("text")
    path.unlink()
    with pytest.raises(UserError, match=r"text\.txt is missing"):
        result.local("text")
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"text\.txt was altered"):
        result.local("text")


def test_a_local_file_is_read_for_its_hash_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(Tiny(text="ours"), tmp_path / "work")
    result.local("text")
    monkeypatch.setattr(storage, "sha256", lambda path: pytest.fail("hashed again"))
    result.local("text")


@pytest.fixture
def area() -> str:
    return f"memory://{uuid.uuid4().hex}"


def test_a_planted_result_of_the_right_key_is_computed_again(area: str) -> None:
    """Given a bucket in which somebody leaves a result with the right key and files of his own."""
    workdir = f"{area}/models/tiny"
    tiny_stage.CALLS.clear()
    with ledger.kept_in(f"{area}/experiments"):
        ours = run(Tiny(text="ours"), workdir)
        assert run(Tiny(text="ours"), workdir) == ours
        assert tiny_stage.CALLS == ["ours"]
        storage.write_text(storage.at(workdir) / "text.txt", "theirs")
        found = storage.described(storage.at(workdir) / "text.txt")
        content = json.loads(storage.read_text(storage.at(ours.uri)))
        content["artifacts"]["text"] |= {"bytes": found[0], "sha256": found[1]}
        storage.write_text(storage.at(ours.uri), json.dumps(content))
        again = run(Tiny(text="ours"), workdir)
    assert tiny_stage.CALLS == ["ours", "ours"]
    assert again.local("text").read_text() == "ours"


def test_without_entries_nothing_in_a_bucket_is_reused(area: str) -> None:
    tiny_stage.CALLS.clear()
    for _ in range(2):
        run(Tiny(text="ours"), f"{area}/models/tiny")
    assert tiny_stage.CALLS == ["ours", "ours"]


def test_the_command_keeps_its_entries_in_the_experiments_area(
    area: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlapp.command_line import main

    tiny_stage.CALLS.clear()
    places = [f"storage.experiments={tmp_path}", f"--workdir={area}/models/tiny", "tracking.wandb=off"]
    for _ in range(2):
        main(run, ["--text=ours", *places])
    assert tiny_stage.CALLS == ["ours"]
    [entry] = [path for path in (tmp_path / ".mlapp").rglob("*") if path.is_file()]
    assert entry.read_text() == f"{StageResult.load(entry.read_text().strip()).reference}\n"


@pytest.mark.parametrize("spoil", ["objects", "floats", "shape", "huge", "npz"])
def test_a_split_that_is_no_array_of_bytes_is_refused(tmp_path: Path, spoil: str) -> None:
    """Given files whose hashes are right: of a stage that was made to write them."""
    folder, marker = tmp_path / "data", tmp_path / "marker"
    planted.data(folder, 20)
    path = folder / "train_images.npy"
    header = {"descr": "|u1", "fortran_order": False, "shape": (1 << 40, 8, 8, 1)}
    match spoil:
        case "objects":
            np.save(path, np.array([Evil(marker)], object), allow_pickle=True)
        case "floats":
            np.save(path, np.zeros((20, 8, 8, 1), np.float32))
        case "shape":
            np.save(path, np.zeros((20, 9, 8, 1), np.uint8))
        case "huge":
            with path.open("wb") as stream:
                np.lib.format.write_array_header_1_0(stream, header)
        case "npz":
            with path.open("wb") as stream:
                np.savez(stream, images=np.zeros(3))
    artifacts = {path.stem: path for path in folder.glob("*.npy")} | {"dataset": folder / "dataset.json"}
    result = planted.result(folder, "transform", artifacts)
    with pytest.raises(UserError, match="run the transform stage again"):
        Dataset.open(result.uri).split("train")
    assert not marker.exists()


class Evil:
    """Runs a command wherever it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)
