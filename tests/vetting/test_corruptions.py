"""Corruptions are six, of three severities, the same for every model, and do what their names say."""

from __future__ import annotations

import numpy as np
import pytest

from mlapp.dataset import Dataset
from mlapp.vetting.corruptions import SEVERITIES, Images, corruptions


@pytest.fixture
def images(dataset: Dataset) -> Images:
    return np.array(dataset.split("validation").images[:64])


def corrupted(images: Images, seed: int = 0) -> dict[tuple[str, int], Images]:
    return {(kind, severity): views for kind, severity, views in corruptions(images, seed)}


def test_each_is_of_the_images_form_and_the_same_again(images: Images) -> None:
    before = images.copy()
    found = corrupted(images)
    assert list(found) == [(kind, severity) for kind in SEVERITIES for severity in range(3)]
    for name, views in corrupted(images).items():
        assert (views.shape, views.dtype) == (images.shape, np.uint8)
        assert np.array_equal(views, found[name])
    assert np.array_equal(images, before)
    assert not np.array_equal(corrupted(images, seed=1)["noise", 0], found["noise", 0])


@pytest.mark.parametrize("kind", [kind for kind in SEVERITIES if kind != "shift"])
def test_a_higher_severity_changes_more(images: Images, kind: str) -> None:
    found = corrupted(images)
    changes = [np.abs(found[kind, severity].astype(float) - images).mean() for severity in range(3)]
    assert 0 < changes[0] < changes[1] < changes[2]


def test_each_does_what_its_name_says() -> None:
    square = np.zeros((8, 20, 20, 3), np.uint8)
    square[:, 8:12, 8:12] = 200
    found = corrupted(square)
    for severity, pixels in enumerate((1, 2, 3)):
        moved = found["shift", severity]
        assert (moved.sum((1, 2, 3)) == square.sum((1, 2, 3))).all()
        centre = [(np.indices((20, 20)) * image[..., 0]).sum((1, 2)) / image[..., 0].sum() for image in moved]
        assert {round(float(np.abs(place - 9.5).max())) for place in centre} == {pixels}
        hidden = found["occlusion", severity].size - (found["occlusion", severity] == square).sum()
        assert hidden <= 8 * 3 * (4 * (severity + 1)) ** 2 / 4 * 4
    grey = found["contrast", 2]
    assert grey.min() > 0
    assert grey.mean() == pytest.approx(square.mean(), abs=1)
    assert int(grey.max()) - grey.min() == pytest.approx(0.6 * 200, abs=1)
    assert found["blur", 2].max() < 200
    assert found["blur", 2].sum() == pytest.approx(square.sum(), rel=0.02)
    assert found["noise", 2].std() > found["noise", 0].std() > square.std() - 1


def test_rotations_go_both_ways_by_their_angle() -> None:
    bar = np.zeros((2, 41, 41, 1), np.uint8)
    bar[:, 20, :] = 255
    for severity, degrees in enumerate(SEVERITIES["rotation"]):
        first, second = corrupted(bar)["rotation", severity][..., 0].astype(float)
        for image, sign in ((first, -1), (second, 1)):
            rows = (image * np.arange(41)[:, None]).sum(0) / image.sum(0)
            slope = np.polyfit(np.arange(5, 36), rows[5:36], 1)[0]
            assert np.degrees(np.arctan(slope)) == pytest.approx(sign * degrees, abs=0.5)


def test_images_of_a_few_pixels_are_corrupted_too() -> None:
    tiny = np.random.default_rng(0).integers(0, 256, (5, 3, 2, 1), dtype=np.uint8)
    assert all(views.shape == tiny.shape for views in corrupted(tiny).values())
