"""The profile: its figures against plain NumPy, and a digest that stands for the content and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_data import IdxFolder, images, labels

from mlapp.dataset import Dataset, Split, content_digest
from mlapp.etl import class_looks, image_etl, profile
from mlapp.etl.image_etl import Transformation
from mlapp.etl.profile import Profile
from mlapp.result import StageResult


@pytest.fixture
def prepared(
    tiny: IdxFolder, tmp_path: Path, validated: Callable[[str], str]
) -> Callable[..., tuple[str, StageResult]]:
    """Extract, validate and transform the made-up data set as it now stands: the report and the data."""

    def run(**settings: Any) -> tuple[str, StageResult]:
        raw = tiny.extract(tmp_path / "raw")
        report = validated(raw)
        return report, image_etl.run(Transformation(raw=raw, report=report, **settings), tmp_path / "data")

    return run


def test_it_tells_digest_counts_and_quality(prepared: Callable[..., Any], tmp_path: Path) -> None:
    report, data = prepared()
    result = profile.run(Profile(report=report, data=data.uri), tmp_path / "profile")
    content = json.loads(result.local("profile").read_text())
    assert content["digest"] == content_digest(data)
    assert content["class_counts"]["test"] == {"0": 10, "1": 10, "2": 10}
    assert sum(content["class_counts"]["train"].values()) == 55
    assert content["quality"]["train duplicates"] == 0
    assert {"test_images", "test_brightness_shift"} <= set(result.metrics)
    page = result.local("page").read_text()
    assert content["digest"] in page
    assert page.count("data:image/png;base64,") == 1 + 3 * 3


def test_the_digest_follows_the_content_and_not_how_it_was_made(prepared: Callable[..., Any], tiny: IdxFolder) -> None:
    _, data = prepared()
    digest = content_digest(data)
    _, other_split = prepared(seed=1)
    assert content_digest(other_split) != digest
    _, again = prepared()
    assert content_digest(again) == digest
    content = images(60, seed=1)
    content[0, 0, 0] ^= 1
    tiny.write("train-images", content)
    _, altered = prepared()
    assert content_digest(altered) != digest


def test_means_spreads_and_extremes_are_those_of_plain_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given chunks much smaller than the data, then nothing differs from all at once."""
    monkeypatch.setattr(class_looks, "CHUNK", 7)
    split = Split(images(60, seed=3, shape=(8, 8, 1)), labels(60))
    for label, looks in enumerate(class_looks.survey(split, 3)):
        own = split.images[split.labels == label].astype(float)
        far = np.sqrt(((own - own.mean(0)) ** 2).mean(axis=(1, 2, 3)))
        assert looks.count == 20
        np.testing.assert_allclose(looks.mean, own.mean(0), rtol=1e-5)
        np.testing.assert_allclose(looks.spread, own.std(0), rtol=1e-4)
        np.testing.assert_array_equal(looks.typical[0], own[far.argmin()])
        np.testing.assert_array_equal(looks.oddest[0], own[far.argmax()])
    np.testing.assert_allclose(class_looks.brightness(split.images), split.images.mean(axis=(1, 2, 3)), rtol=1e-5)


def test_classes_that_look_alike_come_first() -> None:
    pixels = images(90, seed=4, shape=(8, 8, 1)) // 4
    split = Split(pixels, labels(90))
    pixels[split.labels == 2] += 150
    pairs = class_looks.most_alike(class_looks.survey(split, 3), ["a", "b", "c"])
    assert pairs[0]["classes"] == ["a", "b"]
    assert pairs[0]["distance"] < 0.5
    assert pairs[1]["distance"] > 2


def test_the_real_data_are_known_to_be_alike_where_people_confuse_them(raw_uri: str, tmp_path: Path) -> None:
    """Pullover and coat, as every published confusion matrix has it."""
    from mlapp.etl import quality

    report = quality.run(quality.Validate(raw=raw_uri), tmp_path / "quality").uri
    data = image_etl.run(Transformation(raw=raw_uri, report=report), tmp_path / "data").uri
    result = profile.run(Profile(report=report, data=data), tmp_path / "profile")
    content = json.loads(result.local("profile").read_text())
    assert content["most_alike"][0]["classes"] == ["Pullover", "Coat"]
    assert content["brightness_shift"]["test"]["value"] < 0.02
    assert Dataset.open(data).split("train").images.dtype == np.uint8
