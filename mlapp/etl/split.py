"""Which image goes where: train, validation and test, stratified by class and decided by a seed alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mlapp.errors import UserError
from mlapp.schema import Transform

Numbers = npt.NDArray[np.intp]
Labels = npt.NDArray[np.uint8]


def stratified(numbers: Numbers, labels: Labels, size: int, seed: int, purpose: str) -> tuple[Numbers, Numbers]:
    """Part ``numbers`` in two, both shuffled, the second one ``size`` long, with every class in its proportion."""
    from sklearn.model_selection import train_test_split

    classes, counts = np.unique(labels[numbers], return_counts=True)
    if counts.min() < 2 or min(size, len(numbers) - size) < len(classes):
        raise UserError(
            f"{len(numbers):,} images of {len(classes)} classes, {counts.min()} in the smallest one, are too few to "
            f"take {size:,} for {purpose}: add images, or change transform.limit and the fractions"
        )
    kept, taken = train_test_split(numbers, test_size=size, random_state=seed, stratify=labels[numbers])
    return kept, taken


def limited(numbers: Numbers, labels: Labels, limit: int | None, seed: int) -> Numbers:
    """At most ``limit`` of the numbers, stratified, in their old order."""
    if limit is None or limit >= len(numbers):
        return numbers
    return np.sort(stratified(numbers, labels, limit, seed, "the limit")[1])


def training_splits(numbers: Numbers, labels: Labels, settings: Transform) -> tuple[Numbers, Numbers]:
    """Train and validation, shuffled once, from the training images that the limit leaves."""
    pool = limited(numbers, labels, settings.limit, settings.seed)
    return stratified(pool, labels, round(len(pool) * settings.validation_fraction), settings.seed, "validation")


def held_out_test(labels: Labels, settings: Transform) -> tuple[Numbers, Numbers]:
    """What is left for training, and a test split in the source's order, where the source has no test set."""
    size = round(len(labels) * settings.test_fraction)
    rest, test = stratified(np.arange(len(labels)), labels, size, settings.seed, "the test split")
    return np.sort(rest), np.sort(test)


def expected(train: Numbers, test: Numbers | None, settings: Transform) -> tuple[int, int, int]:
    """How many training images there will be, test images, and those of the smallest class (give or take one).

    ``train`` and ``test`` are what the source has of each class.
    """
    pool, given = int(train.sum()), train if test is None else test
    held_out = round(pool * settings.test_fraction) if test is None else int(test.sum())
    pool -= held_out if test is None else 0
    if settings.limit is not None:
        pool, held_out = min(pool, settings.limit), min(held_out, settings.limit)
    smallest = round(int(given.min()) * held_out / int(given.sum()))
    return pool - round(pool * settings.validation_fraction), held_out, smallest


def check_classes(split: str, labels: Labels, classes: Sequence[str]) -> Numbers:
    """Images of each class in a split; a `UserError` names the classes that it lacks."""
    counts = np.bincount(labels, minlength=len(classes))
    if missing := [classes[label] for label in np.flatnonzero(counts == 0).tolist()]:
        raise UserError(
            f"the {split} split has no image of {', '.join(missing)}: add images of it, "
            f"or raise transform.limit or the {split} fraction"
        )
    return counts
