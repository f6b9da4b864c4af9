"""Batches for training and evaluation, drawn from memory-mapped splits: no second copy of the data in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from mlapp.dataset import Split
from mlapp.dl.augment import augment, policy_of
from mlapp.dl.backend import tf


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Whole batches in an epoch; an incomplete last one is left out (its images come at another place next time)."""
    return max(1, len(split) // batch_size)


def training_batches(
    split: Split,
    *,
    batch_size: int,
    augmentation: str,
    seed: int,
    first_step: int,
    steps: int,
    parts: int = 1,
    own: range = range(1),
    flip: bool | None = None,
) -> Any:
    """A `tf.data.Dataset` of ``(images, targets)``, augmented, for steps ``first_step`` to ``first_step + steps``.

    Order and views depend on ``seed``, the step's number and the image's place in the batch alone, so a resumed run
    sees what the interrupted one would have seen, and several devices together what one would. Each batch is cut into
    ``parts``; each of one's ``own`` is an element, and no other is read. Rows of a batch are gathered in file order:
    one pass over the mapped pages.
    """
    policy = policy_of(augmentation, flip)
    batch_size = min(batch_size, len(split))
    size = batch_size // parts

    sides = np.random.default_rng(seed).random(len(split)) < 0.5

    def rows() -> Iterator[tuple[Any, ...]]:
        per_epoch = steps_per_epoch(split, batch_size)
        epoch, order = -1, np.empty(0, np.int64)
        for step in range(first_step, first_step + steps):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                order = np.random.default_rng((seed, epoch)).permutation(len(split))
            place = step % per_epoch * batch_size
            batch = np.sort(order[place : place + batch_size])
            for part in own:
                chosen = batch[part * size : (part + 1) * size]
                yield (
                    split.images[chosen],
                    _targets(split, chosen),
                    sides[chosen] ^ bool(epoch % 2),
                    np.int64(step),
                    np.int32(part * size),
                )

    signature = (
        tf.TensorSpec((size, *split.images.shape[1:]), tf.uint8),
        tf.nest.map_structure(lambda array: tf.TensorSpec((size, *array.shape[1:]), array.dtype), _targets(split, [0])),
        tf.TensorSpec((size,), tf.bool),
        tf.TensorSpec((), tf.int64),
        tf.TensorSpec((), tf.int32),
    )

    def view(images: Any, targets: Any, mirrored: Any, step: Any, start: Any) -> tuple[Any, Any]:
        step_seed = tf.stack([tf.constant(seed, tf.int64), step])
        place = None if parts == 1 else (batch_size, start)
        return augment(tf.cast(images, tf.float32), policy, step_seed, mirrored, place), targets

    batches = tf.data.Dataset.from_generator(rows, output_signature=signature).map(view).prefetch(2 * len(own))
    return batches.with_options(_options())


def evaluation_batches(
    split: Split, batch_size: int = 500, *, parts: int = 1, part: int = 0
) -> Iterator[tuple[Any, Any]]:
    """All of a split in order, as float32 images and integer labels; the last batch may be smaller.

    With several ``parts``, one ``part`` of each ``parts`` batches, all of the same size: the last is filled up with
    images of label -1, which neither loss nor accuracy counts.
    """
    for start in range(
        part * batch_size, batch_size * parts * -(-len(split) // (batch_size * parts)), batch_size * parts
    ):
        images = split.images[start : start + batch_size].astype(np.float32)
        labels = split.labels[start : start + batch_size].astype(np.int32)
        if parts > 1:
            missing = batch_size - len(labels)
            images = np.pad(images, [(0, missing), *[(0, 0)] * (images.ndim - 1)])
            labels = np.pad(labels, (0, missing), constant_values=-1)
        yield images, labels


def _targets(split: Split, chosen: Any) -> Any:
    labels = split.labels[chosen].astype(np.int32)
    return labels if split.answers is None else (labels, split.answers[chosen].astype(np.float32))


def _options() -> Any:
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_warm_start = True
    return options
