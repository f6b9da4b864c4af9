"""Features: what they are, pixel by pixel, and that an image's do not depend on what is beside it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlapp.dataset import Dataset
from mlapp.ml import ml_utils
from mlapp.ml.ml_utils import Features, windows


def plainly(image: np.ndarray, features: Features) -> list[int]:
    """The features of one image, by the definition and with loops."""
    height, width, channels = image.shape
    grey = [[round(sum(map(int, image[y, x])) / channels) for x in range(width)] for y in range(height)]

    def slope(plane: int, y: int, x: int) -> float:
        across = grey[y][x + 1] - grey[y][x - 1] if 0 < x < width - 1 else 0
        down = grey[y + 1][x] - grey[y - 1][x] if 0 < y < height - 1 else 0
        return abs((across, down, across + down, across - down)[plane])

    def means(planes: int, grid: int, value: object) -> list[float]:
        rows, columns = min(grid, height), min(grid, width)
        found = []
        for plane in range(planes):
            for row in range(rows):
                for column in range(columns):
                    ys = range(row * height // rows, math.ceil((row + 1) * height / rows))
                    xs = range(column * width // columns, math.ceil((column + 1) * width / columns))
                    inside = [value(plane, y, x) for y in ys for x in xs]  # type: ignore[operator]
                    found.append(sum(inside) / len(inside))
        return found

    pixels = means(channels, features.pixel_grid, lambda plane, y, x: int(image[y, x, plane]))
    gradients = [mean for grid in features.gradient_grids for mean in means(4, grid, slope)]
    return [round(mean) for mean in pixels] + [round(255 * math.sqrt(mean / 510)) for mean in gradients]


@pytest.mark.parametrize(
    ("shape", "pixel_grid", "gradient_grids"),
    [((28, 28, 1), 14, (4, 7)), ((28, 28, 1), 28, ()), ((11, 8, 3), 5, (3,)), ((6, 9, 1), 64, (32, 2))],
)
def test_features_are_what_the_definition_says(
    shape: tuple[int, int, int], pixel_grid: int, gradient_grids: tuple[int, ...]
) -> None:
    features = Features(shape=shape, pixel_grid=pixel_grid, gradient_grids=gradient_grids)
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8)
    images[0], images[1, ::2] = 255, 0
    found = features(images)
    expected = np.array([plainly(image, features) for image in images])
    assert found.dtype == np.uint8
    assert found.shape == (3, features.count) == expected.shape
    # A mean that ends in exactly one half may be rounded either way once it went through single precision.
    assert np.abs(found - expected).max() <= 1
    assert (found == expected).mean() > 0.99


def test_an_image_has_the_same_features_alone_and_in_any_chunk(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = Features(shape=dataset.shape, pixel_grid=14, gradient_grids=(7,))
    images = dataset.split("train").images[:50]
    together = features(images)
    monkeypatch.setattr(ml_utils, "CHUNK_PIXELS", 7 * 28 * 28)
    assert np.array_equal(features(images), together)
    assert np.array_equal(np.concatenate([features(image[np.newaxis]) for image in images]), together)


@pytest.mark.parametrize(("side", "cells"), [(28, 7), (28, 5), (10, 10), (512, 3)])
def test_cells_cover_every_pixel_and_differ_by_at_most_one(side: int, cells: int) -> None:
    belong = windows(side, cells)
    assert belong.shape == (cells, side)
    assert belong.any(0).all()
    assert np.ptp(belong.sum(1)) <= 1
    assert not windows(side, cells).flags.writeable


def test_a_features_value_lies_where_its_pixels_are() -> None:
    features = Features(shape=(8, 8, 1), pixel_grid=4, gradient_grids=(2,))
    values = np.zeros(features.count, np.float32)
    values[5], values[16 + 3] = 4.0, 8.0  # second row and column of pixels; lower right of the first orientation
    pictures = features.spread(values)
    assert np.array_equal(np.argwhere(pictures["pixels"]), [[2, 2], [2, 3], [3, 2], [3, 3]])
    assert pictures["pixels"].sum() == 4
    gradients = pictures["gradients, 2 × 2"]
    assert np.count_nonzero(gradients[4:, 4:]) == 16 == np.count_nonzero(gradients)
    assert gradients.sum() == 8
