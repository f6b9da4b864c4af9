"""Batches come from the mapped files in an order that depends on seed and step alone."""

from __future__ import annotations

import numpy as np
import pytest

from mlapp.dataset import Split
from mlapp.dl.augment import POLICIES, Policy
from mlapp.dl.feed import evaluation_batches, steps_per_epoch, training_batches


@pytest.fixture
def split() -> Split:
    """103 images, each of one value: its own index."""
    values = np.arange(103, dtype=np.uint8)
    return Split(np.broadcast_to(values[:, None, None, None], (103, 4, 4, 1)), values % 10)


def drawn(split: Split, first: int, steps: int, augmentation: str = "none", seed: int = 3) -> list[np.ndarray]:
    batches = training_batches(
        split, batch_size=10, augmentation=augmentation, seed=seed, first_step=first, steps=steps
    )
    return [images.numpy() for images, _ in batches]


def test_an_epoch_shows_every_image_at_most_once_and_leaves_out_less_than_a_batch(split: Split) -> None:
    seen = np.concatenate(drawn(split, 0, steps_per_epoch(split, 10)))[:, 0, 0, 0]
    assert len(seen) == len(set(seen)) == 100


def test_labels_go_with_their_images(split: Split) -> None:
    for images, labels in training_batches(split, batch_size=10, augmentation="none", seed=0, first_step=0, steps=10):
        assert (images.numpy()[:, 0, 0, 0] % 10 == labels.numpy()).all()


@pytest.mark.parametrize("augmentation", ["none", "light", "reference"])
def test_a_resumed_run_sees_what_the_interrupted_one_would_have_seen(split: Split, augmentation: str) -> None:
    whole = drawn(split, 0, 25, augmentation)
    resumed = drawn(split, 13, 12, augmentation)
    assert all(np.array_equal(left, right) for left, right in zip(whole[13:], resumed, strict=True))


def test_a_flip_that_alternates_shows_one_side_in_every_other_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POLICIES, "light", Policy(flip="alternating", whole_pixels=True))
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1), dtype=np.uint8)
    split = Split(images, np.zeros(40, np.uint8))

    epochs = [np.concatenate(drawn(split, 4 * epoch, 4, "light")) for epoch in range(3)]

    plain = [[(image == seen).all((1, 2, 3)).any() for image in images] for seen in epochs]
    mirrored = [[(image[:, ::-1] == seen).all((1, 2, 3)).any() for image in images] for seen in epochs]
    assert 5 < sum(plain[0]) < 35
    assert plain[0] == mirrored[1] == plain[2]
    assert mirrored[0] == plain[1] == mirrored[2]
    assert np.logical_xor(plain, mirrored).all()


def test_epochs_and_seeds_differ_in_order(split: Split) -> None:
    first, second = drawn(split, 0, 1), drawn(split, 10, 1)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, drawn(split, 0, 1, seed=4))


def test_evaluation_covers_everything_in_order(split: Split) -> None:
    batches = list(evaluation_batches(split, batch_size=40))
    assert [len(images) for images, _ in batches] == [40, 40, 23]
    assert np.array_equal(np.concatenate([images for images, _ in batches])[:, 0, 0, 0], np.arange(103))


def test_a_batch_larger_than_the_split_is_the_split(split: Split) -> None:
    [(images, _)] = training_batches(
        split, batch_size=4096, augmentation="none", seed=0, first_step=0, steps=steps_per_epoch(split, 4096)
    )
    assert len(images) == 103


@pytest.mark.parametrize("augmentation", ["none", "strong", "reference"])
def test_parts_of_a_batch_are_together_the_batch_with_the_very_same_views(split: Split, augmentation: str) -> None:
    """Given two workers of two devices each, then their elements in order are what one device would see."""
    workers = [
        [
            images.numpy()
            for images, _ in training_batches(
                *(split,), batch_size=12, augmentation=augmentation, seed=3, first_step=4, steps=10, parts=4, own=own
            )
        ]
        for own in (range(2), range(2, 4))
    ]
    whole = [
        images.numpy()
        for images, _ in training_batches(
            split, batch_size=12, augmentation=augmentation, seed=3, first_step=4, steps=10
        )
    ]
    for step, batch in enumerate(whole):
        parts = [part for worker in workers for part in worker[2 * step : 2 * step + 2]]
        assert np.array_equal(np.concatenate(parts), batch)


def test_evaluation_in_parts_covers_everything_once_and_marks_what_it_filled_up(split: Split) -> None:
    streams = [list(evaluation_batches(split, batch_size=30, parts=3, part=part)) for part in range(3)]
    assert [len(stream) for stream in streams] == [2, 2, 2]
    rows = [
        (image[0, 0, 0], label) for stream in streams for batch in stream for image, label in zip(*batch, strict=True)
    ]
    assert len(rows) == 180
    assert sorted(value for value, label in rows if label >= 0) == list(range(103))
    assert all(label == value % 10 for value, label in rows if label >= 0)
