"""The transformation: every image in just one place, the test set untouched, and little memory."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_data import IdxFolder, images, labels

from mlapp import schema
from mlapp.dataset import SPLITS, Dataset
from mlapp.errors import UserError
from mlapp.etl import idx, image_etl, quality, split
from mlapp.etl.image_etl import Transformation
from mlapp.result import StageResult

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def real_report(raw_uri: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return quality.run(quality.Validate(raw=raw_uri), tmp_path_factory.mktemp("quality")).uri


@pytest.fixture(scope="module")
def real(raw_uri: str, real_report: str, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    config = Transformation(raw=raw_uri, report=real_report)
    return Dataset.open(image_etl.run(config, tmp_path_factory.mktemp("data")).uri)


@pytest.fixture
def transform(tiny: IdxFolder, tmp_path: Path, validated: Callable[[str], str]) -> Callable[..., Dataset]:
    """Extract, validate and transform the made-up data set."""

    def run(workdir: str = "data", **settings: object) -> Dataset:
        raw = tiny.extract(tmp_path / "raw")
        config = Transformation(raw=raw, report=validated(raw), **settings)
        return Dataset.open(image_etl.run(config, tmp_path / workdir).uri)

    return run


def rows(dataset: Dataset, *names: str) -> list[tuple[bytes, int]]:
    splits = [dataset.split(name) for name in names]
    return [
        (image.tobytes(), int(label))
        for split in splits
        for image, label in zip(split.images, split.labels, strict=True)
    ]


def test_the_real_data_is_split_in_55000_5000_and_10000_with_equal_classes(real: Dataset) -> None:
    counts = {name: np.bincount(real.split(name).labels).tolist() for name in SPLITS}

    assert counts == {"train": [5500] * 10, "validation": [500] * 10, "test": [1000] * 10}
    assert real.shape == (28, 28, 1)
    assert real.classes[0] == "T-shirt/top"
    assert real.description["splits"]["validation"]["per_class"]["Bag"] == 500


def test_train_and_validation_are_the_training_files_each_image_once_with_its_label(
    real: Dataset, raw_uri: str
) -> None:
    raw = StageResult.load(raw_uri)
    source = zip(idx.open_idx(raw.local("train_images")), idx.open_idx(raw.local("train_labels")), strict=True)

    assert sorted(rows(real, "train", "validation")) == sorted((image.tobytes(), int(label)) for image, label in source)


@pytest.mark.parametrize("own_test_set", [True, False])
@pytest.mark.parametrize("settings", [{}, {"validation_fraction": 0.3, "test_fraction": 0.4}, {"limit": 100}])
def test_the_sizes_are_known_beforehand(
    tiny: IdxFolder, transform: Callable[..., Dataset], own_test_set: bool, settings: dict[str, Any]
) -> None:
    tiny.write("train-images", images(203))
    tiny.write("train-labels", labels(203))
    if not own_test_set:
        for path in tiny.path.glob("t10k-*"):
            path.unlink()
    counts = [np.bincount(labels(203)), np.bincount(labels(30)) if own_test_set else None]
    train, test, smallest = split.expected(*counts, schema.Transform(**settings))
    dataset = transform(**settings)
    assert (train, test) == (len(dataset.split("train")), len(dataset.split("test")))
    assert abs(smallest - np.bincount(dataset.split("test").labels).min()) <= 1


def test_few_validation_images_are_reported(
    tiny: IdxFolder, transform: Callable[..., Dataset], caplog: pytest.LogCaptureFixture
) -> None:
    transform("few")
    assert "every choice will rest on 5 validation images: add images, or raise transform.valid" in caplog.text
    caplog.clear()
    tiny.write("train-images", images(600))
    tiny.write("train-labels", labels(600))
    transform("enough")
    assert "every choice" not in caplog.text


def test_the_official_test_set_is_untouched(real: Dataset, raw_uri: str) -> None:
    raw = StageResult.load(raw_uri)

    np.testing.assert_array_equal(real.split("test").images[..., 0], idx.open_idx(raw.local("test_images")))
    np.testing.assert_array_equal(real.split("test").labels, idx.open_idx(raw.local("test_labels")))


def test_training_images_are_shuffled_so_that_reading_in_sequence_is_enough(real: Dataset) -> None:
    """Every stretch of 1,000 holds each class about 100 times (a standard deviation is 9.5)."""
    counts = [np.bincount(part, minlength=10) for part in np.split(real.split("train").labels, 55)]

    assert np.min(counts) > 50
    assert np.max(counts) < 150


def test_splits_are_memory_mapped_and_their_digests_are_true(real: Dataset) -> None:
    for name in SPLITS:
        split = real.split(name)
        assert isinstance(split.images, np.memmap)
        assert real.description["splits"][name]["sha256"] == {
            "images": hashlib.sha256(split.images.tobytes()).hexdigest(),
            "labels": hashlib.sha256(split.labels.tobytes()).hexdigest(),
        }


def test_peak_memory_stays_under_one_and_a_half_times_the_decoded_data(
    raw_uri: str, real_report: str, tmp_path: Path
) -> None:
    """Peak resident memory over what the imports take, in a fresh process; mapped file pages are counted too."""
    script = f"""
import pathlib, re
import sklearn.model_selection
from mlapp.etl import image_etl

def status(name):
    return int(re.search(name + r":\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) * 1024

before = status("VmRSS")
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
config = image_etl.Transformation(raw={raw_uri!r}, report={real_report!r})
image_etl.run(config, {str(tmp_path)!r})
print(status("VmHWM") - before)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    decoded = 70_000 * 28 * 28
    growth = int(done.stdout)
    print(f"peak growth {growth / 2**20:.1f} MiB = {growth / decoded:.2f} x decoded")  # noqa: T201
    assert decoded * 0.01 < growth < 1.5 * decoded


def test_the_seed_decides_the_split(transform: Callable[..., Dataset]) -> None:
    first, same, other = transform("a", seed=1), transform("b", seed=1), transform("c", seed=2)

    assert first.result.artifacts == same.result.artifacts
    assert rows(first, "train") != rows(other, "train")
    assert rows(first, "test") == rows(other, "test")


def test_an_unchanged_second_run_has_nothing_to_do(transform: Callable[..., Dataset]) -> None:
    assert transform().result.finished == transform().result.finished
    assert transform().result == transform().result


def test_without_a_test_set_one_is_held_out_in_the_sources_order(
    tiny: IdxFolder, transform: Callable[..., Dataset]
) -> None:
    for path in tiny.path.glob("t10k*"):
        path.unlink()

    data = transform(test_fraction=0.2)

    source = [image.tobytes() for image in images(60, seed=1)]
    places = [source.index(image) for image, _ in rows(data, "test")]
    assert np.bincount(data.split("test").labels).tolist() == [4, 4, 4]
    assert places == sorted(places)
    assert sorted(rows(data, *SPLITS)) == sorted(zip(source, labels(60).tolist(), strict=True))


def test_a_limit_takes_a_stratified_part_of_training_and_test_images(
    tiny: IdxFolder, transform: Callable[..., Dataset]
) -> None:
    tiny.write("train-images", images(600, seed=3))
    tiny.write("train-labels", labels(600))
    tiny.write("t10k-images", images(300, seed=4))
    tiny.write("t10k-labels", labels(300))

    data = transform(limit=120, validation_fraction=0.25)

    assert {name: np.bincount(data.split(name).labels).tolist() for name in SPLITS} == {
        "train": [30] * 3,
        "validation": [10] * 3,
        "test": [40] * 3,
    }
    assert set(rows(data, "test")) < {
        (image.tobytes(), int(label)) for image, label in zip(images(300, seed=4), labels(300), strict=True)
    }


def test_colour_images_keep_their_channels(tiny: IdxFolder, transform: Callable[..., Dataset]) -> None:
    for part, count in (("train", 60), ("t10k", 30)):
        (tiny.path / f"{part}-images-idx3-ubyte").unlink()
        tiny.write(f"{part}-images", images(count, shape=(8, 9, 3)))

    data = transform()

    assert data.shape == (8, 9, 3)
    np.testing.assert_array_equal(data.split("test").images, images(30, shape=(8, 9, 3)))


def test_data_that_was_not_validated_is_refused(
    tiny: IdxFolder, tmp_path: Path, validated: Callable[[str], str]
) -> None:
    report = validated(tiny.extract(tmp_path / "raw"))
    tiny.write("train-images", images(60, seed=8))
    other = tiny.extract(tmp_path / "other")

    with pytest.raises(UserError, match=r"reports on other data than this: run the validate stage on this raw data"):
        image_etl.run(Transformation(raw=other, report=report), tmp_path / "data")


def test_an_altered_report_is_refused(tiny: IdxFolder, tmp_path: Path, validated: Callable[[str], str]) -> None:
    raw = tiny.extract(tmp_path / "raw")
    report = validated(raw)
    path = StageResult.load(report).local("report")
    path.write_text(json.dumps({**json.loads(path.read_text()), "findings": []}))

    with pytest.raises(UserError, match="the validate result cannot be trusted, report was altered"):
        image_etl.run(Transformation(raw=raw, report=report), tmp_path / "data")


@pytest.mark.parametrize(
    ("rare", "gist"),
    [
        (1, r"60 images of 3 classes, 1 in the smallest one, are too few to take 5 for validation"),
        (2, r"the validation split has no image of 2: add images of it, or raise transform.limit or the validation fr"),
    ],
)
def test_a_class_that_would_be_missing_from_a_split_is_told(
    tiny: IdxFolder, transform: Callable[..., Dataset], tmp_path: Path, rare: int, gist: str
) -> None:
    tiny.write("train-labels", np.array([0, 1] * ((60 - rare) // 2) + [0] * (rare % 2) + [2] * rare, np.uint8))

    with pytest.raises(UserError, match=gist):
        transform()

    assert not (tmp_path / "data/result.json").exists()


def test_an_interrupted_run_is_done_again_from_the_start(transform: Callable[..., Dataset], tmp_path: Path) -> None:
    whole = transform().result.artifacts
    (tmp_path / "data/result.json").unlink()
    (tmp_path / "data/train_images.npy").write_bytes(b"half")

    assert transform().result.artifacts == whole
