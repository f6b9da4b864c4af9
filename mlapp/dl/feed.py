"""Batches for training and evaluation, drawn from memory-mapped splits: no second copy of the data in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mlapp.dataset import Split
from mlapp.dl.augment import POLICIES, augment
from mlapp.dl.backend import tf


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Whole batches in an epoch; an incomplete last one is left out (its images come at another place next time)."""
    return max(1, len(split) // batch_size)


def training_batches(
    split: Split, *, batch_size: int, augmentation: str, seed: int, first_step: int, steps: int
) -> Any:
    """A `tf.data.Dataset` of ``(images, labels)``, augmented, for steps ``first_step`` to ``first_step + steps``.

    Order and views depend on ``seed`` and the step's number alone, so a resumed run sees what the interrupted one
    would have seen. Rows of a batch are gathered in file order: one pass over the mapped pages.
    """
    policy = POLICIES[augmentation]
    batch_size = min(batch_size, len(split))

    def rows() -> Iterator[tuple[Any, Any, Any]]:
        per_epoch = steps_per_epoch(split, batch_size)
        epoch, order = -1, np.empty(0, np.int64)
        for step in range(first_step, first_step + steps):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                order = np.random.default_rng((seed, epoch)).permutation(len(split))
            place = step % per_epoch * batch_size
            chosen = np.sort(order[place : place + batch_size])
            yield split.images[chosen], split.labels[chosen].astype(np.int32), np.int64(step)

    signature = (
        tf.TensorSpec((batch_size, *split.images.shape[1:]), tf.uint8),
        tf.TensorSpec((batch_size,), tf.int32),
        tf.TensorSpec((), tf.int64),
    )

    def view(images: Any, labels: Any, step: Any) -> tuple[Any, Any]:
        step_seed = tf.stack([tf.constant(seed, tf.int64), step])
        return augment(tf.cast(images, tf.float32), policy, step_seed), labels

    batches = tf.data.Dataset.from_generator(rows, output_signature=signature).map(view).prefetch(2)
    return batches.with_options(_options())


def evaluation_batches(split: Split, batch_size: int = 500) -> Iterator[tuple[Any, Any]]:
    """All of a split in order, as float32 images and integer labels; the last batch may be smaller."""
    for start in range(0, len(split), batch_size):
        stop = start + batch_size
        yield split.images[start:stop].astype(np.float32), split.labels[start:stop].astype(np.int32)


def _options() -> Any:
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_warm_start = True
    return options
