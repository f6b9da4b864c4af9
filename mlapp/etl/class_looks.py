"""What the images of each class look like: on average, at their most typical and at their oddest."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlapp.dataset import Split
from mlapp.etl.page import SAMPLES

Values = npt.NDArray[np.float32]
CHUNK = 4096


@dataclass(frozen=True)
class Looks:
    """One class: mean and spread of each pixel (height, width, channels), and images near to and far from the mean."""

    count: int
    mean: Values
    spread: Values
    typical: list[npt.NDArray[np.uint8]]
    oddest: list[npt.NDArray[np.uint8]]


def brightness(images: npt.NDArray[np.uint8]) -> Values:
    """Mean pixel of each image, 0..255."""
    return np.concatenate([chunk.mean(axis=(1, 2, 3), dtype=np.float32) for _, chunk in _chunks(images)])


def survey(split: Split, classes: int) -> list[Looks]:
    """The looks of every class, in two passes over the split and chunk by chunk."""
    shape = split.images.shape[1:]
    sums, squares = np.zeros((2, classes, *shape))
    for start, chunk in _chunks(split.images):
        labels = split.labels[start : start + len(chunk)]
        pixels = chunk.astype(np.float64)
        for label in np.unique(labels):
            sums[label] += pixels[labels == label].sum(0)
            squares[label] += np.square(pixels[labels == label]).sum(0)
    counts = np.bincount(split.labels, minlength=classes)
    each = counts.reshape(-1, *[1] * len(shape))
    means = sums / each
    spreads = np.sqrt(np.maximum(squares / each - means**2, 0))
    distances = _distances(split, means.astype(np.float32))
    return [
        Looks(
            count=int(counts[label]),
            mean=means[label].astype(np.float32),
            spread=spreads[label].astype(np.float32),
            typical=[split.images[number] for number in _ranked(distances, split.labels == label)[:SAMPLES]],
            oddest=[split.images[number] for number in _ranked(-distances, split.labels == label)[:SAMPLES]],
        )
        for label in range(classes)
    ]


def most_alike(looks: Sequence[Looks], classes: Sequence[str], pairs: int = 5) -> list[dict[str, Any]]:
    """The pairs of classes whose mean images differ least, in units of the pixels' spread within the two classes."""
    told: list[dict[str, Any]] = []
    for (first, one), (second, other) in itertools.combinations(enumerate(looks), 2):
        apart = float(np.sqrt(np.mean((one.mean - other.mean) ** 2)))
        within = float(np.sqrt(np.mean((one.spread**2 + other.spread**2) / 2)))
        told.append({"classes": [classes[first], classes[second]], "distance": apart / max(within, 1e-6)})
    return sorted(told, key=lambda pair: pair["distance"])[:pairs]


def _distances(split: Split, means: Values) -> Values:
    """Root mean square distance of every image to the mean of its class."""
    parts = []
    for start, chunk in _chunks(split.images):
        apart = chunk - means[split.labels[start : start + len(chunk)]]
        parts.append(np.sqrt(np.square(apart).mean(axis=(1, 2, 3))))
    return np.concatenate(parts).astype(np.float32)


def _ranked(keys: Values, members: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    numbers = np.flatnonzero(members)
    return numbers[np.argsort(keys[numbers], kind="stable")]


def _chunks(images: npt.NDArray[np.uint8]) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    for start in range(0, len(images), CHUNK):
        yield start, images[start : start + CHUNK]
