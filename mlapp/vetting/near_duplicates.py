"""Test images that a model may know by heart: nearly the same image stands in what it was trained or chosen on.

Many data sets hold some (Barz and Denzler, 2019, arXiv 1902.00423, count 3 % in CIFAR-10), and an accuracy that counts
them promises too much. Exact copies are the quality check's business; these differ in tone, or by some pixels.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from mlapp.dataset import Split

CORRELATION = 0.985  # of Fashion-MNIST's pairs: above, one item in other tones or its twin; below 0.98, other items
MOST_PIXELS = 32  # a side: larger images are compared by the means of their cells
CHUNK = 4096


def near_duplicates(test: Split, known: Iterable[Split], correlation: float = CORRELATION) -> npt.NDArray[np.bool_]:
    """Which images of ``test`` have one in ``known`` whose pixels correlate at least so much (Pearson's r), (n,).

    Every pair is looked at: 10,000 against 60,000 images of 28×28 pixels take 10^12 operations, some 10 s of two cores.
    """
    found = np.zeros(len(test), np.bool_)
    for split in known:
        for images in _chunks(split):
            for start, others in zip(range(0, len(test), CHUNK), _chunks(test), strict=True):
                found[start : start + CHUNK] |= (others @ images.T).max(1) >= correlation
    return found


def _chunks(split: Split) -> Iterable[npt.NDArray[np.float32]]:
    for start in range(0, len(split), CHUNK):
        yield _standardised(split.images[start : start + CHUNK])


def _standardised(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Each image as a vector of mean 0 and length 1 (an image of one value: of length 0), so products correlate."""
    cell = [max(1, side // MOST_PIXELS) for side in images.shape[1:3]]
    height, width = (side // size * size for side, size in zip(images.shape[1:3], cell, strict=True))
    grey = images[:, :height, :width].mean(-1, dtype=np.float32)
    cells = grey.reshape(len(images), height // cell[0], cell[0], width // cell[1], cell[1]).mean((2, 4))
    vectors: npt.NDArray[np.float32] = cells.reshape(len(images), -1)
    vectors -= vectors.mean(1, keepdims=True)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return vectors
