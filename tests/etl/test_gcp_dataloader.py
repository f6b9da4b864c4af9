"""Extract: the first source that answers, checked, decompressed, and taken again when it has changed."""

from __future__ import annotations

import functools
import gzip
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from tiny_data import IdxFolder, images

from mlapp import storage
from mlapp.errors import UserError
from mlapp.etl import fashion_mnist, gcp_dataloader, idx
from mlapp.etl.gcp_dataloader import Extract, run
from mlapp.result import StageResult

pytest_plugins = "loopback.fixtures"

REAL = {
    "train-images-idx3-ubyte": (60000, 28, 28),
    "train-labels-idx1-ubyte": (60000,),
    "t10k-images-idx3-ubyte": (10000, 28, 28),
    "t10k-labels-idx1-ubyte": (10000,),
}


@pytest.fixture(scope="module")
def zipped_fashion_mnist(raw_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real four files, compressed as other sources have them."""
    folder = tmp_path_factory.mktemp("fashion")
    for name in REAL:
        content = (Path(raw_uri).parent / name).read_bytes()
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1))
    return folder


@pytest.fixture
def no_known_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with no system data set, no network and no apt."""
    monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", str(tmp_path / "system"))
    monkeypatch.setattr(fashion_mnist, "OFFICIAL_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("PATH", str(tmp_path))


def source_json(uri: str) -> dict[str, object]:
    return json.loads(StageResult.load(uri).local("source").read_text(encoding="utf-8"))


def test_the_real_data_set_is_the_published_one(raw_uri: str) -> None:
    result = StageResult.load(raw_uri)

    assert {path.name: idx.open_idx(path).shape for path in Path(raw_uri).parent.glob("*-ubyte")} == REAL
    assert source_json(raw_uri)["sha256"] == fashion_mnist.SHA256
    assert source_json(raw_uri)["classes"][9] == "Ankle boot"
    assert result.metrics["train_images"].value == 60000
    assert not (Path(raw_uri).parent / "downloads").exists()


def test_a_second_run_has_nothing_to_do(raw_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "mlapp"):
        again = run(Extract(), Path(raw_uri).parent)

    assert again == StageResult.load(raw_uri)
    assert "nothing to do" in caplog.text


def test_an_installed_system_data_set_comes_first(
    zipped_fashion_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", str(zipped_fashion_mnist))

    found = run(Extract(), tmp_path / "raw")

    assert source_json(found.uri)["origin"] == f"the system data set {zipped_fashion_mnist}"


@pytest.mark.usefixtures("no_known_source")
def test_the_official_address_comes_next_and_the_log_says_why(
    zipped_fashion_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(zipped_fashion_mnist) as url, caplog.at_level(logging.INFO, "mlapp"):
        monkeypatch.setattr(fashion_mnist, "OFFICIAL_URL", url)
        found = run(Extract(), tmp_path / "raw")

    assert source_json(found.uri)["origin"] == f"the official address {url}"
    assert f"the system data set {tmp_path}/system does not answer: there is nothing at" in caplog.text
    assert not (tmp_path / "raw/downloads").exists()


@pytest.mark.usefixtures("no_known_source")
def test_with_no_source_left_every_one_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        run(Extract(), tmp_path / "raw")

    told = str(caught.value)
    assert told.startswith("no source of fashion_mnist answers; install Debian's package dataset-fashion-mnist, or put")
    assert "there is nothing at" in told
    assert "cannot reach http://127.0.0.1:1/train-images-idx3-ubyte.gz" in told
    assert "this machine has no apt-get" in told
    assert "\n" not in told


def test_other_images_under_the_name_of_fashion_mnist_are_refused(tiny: IdxFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train-images has SHA-256 .* not c59f468a.* another data.name than fashion_"):
        run(Extract(source=str(tiny.path)), tmp_path / "raw")


def test_no_setting_has_other_images_pass_for_fashion_mnist(tiny: IdxFolder, tmp_path: Path) -> None:
    theirs = source_json(tiny.extract(tmp_path / "tiny"))["sha256"]
    with pytest.raises(UserError, match=r"not c59f468a.* another data.name than fashion_mnist"):
        run(Extract(source=str(tiny.path), sha256=theirs), tmp_path / "raw")


def test_a_name_that_nothing_is_known_of_needs_a_source(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no source is known for data.name=flowers: give data.source"):
        run(Extract(name="flowers"), tmp_path / "raw")


def test_the_users_own_files_may_be_zipped_or_not_and_named_either_way(tiny: IdxFolder, tmp_path: Path) -> None:
    plain = source_json(tiny.extract(tmp_path / "plain"))["sha256"]
    for path in list(tiny.path.iterdir()):
        name = path.name.replace("t10k", "test").replace("-idx", ".idx")
        (tiny.path / f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()

    assert source_json(tiny.extract(tmp_path / "zipped"))["sha256"] == plain


def test_the_users_own_hashes_are_checked(tiny: IdxFolder, tmp_path: Path) -> None:
    right = source_json(tiny.extract(tmp_path / "raw"))["sha256"]

    tiny.extract(tmp_path / "right", sha256=right)
    with pytest.raises(UserError, match=r"t10k-labels has SHA-256 .* not 0{64}: fetch it again, or mend data.sha256"):
        tiny.extract(tmp_path / "wrong", sha256={"t10k-labels": "0" * 64})


def test_unnamed_classes_are_numbered_and_names_must_differ(tiny: IdxFolder, tmp_path: Path) -> None:
    assert source_json(tiny.extract(tmp_path / "raw"))["classes"] == ["0", "1", "2"]
    assert source_json(tiny.extract(tmp_path / "named", classes=("a", "b", "c")))["classes"] == ["a", "b", "c"]
    with pytest.raises(UserError, match=r"names a class twice \(a, a, b\)"):
        tiny.extract(tmp_path / "twice", classes=("a", "a", "b"))


def test_a_source_without_a_test_set_is_fine_but_half_a_one_is_not(tiny: IdxFolder, tmp_path: Path) -> None:
    (tiny.path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match="has no t10k-labels: images and labels go together"):
        tiny.extract(tmp_path / "raw")
    (tiny.path / "t10k-images-idx3-ubyte").unlink()

    assert set(StageResult.load(tiny.extract(tmp_path / "raw")).artifacts) == {"train_images", "train_labels", "source"}


def test_a_local_source_that_changed_is_extracted_again(tiny: IdxFolder, tmp_path: Path) -> None:
    first = StageResult.load(tiny.extract(tmp_path / "raw"))
    assert StageResult.load(tiny.extract(tmp_path / "raw")).finished == first.finished
    file = tiny.write("train-images", images(60, seed=9))
    os.utime(file, ns=(1, 1))

    second = StageResult.load(tiny.extract(tmp_path / "raw"))

    assert second.key != first.key
    assert second.artifacts["train_images"].sha256 != first.artifacts["train_images"].sha256


@pytest.fixture
def remote(cloud: dict[str, str], tmp_path: Path) -> str:
    """An empty place in the loopback Cloud Storage."""
    return f"gs://raw/{tmp_path.name}"


def upload(folder: Path, uri: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            storage.put(path, storage.at(f"{uri}/{path.relative_to(folder)}"))


def test_idx_files_in_remote_storage_are_extracted_and_a_change_there_is_seen(
    tiny: IdxFolder, tmp_path: Path, remote: str
) -> None:
    upload(tiny.path, remote)
    config = Extract(name="tiny", source=remote)
    first = run(config, f"{remote}-raw")
    tiny.write("train-images", images(60, seed=9))
    upload(tiny.path, remote)

    second = run(config, f"{remote}-raw")

    assert first.artifacts["train_labels"] == second.artifacts["train_labels"]
    assert second.artifacts["train_images"].sha256 != first.artifacts["train_images"].sha256
    np.testing.assert_array_equal(idx.open_idx(second.local("train_images")), images(60, seed=9))


def test_class_folders_in_remote_storage_are_extracted(tmp_path: Path, remote: str) -> None:
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("L", (8, 8), 100 * label + number).save(tmp_path / "pets" / name / f"{number}.png")
    upload(tmp_path / "pets", remote)

    found = run(Extract(name="pets", source=remote, image_size=8), tmp_path / "raw")

    assert source_json(found.uri)["classes"] == ["cat", "dog"]
    assert idx.open_idx(found.local("train_images"))[:, 0, 0].tolist() == [0, 1, 2, 100, 101, 102]


class serving:  # noqa: N801
    """A loopback web server of a folder."""

    def __init__(self, folder: Path) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


def test_idx_files_at_an_address_are_extracted_whatever_their_form(tiny: IdxFolder, tmp_path: Path) -> None:
    (tiny.path / "train-images-idx3-ubyte").unlink()
    tiny.write("train-images", images(60, seed=1, shape=(8, 8, 3)), zipped=True)
    (tiny.path / "t10k-images-idx3-ubyte").unlink()
    (tiny.path / "t10k-labels-idx1-ubyte").unlink()

    with serving(tiny.path.parent) as url:
        found = run(Extract(name="tiny", source=f"{url}/tiny/"), tmp_path / "raw")

    assert idx.open_idx(found.local("train_images")).shape == (60, 8, 8, 3)
    assert set(found.artifacts) == {"train_images", "train_labels", "source"}


def test_an_address_with_none_of_the_files_is_told(tmp_path: Path) -> None:
    with (
        serving(tmp_path) as url,
        pytest.raises(UserError, match=r"none of the IDX files \(train-images, .* is at http"),
    ):
        run(Extract(name="tiny", source=url), tmp_path / "raw")


def test_a_bad_download_is_not_taken_up_again(tiny: IdxFolder, tmp_path: Path) -> None:
    good = tiny.path / "train-images-idx3-ubyte"
    content = good.read_bytes()
    good.write_bytes(content[:-1])
    with serving(tiny.path) as url:
        config = Extract(name="tiny", source=url)
        with pytest.raises(UserError, match="is truncated: 1 bytes"):
            run(config, tmp_path / "raw")
        good.write_bytes(content)

        assert run(config, tmp_path / "raw").metrics["train_images"].value == 60


def test_a_half_written_earlier_run_is_done_again_and_cleared_away(tiny: IdxFolder, tmp_path: Path) -> None:
    """A killed run leaves drafts and no result.json; a half of a file is never taken for the whole."""
    workdir = tmp_path / "raw"
    whole = StageResult.load(tiny.extract(workdir)).artifacts
    (workdir / "result.json").unlink()
    (workdir / "train-images-idx3-ubyte").write_bytes(b"half")
    (workdir / ".train-labels-idx1-ubyte.x8f3kq.draft").write_bytes(b"draft")

    again = StageResult.load(tiny.extract(workdir))

    assert again.artifacts == whole
    assert again.damage() is None
    assert not list(workdir.glob(".train*"))


def test_an_altered_artifact_is_extracted_again(
    tiny: IdxFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = StageResult.load(tiny.extract(tmp_path / "raw"))
    path = first.local("train_labels")
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")

    again = StageResult.load(tiny.extract(tmp_path / "raw"))

    assert "computing again, train_labels was altered" in caplog.text
    assert again.artifacts == first.artifacts


def test_a_second_runs_failure_leaves_no_result_that_a_later_stage_would_read(tiny: IdxFolder, tmp_path: Path) -> None:
    tiny.extract(tmp_path / "raw")
    tiny.write("train-labels", np.zeros((0,), np.uint8))

    with pytest.raises(UserError, match="train-labels-idx1-ubyte is empty"):
        tiny.extract(tmp_path / "raw")

    assert not (tmp_path / "raw/result.json").exists()


@pytest.mark.parametrize(
    ("spoil", "gist"),
    [
        (shutil.rmtree, "there is nothing at"),
        (lambda folder: (folder / "train-images-idx3-ubyte").unlink(), "has no train-images"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "holds neither IDX files"),
    ],
    ids=["no folder", "no images", "nothing in it"],
)
def test_a_missing_source_is_told(tiny: IdxFolder, tmp_path: Path, spoil: Callable[[Path], object], gist: str) -> None:
    spoil(tiny.path)

    with pytest.raises(UserError, match=gist):
        tiny.extract(tmp_path / "raw")


def test_a_file_or_an_unknown_kind_of_address_is_no_source(tiny: IdxFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a file: give the folder"):
        run(Extract(name="tiny", source=str(tiny.path / "train-labels-idx1-ubyte")), tmp_path / "raw")
    with pytest.raises(ValidationError, match="foo://x has the scheme foo: give a local path, gs:// or http"):
        Extract(name="tiny", source="foo://x")


def test_the_fingerprint_is_always_taken_anew(tiny: IdxFolder) -> None:
    config = Extract(name="tiny", source=str(tiny.path), fingerprint="made up")

    resolved = gcp_dataloader.with_fingerprint(config)

    assert resolved.fingerprint not in (None, "made up")
    assert gcp_dataloader.with_fingerprint(resolved) == resolved
