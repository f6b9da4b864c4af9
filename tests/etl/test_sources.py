"""Where data lie as others distribute them: recognised, or refused with what was found and what is expected."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tiny_data import IdxFolder, labels

from mlapp import storage
from mlapp.errors import UserError
from mlapp.etl import gcp_dataloader, picture, quality, sources
from mlapp.etl.gcp_dataloader import Extract
from mlapp.result import StageResult

pytest_plugins = "loopback.fixtures"


def test_kaggles_mnist_has_folders_of_the_dashed_names_beside_its_files(tiny: IdxFolder, tmp_path: Path) -> None:
    for path in sorted(tiny.path.iterdir()):
        folder = tiny.path / "keep" / path.name
        folder.mkdir(parents=True)
        shutil.copy(path, folder)
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    for folder in (tiny.path / "keep").iterdir():
        folder.rename(tiny.path / folder.name)
    (tiny.path / "keep").rmdir()

    assert StageResult.load(tiny.extract(tmp_path / "raw")).metrics["train_images"].value == 60


def test_idx_files_in_a_folder_of_their_own_are_refused_with_that_folder(tiny: IdxFolder, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    tiny.path.rename(tmp_path / "root/raw")
    with pytest.raises(UserError, match=r"holds raw/, one folder around all: give .*/root/raw as data\.source"):
        gcp_dataloader.run(Extract(name="x", source=f"{tmp_path}/root"), tmp_path / "work")


def test_idx_files_each_in_a_folder_of_its_name_are_refused_with_what_to_do(tiny: IdxFolder, tmp_path: Path) -> None:
    for path in sorted(tiny.path.iterdir()):
        path.rename(tmp_path / "moved")
        path.mkdir()
        (tmp_path / "moved").rename(path / path.name.replace("-idx", ".idx"))
    with pytest.raises(UserError, match=r"holds folders named like IDX files \(t10k-.*\): move the files in them into"):
        tiny.extract(tmp_path / "raw")


def test_every_idx_file_that_cannot_be_read_is_named(tiny: IdxFolder, tmp_path: Path) -> None:
    (tiny.path / "train-images-idx3-ubyte").write_bytes(b"")
    (tiny.path / "t10k-labels-idx1-ubyte").write_bytes(b"<html>")
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte is truncated.*; .*t10k-labels-idx1-ubyte has the wr"):
        tiny.extract(tmp_path / "raw")
    assert not [*(tmp_path / "raw").glob("*ubyte")]


def test_which_of_two_files_of_one_kind_is_read_is_said(
    tiny: IdxFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(tiny.path / "t10k-labels-idx1-ubyte", tiny.path / "test-labels.idx1-ubyte")
    tiny.extract(tmp_path / "raw")
    assert "t10k-labels-idx1-ubyte is read, test-labels.idx1-ubyte is not" in caplog.text


@pytest.mark.parametrize("name", ["mnist.npz", "data.ZIP", "pets.tar.gz", "train-images-idx3-ubyte.zip"])
def test_archives_are_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / name).write_bytes(b"PK")
    with pytest.raises(UserError, match=rf"it holds {name}: unpack or convert {name}"):
        gcp_dataloader.run(Extract(name="x", source=f"{tmp_path}/source"), tmp_path / "work")


def test_one_class_alone_is_refused_at_once(tiny: IdxFolder, tmp_path: Path) -> None:
    for name in ("train", "t10k"):
        tiny.write(f"{name}-labels", labels(60 if name == "train" else 30, classes=1))
    with pytest.raises(UserError, match="all training labels are 0: give images of at least two classes"):
        tiny.extract(tmp_path / "raw")


def test_folders_beside_idx_files_are_not_read_and_that_is_said(
    tiny: IdxFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tiny.path / "train/cat").mkdir(parents=True)
    tiny.extract(tmp_path / "raw")
    assert "its IDX files are read, its folders (train) are not" in caplog.text


@pytest.mark.parametrize("name", ["emnist-letters-{}", "{}.bin", "my-{}.gz"])
def test_idx_files_by_other_names_are_refused_with_the_names_to_give(
    tiny: IdxFolder, tmp_path: Path, name: str
) -> None:
    for path in sorted(tiny.path.iterdir()):
        path.rename(tiny.path / name.format(path.name))
    with pytest.raises(
        UserError, match=r"holds IDX files by other names \(.*\): rename them to train-images-idx3-"
    ) as told:
        tiny.extract(tmp_path / "raw")
    assert ("transposed" in str(told.value)) == name.startswith("emnist")


def test_a_folder_of_neither_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/train.parquet").touch()
    with pytest.raises(
        UserError, match=r"neither IDX files .* nor class folders .*; it holds train.parquet: check data"
    ):
        gcp_dataloader.run(Extract(name="x", source=f"{tmp_path}/source"), tmp_path / "raw")


def test_the_home_folder_may_be_abbreviated(tiny: IdxFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiny.path.parent))
    found = gcp_dataloader.run(Extract(name="x", source="~/tiny"), tmp_path / "raw")
    assert found.metrics["train_images"].value == 60


def test_labels_from_one_are_refused_with_what_to_do(tiny: IdxFolder, tmp_path: Path) -> None:
    from tiny_data import labels

    tiny.write("train-labels", labels(60) + 1)
    raw = tiny.extract(tmp_path / "raw")
    with pytest.raises(
        UserError, match="train labels go from 1 to 3, but must start at 0: subtract 1 from every label"
    ):
        quality.run(quality.Validate(raw=raw), tmp_path / "quality")


@pytest.fixture
def store(cloud: dict[str, str], tmp_path: Path) -> str:
    """A folder in the loopback Cloud Storage with two classes of one picture each."""
    place = storage.at(f"gs://raw/{tmp_path.name}/pets")
    stream = io.BytesIO()
    Image.new("L", (8, 8), 9).save(stream, "PNG")
    for name in ("cat", "dog"):
        (place / name / "1.png").write_bytes(stream.getvalue())
    return str(place)


def test_class_folders_of_a_store_are_read(store: str, tmp_path: Path) -> None:
    found = gcp_dataloader.run(Extract(name="pets", source=store), tmp_path / "raw")
    assert found.metrics["train_images"].value == 2
    assert json.loads(storage.read_text(found.artifact("names"))) == {"train": ["cat/1.png", "dog/1.png"]}
    assert {path.name for path in (tmp_path / "raw").iterdir()} == {
        *(".lock", "names.json", "result.json", "source.json", "train-images-idx3-ubyte", "train-labels-idx1-ubyte")
    }


def test_a_store_is_refused_like_a_folder_by_its_own_name(store: str, tmp_path: Path) -> None:
    """An empty class is seen, and what to give as data.source is never the temporary copy."""
    place = storage.at(store)
    place.fs.pipe_file(f"{place.path}/bird/", b"")
    with pytest.raises(UserError, match=f"^{store} has no picture of bird: add some, or remove the folder$"):
        gcp_dataloader.run(Extract(name="pets", source=store), tmp_path / "raw")
    above, name = store.rsplit("/", 1)
    with pytest.raises(UserError, match=f"^{above} holds {name}/, one folder around all: give {store} as data.source$"):
        gcp_dataloader.run(Extract(name="pets", source=above), tmp_path / "raw")


def test_a_list_of_bad_files_outlasts_a_refused_remote_work(store: str) -> None:
    (storage.at(store) / "dog" / "2.png").write_bytes(b"x")
    with pytest.raises(UserError, match=rf"{store}/dog/2.png is not a readable picture .* {store}-work/bad_files\.csv"):
        gcp_dataloader.run(Extract(name="pets", source=store), f"{store}-work")
    assert "dog/2.png" in storage.read_text(storage.at(f"{store}-work/bad_files.csv"))


class Store:
    """A store with objects of these names and sizes, from which nothing may be fetched."""

    path = "bucket/pets"

    def __init__(self, sizes: dict[str, int]) -> None:
        self.sizes, self.fs = sizes, self

    def find(self, path: str, detail: bool) -> dict[str, dict[str, int]]:
        return {f"{path}/{name}": {"size": size} for name, size in self.sizes.items()}

    def get(self, *_: object) -> None:
        raise AssertionError("fetched")


@pytest.mark.parametrize(
    ("sizes", "gist"),
    [
        ({"cat/../../../x": 1}, "would lead out of the folder: rename it"),
        ({"../x": 1}, "would lead out"),
        ({"cat/1.png": picture.MOST_BYTES + 1}, "1 objects are over 200,000,000 bytes"),
        (dict.fromkeys(map(str, range(10**5)), picture.MOST_BYTES), "has room for .*: free some disk space"),
    ],
)
def test_a_store_that_would_lead_out_or_fill_the_disk_is_refused_before_it_is_fetched(
    tmp_path: Path, sizes: dict[str, int], gist: str
) -> None:
    with pytest.raises(UserError, match=gist):
        sources._copied(Store(sizes), tmp_path / "images")
    assert not list(tmp_path.iterdir())
