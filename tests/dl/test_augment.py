"""Augmentation: each policy does what it says, a whole batch at a time, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from mlapp.dl.augment import POLICIES, Policy, augment, random_transforms
from mlapp.dl.backend import tf

SEED = (0, 7)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(1, 255, (256, 28, 28, 1)).astype(np.float32)


def views(images: np.ndarray, policy: Policy, seed: tuple[int, int] = SEED) -> np.ndarray:
    return augment(tf.constant(images), policy, tf.constant(seed, tf.int64)).numpy()


def test_no_augmentation_changes_nothing(images: np.ndarray) -> None:
    assert np.array_equal(views(images, POLICIES["none"]), images)


def test_flip_mirrors_about_half_of_the_images_exactly(images: np.ndarray) -> None:
    seen = views(images, Policy(flip="random", whole_pixels=True))
    mirrored = (seen == images[:, :, ::-1]).all((1, 2, 3))
    untouched = (seen == images).all((1, 2, 3))
    assert (mirrored ^ untouched).all()
    assert 0.35 < mirrored.mean() < 0.65


def test_whole_pixel_shift_moves_by_at_most_two_pixels_and_repeats_the_edge(images: np.ndarray) -> None:
    seen = views(images, Policy(shift=2 / 28, whole_pixels=True))
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    shifts = {(dy, dx): padded[:, dy : dy + 28, dx : dx + 28] for dy in range(5) for dx in range(5)}
    found = [{shift for shift, crop in shifts.items() if np.array_equal(crop[i], seen[i])} for i in range(len(seen))]
    assert all(found)
    assert len(set.union(*found)) == 25


def test_cutout_blanks_one_square_of_its_size(images: np.ndarray) -> None:
    seen = views(images, Policy(cutout=8, whole_pixels=True))
    assert ((seen == 0).sum((1, 2, 3)) == 64).all()
    assert np.array_equal(seen[seen != 0], images[seen != 0])


def test_reference_policy_stays_within_the_tutorials_ranges() -> None:
    policy = POLICIES["reference"]
    rows = random_transforms(policy, tf.constant([20_000, 28, 28, 1]), tf.constant(SEED, tf.int64)).numpy()
    a, b, c, d, e, f = rows[:, :6].T
    rotation = np.degrees(np.arctan2(d, np.abs(a)) * np.sign(a))
    zoom = np.hypot(a, d)
    shift_x = c - (13.5 - a * 13.5 - b * 13.5)
    shift_y = f - (13.5 - d * 13.5 - e * 13.5)
    for drawn, bound in ((rotation, 15), (zoom - 1, 0.15), (shift_x, 4.2), (shift_y, 4.2)):
        assert np.abs(drawn).max() <= bound * 1.001
        assert np.abs(drawn).max() >= bound * 0.99
        assert abs(drawn.mean()) < bound * 0.03
    assert 0.48 < (a < 0).mean() < 0.52
    assert rows[:, 6:].any() == np.False_


@pytest.mark.parametrize("name", ["light", "reference"])
def test_same_seed_repeats_the_views_and_another_does_not(images: np.ndarray, name: str) -> None:
    assert np.array_equal(views(images, POLICIES[name]), views(images, POLICIES[name]))
    assert not np.array_equal(views(images, POLICIES[name]), views(images, POLICIES[name], (0, 8)))


def test_a_whole_batch_is_a_handful_of_graph_operations() -> None:
    traced = tf.function(lambda batch: augment(batch, POLICIES["reference"], tf.constant(SEED, tf.int64)))
    graph = traced.get_concrete_function(tf.TensorSpec((128, 28, 28, 1))).graph
    kinds = [operation.type for operation in graph.get_operations()]
    assert kinds.count("ImageProjectiveTransformV3") == 1
    assert not {"PyFunc", "EagerPyFunc", "While", "StatelessWhile", "MapDataset"} & set(kinds)
