"""Images that a model may know by heart are found, others are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlapp.dataset import Split
from mlapp.vetting.near_duplicates import CHUNK, near_duplicates

SHAPE = (28, 28, 1)


def split(images: Any) -> Split:
    return Split(np.asarray(images, np.uint8), np.zeros(len(images), np.uint8))


def pictures(count: int, seed: int, shape: tuple[int, int, int] = SHAPE) -> Any:
    """Smooth random pictures, none like another."""
    coarse = np.random.default_rng(seed).integers(0, 200, (count, shape[0] // 7, shape[1] // 7, shape[2]))
    return coarse.repeat(7, 1).repeat(7, 2)


def test_other_tones_and_some_pixels_do_not_hide_a_copy() -> None:
    known = pictures(5, 0)
    darker = known[0] // 2 + 20
    spotted = known[3].copy()
    spotted[:2, :2] += 30
    test = split([*pictures(2, 1), darker, spotted])
    assert near_duplicates(test, [split(known)]).tolist() == [False, False, True, True]


def test_every_split_that_is_known_counts() -> None:
    first, second = pictures(2, 0), pictures(2, 1)
    assert near_duplicates(split(second), [split(first), split(second)]).all()
    assert not near_duplicates(split(second), [split(first)]).any()


def test_more_images_than_are_compared_at_once() -> None:
    many = pictures(CHUNK + 10, 0)
    assert np.flatnonzero(near_duplicates(split(many), [split(many[-1:])])).tolist() == [CHUNK + 9]


def test_images_of_one_value_are_no_copies_of_each_other() -> None:
    flat = np.full((2, *SHAPE), 7)
    assert not near_duplicates(split(flat), [split(flat)]).any()


@pytest.mark.parametrize("shape", [(70, 91, 3), (224, 224, 3)])
def test_large_colour_images_are_compared_by_their_cells(shape: tuple[int, int, int]) -> None:
    known = pictures(3, 0, shape)
    noisy = np.clip(known[:1] + np.random.default_rng(2).integers(-4, 5, known[:1].shape), 0, 255)
    assert near_duplicates(split([*noisy, *pictures(1, 5, shape)]), [split(known)]).tolist() == [True, False]
